# SPDX-License-Identifier: Apache-2.0
"""A load-balanced worker: serves the routes that came with the endpoint, or calls, by uvicorn, on the platform's port.

    port opens, health 204 ─▶ dependencies are installed, user code is loaded ─▶ uvicorn, health 200
                                                             SIGTERM: requests in flight, then the end ◀─┘

See `door` for the ports, `application` for the routes, `callapp` for calls, which bring their code along.
"""

from __future__ import annotations

import asyncio
import faulthandler
import io
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from ..code import cargo
from ..cork import corked_protocol
from ..errors import EnvelopeError, MissingDependencyError
from ..platforms import api
from .door import INHERITED_ENV, Door
from .environment import enter
from .handshake import Handshake
from .lifeline import die_with_parent, tie_forked_children

if TYPE_CHECKING:
    from .application import Application
    from .callapp import CallApplication

__all__ = ["serve"]

logger = logging.getLogger(__name__)

#: Seconds that requests in flight get after SIGTERM, and what still runs then gets until the process ends.
DRAIN_S = 30
_LAST_S = 2.0
#: Seconds between two beats of the event loop.
_BEAT_S = 0.2
#: Seconds an idle connection is kept: longer than balancers keep theirs, so that none is closed under a request.
_KEEP_ALIVE_S = 120


def serve() -> int:
    """Serve until told to stop; returns the exit code. Reads the worker's environment; blocks in the main thread."""
    die_with_parent(os.getppid())
    tie_forked_children()
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what routes print is in the log at once, whatever it is
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    health_path = os.environ.get(api.HEALTH_CHECK_PATH_ENV) or api.HEALTH_CHECK_PATH_DEFAULT
    door = _opened(health_path)
    if door is None:
        return 1
    with door.outliving_exec() as sockets:
        os.environ[INHERITED_ENV] = sockets
        has_dependencies = enter() is None
        del os.environ[INHERITED_ENV]
    if not has_dependencies:
        return 1
    takes_calls = os.environ.get(api.HANDLER_ENV) == api.HANDLER_CALLS
    application = _for_calls(health_path) if takes_calls else _loaded(health_path)
    if application is None:
        return 1
    _run(application, door)
    return 0


def _for_calls(health_path: str) -> CallApplication:
    """Return the application that runs calls, and begin to start the process that they run in."""
    from .callapp import CallApplication
    from .calls import CallRunner, Calls

    environ = os.environ
    concurrency = int(environ.get(api.CALLS_AT_ONCE_ENV, "1"))
    environ[api.MAX_CONCURRENCY_ENV] = str(concurrency)  # which the runner reads
    calls = Calls(CallRunner(concurrency), concurrency=concurrency)
    # Where workers share a machine with others, these reach the port too; they do not know the key.
    key = environ.get(api.PLATFORM_KEY_ENV)
    return CallApplication(calls, health_path=health_path, worker_id=environ.get("RUNPOD_POD_ID"), key=key)


def _opened(health_path: str) -> Door | None:
    """Return the door, None with the reason in the log if it cannot be opened."""
    environ = os.environ
    port = int(environ.get(api.PORT_ENV) or api.BALANCED_PORT_DEFAULT)
    health_port = int(environ.get(api.PORT_HEALTH_ENV) or port)
    # The local platform's workers are for this machine only; a container's are reached from outside it.
    host = "127.0.0.1" if api.CAPPED_ENV in environ else "0.0.0.0"
    try:
        return Door.open(host, [port, health_port], health_path, environ.get(INHERITED_ENV))
    except OSError as error:
        logger.error("port %s, or %s for health, cannot be listened at: %s", port, health_port, error)
        return None


def _loaded(health_path: str) -> Application | None:
    """Return the application; None, with the reason in the log, where there can be none."""
    started_at = time.monotonic()
    handshake, packages = Handshake.of(os.environ), cargo.packages_in(os.environ)
    try:
        try:
            from .application import Application, RouteError
        except ImportError as error:
            raise MissingDependencyError(
                f"a load-balanced worker needs FastAPI, uvicorn and python-multipart, and they cannot be imported "
                f"({error}); install them with: pip install 'flash-plugins[http]'"
            ) from error
        try:
            loaded = cargo.unpack(os.environ)
            if loaded is None or not loaded.routes:
                raise EnvelopeError(
                    "this load-balanced endpoint came without routes: create it from Python, with functions under "
                    "@endpoint.get(…) or @endpoint.post(…), by provision() or flash-plugins deploy"
                )
            title = os.environ.get(api.ENDPOINT_NAME_ENV) or "flash-plugins"
            application = Application(loaded.routes, title=title, health_path=health_path)
        except RouteError as error:
            raise EnvelopeError(str(error)) from error
    except (EnvelopeError, MissingDependencyError) as error:
        logger.error("the worker cannot start: %s", error)
        return None
    except BaseException as error:  # noqa: BLE001 - user code runs in there, and whatever it raises ends this worker
        handshake.explain(error, packages, is_loading=True)
        logger.error("the code of the endpoint cannot be loaded:\n%s", traceback.format_exc().rstrip())
        return None
    finally:
        cargo.discard(os.environ)
    handshake.warn(packages)
    listed = ", ".join(f"{route.method} {route.path}" for route in loaded.routes)
    logger.info("loaded %s in %.1f s", listed, time.monotonic() - started_at)
    return application


def _run(application: Application | CallApplication, door: Door) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        """Shares its socket with the door, and ends in time."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            loop = asyncio.get_running_loop()

            def beat() -> None:
                door.beat()
                loop.call_later(_BEAT_S, beat)

            def protocol() -> Any:
                return self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn's own factory does
                    config=self.config, server_state=self.server_state, app_state=self.lifespan.state
                )

            def adopt(connection: socket.socket) -> None:
                adopting = loop.connect_accepted_socket(protocol, connection)
                asyncio.run_coroutine_threadsafe(adopting, loop).add_done_callback(_note_loss)

            beat()
            door.hand_over(adopt)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            threading.Thread(target=_end_late, name="flash-end", daemon=True).start()
            door.close()  # takes milliseconds
            await super().shutdown(sockets)

    # uvicorn raises the signal again once it has ended: this process then ends well.
    signal.signal(signal.SIGTERM, lambda *_: None)
    config = uvicorn.Config(
        application,
        http=corked_protocol(),
        lifespan="off",
        ws="websockets-sansio",
        ws_max_size=api.BALANCED_BODY_MAX_BYTES,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        # Nobody but the platform's balancer can reach a worker, so what it says of the caller is true.
        forwarded_allow_ips="*",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )
    Server(config).run(sockets=[door.serving])


def _note_loss(adopting: Any) -> None:
    if (error := adopting.exception()) is not None:
        logger.warning("a connection that came while the event loop was blocked got lost: %r", error)


def _end_late() -> None:
    """End this process although a thread of it still runs a request."""
    time.sleep(DRAIN_S + _LAST_S)
    logger.error("requests still ran %s s after this worker was told to end", DRAIN_S)
    os._exit(0)
