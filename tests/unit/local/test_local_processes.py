# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import sys

import pytest

from flash_plugins.platforms.local.processes import describe_exit, worker_argv, worker_environment


def test_python_is_the_platforms_own_and_anything_else_is_left_alone() -> None:
    assert worker_argv("python 'my worker.py' -v") == [sys.executable, "my worker.py", "-v"]
    assert worker_argv("python3 w.py")[0] == sys.executable
    assert worker_argv("sh -c 'exec python w.py'") == ["sh", "-c", "exec python w.py"]


def test_a_worker_sees_none_of_the_users_runpod_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "secret")
    monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", "https://elsewhere")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy")
    monkeypatch.setenv("NO_PROXY", "intra.net")
    found = worker_environment({"MINE": "1"}, {"RUNPOD_POD_ID": "w1"})
    assert "secret" not in found.values()
    assert "RUNPOD_ENDPOINT_BASE_URL" not in found
    assert (found["MINE"], found["RUNPOD_POD_ID"]) == ("1", "w1")
    assert found["NO_PROXY"] == "intra.net,127.0.0.1,localhost"
    assert found["PATH"].split(os.pathsep)[0] == os.path.dirname(sys.executable)


def test_the_endpoints_own_values_win_except_over_the_protocol() -> None:
    found = worker_environment({"RUNPOD_LOG_LEVEL": "DEBUG", "RUNPOD_POD_ID": "x"}, {"RUNPOD_POD_ID": "w1"})
    assert (found["RUNPOD_LOG_LEVEL"], found["RUNPOD_POD_ID"]) == ("DEBUG", "w1")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1, "ended with exit code 1"),
        (137, "exit code 137; 137 is how a shell reports SIGKILL, often out of memory"),
        (-9, "signal 9 (SIGKILL, often out of memory)"),
        (-11, "signal 11 (SIGSEGV)"),
    ],
)
def test_an_exit_is_said_in_words(code: int, text: str) -> None:
    assert text in describe_exit(code)
