# SPDX-License-Identifier: Apache-2.0
"""What a process is set to: variables, `configure`, the key's sources, and the platform that follows from them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flash_plugins
from flash_plugins import AuthenticationError, ConfigError, Endpoint, process
from flash_plugins.platforms import api
from flash_plugins.platforms.choice import CloudPlatform, LocalPlatform, choose
from flash_plugins.settings import ObjectSettings, Settings, image_rules, is_ci, object_settings, worker_endpoint

S3_KEYS = ("FLASH_PLUGINS_S3_ACCESS_KEY", "FLASH_PLUGINS_S3_SECRET_KEY")
KEY = "rpa_S3CRETS3CRETS3CRET"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of ours, and an empty home."""
    for name in ("FLASH_PLATFORM", "FLASH_PROGRESS", "CI", "FLASH_PLUGINS_OBJECTS", *S3_KEYS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def configured() -> Iterator[None]:
    """Forget what `configure` set."""
    before = dict(process._configured)
    yield
    process._configured.clear()
    process._configured.update(before)


def write_config(home: Path, text: str) -> Path:
    path = home / ".runpod" / "config.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_defaults() -> None:
    assert Settings.load() == Settings(
        platform=None,
        platform_source=None,
        api_key=None,
        key_source=None,
        api_base="https://api.runpod.io",
        job_base="https://api.runpod.ai",
        progress="auto",
    )


def test_the_key_comes_from_its_variable_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_config(tmp_path, "[default]\napi_key = 'other'\n")
    monkeypatch.setenv("RUNPOD_API_KEY", f" {KEY}\n")
    settings = Settings.load()
    assert (settings.api_key, settings.key_source) == (KEY, "RUNPOD_API_KEY")


@pytest.mark.parametrize("variable", [None, "", "  "])
def test_the_key_comes_from_the_file_of_the_official_tools(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv("RUNPOD_API_KEY", variable)
    path = write_config(tmp_path, f"[default]\napi_key = '{KEY}'\n")
    settings = Settings.load()
    assert (settings.api_key, settings.key_source) == (KEY, str(path))


@pytest.mark.parametrize(
    "text",
    ["", "[other]\napi_key = 'x'\n", "[default]\n", "[default]\napi_key = 5\n", "[default]\napi_key = ''\n"],
)
def test_a_file_without_a_key_is_no_key(tmp_path: Path, text: str) -> None:
    write_config(tmp_path, text)
    assert Settings.load().api_key is None


@pytest.mark.parametrize("text", [f"api_key = {KEY}", f"default = '{KEY}'", f"[default\n{KEY}"])
def test_a_damaged_file_is_named_without_its_content(tmp_path: Path, text: str) -> None:
    path = write_config(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        Settings.load()
    assert str(path) in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    write_config(tmp_path, "").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        Settings.load()


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".runpod" / "config.toml").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        Settings.load()


@pytest.mark.parametrize("home", [None, "", "/nonexistent/home", "/dev/null"])
def test_a_home_that_is_absent_is_no_key(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    assert Settings.load().api_key is None
    assert isinstance(choose(Settings.load()), LocalPlatform)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_home_that_may_not_be_read_is_no_key(tmp_path: Path) -> None:
    path = write_config(tmp_path, f"[default]\napi_key = '{KEY}'\n")
    path.chmod(0)
    assert Settings.load().api_key is None
    path.parent.chmod(0)
    try:
        assert Settings.load().api_key is None
    finally:
        path.parent.chmod(0o700)


def test_a_home_that_cannot_be_written_is_enough(tmp_path: Path) -> None:
    """Importing, decorating and choosing touch no file."""
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    code = (
        "import flash_plugins as f\n@f.Endpoint(cpu='cpu5c-4-8')\ndef g(): ...\nassert f.platform().name == 'local'\n"
    )
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(home.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_platform_variable_wins_over_configure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load(platform="runpod").platform_source == "flash_plugins.configure"
    monkeypatch.setenv("FLASH_PLATFORM", "local")
    settings = Settings.load(platform="runpod")
    assert (settings.platform, settings.platform_source) == ("local", "FLASH_PLATFORM")


def test_progress_variable_wins_over_configure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load(progress="on").progress == "on"
    monkeypatch.setenv("FLASH_PROGRESS", "off")
    assert Settings.load(progress="on").progress == "off"


@pytest.mark.parametrize("value", ["yes", "ON", "1"])
def test_a_bad_progress_is_an_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("FLASH_PROGRESS", value)
    with pytest.raises(ConfigError, match="auto, on or off"):
        Settings.load()


@pytest.mark.parametrize(
    ("variable", "value", "attribute", "expected"),
    [
        ("RUNPOD_API_BASE_URL", "http://127.0.0.1:80/", "api_base", "http://127.0.0.1:80"),
        ("RUNPOD_API_BASE_URL", "", "api_base", api.CLOUD_API_BASE),
        ("RUNPOD_ENDPOINT_BASE_URL", "http://127.0.0.1:80/v2", "job_base", "http://127.0.0.1:80"),
        ("RUNPOD_ENDPOINT_BASE_URL", "http://127.0.0.1:80/v2/", "job_base", "http://127.0.0.1:80"),
        ("RUNPOD_ENDPOINT_BASE_URL", "http://127.0.0.1:80", "job_base", "http://127.0.0.1:80"),
        ("RUNPOD_ENDPOINT_BASE_URL", "", "job_base", api.CLOUD_JOB_BASE),
    ],
)
def test_bases_mean_what_they_mean_to_the_official_clients(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, attribute: str, expected: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert getattr(Settings.load(), attribute) == expected


def test_the_key_decides_when_nothing_is_set() -> None:
    chosen = choose(Settings(api_key=KEY, key_source="RUNPOD_API_KEY"))
    assert isinstance(chosen, CloudPlatform)
    assert chosen.reason == "a Runpod API key is in RUNPOD_API_KEY"
    assert chosen.outlives_us
    local = choose(Settings())
    assert isinstance(local, LocalPlatform)
    assert local.reason == "no Runpod API key is configured"


def test_a_named_platform_wins_over_the_key() -> None:
    chosen = choose(Settings(api_key=KEY, platform="local", platform_source="FLASH_PLATFORM"))
    assert isinstance(chosen, LocalPlatform)
    assert chosen.reason == "FLASH_PLATFORM says so"


@pytest.mark.parametrize("name", ["cloud", "LOCAL", "local "])
def test_a_platform_that_does_not_exist_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"FLASH_PLATFORM names platform {name!r}.*local, runpod"):
        choose(Settings(platform=name, platform_source="FLASH_PLATFORM"))


def test_runpod_without_a_key_is_an_error_that_names_the_variable() -> None:
    chosen = choose(Settings(platform="runpod", platform_source="FLASH_PLATFORM"))
    with pytest.raises(AuthenticationError, match=r"RUNPOD_API_KEY.*FLASH_PLATFORM=local"):
        chosen.connect()


def test_the_cloud_is_connected_by_its_own_request_urls() -> None:
    connection = CloudPlatform(Settings(api_key=KEY), "a test").connect()
    assert (connection.api_base, connection.job_base) == ("https://api.runpod.io", None)
    assert connection.worker_command == api.WORKER_COMMAND
    assert not connection.has_package
    assert connection.key == KEY


def test_another_base_is_named_in_the_reason() -> None:
    settings = Settings(api_key=KEY, api_base="http://127.0.0.1:1", job_base="http://127.0.0.1:2")
    chosen = CloudPlatform(settings, "a test")
    assert chosen.reason == "a test; at http://127.0.0.1:1, set by RUNPOD_API_BASE_URL"
    connection = chosen.connect()
    assert (connection.api_base, connection.job_base) == ("http://127.0.0.1:1", "http://127.0.0.1:2")
    assert connection.has_package


def test_the_key_is_in_no_representation() -> None:
    settings = Settings(api_key=KEY, key_source="RUNPOD_API_KEY")
    platform = CloudPlatform(settings, "a test")
    for thing in (settings, platform, platform.connect(), vars(platform)):
        assert KEY not in repr(thing)


def test_ci_and_worker_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_ci()
    assert worker_endpoint() is None
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv(api.ENDPOINT_NAME_ENV, "mine")
    assert is_ci()
    assert worker_endpoint() == "mine"


@pytest.mark.usefixtures("configured")
def test_configure_sets_what_the_environment_does_not() -> None:
    flash_plugins.configure(progress="off")
    assert process.settings().progress == "off"


@pytest.mark.usefixtures("configured")
def test_a_refused_configure_changes_nothing() -> None:
    flash_plugins.configure(progress="off")
    with pytest.raises(ConfigError, match="loud"):
        flash_plugins.configure(progress="loud")
    assert process.settings().progress == "off"


SCRIPT = """
import flash_plugins
from flash_plugins import Endpoint

@Endpoint(cpu="cpu5c-4-8")
def f(x): return x

def kinds(action):
    try:
        action()
    except Exception as error:
        return [kind.__name__ for kind in type(error).__mro__], str(error)
    raise AssertionError("no error")
"""


def run(body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT + body], env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("environment", "kind", "words"),
    [
        ({"FLASH_PLATFORM": "cloud"}, "ConfigError", "FLASH_PLATFORM names platform 'cloud'"),
        ({"FLASH_PROGRESS": "loud"}, "ConfigError", "'loud'"),
    ],
)
def test_a_wrong_variable_is_an_error_at_the_call(environment: dict[str, str], kind: str, words: str) -> None:
    done = run("names, text = kinds(lambda: f(1)); print(names[0], text)", **environment)
    assert done.stdout.startswith(kind), done.stderr
    assert words in done.stdout


def test_runpod_without_a_key_fails_the_call(tmp_path: Path) -> None:
    done = run("names, text = kinds(lambda: f(1).result(60)); print(names[0], text)", FLASH_PLATFORM="runpod")
    assert done.stdout.startswith("AuthenticationError"), done.stderr
    assert "RUNPOD_API_KEY" in done.stdout
    assert "flash-plugins: platform runpod (FLASH_PLATFORM says so)" in done.stderr


def test_a_platform_chosen_by_configure_is_used_and_cannot_be_changed_later() -> None:
    done = run("""
flash_plugins.configure(platform="local")
assert flash_plugins.platform().name == "local"
names, text = kinds(lambda: flash_plugins.configure(platform="runpod"))
print(names[0], text)
flash_plugins.close()
flash_plugins.configure(platform="runpod")
print(flash_plugins.platform().name)
""")
    assert "ConfigError configure(platform='runpod') comes too late" in done.stdout, done.stderr
    assert done.stdout.split()[-1] == "runpod"
    assert done.stderr.count("flash-plugins: platform") == 2


def test_choosing_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("""
import sys
flash_plugins.platform()
assert "httpx" not in sys.modules and "starlette" not in sys.modules
""")
    assert done.returncode == 0, done.stderr


def test_an_endpoint_can_be_made_with_settings_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_PLATFORM", "nowhere")
    made: Any = Endpoint(name="e")(lambda: 1)
    assert made.local() == 1


def test_no_store_is_set_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert object_settings() == ObjectSettings()


def test_the_store_comes_from_its_variable_then_the_program_then_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, configured: None
) -> None:
    project = tmp_path / "project"
    (project / "below").mkdir(parents=True)
    file = project / "flash-plugins.toml"
    file.write_text("objects = 's3://from-file/p'\n[local.images]\n'a' = 'b'\n")
    monkeypatch.chdir(project / "below")
    assert process.objects_setting() == ObjectSettings("s3://from-file/p", str(file))
    assert [rule.pattern for rule in image_rules()] == ["a"]
    flash_plugins.configure(objects="s3://from-program")
    assert process.objects_setting().url == "s3://from-program/flash-plugins"
    assert process.settings().platform is None
    monkeypatch.setenv("FLASH_PLUGINS_OBJECTS", "s3://from-variable?region=EU-RO-1")
    found = process.objects_setting()
    assert (found.url, found.source) == ("s3://from-variable/flash-plugins?region=EU-RO-1", "FLASH_PLUGINS_OBJECTS")
    monkeypatch.setenv("FLASH_PLUGINS_OBJECTS", "off")
    assert process.objects_setting().is_off
    assert process.objects_setting().url is None


@pytest.mark.parametrize("url", ["bucket", "s3://", "file:here"])
def test_a_wrong_store_is_an_error_where_it_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, configured: None, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"flash_plugins\.configure: object store"):
        flash_plugins.configure(objects=url)
    assert process.objects_setting() == ObjectSettings()
    (tmp_path / "flash-plugins.toml").write_text(f"objects = '{url}'")
    with pytest.raises(ConfigError, match=r"flash-plugins\.toml: object store"):
        object_settings()


def test_a_store_in_a_file_must_be_a_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "flash-plugins.toml").write_text("objects = 5")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="objects must be a URL"):
        object_settings()


def test_the_keys_of_a_bucket_are_two_and_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(S3_KEYS[0], " user_1 ")
    with pytest.raises(ConfigError, match="FLASH_PLUGINS_S3_SECRET_KEY is not"):
        object_settings()
    monkeypatch.setenv(S3_KEYS[1], "rps_2\n")
    found = object_settings()
    assert found.access is not None
    assert (found.access.access_key, found.access.secret_key) == ("user_1", "rps_2")
    assert "user_1" not in repr(found)
    assert "rps_2" not in repr(found)
