# SPDX-License-Identifier: Apache-2.0
"""What may be listed in `dependencies` and `system_dependencies`, and what `"auto"` stands for."""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attr
import psutil
import pytest

from flash_plugins import ConfigError, Endpoint, EndpointConfig
from flash_plugins.code.distributions import stated
from flash_plugins.platforms import api
from flash_plugins.platforms.packages import installation_env
from flash_plugins.requirements import auto_dependencies, parse_dependencies, parse_system_dependencies


def version(name: str) -> str:
    return importlib.metadata.version(name)


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("torch", "torch"),
        (" torch ", "torch"),
        ("torch == 2.8.0", "torch==2.8.0"),
        ("numpy>=2,<3", "numpy<3,>=2"),
        ("Scikit_Learn", "scikit-learn"),
        ("requests[socks, security]~=2.31", "requests[security,socks]~=2.31"),
        ("tomli>=2; python_version < '3.11'", 'tomli>=2; python_version < "3.11"'),
        ("name @ https://example.com/name-1.0-py3-none-any.whl", "name@ https://example.com/name-1.0-py3-none-any.whl"),
        ("name @ git+https://example.com/name@v1", "name@ git+https://example.com/name@v1"),
        ("name @ file:///runpod-volume/wheels/name.whl", "name@ file:///runpod-volume/wheels/name.whl"),
        ("git+https://example.com/name@v1", "git+https://example.com/name@v1"),
    ],
)
def test_requirements_are_taken_as_pip_writes_them(given: str, parsed: str) -> None:
    (found,) = parse_dependencies([given])
    assert found.replace(" @ ", "@ ") == parsed
    assert parse_dependencies([found]) == (found,)


def test_order_is_kept_and_each_comes_once() -> None:
    assert parse_dependencies(["b", "a==1", "B", "a == 1", "c[x]"]) == ("b", "a==1", "c[x]")


@pytest.mark.parametrize("nothing", [[], ()])
def test_nothing_is_nothing(nothing: Any) -> None:
    assert parse_dependencies(nothing) == ()
    assert parse_system_dependencies(nothing) == ()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("torch=2.0", "is no requirement"),
        ("two words", "is no requirement"),
        ("-r requirements.txt", "option of pip"),
        ("--index-url=https://example.com", "PIP_INDEX_URL"),
        ("./mine", "travel by themselves"),
        ("../mine", "travel by themselves"),
        ("/home/me/mine", "travel by themselves"),
        ("~/mine", "travel by themselves"),
        ("mine-1.0-py3-none-any.whl", "build a wheel"),
        ("mine @ file:///home/me/mine.whl", "runpod-volume"),
        ("flash-plugins", "by themselves"),
        ("flash_plugins==0.1.0", "by themselves"),
        ("", "not blank"),
        (3, "must be a text"),
    ],
)
def test_what_cannot_be_installed_is_refused_with_a_remedy(given: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_dependencies([given])


@pytest.mark.parametrize("given", ["torch", 3, None])
def test_a_text_is_no_list(given: object) -> None:
    with pytest.raises(ConfigError, match="give a list"):
        parse_dependencies(given)
    with pytest.raises(ConfigError, match="give a list"):
        parse_system_dependencies(given)


@pytest.mark.parametrize(
    "pair",
    [
        ("idna==3.6", "idna==3.7"),
        ("idna==3.6", "idna>=3.7"),
        ("idna<3", "idna==3.6"),
        ("idna @ https://example.com/idna.whl", "idna==3.6"),
    ],
)
def test_requirements_that_contradict_one_another_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="contradict"):
        parse_dependencies(pair)


@pytest.mark.parametrize(
    "pair",
    [
        ("idna", "idna==3.6"),
        ("idna>=3", "idna<4"),
        ("idna[all]", "idna==3.6"),
        ("idna==3.6; python_version < '3.12'", "idna==3.7; python_version >= '3.12'"),
    ],
)
def test_requirements_that_agree_are_both_kept(pair: tuple[str, str]) -> None:
    assert len(parse_dependencies(pair)) == 2


@pytest.mark.parametrize(
    "given", ["ffmpeg", "libgl1-mesa-glx", "g++", "libc6:amd64", "curl=7.88.1-10+deb12u5", " git "]
)
def test_debian_packages(given: str) -> None:
    assert parse_system_dependencies([given, given]) == (given.strip(),)


@pytest.mark.parametrize("given", ["-o=x", "--force", "a b", "git; rm", "Git", "", "$(x)", 3, "a\nb"])
def test_what_is_no_debian_package(given: object) -> None:
    with pytest.raises(ConfigError, match="Debian package"):
        parse_system_dependencies([given])


def test_an_endpoint_takes_them_and_tells_its_workers() -> None:
    config = EndpointConfig.from_parameters(
        "e", {"dependencies": ["Torch == 2"], "system_dependencies": ["git"], "accelerate_downloads": False}
    )
    env = installation_env(config)
    assert json.loads(env[api.DEPENDENCIES_ENV]) == ["torch==2"]
    assert json.loads(env[api.SYSTEM_DEPENDENCIES_ENV]) == ["git"]
    assert env[api.ACCELERATE_ENV] == "0"
    assert float(env[api.INIT_TIMEOUT_ENV]) > api.WORKER_INIT_TIMEOUT_S
    assert installation_env(EndpointConfig.from_parameters("e", {})) == {}


def test_a_start_limit_of_the_users_own_stays() -> None:
    config = EndpointConfig.from_parameters("e", {"dependencies": ["torch"], "env": {api.INIT_TIMEOUT_ENV: "60"}})
    assert api.INIT_TIMEOUT_ENV not in installation_env(config)


def test_the_library_for_requirements_is_loaded_only_where_there_are_some() -> None:
    script = (
        "import sys\nfrom flash_plugins import Endpoint\nEndpoint(name='a')\nassert 'packaging' not in sys.modules\n"
        "Endpoint(name='b', dependencies=['idna'])\nassert 'packaging' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_workers_of_another_python_are_refused_before_anything_starts() -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    other = "3.12" if here != "3.12" else "3.13"
    Endpoint(name="same", python_version=here)._check_callable()
    with pytest.raises(ConfigError, match=f"python_version='{other}', and this process runs Python {here}"):
        Endpoint(name="other", python_version=other)._check_callable()


# -- "auto" ---------------------------------------------------------------------------------------------------


def uses_a_global() -> int:
    return psutil.cpu_count() or 0


def imports_inside() -> Any:
    import jsonschema.exceptions  # noqa: F401

    def deeper() -> Any:
        from pluggy import PluginManager

        return PluginManager

    return deeper


def uses_nothing_installed() -> str:
    import os

    return json.dumps(os.getcwd())


def uses_what_is_not_here() -> None:
    import flash_plugins_no_such_module  # type: ignore[import-not-found]  # noqa: F401


@attr.define
class UsesAttrs:
    number: int = 0


def test_a_global_is_pinned_to_the_version_here() -> None:
    assert auto_dependencies([uses_a_global]) == (f"psutil=={version('psutil')}",)


def test_imports_inside_functions_count() -> None:
    assert auto_dependencies([imports_inside]) == (
        f"jsonschema=={version('jsonschema')}",
        f"pluggy=={version('pluggy')}",
    )


def test_a_distribution_that_is_called_otherwise_is_found() -> None:
    assert f"attrs=={version('attrs')}" in auto_dependencies([UsesAttrs])


def test_the_standard_library_and_what_is_missing_are_left_out() -> None:
    assert auto_dependencies([uses_nothing_installed, uses_what_is_not_here]) == ()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Write files below a folder on the path, and import a module of them."""
    before = set(sys.modules)

    def write(folder: str, module: str, **files: str) -> Any:
        root = tmp_path / folder
        for name, text in files.items():
            path = root / name.replace("__", "/", name.count("__") - 2 * name.count("__init__"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(root)
        return importlib.import_module(module)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, origin: object = None) -> None:
    """Put a module and its metadata into a folder of installed packages, as an installer does."""
    folder = tmp_path / "site-packages"
    metadata = folder / f"{name}_dist-1.5+local.dist-info"
    metadata.mkdir(parents=True)
    (folder / f"{name}.py").write_text("def act(): pass\n")
    (metadata / "RECORD").write_text(f"{name}.py,,\n{metadata.name}/RECORD,,\n")
    if origin is not None:
        (metadata / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(folder)


def importer(name: str) -> Callable[[], None]:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(f"def act():\n    import {name}\n    return {name}.act()", namespace)
    return namespace["act"]  # type: ignore[no-any-return]


def test_modules_of_the_users_own_that_travel_along_count(project: Callable[..., Any]) -> None:
    source = "import psutil\n\ndef later():\n    import jsonschema\n"
    mine = project("project", "auto_mine", **{"auto_mine.py": source})

    def act() -> Any:
        return mine.later()

    found = auto_dependencies([act])
    assert f"psutil=={version('psutil')}" in found
    assert f"jsonschema=={version('jsonschema')}" in found
    assert not any("auto" in one for one in found)


def test_the_part_of_a_version_that_no_registry_has_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "auto_plain")
    assert auto_dependencies([importer("auto_plain")]) == ("auto-plain-dist==1.5",)


def test_an_archive_from_an_address_is_pinned_to_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "auto_url", {"url": "https://example.com/a.whl", "archive_info": {}})
    assert auto_dependencies([importer("auto_url")]) == ("auto-url-dist @ https://example.com/a.whl",)


def test_what_was_installed_from_a_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "auto_folder", {"url": "file:///home/me/x", "dir_info": {"editable": True}})
    with pytest.raises(ConfigError, match=r"auto-folder-dist 1.5.*file:///home/me/x, a folder of this machine"):
        auto_dependencies([importer("auto_folder")])


def test_what_was_installed_from_a_repository_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = {"url": "https://example.com/x", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    install(tmp_path, monkeypatch, "auto_vcs", origin)
    with pytest.raises(ConfigError, match=r"'auto-vcs-dist @ git\+https://example.com/x@abc'"):
        auto_dependencies([importer("auto_vcs")])


def test_an_endpoint_pins_what_it_decorates() -> None:
    def pinned() -> object:
        endpoint._check_callable()
        return endpoint.config.dependencies

    endpoint = Endpoint(name="auto", dependencies="auto")
    endpoint(uses_nothing_installed)
    assert pinned() == ()
    endpoint(uses_a_global)
    assert pinned() == (f"psutil=={version('psutil')}",)
    assert endpoint.dependencies == "auto"


def test_pins_do_not_travel_with_the_endpoint() -> None:
    def pickled() -> bytes:
        return pickle.dumps(endpoint.__getstate__()["config"])

    endpoint = Endpoint(name="auto-travels", dependencies="auto")
    endpoint(uses_a_global)
    before = pickled()
    endpoint._check_callable()
    assert pickled() == before  # else what was deployed would be deployed anew after a call
    arrived = pickle.loads(pickle.dumps(endpoint))
    arrived._check_callable()
    assert arrived.config.dependencies == ()  # its functions stayed here


def test_routes_are_pinned_too() -> None:
    api_endpoint = Endpoint(name="auto-routes", dependencies="auto")
    api_endpoint.get("/cpus")(uses_a_global)
    api_endpoint._pin_dependencies()
    assert api_endpoint.config.dependencies == (f"psutil=={version('psutil')}",)


def test_packages_are_stated_by_the_name_they_are_imported_by() -> None:
    modules = frozenset({"attr", "psutil._common", "json", "flash_plugins.code", "no_such_module"})
    assert stated(modules) == {"attr": f"attrs=={version('attrs')}", "psutil": f"psutil=={version('psutil')}"}


def test_what_never_ends_is_refused_at_its_first_entry() -> None:
    for parse in (parse_dependencies, parse_system_dependencies):
        with pytest.raises(ConfigError, match="0"):
            parse(itertools.count())
