# SPDX-License-Identifier: Apache-2.0
"""The job API of the local platform against requests that nobody of good will sends: refused, and no error of ours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flash_plugins.platforms.local.launch import launch
from tests.integration.local_support import Client


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    platform = launch()
    yield Client.of(platform)
    assert platform.is_alive(), platform.exit_reason()
    platform.stop()


@pytest.fixture(scope="module")
def endpoint(client: Client) -> str:
    """A queue without workers."""
    return client.create("sleep 600", workers={"max": 0})


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="array"),
        pytest.param(b'{"input": ' + b"9" * 5_000 + b"}", id="number of 5,000 digits"),
        pytest.param(b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="deep"),
        pytest.param(b'{"input": "\xed\xa0\x80"}', id="surrogate in UTF-8"),
        pytest.param(b'{"input": 1, "policy": {"ttl": 1e999}}', id="ttl infinite"),
        pytest.param(b'{"input": 1, "policy": {"ttl": NaN}}', id="ttl not a number"),
        pytest.param(b'{"input": 1, "policy": {"ttl": ' + b"9" * 400 + b"}}", id="ttl of 400 digits"),
        pytest.param(b'{"input": 1, "policy": {"executionTimeout": [[]]}}', id="timeout of a wrong kind"),
        pytest.param(b'{"input": 1, "webhook": "\\ud800"}', id="webhook that is no URL"),
    ],
)
@pytest.mark.parametrize("operation", ["run", "runsync"])
def test_a_submission_that_is_none_is_refused(client: Client, endpoint: str, operation: str, body: bytes) -> None:
    status, answer, _ = client.request("POST", f"/v2/{endpoint}/{operation}", body)
    assert status == 400, answer
    assert answer["error"]


@pytest.mark.parametrize("depth", range(900, 1000, 7))
def test_depth_is_taken_or_refused(client: Client, endpoint: str, depth: int) -> None:
    body = b'{"input": ' + b"[" * depth + b"]" * depth + b', "policy": {}}'
    assert client.request("POST", f"/v2/{endpoint}/run", body)[0] in (200, 400)


@pytest.mark.parametrize("value", ["%C2%B2", "-1", "nan", "1e9", "", "9" * 21, "9" * 5_000])
def test_milliseconds_are_a_number(client: Client, endpoint: str, value: str) -> None:
    assert client.request("POST", f"/v2/{endpoint}/runsync?wait={value}", {"input": 1})[0] == 400
    job = client.ok("POST", f"/v2/{endpoint}/run", {"input": 1})["id"]
    assert client.request("GET", f"/v2/{endpoint}/status/{job}?ttl={value}")[0] == 400


@pytest.mark.parametrize("job", ["%00", "x" * 10_000, "%ed%a0%80", "..%2f..%2fetc"])
@pytest.mark.parametrize("operation", ["status", "stream", "cancel", "retry"])
def test_any_id_may_be_unknown(client: Client, endpoint: str, operation: str, job: str) -> None:
    assert client.request("POST", f"/v2/{endpoint}/{operation}/{job}")[0] == 404


def test_any_text_is_an_input(client: Client, endpoint: str) -> None:
    for text in (b'"\\ud800"', b'"\\u0000"', b"1e999", b"-0", b'"' + b"x" * 1_000_000 + b'"'):
        status, answer, _ = client.request("POST", f"/v2/{endpoint}/run", b'{"input": ' + text + b"}")
        assert (status, answer["status"]) == (200, "IN_QUEUE")
