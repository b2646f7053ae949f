# SPDX-License-Identifier: Apache-2.0
"""Load-balanced endpoints of the local platform: bodies as they come, limits, and ends on either side."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flash_plugins.platforms.local.launch import RunningPlatform, launch
from tests.integration.local_support import WORKERS, Balanced, wait_for

MB = 1_000_000
WORKER_ID = "x-runpod-worker-id"


@pytest.fixture(scope="module")
def platform() -> Iterator[RunningPlatform]:
    running = launch()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the worker writes what happened to it."""
    return tmp_path_factory.mktemp("notes") / "notes"


@pytest.fixture(scope="module")
def web(platform: RunningPlatform, notes: Path) -> Balanced:
    client = Balanced(platform.url, platform.key)
    opened = client.open(workers={"max": 1, "idleTimeout": 600}, env={"NOTE": str(notes)})
    assert opened.get("/")[0] == 200
    return opened


def noted(notes: Path, text: str) -> None:
    """Wait until the worker has noted `text`."""
    wait_for(lambda: notes.exists() and text in notes.read_text().splitlines())


def head(web: Balanced, method: str, path: str, *lines: str) -> bytes:
    lines = (f"{method} /lb/{web.id}{path} HTTP/1.1", "Host: x", f"Authorization: Bearer {web.key}", *lines)
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


# -- bodies --------------------------------------------------------------------------------------------------


def test_a_large_body_arrives_whole_with_and_without_a_length(web: Balanced) -> None:
    body = bytes(20 * MB)
    status, answer, _ = web.post("/size", body)
    assert (status, json.loads(answer)) == (200, 20 * MB)
    chunks = (body[start : start + MB] for start in range(0, len(body), MB))
    assert json.loads(web.post("/size", chunks)[1]) == 20 * MB


def test_an_answer_may_begin_before_the_upload_has_ended(web: Balanced) -> None:
    with closing(socket.create_connection((web.place.hostname, web.place.port), timeout=30)) as connection:
        connection.sendall(head(web, "POST", "/duplex", "Transfer-Encoding: chunked", "Connection: close"))
        received = b""
        for number in range(3):
            connection.sendall(b"3\r\n%03d\r\n" % number)
            while b"got %03d" % number not in received:
                received += connection.recv(65536)
        connection.sendall(b"0\r\n\r\n")
        while chunk := connection.recv(65536):
            received += chunk
        assert received.endswith(b"0\r\n\r\n")


def test_events_come_one_by_one_and_the_clients_end_reaches_the_worker(web: Balanced, notes: Path) -> None:
    with closing(web.connection()) as connection:
        connection.request("GET", f"/lb/{web.id}/events", headers={"Authorization": f"Bearer {web.key}"})
        answer = connection.getresponse()
        assert answer.getheader("content-type", "").startswith("text/event-stream")
        begun = time.monotonic()
        assert [answer.readline() for _ in range(6)][::2] == [b"data: 0\n", b"data: 1\n", b"data: 2\n"]
        assert time.monotonic() - begun < 5
        answer.close()
    noted(notes, "events ended")


def test_a_client_that_goes_before_the_answer_cancels_the_request(web: Balanced, notes: Path) -> None:
    with closing(socket.create_connection((web.place.hostname, web.place.port))) as connection:
        connection.sendall(head(web, "GET", "/sleep?s=60"))
        noted(notes, "sleeping")
    noted(notes, "client gone")
    wait_for(lambda: web.ok("GET", f"/v2/{web.id}/health")["workers"]["idle"] == 1)


# -- limits --------------------------------------------------------------------------------------------------


def test_thirty_megabytes_pass_both_ways(web: Balanced) -> None:
    assert json.loads(web.post("/size", bytes(30 * MB))[1]) == 30 * MB
    for suffix in ("", "&chunked"):
        status, body, _ = web.get(f"/many?bytes={30 * MB}{suffix}")
        assert (status, len(body)) == (200, 30 * MB)


def test_a_body_over_the_limit_is_refused_however_it_comes(web: Balanced) -> None:
    status, body, _ = web.post("/size", bytes(30 * MB + 1))
    assert (status, json.loads(body)["error"]) == (413, "body too large")
    answer = web.raw(
        head(web, "POST", "/size", "Content-Length: 40000000", "Expect: 100-continue", "Connection: close")
    )
    assert answer.startswith(b"HTTP/1.1 413 ")  # and nobody asked for the body
    with closing(web.connection()) as connection:
        chunks = (bytes(MB) for _ in range(31))
        try:
            connection.request("POST", f"/lb/{web.id}/size", chunks, {"Authorization": f"Bearer {web.key}"})
        except ConnectionError:
            pass  # it has answered and closed while this was sending
        else:
            assert connection.getresponse().status == 413


def test_an_answer_over_the_limit_is_an_error_or_is_cut(web: Balanced) -> None:
    status, body, headers = web.get(f"/many?bytes={30 * MB + 1}")
    assert (status, "worker's answer" in json.loads(body)["detail"]) == (502, True)
    assert headers[WORKER_ID]
    with pytest.raises(http.client.IncompleteRead):
        web.get(f"/many?bytes={31 * MB}&chunked")


# -- workers that fail ---------------------------------------------------------------------------------------


def test_a_worker_that_dies_before_its_answer_is_an_error_with_the_reason(web: Balanced) -> None:
    status, body, _ = web.get("/die")
    error = json.loads(body)["error"]
    assert (status, error.startswith("worker lost: worker ")) == (502, True)
    for part in ("signal 9 (SIGKILL", "going down"):
        assert part in error
    assert web.get("/")[0] == 200  # another one


def test_a_worker_that_dies_in_its_answer_cuts_the_connection(web: Balanced) -> None:
    with pytest.raises(http.client.IncompleteRead) as caught:
        web.get("/die?late=1")
    assert caught.value.partial == b"half of it"
    assert web.get("/")[0] == 200


def test_a_request_that_may_have_run_is_not_repeated(web: Balanced, notes: Path) -> None:
    before = notes.read_text().count("sleeping") if notes.exists() else 0
    pid = json.loads(web.get("/")[1])["pid"]  # a connection is kept, where clients like to repeat

    def kill() -> None:
        wait_for(lambda: notes.exists() and notes.read_text().count("sleeping") > before)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    status, body, _ = web.get("/sleep?s=60")
    killer.join()
    assert (status, "signal 9" in json.loads(body)["error"]) == (502, True)
    assert web.get("/")[0] == 200
    assert notes.read_text().count("sleeping") == before + 1


def test_a_worker_that_cannot_start_is_an_error_with_its_own_words(platform: RunningPlatform) -> None:
    client = Balanced(platform.url, platform.key)
    status, body, _ = client.open("python -c \"raise SystemExit('no such model')\"").get("/")
    error = json.loads(body)["error"]
    assert (status, error.startswith("worker did not start: ")) == (502, True)
    for part in ("3 starts", "exit code 1", "no such model"):
        assert part in error


def test_a_start_that_fails_is_made_up_for_by_the_next_one(platform: RunningPlatform, tmp_path: Path) -> None:
    script = tmp_path / "second_time.py"
    script.write_text(
        "import pathlib, runpy, sys\n"
        f"ports = pathlib.Path({str(tmp_path / 'ports')!r})\n"
        "import os\n"
        "with ports.open('a') as file: file.write(os.environ['PORT'] + '\\n')\n"
        "if len(ports.read_text().splitlines()) < 3: sys.exit('address already in use')\n"
        f"runpy.run_path({str(WORKERS / 'web.py')!r}, run_name='__main__')\n"
    )
    web = Balanced(platform.url, platform.key).open(f"python {script}", workers={"max": 1})
    assert web.get("/")[0] == 200
    assert len(set((tmp_path / "ports").read_text().splitlines())) == 3


def test_a_worker_whose_health_is_right_and_whose_port_is_wrong_is_an_error(
    platform: RunningPlatform, tmp_path: Path
) -> None:
    script = tmp_path / "wrong.py"
    script.write_text(
        "import http.server, os\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200)\n"
        "        self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT_HEALTH'])), Handler).serve_forever()\n"
    )
    env = {"PORT": "80", "PORT_HEALTH": "81"}
    client = Balanced(platform.url, platform.key).open(f"python {script}", env=env)
    status, body, _ = client.get("/")
    answer = json.loads(body)
    assert (status, "cannot be reached on port" in answer["error"], "PORT" in answer["detail"]) == (502, True, True)
