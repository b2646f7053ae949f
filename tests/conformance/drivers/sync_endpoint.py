# SPDX-License-Identifier: Apache-2.0
"""`runpod.Endpoint`, the blocking client of runpod 1.x (2.0 carries the same one)."""

import os
from typing import Any

import runpod
from runpod.endpoint import Job
from transcript import Setting, play, poll, raised  # type: ignore[import-not-found]

# Version 1.x reads no key from the environment; this line is in every example of its documentation.
runpod.api_key = os.environ["RUNPOD_API_KEY"]


def run_and_output(setting: Setting) -> Any:
    job = runpod.Endpoint(setting.jobs).run({"greeting": "hello"})
    first = job.status()
    return {"first": first, "output": job.output(timeout=60), "last": job.status(), "again": job.output()}


def run_with_input_key(setting: Setting) -> Any:
    return runpod.Endpoint(setting.jobs).run({"input": {"greeting": "hello"}}).output(timeout=60)


def run_with_empty_marker(setting: Setting) -> Any:
    return runpod.Endpoint(setting.jobs).run({"__empty": True}).output(timeout=60)


def run_sync(setting: Setting) -> Any:
    return runpod.Endpoint(setting.jobs).run_sync({"greeting": "hello"}, timeout=60)


def run_sync_of_a_failing_job(setting: Setting) -> Any:
    # The client raises on any HTTP error status, so returning at all shows that FAILED came with 200.
    return {"output": runpod.Endpoint(setting.jobs).run_sync({"raise": "boom"}, timeout=60)}


def failed_job(setting: Setting) -> Any:
    job = runpod.Endpoint(setting.jobs).run({"raise": "boom"})
    status = poll(job.status, lambda status: status == "FAILED")
    return {"status": status, "raw": job._fetch_job()}


def progress(setting: Setting) -> Any:
    gate = setting.path("sync-progress")
    job = runpod.Endpoint(setting.jobs).run({"progress": "half way", "gate": str(gate)})
    seen = poll(job._fetch_job, lambda raw: raw.get("output") == "half way")
    gate.touch()
    return {"while_running": seen, "output": job.output(timeout=60)}


def output_times_out(setting: Setting) -> Any:
    job = runpod.Endpoint(setting.frozen).run({"greeting": "never"})
    return raised(lambda: job.output(timeout=1))


def cancel_queued(setting: Setting) -> Any:
    job = runpod.Endpoint(setting.frozen).run({"greeting": "never"})
    before = job.status()
    return {"id": job.job_id, "before": before, "answer": job.cancel(), "after": job.status()}


def cancel_running(setting: Setting) -> Any:
    gate = setting.path("sync-cancel")
    job = runpod.Endpoint(setting.jobs).run({"gate": str(gate)})
    poll(setting.path("sync-cancel.started").exists, bool)
    before, answer = job.status(), job.cancel()
    reached = poll(setting.path("sync-cancel.cancelled").exists, bool)
    return {"id": job.job_id, "before": before, "answer": answer, "after": job.status(), "reached": reached}


def stream(setting: Setting) -> Any:
    return list(runpod.Endpoint(setting.streams).run({"chunks": 3}).stream())


def stream_after_the_end(setting: Setting) -> Any:
    job = runpod.Endpoint(setting.streams).run({"chunks": 40})
    output = job.output(timeout=60)
    first, second = job._fetch_job("stream"), job._fetch_job("stream")
    return {"output": output, "first": first, "second": second}


def stream_with_a_pause_beyond_the_client_timeout(setting: Setting) -> Any:
    # The client gives up on any request after 10 s: a stream request may not be held longer than that.
    return list(runpod.Endpoint(setting.streams).run({"chunks": 1, "pause_s": 15}).stream())


def purge_queue(setting: Setting) -> Any:
    endpoint = runpod.Endpoint(setting.frozen)
    for _ in range(3):
        endpoint.run({"greeting": "never"})
    before = endpoint.health()
    return {"before": before, "answer": endpoint.purge_queue(), "after": endpoint.health()}


def health(setting: Setting) -> Any:
    return runpod.Endpoint(setting.jobs).health()


def unknown_job(setting: Setting) -> Any:
    return raised(Job(setting.jobs, "no-such-job", runpod.Endpoint(setting.jobs).rp_client).status)


def unknown_endpoint(setting: Setting) -> Any:
    return raised(lambda: runpod.Endpoint("no-such-endpoint").run({"greeting": "hello"}))


def wrong_key(setting: Setting) -> Any:
    return raised(lambda: runpod.Endpoint(setting.jobs, api_key="wrong").run({"greeting": "hello"}))


if __name__ == "__main__":
    play(
        [
            run_and_output,
            run_with_input_key,
            run_with_empty_marker,
            run_sync,
            run_sync_of_a_failing_job,
            failed_job,
            progress,
            output_times_out,
            cancel_queued,
            cancel_running,
            stream,
            stream_after_the_end,
            stream_with_a_pause_beyond_the_client_timeout,
            purge_queue,
            health,
            unknown_job,
            unknown_endpoint,
            wrong_key,
        ]
    )
