# SPDX-License-Identifier: Apache-2.0
"""A local platform that is run by hand, and what its clients send it. It serves nothing itself.

program ──(counts requests and bytes)── proxy ── local platform ── workers
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .children import ChildFailed, said_line, started
from .request_counter import RequestCounter

__all__ = ["HandPlatform", "hand_platform"]


@dataclass(frozen=True, slots=True)
class HandPlatform:
    """A local platform that runs by itself, and outlives the programs that use it.

    Attributes:
        url: Base URL, without `/v2`.
        key: Its API key.
        folder: Where it keeps its files.
        env: Lets a program find it.
    """

    url: str
    key: str
    folder: Path
    env: Mapping[str, str]

    @contextmanager
    def counted(self) -> Iterator[tuple[RequestCounter, Mapping[str, str]]]:
        """Yield a proxy before it, and the environment of a program that uses it through that.

        The program takes it for Runpod, since a client asks a local platform where its endpoints are, past any proxy.
        So it has to be told of a store of objects, which it finds by itself otherwise.
        """
        counter = RequestCounter(self.url)
        with counter.running():
            yield (
                counter,
                {
                    "FLASH_PLATFORM": "runpod",
                    "RUNPOD_API_BASE_URL": counter.url,
                    "RUNPOD_ENDPOINT_BASE_URL": f"{counter.url}/v2",
                    "RUNPOD_API_KEY": self.key,
                    "FLASH_PLUGINS_OBJECTS": f"file://{self.folder}/objects",
                },
            )


@contextmanager
def hand_platform() -> Iterator[HandPlatform]:
    """Run a local platform by hand, as its users do.

    Raises:
        ChildFailed: It does not start.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        env = {"XDG_RUNTIME_DIR": folder}
        command = [sys.executable, "-c", "from flash_plugins.cli import main; main()", "platform", "start", "--json"]
        with started(command, env=env) as process:
            ready = json.loads(said_line(process) or "{}")
            if not ready:
                raise ChildFailed("the local platform did not start")
            try:
                yield HandPlatform(ready["url"], ready["key"], Path(folder), env)
            finally:
                process.terminate()
