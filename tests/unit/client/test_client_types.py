# SPDX-License-Identifier: Apache-2.0
"""What a type checker sees of clients: `assert_type` is checked by mypy, and does nothing here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_type

from flash_plugins import Endpoint, EndpointJob, JobStream, Pending, ProvisionedEndpoint

api = Endpoint(name="typed", cpu="cpu5c-4-8")


@api.post("/predict")
async def predict(text: str, times: int = 1) -> dict[str, str]:
    return {"text": text * times}


@api.get("/count")
def count(limit: int) -> int:
    return limit


def _closed(*pendings: Pending[Any]) -> None:
    for pending in pendings:
        pending.close()


def test_operations_have_the_types_of_their_outcomes() -> None:
    endpoint = Endpoint(id="abc")
    run, runsync, retry = endpoint.run(1), endpoint.runsync(1), endpoint.retry("j")
    assert_type(run, Pending[EndpointJob])
    assert_type(runsync, Pending[EndpointJob])
    assert_type(retry, Pending[EndpointJob])
    health, posted = endpoint.health(), endpoint.post("/x")
    assert_type(health, Pending[Mapping[str, Any]])
    assert_type(posted, Pending[Any])
    provisioned, deleted = endpoint.provision(), endpoint.delete()
    assert_type(provisioned, Pending[ProvisionedEndpoint])
    assert_type(deleted, Pending[None])
    stream: Iterable[Any] = assert_type(endpoint.stream("j"), JobStream)
    assert stream is not None
    _closed(run, runsync, retry, health, posted, provisioned, deleted)


def test_a_job_waits_for_itself() -> None:
    job = EndpointJob({"id": "j"}, Endpoint(id="abc"))
    waited, state = job.wait(), job.status()
    assert_type(waited, Pending[EndpointJob])
    assert_type(state, Pending[str])
    _closed(waited, state)


def test_calls_of_routes_have_the_signature_of_the_function() -> None:
    first = api.client.call(predict, text="x", times=2)
    second = api.client.call(count, limit=1)
    assert_type(first, Pending[dict[str, str]])
    assert_type(second, Pending[int])
    _closed(first, second)


def test_a_route_keeps_its_own_type() -> None:
    plain: Callable[[int], int] = count
    assert plain(3) == 3
