# SPDX-License-Identifier: Apache-2.0
"""Runs functions in a second process, as a platform would: both ends of what the tests of `code` need.

The tests copy this file into a folder called site-packages, so that it counts as installed.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flash_plugins.code import SourceBundle, activate_bundle, bundle_modules, dumps, install_bundle, loads
from flash_plugins.failure import decode_exception, encode_exception


class Worker:
    """A process in another folder that knows nothing of the script but what is sent to it."""

    def __init__(self) -> None:
        elsewhere = os.environ["SHIPPING_WORKER_FOLDER"]
        self.bundle: SourceBundle | None = None
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": os.path.dirname(__file__)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run the function there; return its result or raise its exception."""
        shipped, arguments = dumps(function, what="function"), dumps(args, what="arguments")
        self.bundle = bundle_modules(shipped.modules | arguments.modules)
        packed = (self.bundle.digest, self.bundle.data) if self.bundle else None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        pickle.dump((packed, shipped.data, arguments.data), self.process.stdin)
        self.process.stdin.flush()
        result, failure = pickle.load(self.process.stdout)
        if failure is not None:
            raise decode_exception(failure)
        return loads(result)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def ship(function: Callable[..., Any], *args: Any) -> Any:
    """Run the function once, in a worker of its own."""
    worker = Worker()
    try:
        return worker.call(function, *args)
    finally:
        worker.close()


def bundled(function: Callable[..., Any], *args: Any) -> tuple[str, ...]:
    """Names of the modules that would travel with the call."""
    bundle = bundle_modules(dumps(function, what="function").modules | dumps(args, what="arguments").modules)
    return bundle.modules if bundle else ()


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints must not get in between
    while True:
        try:
            packed, shipped, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: tuple[bytes, dict[str, Any] | None]
        try:
            if packed is not None:
                digest, archive = packed
                activate_bundle(install_bundle(digest, archive, Path("bundles")))
            function: Any = loads(shipped)
            args: Any = loads(arguments)
            answer = (dumps(function(*args), what="result").data, None)
        except BaseException as error:  # noqa: BLE001 - a worker answers, whatever happens
            traceback.print_exc()
            answer = (b"", encode_exception(error))
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
