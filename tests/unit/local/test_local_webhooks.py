# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator

import pytest

from flash_plugins.platforms.local.clock import FakeClock
from flash_plugins.platforms.local.jobs import Job, JobTable
from flash_plugins.platforms.local.submission import parse_submission
from flash_plugins.platforms.local.webhooks import Webhooks


class Receiver:
    """Answers with the given statuses, one after another, the last one for ever."""

    def __init__(self, *statuses: int) -> None:
        self.bodies: list[bytes] = []
        left = list(statuses)
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(left.pop(0) if len(left) > 1 else left[0])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receivers() -> Iterator[list[Receiver]]:
    made: list[Receiver] = []
    yield made
    for receiver in made:
        receiver.close()


def finished_job(url: str) -> Job:
    table = JobTable(FakeClock(), on_stop=lambda job: None)
    job = table.submit(parse_submission(b'{"input": 1, "webhook": "%b"}' % url.encode()), is_sync=False, timeout_s=1)
    table.take("w", 1)
    table.finish(job, output=b"2", error=None)
    return job


async def settled(webhooks: Webhooks, clock: FakeClock) -> None:
    """Wait until the threads have nothing to do: all calls are made, or wait for the clock."""
    await asyncio.sleep(0)
    while webhooks._calls and not clock.pending:  # noqa: ASYNC110 - threads
        await asyncio.sleep(0.01)


async def calls_after(receiver: Receiver, *pauses_s: float) -> list[int]:
    """Return how many calls there were at first and after each pause of the fake clock."""
    clock = FakeClock()
    webhooks = Webhooks(clock)
    webhooks.job_ended(finished_job(receiver.url))
    counts = []
    for pause_s in (0.0, *pauses_s):
        clock.advance(pause_s)
        await settled(webhooks, clock)
        counts.append(len(receiver.bodies))
    await webhooks.close()
    return counts


@pytest.mark.parametrize(
    ("statuses", "counts"),
    [((200,), [1, 1, 1, 1]), ((500, 200), [1, 1, 2, 2]), ((500,), [1, 1, 2, 3]), ((204, 200), [1, 1, 2, 2])],
)
def test_anything_but_200_is_tried_twice_more(
    receivers: list[Receiver], statuses: tuple[int, ...], counts: list[int]
) -> None:
    receivers.append(Receiver(*statuses))
    assert asyncio.run(calls_after(receivers[0], 9.9, 0.2, 10.1)) == counts
    assert b'"status":"COMPLETED"' in receivers[0].bodies[0]


def test_a_job_without_a_webhook_calls_nobody() -> None:
    async def scene() -> None:
        webhooks = Webhooks(FakeClock())
        table = JobTable(FakeClock(), on_stop=lambda job: None)
        webhooks.job_ended(table.submit(parse_submission(b'{"input": 1}'), is_sync=False, timeout_s=1))
        assert not webhooks._calls
        await webhooks.close()

    asyncio.run(scene())
