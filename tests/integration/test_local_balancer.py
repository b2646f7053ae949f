# SPDX-License-Identifier: Apache-2.0
"""Load-balanced endpoints of the local platform with real workers: requests, answers and errors over HTTP."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from flash_plugins.platforms.local.launch import RunningPlatform, launch
from tests.integration.local_support import Balanced, wait_for, wait_until_gone

WORKER_ID = "x-runpod-worker-id"
#: What paths and queries may be made of, escapes that are none among it.
TARGET = string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@%/"


@pytest.fixture(scope="module")
def platform() -> Iterator[RunningPlatform]:
    running = launch()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(platform: RunningPlatform) -> Balanced:
    return Balanced(platform.url, platform.key)


@pytest.fixture(scope="module")
def web(client: Balanced) -> Balanced:
    """One endpoint with one worker, for tests that leave it as it is."""
    return client.open(workers={"max": 1, "idleTimeout": 600})


def echoed(answer: tuple[int, bytes, dict[str, str]]) -> Any:
    assert answer[0] == 200, answer
    return json.loads(answer[1])


def test_a_request_starts_a_worker_from_zero_and_is_answered(web: Balanced) -> None:
    status, body, headers = web.post("/predict?x=1", b'{"a": 1}', Content_Type="application/json")
    seen = json.loads(body)
    assert (status, seen["method"], seen["path"], seen["query"]) == (200, "POST", "/predict", "x=1")
    assert seen["body"] == '{"a": 1}'
    assert headers[WORKER_ID] == seen["worker"]
    assert [worker["id"] for worker in web.workers(web.id)] == [seen["worker"]]


def test_a_worker_knows_where_to_serve_and_who_it_is(web: Balanced) -> None:
    seen = echoed(web.get("/"))
    environment = seen["environment"]
    assert environment["PORT"] == environment["PORT_HEALTH"]
    assert environment["HEALTH_CHECK_PATH"] == "/ping"
    assert environment["RUNPOD_POD_ID"] == seen["worker"]
    assert environment["RUNPOD_ENDPOINT_ID"] == web.id


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_any_method_passes(web: Balanced, method: str) -> None:
    assert echoed(web.send(method, "/x", None))["method"] == method


def test_a_head_request_has_the_length_and_no_body(web: Balanced) -> None:
    status, body, headers = web.send("HEAD", "/many?bytes=1234", None)
    assert (status, body, headers["content-length"]) == (200, b"", "1234")


@pytest.mark.parametrize("path", ["/a%2Fb", "/%25", "/%2E%2E/x", "/a/../b", "//double", "/%C3%BC", "/a;b=c,d"])
def test_a_path_reaches_the_worker_as_it_was_sent(web: Balanced, path: str) -> None:
    request = f"GET /lb/{web.id}{path}?q=%2F&q=a+b&r=%C3%BC HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    answer = web.raw(f"{request}authorization: Bearer {web.key}\r\n\r\n".encode())
    seen = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (seen["path"], seen["query"]) == (path, "q=%2F&q=a+b&r=%C3%BC")


@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(
    path=strategies.text(TARGET, max_size=30), query=strategies.text(TARGET + "/?", min_size=1, max_size=30)
)
@hypothesis.example(path="/%zz%", query="%")
@hypothesis.example(path="/./..//", query="?")
def test_any_target_reaches_the_worker_as_it_was_sent(web: Balanced, path: str, query: str) -> None:
    # Below a fixed start, so that it is none of the worker's own paths.
    request = f"GET /lb/{web.id}/echo/{path}?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    answer = web.raw(f"{request}Authorization: Bearer {web.key}\r\n\r\n".encode())
    seen = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (seen["path"], seen["query"]) == (f"/echo/{path}", query)


def test_headers_pass_as_a_list_and_nothing_is_added(web: Balanced) -> None:
    request = (
        f"GET /lb/{web.id}/x HTTP/1.1\r\nHost: my.example:81\r\nX-One: 1\r\nX-One: 2\r\nX-Odd: \xc3\xbc\r\n"
        f"Cookie: a=1\r\nCookie: b=2\r\nAuthorization: Bearer {web.key}\r\nAuthorization: Basic dXNlcg==\r\n"
        "Connection: close, X-Gone\r\nX-Gone: 1\r\nTE: trailers\r\n\r\n"
    )
    answer = web.raw(request.encode("latin-1"))
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["headers"] == [
        ["host", "my.example:81"],
        ["x-one", "1"],
        ["x-one", "2"],
        ["x-odd", "\xc3\xbc"],
        ["cookie", "a=1"],
        ["cookie", "b=2"],
        ["authorization", "Basic dXNlcg=="],  # the user's own; the platform's key stays at the edge
    ]


def test_headers_of_an_answer_pass_as_a_list(web: Balanced) -> None:
    request = (
        f"GET /lb/{web.id}/headers HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {web.key}\r\n\r\n"
    )
    head = web.raw(request.encode()).partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert head[0].startswith(b"HTTP/1.1 207 ")
    assert [line for line in head if line.startswith(b"set-cookie")] == [
        b"set-cookie: a=1; Path=/",
        b"set-cookie: b=2, with a comma",
    ]
    assert b"x-odd: \xfc" in head
    assert not [line for line in head if line.startswith((b"keep-alive", b"transfer-encoding"))]
    [worker] = [line for line in head if line.startswith(b"x-runpod-worker-id")]
    assert worker.decode() == f"x-runpod-worker-id: {web.workers(web.id)[0]['id']}"


def test_the_first_label_of_the_host_names_the_endpoint_too(web: Balanced) -> None:
    request = f"GET /v2/{web.id}/run HTTP/1.1\r\nHost: {web.id}.localhost:80\r\nConnection: close\r\n"
    answer = web.raw(f"{request}Authorization: Bearer {web.key}\r\n\r\n".encode())
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["path"] == f"/v2/{web.id}/run"  # all paths are the worker's


def test_the_id_of_the_official_sdks_stands_for_the_endpoint_that_a_header_names(client: Balanced) -> None:
    web = client.open(workers={"max": 1}, name="by-name")
    key = {"Authorization": f"Bearer {web.key}"}
    for named in (web.id, "by-name"):
        status, seen, _ = web.request("GET", "/lb/flash/x", headers={**key, "X-Flash-Endpoint": named})
        assert (status, seen["path"], seen["environment"]["RUNPOD_ENDPOINT_ID"]) == (200, "/x", web.id)
        headers = {**key, "X-Flash-Endpoint": named, "Host": "flash.localhost"}
        assert web.request("GET", "/y", headers=headers)[1]["path"] == "/y"
        assert web.request("GET", "/v2/flash/health", headers={**key, "X-Flash-Endpoint": named})[0] == 200
    assert web.request("GET", "/lb/flash/x", headers={**key, "X-Flash-Endpoint": "nosuch"})[0] == 404
    assert web.request("GET", "/lb/flash/x", headers=key)[0] == 404


def test_a_redirect_to_the_worker_itself_keeps_the_path_base(web: Balanced) -> None:
    here = f"{web.place.hostname}:{web.place.port}"
    cases = {
        "/next": f"/lb/{web.id}/next",
        f"http://{here}/next": f"http://{here}/lb/{web.id}/next",
        "https://elsewhere.example/": "https://elsewhere.example/",
        "next": "next",
    }
    for given, wanted in cases.items():
        assert web.get(f"/redirect?to={given}")[2]["location"] == wanted
    request = f"GET /redirect?to=/next HTTP/1.1\r\nHost: {web.id}.localhost\r\nConnection: close\r\n"
    answer = web.raw(f"{request}Authorization: Bearer {web.key}\r\n\r\n".encode())
    assert b"\r\nlocation: /next\r\n" in answer


def test_the_key_is_asked_for_before_anything_else(client: Balanced, web: Balanced) -> None:
    for path in (f"/lb/{web.id}/x", "/lb/nosuch/x"):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            status, answer, _ = client.request("GET", path, headers=headers)
            assert (status, "wrong key" in answer["error"]) == (401, True)
    status, answer, _ = client.request("GET", "/lb/nosuch/x")
    assert (status, "'nosuch' not found" in answer["error"]) == (404, True)


def test_the_job_api_of_a_load_balanced_endpoint_has_its_health_only(web: Balanced) -> None:
    web.get("/")
    answer = web.ok("GET", f"/v2/{web.id}/health")
    assert (answer["workers"]["idle"], answer["workers"]["ready"], answer["jobs"]["inProgress"]) == (1, 1, 0)
    status, answer, _ = web.request("POST", f"/v2/{web.id}/run", {"input": 1})
    assert (status, f"send requests to {web.place.geturl()}/lb/{web.id}" in answer["error"]) == (400, True)
    assert web.request("GET", f"/v2/{web.id}/job-take/x?token=y")[0] == 401


def test_the_health_url_answers_what_the_workers_health_check_does(client: Balanced) -> None:
    web = client.open(env={"HEALTH_CHECK_PATH": "/my/health"}, workers={"max": 1})
    url = client.ok("GET", f"/v2/serverless/{web.id}")["requestUrls"]["health"]
    assert url.endswith("/my/health")
    assert web.get("/my/health")[:2] == (200, b"fine")
    assert echoed(web.get("/ping"))["path"] == "/ping"  # an ordinary path then


def test_deleting_an_endpoint_ends_its_workers(client: Balanced) -> None:
    web = client.open(workers={"min": 1, "max": 1})
    pid = echoed(web.get("/"))["pid"]
    client.ok("DELETE", f"/v2/serverless/{web.id}")
    wait_until_gone([pid])
    assert web.get("/")[0] == 404


def test_an_idle_worker_ends_and_the_next_request_starts_another(client: Balanced) -> None:
    web = client.open(workers={"max": 1, "idleTimeout": 1})
    first = echoed(web.get("/"))
    wait_until_gone([first["pid"]])
    wait_for(lambda: web.workers(web.id) == [])
    assert echoed(web.get("/"))["worker"] != first["worker"]


def test_the_worker_script_needs_no_path_of_ours(tmp_path: Path, client: Balanced) -> None:
    script = tmp_path / "app.py"
    script.write_text(
        "import http.server, os\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200)\n"
        "        self.end_headers()\n"
        "        self.wfile.write(b'plain')\n"
        "http.server.ThreadingHTTPServer(('', int(os.environ['PORT'])), Handler).serve_forever()\n"
    )
    web = client.open(f"python {script}", workers={"max": 1})
    assert web.get("/anything")[:2] == (200, b"plain")  # HTTP/1.0, no length: ends with its connection
