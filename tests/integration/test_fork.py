# SPDX-License-Identifier: Apache-2.0
"""A process that made calls and forks: child and parent each go on, and neither takes anything from the other."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

#: Generous: the box may be busy.
DEADLINE_S = 60.0

PREAMBLE = """
import asyncio, gc, os, sys, threading, time
import flash_plugins
from flash_plugins import Endpoint, hookimpl, process

class Plugin:
    def __init__(self):
        self.stages = []

    @hookimpl
    def flash_call_event(self, event):
        if event.stage.name not in ("STARTED", "RETURNED"):  # which are told of calls that take a while
            self.stages.append(event.stage.name)

plugin = Plugin()
flash_plugins.register(plugin)
endpoint = Endpoint(name="forked", cpu="cpu5c-4-8", workers=(0, 1))

@endpoint
def nap(seconds, value=None):
    time.sleep(seconds)
    return value

@endpoint
def yields(n):
    yield from range(n)

def forked(child):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        child()
        sys.stdout.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)
    sys.exit(0)
"""


def run(body: str, tmp_path: Path) -> str:
    path = tmp_path / "script.py"
    path.write_text(PREAMBLE + textwrap.dedent(body))
    environment = {**os.environ, "FLASH_PROGRESS": "on"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(path)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_child_makes_calls_of_its_own_though_locks_were_held(tmp_path: Path) -> None:
    body = """
        assert nap(0, 1).result(30) == 1
        locks = [process._lock, process.hooks()._lock, process._progress._lock]
        held, go_on = threading.Event(), threading.Event()

        def hold():
            for lock in locks:
                lock.acquire()
            held.set()
            go_on.wait()
            for lock in reversed(locks):
                lock.release()

        threading.Thread(target=hold).start()
        held.wait()

        def child():
            plugin.stages.clear()
            assert nap(0, 2).result(30) == 2
            assert plugin.stages == ["QUEUED", "SENT", "DONE"], plugin.stages
            flash_plugins.unregister(plugin)
            print("child")

        assert forked(child) == 0
        go_on.set()
        assert nap(0, 3).result(30) == 3
        print("parent")
    """
    assert run(body, tmp_path).split() == ["child", "parent"]


def test_waiting_in_a_child_for_a_call_of_its_parent_is_refused(tmp_path: Path) -> None:
    body = """
        done, pending, stream = nap(0, 1), nap(3, 2), yields(3)
        results, later = [nap.map([3], [n], order="completed") for n in (4, 5)]
        assert done.result(30) == 1

        def refused(wait):
            try:
                wait()
            except flash_plugins.PlatformUnavailable as error:
                assert str(os.getppid()) in str(error)
            else:
                raise AssertionError(wait)

        async def awaited(call):
            return await call

        async def next_of(results):
            return await anext(results)

        async def iterated():
            async for value in stream:
                return value

        def child():
            assert done.result() == 1
            refused(pending.result)
            refused(pending.exception)
            refused(lambda: asyncio.run(awaited(pending)))
            refused(lambda: list(stream))
            refused(lambda: asyncio.run(iterated()))
            refused(lambda: next(results))
            refused(lambda: asyncio.run(next_of(later)))
            pending.cancel()
            print("child")

        assert forked(child) == 0
        assert (pending.result(30), stream.result(30)) == (2, [0, 1, 2])
        assert (list(results), list(later)) == ([4], [5])
        print("parent")
    """
    assert run(body, tmp_path).split() == ["child", "parent"]


def test_the_end_of_a_child_takes_no_connection_from_its_parent(tmp_path: Path) -> None:
    body = """
        for call in [nap(0) for _ in range(20)]:
            call.result(30)

        def child():
            process._inherited.clear()
            gc.collect()  # the client's connections, which its parent goes on to use
            print("child")

        assert forked(child) == 0
        for call in [nap(0) for _ in range(40)]:
            call.result(30)
        print("parent")
    """
    assert run(body, tmp_path).split() == ["child", "parent"]
