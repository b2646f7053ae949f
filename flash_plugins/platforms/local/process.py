# SPDX-License-Identifier: Apache-2.0
"""The platform's own process: from its options to a served port, and to an end that leaves nothing behind.

    owner ──stdin: options as one JSON line, then held open──> this process ──pipe──> guardian ──> workers
          <──stdout: {"url", "key", "pid", "run_dir", "objects"} as one line────

It ends when it is told to (SIGTERM, SIGINT), when its owner's pipe closes, when its owner is no longer its
parent (a forked child of the owner may hold the pipe), or when the guardian is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from ...cork import corked_protocol
from ...objects.holds import OwnFolder
from .. import api
from .balanced import balanced_environment
from .clock import Clock, MovableClock, SystemClock
from .endpoints import EndpointSpec
from .faults import Faults
from .logbook import LogBook
from .processes import AbsentProcesses, GuardedProcesses, worker_environment
from .proxy import Proxy
from .registry import Registry
from .server import PlatformApp
from .sockets import SocketProxy
from .state import (
    RUN_DIR_PREFIX,
    forget_state,
    make_objects_folder,
    note_end,
    occupy,
    remove_abandoned,
    runtime_base,
    url_of,
    volumes_base,
    write_state,
)
from .upstream import HealthProber, open_session
from .volumes import Volumes
from .webhooks import Webhooks
from .workerapi import protocol_environment
from .workers import BalancedWorker, Worker

__all__ = ["Options", "PortTaken", "run"]

HOST = "127.0.0.1"
#: How often the process looks whether its parent is still its owner, seconds.
_OWNER_CHECK_S = 0.5
#: Seconds that workers get to end by themselves when the platform ends.
_WORKER_GRACE_S = 1.0
#: The same when it ends because its owner did: nobody waits for results, but somebody may wait for the prompt.
#: The SDK of an idle worker takes 1.1 s to notice SIGTERM, so it is usually killed.
_OWNERLESS_GRACE_S = 0.2
#: Idle connections are kept longer than any client keeps them, seconds: a server that closes first makes a
#: client's next POST fail, which nobody may safely repeat.
_KEEP_ALIVE_S = 120
#: Largest message of a WebSocket, bytes: any that a worker takes. This is the loopback's limit, not a promise.
_SOCKET_MESSAGE_MAX_BYTES = 2**31
#: How often it is noted how long the logs are, seconds: how exact the times of their lines are.
_LOG_NOTE_S = 1.0
#: Open files the process asks for.
_OPEN_FILES = 65_536


class PortTaken(Exception):
    """Another process listens on the wanted port; the text names it."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run. Port 0 is any free one; no key means a random one.

    `owner_pid` is the parent process this one must not survive, None for a detached platform. `is_announced`: programs
    of this user shall find it.
    """

    port: int = 0
    key: str | None = field(default=None, repr=False)
    owner_pid: int | None = None
    is_detached: bool = False
    is_announced: bool = False
    faults: Faults | None = None


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: the platform has its own way to end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(options: Options) -> None:
    """Serve until the end. Blocks.

    Raises:
        PortTaken: Another process listens on `options.port`.
    """
    listener = _listen(options.port)
    remove_abandoned(runtime_base())
    run_dir = Path(tempfile.mkdtemp(prefix=RUN_DIR_PREFIX.format(os.getuid()), dir=runtime_base()))
    objects = make_objects_folder(run_dir)
    config = uvicorn.Config(
        "",
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="websockets-sansio",  # for load-balanced endpoints
        ws_max_size=_SOCKET_MESSAGE_MAX_BYTES,
        ws_per_message_deflate=False,
        http=corked_protocol(),
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
        backlog=2048,
    )
    with occupy(run_dir), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_Platform(options, listener, run_dir, objects).serve(config))


class _Platform:
    def __init__(self, options: Options, listener: socket.socket, run_dir: Path, objects: OwnFolder) -> None:
        self._options = options
        self._objects = objects
        self._listener = listener
        self._run_dir = run_dir
        self._key = options.key or secrets.token_urlsafe(24)
        self._url = f"http://{HOST}:{listener.getsockname()[1]}"
        self._ending = asyncio.Event()
        self._why = "its server has stopped"
        self._worker_grace_s = _WORKER_GRACE_S

    async def serve(self, config: uvicorn.Config) -> None:
        faults = self._options.faults or Faults()
        clock = MovableClock() if faults.has_movable_clock else SystemClock()
        processes = (AbsentProcesses if faults.is_workerless else GuardedProcesses)(self._run_dir, self._objects.path)
        await processes.open()
        _allow_many_connections()  # after the guardian has started: workers keep the limit of this machine
        webhooks = Webhooks(clock)
        cache_dir = self._run_dir / "cache"
        cache_dir.mkdir(mode=0o700)

        def environment(spec: EndpointSpec, worker: Worker) -> dict[str, str]:
            if isinstance(worker, BalancedWorker):
                own = balanced_environment(spec, worker, str(cache_dir))
            else:
                is_capped = not faults.is_uncapped
                own = protocol_environment(self._url, spec, worker, str(cache_dir), is_capped=is_capped)
            if api.ENDPOINT_NAME_ENV in spec.env:  # our own workers may call other endpoints; nobody else gets the key
                own = {**own, api.PLATFORM_URL_ENV: self._url, api.PLATFORM_KEY_ENV: self._key}
            if api.OBJECTS_ENV not in {**os.environ, **spec.env}:
                own = {**own, api.OBJECTS_ENV: url_of(self._objects)}
            return worker_environment(spec.env, {**own, **volumes.environment(spec.fields)})

        volumes = Volumes(volumes_base(self._run_dir))
        session = open_session()
        prober = HealthProber()
        registry = Registry(
            clock=clock,
            processes=processes,
            volumes=volumes,
            environment=environment,
            prober=prober,
            on_job_end=webhooks.job_ended,
            is_uncapped=faults.is_uncapped,
        )
        logs = LogBook(processes.log_path)
        config.app = PlatformApp(
            registry,
            key=self._key,
            clock=clock,
            base_url=self._url,
            logs=logs,
            proxy=Proxy(session, clock),
            sockets=SocketProxy(session, clock),
            faults=faults,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[self._listener]))
        await server.is_up.wait()
        self._watch_for_the_end(processes)
        self._watchers.append(asyncio.create_task(_note_lengths(logs, processes, clock)))
        self._announce()
        await asyncio.wait({asyncio.create_task(self._ending.wait()), serving}, return_when=asyncio.FIRST_COMPLETED)
        note_end(self._run_dir, self._why)
        registry.close()
        server.should_exit = True
        await asyncio.gather(processes.close(grace_s=self._worker_grace_s), webhooks.close())
        await serving
        await prober.close()
        await session.close()
        # The guardian has done this, unless it was killed.
        shutil.rmtree(self._run_dir, ignore_errors=True)
        self._objects.remove()
        if self._options.is_announced:
            forget_state(os.getpid())

    def _watch_for_the_end(self, processes: GuardedProcesses) -> None:
        loop = asyncio.get_running_loop()
        self._watchers = [asyncio.create_task(self._watch_guardian(processes))]
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._end, f"it was told to by signal {number.name}")
        if self._options.owner_pid is not None:
            self._watchers.append(asyncio.create_task(self._watch_parent(self._options.owner_pid)))
            loop.add_reader(0, self._on_owner_pipe)

    def _on_owner_pipe(self) -> None:
        if not os.read(0, 4096):
            asyncio.get_running_loop().remove_reader(0)
            self._worker_grace_s = _OWNERLESS_GRACE_S
            self._end("the process that started it has let go of it")

    async def _watch_parent(self, owner_pid: int) -> None:
        while os.getppid() == owner_pid:  # noqa: ASYNC110 - nothing but asking tells
            await asyncio.sleep(_OWNER_CHECK_S)
        self._end("the process that started it is gone")

    async def _watch_guardian(self, processes: GuardedProcesses) -> None:
        await processes.lost.wait()
        self._end("the guardian of its workers was killed")

    def _end(self, why: str) -> None:
        if not self._ending.is_set():
            self._why = why
            self._ending.set()

    def _announce(self) -> None:
        ready = {"url": self._url, "key": self._key, "pid": os.getpid(), "run_dir": str(self._run_dir)}
        ready["objects"] = url_of(self._objects)
        if self._options.is_announced:
            write_state(ready)
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        # The owner reads one line only: nothing may ever wait for it to read more.
        os.dup2(2, 1)


async def _note_lengths(logs: LogBook, processes: GuardedProcesses, clock: Clock) -> None:
    """Note how long the workers' logs are, for as long as the platform runs."""
    while True:
        logs.note(processes.worker_ids, clock.wall())
        await asyncio.sleep(_LOG_NOTE_S)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the fastest event loop that is installed."""
    try:
        import uvloop
    except ImportError:  # not made for every system
        return None
    return uvloop.new_event_loop


def _allow_many_connections() -> None:
    """Raise the limit of open files: every request that is held needs one, and 1024 are soon gone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise PortTaken(
            f"cannot listen on {HOST}:{port}: {os.strerror(error.errno or 0)}; "
            "choose another port, or 0 for any free one"
        ) from error
    listener.setblocking(False)
    return listener
