# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong, its user gets one typed error that names the cause and the remedy, and never a hang.

The keys, requests and workers of these tests are wrong for real, on a real local platform that is addressed as the
cloud is; only a refusal that we would never provoke ourselves comes from a scripted server.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flash_plugins
from flash_plugins import (
    ApiError,
    AuthenticationError,
    Call,
    ConfigError,
    DependencyError,
    Endpoint,
    NotFoundError,
    NoWorkers,
    PlatformUnavailable,
    WaitTimeout,
    WorkerStartFailed,
)
from flash_plugins.platforms.local.launch import RunningPlatform, launch
from tests.registry import require_registry
from tests.unit.dispatcher.fake import Answer, FakeRunpod, problem

pytestmark = pytest.mark.timeout(90)

#: Most seconds until an error must be there, workers that are started and tried again included. The box may be busy.
DEADLINE_S = 60.0

KEY = "rpa_THEKEYOFSOMEBODY"


@pytest.fixture(autouse=True)
def own_session() -> Iterator[None]:
    flash_plugins.close()
    yield
    flash_plugins.close()


def go_to(url: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take what answers at `url` for Runpod."""
    monkeypatch.setenv("FLASH_PLATFORM", "runpod")
    monkeypatch.setenv("RUNPOD_API_BASE_URL", url)
    monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", f"{url}/v2")
    monkeypatch.setenv("RUNPOD_API_KEY", key)


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest) -> Iterator[RunningPlatform]:
    """A platform that is not found by itself; the parameter is its faults."""
    platform = launch(key=KEY, faults=getattr(request, "param", None))
    yield platform
    platform.stop()


@pytest.fixture
def cloud(elsewhere: RunningPlatform, monkeypatch: pytest.MonkeyPatch) -> RunningPlatform:
    go_to(elsewhere.url, KEY, monkeypatch)
    return elsewhere


def square_on(**parameters: Any) -> Call[int]:
    @Endpoint(name="wrong", cpu="cpu5c-4-8", **parameters)
    def square(x: int) -> int:
        return x * x

    return square(3)


# -- keys ---------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_one_error_that_says_where_it_came_from(
    elsewhere: RunningPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_to(elsewhere.url, "rpa_WRONG", monkeypatch)
    with pytest.raises(AuthenticationError, match=r"RUNPOD_API_KEY") as call:
        square_on().result(DEADLINE_S)
    with pytest.raises(AuthenticationError, match=r"RUNPOD_API_KEY") as job:
        Endpoint(id="abc123").run({"a": 1}).result(DEADLINE_S)
    for caught in (call, job):
        assert "rpa_WRONG" not in str(caught.value)
        assert "401" in str(caught.value)


def test_no_key_at_all_is_said_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLASH_PLATFORM", "runpod")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(AuthenticationError, match=r"FLASH_PLATFORM=local"):
        square_on().result(DEADLINE_S)


def test_an_address_where_nobody_listens_is_one_error_that_asks_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    go_to("http://127.0.0.1:9", KEY, monkeypatch)  # 9: a port that nothing may use
    for ask in (Endpoint(id="abc123").run({"a": 1}), Endpoint(id="abc123").get("/models")):
        with pytest.raises(PlatformUnavailable, match="RUNPOD_API_BASE_URL"):
            ask.result(DEADLINE_S)


# -- endpoints and jobs that do not exist -------------------------------------------------------------------


def test_an_id_that_does_not_exist_is_named(cloud: RunningPlatform) -> None:
    with pytest.raises(NotFoundError, match="nosuch123") as run:
        Endpoint(id="nosuch123").run({"a": 1}).result(DEADLINE_S)
    with pytest.raises(NotFoundError, match="nosuch123"):
        Endpoint(id="nosuch123").runsync({"a": 1}).result(DEADLINE_S)
    with pytest.raises(NotFoundError, match="nosuch123"):
        Endpoint(id="nosuch123").get("/models").result(DEADLINE_S)
    assert run.value.status == 404


# -- requests that the platform refuses ---------------------------------------------------------------------


def test_a_refusal_of_rest_v2_comes_with_the_platforms_words(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRunpod()
    refusal = problem(422, "The request body is invalid.", errors=["$.workers.max: must be at most 5 (account limit)"])
    fake.script("create", refusal)
    try:
        go_to(fake.base, "rpa_key", monkeypatch)
        with pytest.raises(ApiError, match="account limit") as caught:
            square_on().result(DEADLINE_S)
    finally:
        flash_plugins.close()
        fake.close()
    assert caught.value.status == 422
    assert "endpoint 'wrong'" in str(caught.value)
    assert "Endpoint(workers=…)" in str(caught.value)


# -- capacity -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [{"is_workerless": True}], indirect=True)
def test_without_capacity_a_wait_ends_when_its_user_says_so_and_says_why(cloud: RunningPlatform) -> None:
    call = square_on()
    with pytest.raises(WaitTimeout, match=r"worker") as caught:
        call.result(timeout=2.0)
    assert "GPU types" in str(caught.value) or "is starting" in str(caught.value)
    assert call.cancel()


def test_workers_that_wait_for_capacity_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRunpod()
    fake.is_slow = True
    health = {"jobs": {"inQueue": 1}, "workers": {"idle": 0, "running": 0, "throttled": 2}}
    fake.script("health", Answer(content=health))
    try:
        go_to(fake.base, "rpa_key", monkeypatch)
        call = square_on()
        with pytest.raises(WaitTimeout, match=r"2 workers are waiting for capacity.*gpu=\[…\]"):
            call.result(timeout=1.5)
    finally:
        flash_plugins.close()
        fake.close()


# -- workers that do not start ------------------------------------------------------------------------------


def test_a_worker_that_crashes_at_import_is_one_error_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "runpod.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')\n")
    started_at = time.monotonic()
    with pytest.raises(WorkerStartFailed, match=r"libcuda\.so\.1") as caught:
        square_on(env={"PYTHONPATH": str(tmp_path)}).result(DEADLINE_S)
    assert "Traceback (most recent call last)" in str(caught.value)
    assert time.monotonic() - started_at < DEADLINE_S / 2


def test_a_module_of_the_user_that_raises_at_import_there_is_that_error(tmp_path: Path) -> None:
    module = "import os\nif 'RUNPOD_ENDPOINT_ID' in os.environ:\n    raise RuntimeError('no such model: gpt-9')\n"
    (tmp_path / "wrong_model.py").write_text(module)

    @Endpoint(name="wrong-import", cpu="cpu5c-4-8", env={"PYTHONPATH": str(tmp_path)})
    def predict() -> None:
        import wrong_model  # type: ignore[import-not-found]  # noqa: F401

    with pytest.raises(RuntimeError, match="no such model: gpt-9") as caught:
        predict().result(DEADLINE_S)
    assert "wrong_model.py" in str(caught.value.__cause__)


def test_a_worker_that_never_asks_for_work_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "runpod.py").write_text("import time\ntime.sleep(600)\n")
    with pytest.raises(WorkerStartFailed, match=r"for 1 s \(RUNPOD_INIT_TIMEOUT in its env"):
        square_on(env={"PYTHONPATH": str(tmp_path), "RUNPOD_INIT_TIMEOUT": "1"}).result(DEADLINE_S)


# -- load-balanced workers that do not start ----------------------------------------------------------------


def test_routes_that_crash_at_import_there_are_one_error_with_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raises = "import os\nif 'RUNPOD_ENDPOINT_ID' in os.environ:\n    raise RuntimeError('no such model: gpt-9')\n"
    (tmp_path / "wrong_routes.py").write_text(raises + "VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import wrong_routes  # type: ignore[import-not-found]

    api = Endpoint(name="wrong-routes", cpu="cpu5c-4-8")

    @api.get("/value")
    def value() -> Any:
        return wrong_routes.VALUE

    for request in (api.client.get("/value"), Endpoint(id=api.provision().result(DEADLINE_S).id).get("/value")):
        with pytest.raises(NoWorkers, match="no such model: gpt-9") as caught:
            request.result(DEADLINE_S)
        assert "Traceback (most recent call last)" in str(caught.value)
        assert "wrong_routes.py" in str(caught.value)


def test_an_image_that_never_gets_healthy_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flash-plugins.toml").write_text('[local.images]\n"acme/deaf" = "sleep 600"\n')
    monkeypatch.chdir(tmp_path)
    deaf = Endpoint(name="wrong-deaf", image="acme/deaf", cpu="cpu5c-4-8", env={"RUNPOD_INIT_TIMEOUT": "1"})
    with pytest.raises(NoWorkers, match=r"nothing listens there") as caught:
        deaf.get("/models").result(DEADLINE_S)
    assert "RUNPOD_INIT_TIMEOUT" in str(caught.value)
    assert "/ping" in str(caught.value)


def test_an_image_that_nothing_stands_for_says_what_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # no Docker
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"\[local\.images\]"):
        Endpoint(name="wrong-image", image="acme/nothing", cpu="cpu5c-4-8").get("/models").result(DEADLINE_S)


# -- dependencies -------------------------------------------------------------------------------------------


def test_a_dependency_that_does_not_exist_is_one_error_with_the_installers_words() -> None:
    require_registry()
    with pytest.raises(DependencyError, match="flash-plugins-no-such-package") as caught:
        square_on(dependencies=["flash-plugins-no-such-package"]).result(DEADLINE_S)
    said = str(caught.value)
    assert "No matching distribution found" in said or "was not found in" in said
    assert "correct `dependencies`" in said


def test_a_dependency_of_routes_that_does_not_exist_is_one_error_too() -> None:
    require_registry()
    api = Endpoint(name="wrong-dependency", cpu="cpu5c-4-8", dependencies=["flash-plugins-no-such-package"])
    api.get("/x")(lambda: 1)
    with pytest.raises(DependencyError, match="No matching distribution found for flash-plugins-no-such-package"):
        api.client.get("/x").result(DEADLINE_S)
