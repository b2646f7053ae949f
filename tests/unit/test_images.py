# SPDX-License-Identifier: Apache-2.0
"""What stands for an image on this machine: patterns, files, Docker, and the error that says how."""

from __future__ import annotations

import shlex
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from flash_plugins import ConfigError, EndpointConfig, LocalImage, NetworkVolume, PodTemplate, hookimpl
from flash_plugins.builtin.local_image import ConfiguredImages, DockerImages, docker_problem
from flash_plugins.hooks import HookManager
from flash_plugins.images import ImageRule, find_rule, without_tag
from flash_plugins.platforms import api
from flash_plugins.settings import CONFIG_FILE, config_file, image_rules

VLLM = "vllm/vllm-openai:latest"


def config(image: str = VLLM, **parameters: object) -> EndpointConfig:
    return EndpointConfig.from_parameters("served", {"image": image, **parameters})


def rules(*patterns: str, source: str = "/a") -> list[ImageRule]:
    return [ImageRule(pattern, LocalImage("true"), Path(source)) for pattern in patterns]


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty home, and a working directory below another one."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "project" / "scripts").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    return home


def fake_docker(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    docker = folder / "docker"
    docker.write_text(f"#!/bin/sh\n{script}\n")
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


# -- commands and patterns -----------------------------------------------------------------------------------


def run(image: LocalImage, tmp_path: Path, **env: str) -> str:
    """What the command prints when it is started as the guardian starts it: without a shell of ours."""
    done = subprocess.run(
        shlex.split(image.args), env={"PATH": "/usr/bin:/bin", **env}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_variables_of_a_command_are_filled_in_where_it_runs(tmp_path: Path) -> None:
    assert run(LocalImage('printf "%s|%s" $PORT "a  b"'), tmp_path, PORT="8123") == "8123|a  b"


def test_a_command_may_begin_with_assignments(tmp_path: Path) -> None:
    assert run(LocalImage("GREETING='good day' printenv GREETING"), tmp_path) == "good day"


def test_a_list_of_words_is_run_as_it_is(tmp_path: Path) -> None:
    assert run(LocalImage(["printf", "%s", "$PORT it's"]), tmp_path, PORT="1") == "$PORT it's"


@pytest.mark.parametrize("command", ["pwd", ["pwd"]])
def test_a_command_runs_in_its_directory(tmp_path: Path, command: str | list[str]) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    assert run(LocalImage(command, directory=folder), tmp_path) == str(folder)


@pytest.mark.parametrize("command", ["", "  ", [], "python 'serve.py", [1]])
def test_what_is_no_command_is_refused(command: object) -> None:
    with pytest.raises(ConfigError, match="LocalImage"):
        LocalImage(command)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "pattern"),
    [
        (VLLM, "vllm/vllm-openai:latest"),
        (VLLM, "vllm/vllm-openai:*"),
        (VLLM, "vllm/*"),
        (VLLM, "*"),
        (VLLM, "vllm/vllm-openai"),
        ("vllm/vllm-openai", VLLM),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("a@sha256:0f", "a@*"),
    ],
)
def test_a_pattern_matches_and_no_tag_means_latest(image: str, pattern: str) -> None:
    assert find_rule(rules(pattern), image) is not None


@pytest.mark.parametrize(
    ("image", "pattern"), [("vllm/vllm-openai:v1", "vllm/vllm-openai"), (VLLM, "vllm"), (VLLM, "VLLM/*")]
)
def test_a_pattern_for_something_else_does_not_match(image: str, pattern: str) -> None:
    assert find_rule(rules(pattern), image) is None


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        (VLLM, "vllm/vllm-openai"),
        ("redis", "redis"),
        ("localhost:5000/a/b", "localhost:5000/a/b"),
        ("localhost:5000/a:1@sha256:0f", "localhost:5000/a"),
    ],
)
def test_an_image_without_its_tag(image: str, repository: str) -> None:
    assert without_tag(image) == repository


def test_the_most_specific_pattern_wins() -> None:
    found = find_rule(rules("*", "vllm/*", "vllm/vllm-openai:*", "vllm/vllm-??????:*"), VLLM)
    assert found is not None
    assert found.pattern == "vllm/vllm-openai:*"
    found = find_rule(rules("vllm/vllm-openai:lates[t]*", VLLM), VLLM)
    assert found is not None
    assert found.pattern == VLLM


def test_the_nearest_file_wins_over_a_more_specific_pattern_elsewhere() -> None:
    found = find_rule([*rules("other/*", source="/near"), *rules("vllm/*", source="/far"), *rules(VLLM)], VLLM)
    assert found is not None
    assert found.source == Path("/far")


# -- files ---------------------------------------------------------------------------------------------------


def write(folder: Path, line: str, name: str = CONFIG_FILE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"[local.images]\n{line}\n")
    return path


def test_files_are_found_beside_the_work_the_program_and_the_user_in_this_order(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = write(home / ".config" / "flash-plugins", "'u' = 'true'", "config.toml")
    above = write(tmp_path, "'a' = 'true'")
    program = write(tmp_path / "elsewhere", "'p' = 'true'")
    (tmp_path / "elsewhere" / "sub").mkdir()
    script = tmp_path / "elsewhere" / "sub" / "script.py"
    assert [rule.source for rule in image_rules(script)] == [above, program, user]
    assert config_file(script) == above
    nearer = write(tmp_path / "project", "'n' = 'true'")
    monkeypatch.chdir(tmp_path / "project" / "scripts")
    assert [rule.source for rule in image_rules(script)] == [nearer, program, user]


def test_a_command_runs_in_the_folder_of_its_file(tmp_path: Path) -> None:
    write(tmp_path / "project", '"vllm/*" = "python serve.py --port $PORT"')
    [rule] = image_rules()
    assert rule.image.directory == tmp_path / "project"
    assert rule.image.args == shlex.join(
        ["sh", "-c", f"cd {tmp_path / 'project'} && exec env python serve.py --port $PORT"]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[local.image]\n'a' = 'b'", r"did you mean \[local.images\]"),
        ("[images]\n'a' = 'b'", r"\[images\] is not known"),
        ("local = 5", "local must be a table"),
        ("[local.images]\n'a' = 5", "'a' under"),
        ("[local.images]\n'a' = \"python 'x\"", "'a' under .*closing quotation"),
        ("[local.images\n", "cannot be read as a configuration file"),
    ],
)
def test_a_file_with_an_error_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "project" / CONFIG_FILE
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        image_rules()
    assert str(path) in str(caught.value)


def test_a_file_that_somebody_else_put_above_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, me, other = write(tmp_path, "'a' = 'true'"), 4_000_000, 4_000_001
    real = Path.stat

    def stat_of(path: Path, **options: bool) -> object:
        owner = {found: other, tmp_path / "project": me}.get(path)
        return real(path, **options) if owner is None else SimpleNamespace(st_uid=owner, st_mode=stat.S_IFREG)

    monkeypatch.setattr("os.getuid", lambda: me)
    monkeypatch.setattr(Path, "stat", stat_of)
    with pytest.raises(ConfigError, match="belongs to another user"):
        image_rules()


# -- the hook and its plugins --------------------------------------------------------------------------------


class Mapping:
    @hookimpl
    def flash_local_image(self, image: str, config: EndpointConfig) -> LocalImage | None:
        return LocalImage(["serve", str(config.name)]) if image.startswith("vllm/") else None


def test_flash_local_image_is_asked_of_plugins_before_the_files_and_docker(tmp_path: Path) -> None:
    write(tmp_path / "project", '"*" = "from-file"')
    hooks = HookManager(
        [("docker", DockerImages(config_file)), ("files", ConfiguredImages(image_rules))], discover=False
    )
    answered = hooks.local_image(config())
    assert answered is not None
    assert answered.command == "from-file"
    hooks.register(Mapping())
    answered = hooks.local_image(config())
    assert answered is not None
    assert answered.command == ["serve", "served"]
    answered = hooks.local_image(config("other/image"))
    assert answered is not None
    assert answered.command == "from-file"


def test_without_any_of_them_the_error_shows_the_lines_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    hooks = HookManager(
        [("docker", DockerImages(config_file)), ("files", ConfiguredImages(image_rules))], discover=False
    )
    with pytest.raises(ConfigError) as caught:
        hooks.local_image(config())
    text = str(caught.value)
    assert "Docker is not installed" in text
    path = tmp_path / "project" / CONFIG_FILE
    assert f"Write one to {path}, for example" in text
    path.write_text("\n".join(line.strip() for line in text.splitlines() if line.startswith("    ")))
    answered = hooks.local_image(config())  # what it says to write is right
    assert answered is not None


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 28.2.2", None),
        ("echo Cannot connect to the engine >&2; exit 1", "no Docker engine answers (Cannot connect to the engine)"),
        ("exit 3", "no Docker engine answers (exit code 3)"),
    ],
)
def test_docker_is_used_where_an_engine_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, problem: str | None
) -> None:
    fake_docker(tmp_path, monkeypatch, script)
    assert docker_problem() == problem


def test_an_engine_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_docker(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr("flash_plugins.builtin.local_image._ENGINE_TIMEOUT_S", 0.2)
    assert docker_problem() == "the Docker engine did not answer within 0.2 s"


def test_a_container_gets_variables_by_name_and_the_arguments_of_its_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_docker(tmp_path, monkeypatch, "echo 28.2.2")
    image = DockerImages(config_file).flash_local_image(
        VLLM,
        config(
            cpu="cpu5c-4-8",
            env={"HF_TOKEN": "hf_secret"},
            template=PodTemplate(env={"MODEL": "m"}, dockerArgs="--model 'a b'"),
        ),
    )
    words = shlex.split(image.args)
    assert words[:7] == [f"{tmp_path}/docker", "run", "--rm", "--network", "host", "--cidfile", api.CONTAINER_ID_FILE]
    assert words[-3:] == [VLLM, "--model", "a b"]
    passed = {words[place + 1] for place, word in enumerate(words) if word == "--env"}
    assert {"HF_TOKEN", "MODEL", "PORT", "RUNPOD_WEBHOOK_GET_JOB"} <= passed
    assert "hf_secret" not in image.args


def test_a_container_gets_the_volume_of_its_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_docker(tmp_path, monkeypatch, 'printf "%s\\n" "$@"')
    wanted = config(
        cpu="cpu5c-4-8", volume=NetworkVolume(name="models"), template=PodTemplate(dockerArgs="--model 'a b'")
    )
    image = DockerImages(config_file).flash_local_image(VLLM, wanted)
    said = subprocess.run(
        shlex.split(image.args), env={api.VOLUME_PATH_ENV: "/some where"}, capture_output=True, text=True, check=True
    )
    words = said.stdout.splitlines()
    assert words[words.index("--volume") + 1] == "/some where:/runpod-volume"
    assert words[-3:] == [VLLM, "--model", "a b"]
