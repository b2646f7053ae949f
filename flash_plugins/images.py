# SPDX-License-Identifier: Apache-2.0
"""What stands for a container image on this machine: a command, found by rules. It starts nothing, reads no file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from .errors import ConfigError

__all__ = ["ImageRule", "LocalImage", "find_rule", "without_tag"]

_WILDCARDS = re.compile(r"\[[^]]*\]|[*?]")


@dataclass(frozen=True, slots=True)
class LocalImage:
    """The command that the local platform runs as a worker in place of an image's container.

    It gets the environment of any worker: the endpoint's `env`, and `PORT` where it has to serve HTTP, or what
    Runpod's worker SDK needs to take jobs.

    Attributes:
        command: One command. A text is read by `sh`, which fills in variables such as `$PORT`; a list of words is
            run as it is. `python` is the local platform's own.
        env: Further variables; the endpoint's own `env` wins.
        directory: Where it runs; None is an empty folder of the worker's own.

    Raises:
        ConfigError: There is no command, or its quotes do not match.
    """

    command: str | Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold secrets
    directory: str | Path | None = None

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.command) if isinstance(self.command, str) else list(self.command)
        except ValueError as error:
            raise ConfigError(f"LocalImage(command={self.command!r}) is no command line: {error}") from error
        if not words or not all(isinstance(word, str) for word in words):
            raise ConfigError(f"LocalImage(command={self.command!r}): give a command line, or a list of its words")

    @property
    def args(self) -> str:
        """The command line as REST v2's `args`."""
        is_text = isinstance(self.command, str)
        if not is_text and self.directory is None:
            return shlex.join(self.command)
        line = str(self.command) if is_text else shlex.join(self.command)
        # `exec`: signals reach the command itself. `env`: the command may begin with assignments.
        line = f"exec env {line}"
        if self.directory is not None:
            line = f"cd {shlex.quote(str(self.directory))} && {line}"
        return shlex.join(["sh", "-c", line])


@dataclass(frozen=True, slots=True)
class ImageRule:
    """One line of a configuration file: images that match `pattern` become `image`.

    Attributes:
        pattern: An image, or a pattern with `*`, `?` and `[…]`. Without a tag it means `latest`.
        image: What stands for them.
        source: The file that says so.
    """

    pattern: str
    image: LocalImage
    source: Path

    def matches(self, image: str) -> bool:
        """Return whether it is about `image`, which without a tag means `latest`."""
        return fnmatchcase(_tagged(image), _tagged(self.pattern))

    @property
    def specificity(self) -> tuple[bool, int]:
        """Larger for a pattern that says more: no wildcard at all, then more characters that are none."""
        literal = _WILDCARDS.sub("", self.pattern)
        return literal == self.pattern, len(literal)


def find_rule(rules: Iterable[ImageRule], image: str) -> ImageRule | None:
    """Return the rule for `image`: of the first file that has one, the most specific; None without any."""
    matching = [rule for rule in rules if rule.matches(image)]
    nearest = [rule for rule in matching if rule.source == matching[0].source]
    return max(nearest, key=lambda rule: rule.specificity, default=None)


def without_tag(image: str) -> str:
    """Return an image without its tag and digest; the port of a registry stays."""
    path, slash, last = image.rpartition("/")
    return path + slash + last.partition("@")[0].partition(":")[0]


def _tagged(image: str) -> str:
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last or last.endswith("*") else f"{image}:latest"
