# SPDX-License-Identifier: Apache-2.0
"""The built-in answers to `flash_local_image`: what the configuration files say, else Docker, else why not."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from ..config import EndpointConfig
from ..errors import ConfigError
from ..hooks import hookimpl
from ..images import ImageRule, LocalImage, find_rule, without_tag
from ..platforms import api

__all__ = ["ConfiguredImages", "DockerImages", "docker_problem"]

#: Seconds that the engine may take to answer.
_ENGINE_TIMEOUT_S = 5.0
#: Variables that a container is given from the environment of its worker, besides those of the endpoint.
_WORKER_VARIABLES = (
    "RUNPOD_WEBHOOK_GET_JOB",
    "RUNPOD_WEBHOOK_POST_OUTPUT",
    "RUNPOD_WEBHOOK_POST_STREAM",
    "RUNPOD_WEBHOOK_PING",
    "RUNPOD_POD_ID",
    "RUNPOD_POD_HOSTNAME",
    "RUNPOD_ENDPOINT_ID",
    "RUNPOD_AI_API_KEY",
    "RUNPOD_LOG_LEVEL",
    "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS",
    "RUNPOD_SKIP_GPU_CHECK",
    "RUNPOD_SKIP_FITNESS_CHECKS",
    api.PING_INTERVAL_ENV,
    api.MAX_CONCURRENCY_ENV,
    api.PORT_ENV,
    api.PORT_HEALTH_ENV,
    api.HEALTH_CHECK_PATH_ENV,
)


class ConfiguredImages:
    """Answers by `[local.images]` of the configuration files.

    Args:
        rules: Reads the rules; asked for each endpoint.
    """

    def __init__(self, rules: Callable[[], Iterable[ImageRule]]) -> None:
        self._rules = rules

    @hookimpl
    def flash_local_image(self, image: str) -> LocalImage | None:
        """Return what the nearest file with a matching pattern says."""
        rule = find_rule(self._rules(), image)
        return None if rule is None else rule.image


class DockerImages:
    """Runs the image itself where a Docker engine answers; refuses with the ways out where none does.

    Args:
        config_file: Returns the file in which a user would write a rule.
    """

    def __init__(self, config_file: Callable[[], Path]) -> None:
        self._config_file = config_file

    @hookimpl(trylast=True)
    def flash_local_image(self, image: str, config: EndpointConfig) -> LocalImage:
        """Return the `docker run` of the image.

        Raises:
            ConfigError: No engine answers.
        """
        problem = docker_problem()
        if problem is not None:
            raise ConfigError(
                f"endpoint {config.name!r}: the local platform has no command for image {image!r}, and {problem}. "
                f"Write one to {self._config_file()}, for example\n\n"
                f"    [local.images]\n"
                f'    "{without_tag(image)}:*" = "python serve_stub.py --port $PORT"\n\n'
                "or start Docker, or run it on Runpod with FLASH_PLATFORM=runpod"
            )
        # It may have to be pulled first: as long as others may take to install something.
        patience = {api.INIT_TIMEOUT_ENV: f"{api.WORKER_INSTALL_TIMEOUT_S:.0f}"}
        return LocalImage(_docker_run(image, config), env=patience)


def docker_problem() -> str | None:
    """Return why no container can be started here, as one clause; None where an engine answers. Blocks."""
    docker = shutil.which("docker")
    if docker is None:
        return "Docker is not installed"
    try:
        asked = subprocess.run(
            [docker, "version", "--format", "{{.Server.Version}}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ENGINE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"the Docker engine did not answer within {_ENGINE_TIMEOUT_S:g} s"
    except OSError as error:
        return f"{docker} cannot be run ({error.strerror})"
    if asked.returncode == 0:
        return None
    said = asked.stderr.strip().splitlines()
    return f"no Docker engine answers ({said[-1] if said else f'exit code {asked.returncode}'})"


def _docker_run(image: str, config: EndpointConfig) -> list[str] | str:
    template = config.template
    own = [*config.env, *(template.variables if template is not None else ())]
    words = [shutil.which("docker") or "docker", "run", "--rm"]
    # The worker asks the platform on 127.0.0.1 for jobs, or serves there. Docker writes the container's id into
    # the worker's folder, where the guardian finds it: killing the client alone would leave the container.
    words += ["--network", "host", "--cidfile", api.CONTAINER_ID_FILE]
    if not config.cpu and shutil.which("nvidia-smi") is not None:
        words += ["--gpus", "all"]
    for name in dict.fromkeys([*_WORKER_VARIABLES, *own]):
        words += ["--env", name]  # by name: values stay out of the list of processes
    behind = [image, *shlex.split(template.dockerArgs if template is not None else "")]
    if not config.volume:
        return [*words, *behind]
    # Where the volume is, only the worker is told.
    mount = f'--volume "${api.VOLUME_PATH_ENV}":{api.VOLUME_MOUNT_PATH}'
    return f"{shlex.join(words)} {mount} {shlex.join(behind)}"
