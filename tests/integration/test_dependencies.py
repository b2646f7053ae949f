# SPDX-License-Identifier: Apache-2.0
"""`dependencies` of an endpoint, installed from a real registry by real workers of the local platform."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import flash_plugins
from flash_plugins import DependencyError, Endpoint, FlashPluginsError
from tests.registry import keep_installer_caches, require_registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Generous: the box may be busy, and a registry far away.
DEADLINE_S = 120.0
NO_SUCH = "flash-plugins-no-such-package-xyz"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of environments of one test, whose workers find no others."""
    require_registry()
    keep_installer_caches(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    flash_plugins.close()  # the platform hands its environment on to the workers
    yield tmp_path / "flash-plugins" / "environments"
    flash_plugins.close()


def look(name: str, *more: str) -> Callable[[], dict[str, Any]]:
    """A function that tells of each module: its version and its file; and what it runs in."""

    def found() -> dict[str, Any]:
        import importlib
        import importlib.metadata
        import os
        import sys

        places = {module: str(importlib.import_module(module).__file__) for module in (name, *more)}
        return {
            "version": importlib.metadata.version(name),
            "prefix": sys.prefix,
            "path": os.environ["PATH"],
            **places,
        }

    return found


def environments(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_a_pinned_dependency_wins_over_the_base_which_has_the_rest(cache: Path) -> None:
    pinned = Endpoint(name="pinned", cpu="cpu5c-4-8", dependencies=["idna==3.6"])(look("idna", "pluggy"))
    found = pinned().result(timeout=DEADLINE_S)
    (environment,) = environments(cache)
    assert found["version"] == "3.6"
    assert Path(found["idna"]).is_relative_to(environment)
    assert not Path(found["pluggy"]).is_relative_to(environment)
    assert found["prefix"] == str(environment)
    assert found["path"].startswith(str(environment / "bin"))


def test_an_environment_is_built_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint(
        name="once", cpu="cpu5c-4-8", workers=(2, 2), scaler_type="REQUEST_COUNT", scaler_value=1,
        dependencies=["idna==3.6"],
    )  # fmt: skip

    @endpoint
    def stay() -> str:
        import time

        import idna

        time.sleep(1.0)  # so that the other worker gets the other call
        return str(idna.__file__)

    first = {call.result(timeout=DEADLINE_S) for call in (stay(), stay())}
    assert len(first) == 1
    built_at = [path.stat().st_mtime_ns for path in environments(cache)]
    assert len(built_at) == 1
    flash_plugins.close()
    # From here on an installer could only fail.
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(cache.parent / "empty"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache.parent / "none"))
    assert {stay().result(timeout=DEADLINE_S)} == first
    assert [path.stat().st_mtime_ns for path in environments(cache)] == built_at


@pytest.mark.parametrize("accelerate", [True, False])
def test_downloads_are_accelerated_by_uv_unless_told_not_to(cache: Path, accelerate: bool) -> None:
    pytest.importorskip("uv")
    endpoint = Endpoint(
        name="installer", cpu="cpu5c-4-8", dependencies=["idna==3.6"], accelerate_downloads=accelerate
    )  # fmt: skip

    @endpoint
    def installer() -> str:
        import importlib.metadata

        return str(importlib.metadata.distribution("idna").read_text("INSTALLER")).strip()

    assert installer().result(timeout=DEADLINE_S) == ("uv" if accelerate else "pip")


def test_extras_and_several_requirements(cache: Path) -> None:
    endpoint = Endpoint(name="extras", cpu="cpu5c-4-8", dependencies=["requests[socks]", "tomli-w>=1.0,<2"])

    @endpoint
    def have() -> list[str]:
        import importlib

        return [importlib.import_module(name).__name__ for name in ("requests", "socks", "tomli_w")]

    assert have().result(timeout=DEADLINE_S) == ["requests", "socks", "tomli_w"]


def test_scripts_of_a_dependency_run(cache: Path) -> None:
    @Endpoint(name="scripts", cpu="cpu5c-4-8", dependencies=["pyfiglet==1.0.2"])
    def shout() -> str:
        import subprocess

        return subprocess.run(["pyfiglet", "hi"], capture_output=True, text=True, check=True).stdout

    assert len(shout().result(timeout=DEADLINE_S).splitlines()) > 3


@pytest.mark.parametrize("streams", [False, True])
def test_a_package_that_does_not_exist_is_an_error_with_the_installers_words(cache: Path, streams: bool) -> None:
    endpoint = Endpoint(name="missing", cpu="cpu5c-4-8", dependencies=["idna==3.6", NO_SUCH])
    started_at = time.monotonic()
    if streams:

        @endpoint
        def several() -> Iterator[int]:
            yield 1

        call: Any = several()
    else:

        @endpoint
        def one() -> int:
            return 1

        call = one()
    with pytest.raises(DependencyError, match=NO_SUCH) as caught:
        list(call) if streams else call.result(timeout=DEADLINE_S)
    assert "No matching distribution found" in str(caught.value) or "was not found in" in str(caught.value)
    assert "dependencies" in str(caught.value)
    assert caught.value.job_id
    assert time.monotonic() - started_at < 60
    assert environments(cache) == []


def test_every_call_is_refused_at_once_where_dependencies_cannot_be_installed(cache: Path) -> None:
    @Endpoint(name="refused", cpu="cpu5c-4-8", dependencies=[NO_SUCH])
    def one(number: int) -> int:
        return number

    outcomes: list[Any] = list(one.map(range(20), return_exceptions=True))
    assert [type(outcome) for outcome in outcomes] == [DependencyError] * 20


def test_a_load_balanced_endpoint_says_what_cannot_be_installed(cache: Path) -> None:
    api = Endpoint(name="refused-api", cpu="cpu5c-4-8", dependencies=[NO_SUCH])
    api.get("/x")(lambda: 1)
    with pytest.raises(DependencyError, match=NO_SUCH) as caught:
        api.client.get("/x").result(DEADLINE_S)
    assert "No matching distribution found" in str(caught.value) or "was not found in" in str(caught.value)


def test_a_load_balanced_endpoint_has_its_dependencies(cache: Path) -> None:
    api = Endpoint(name="pinned-api", cpu="cpu5c-4-8", dependencies=["idna==3.6"])
    api.get("/x")(look("idna"))
    assert api.client.get("/x").result(DEADLINE_S)["version"] == "3.6"


def test_a_dependency_that_the_worker_cannot_work_with_is_an_error(cache: Path) -> None:
    @Endpoint(name="conflict", cpu="cpu5c-4-8", dependencies=["runpod==1.6.2"])
    def one() -> int:
        return 1

    with pytest.raises(DependencyError, match=r"runpod"):
        one().result(timeout=DEADLINE_S)


def test_auto_is_what_the_function_uses_in_the_versions_here(cache: Path) -> None:
    import psutil

    @Endpoint(name="auto", cpu="cpu5c-4-8", dependencies="auto")
    def told() -> Any:
        import os

        return os.environ["FLASH_PLUGINS_DEPENDENCIES"], psutil.__version__

    assert told().result(timeout=DEADLINE_S) == (f'["psutil=={psutil.__version__}"]', psutil.__version__)


def test_a_version_that_was_asked_for_is_no_surprise(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    import idna

    @Endpoint(name="asked", cpu="cpu5c-4-8", dependencies=["idna==3.6"])
    def encode(text: str) -> bytes:
        return idna.encode(text)

    assert encode("straße").result(timeout=DEADLINE_S) == idna.encode("straße")
    assert not [record for record in caplog.records if "the worker has" in record.getMessage()]


def test_what_the_workers_version_lacks_is_an_error_that_names_both_versions(cache: Path) -> None:
    import idna.core

    here = importlib.metadata.version("idna")
    new = [name for name, value in vars(idna.core).items() if callable(value) and name in ("_check_std3",)]
    assert new, "choose another function that idna 3.6 does not have"

    @Endpoint(name="lacks", cpu="cpu5c-4-8", dependencies=["idna==3.6"])
    def name_of(function: Any) -> str:
        return str(function.__name__)

    with pytest.raises(AttributeError, match="_check_std3") as caught:
        name_of(idna.core._check_std3).result(timeout=DEADLINE_S)
    notes = "\n".join(caught.value.__notes__)
    assert f"the worker has idna 3.6, this process {here}: pin dependencies=['idna=={here}']" in notes


def test_load_balanced_workers_have_them_too(cache: Path) -> None:
    web = Endpoint(name="web-pinned", cpu="cpu5c-4-8", workers=(0, 1), dependencies=["idna==3.6"])

    @web.post("/version")
    def version(name: str) -> dict[str, str]:
        import idna

        return {name: str(idna.__version__)}

    assert web.client.post("/version", {"name": "idna"}).result(timeout=DEADLINE_S) == {"idna": "3.6"}


def test_load_balanced_workers_that_cannot_install_are_an_error_with_the_installers_words(cache: Path) -> None:
    web = Endpoint(name="web-missing", cpu="cpu5c-4-8", workers=(0, 1), dependencies=[NO_SUCH])

    @web.get("/nothing")
    def nothing() -> None:
        return None

    with pytest.raises(FlashPluginsError, match=f"No matching distribution found for {NO_SUCH}"):
        web.client.get("/nothing").result(timeout=DEADLINE_S)
