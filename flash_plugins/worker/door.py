# SPDX-License-Identifier: Apache-2.0
"""The ports of a load-balanced worker, and the thread that answers health checks when the event loop cannot.

    starting      thread: health 204, anything else 503
    serving       uvicorn takes connections; the thread only those of a health port of its own: 200
    loop blocked  thread: takes new connections, health 200, and keeps the others for uvicorn

User code may take minutes to load, and a route may hold up the event loop for as long as a model computes. A
worker that does not answer its health check meanwhile would be taken out of service in the middle of its work.
It never runs user code.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["INHERITED_ENV", "Door"]

logger = logging.getLogger(__name__)

#: Variable by which a worker hands its listening sockets to what it becomes: their numbers, `5` or `5,6`.
INHERITED_ENV = "FLASH_PLUGINS_DOOR"
#: Connections that may wait to be taken.
_BACKLOG = 2048
#: Seconds between two beats of the event loop, and without one after which it counts as blocked.
_BEAT_S = 0.2
_BLOCKED_AFTER_S = 1.0
#: Seconds a loop may be blocked until the worker is no longer healthy: twice what the platform lets a request take.
_HOPELESS_AFTER_S = 660.0
#: Seconds a connection gets to say what it wants, and to take the answer; bytes of it looked at.
_PATIENCE_S = 5.0
_LINE_BYTES = 8192


@dataclass(slots=True)
class _Caller:
    """A connection in the hands of the thread."""

    connection: socket.socket
    is_health_port: bool
    deadline: float
    is_answered: bool = False


class Door:
    """Listens from its construction on.

    Args:
        sockets: The listening sockets: for requests, and for health checks where these have a port of their own.
        health_path: Path of the health check.

    Attributes:
        serving: The socket for requests, for uvicorn.
    """

    def __init__(self, sockets: Sequence[socket.socket], health_path: str) -> None:
        self._sockets = sockets
        self.serving, self._health = sockets[0], sockets[-1]
        self._path = health_path.encode("latin-1", "replace")
        self._adopt: Callable[[socket.socket], None] | None = None
        self._beat_at = 0.0
        self._is_closing = False
        self._wake, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._is_taking = False
        if self._health is not self.serving:
            self._selector.register(self._health, selectors.EVENT_READ)
        self._callers: dict[socket.socket, _Caller] = {}
        self._thread = threading.Thread(target=self._attend, name="flash-door", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, host: str, ports: Sequence[int], health_path: str, inherited: str | None) -> Door:
        """Return the door of these ports: for requests, and another one for health or the same.

        Args:
            inherited: Sockets that are open already, as `outliving_exec` gave them.

        Raises:
            OSError: A port cannot be had.
        """
        if inherited:
            sockets = [socket.socket(fileno=int(number)) for number in inherited.split(",")]
        else:
            sockets = [socket.create_server((host, port), backlog=_BACKLOG) for port in dict.fromkeys(ports)]
        for listening in sockets:
            listening.setblocking(False)
            listening.set_inheritable(False)
        return cls(sockets, health_path)

    @contextlib.contextmanager
    def outliving_exec(self) -> Iterator[str]:
        """Within it, this process can become another program, whose `open` takes the text that it gives."""
        for listening in self._sockets:
            listening.set_inheritable(True)
        yield ",".join(str(listening.fileno()) for listening in self._sockets)
        for listening in self._sockets:
            listening.set_inheritable(False)

    def hand_over(self, adopt: Callable[[socket.socket], None]) -> None:
        """Leave new connections to the event loop from now on, as long as it is told of in `beat`.

        Args:
            adopt: Gives the loop a connection that was taken while it was blocked; called in the thread.
        """
        self._beat_at = time.monotonic()
        self._adopt = adopt
        self._waker.send(b"x")

    def beat(self) -> None:
        """Note that the event loop runs."""
        self._beat_at = time.monotonic()

    def close(self) -> None:
        """Take no more connections and end the thread. The serving socket stays the caller's."""
        self._is_closing = True
        self._waker.send(b"x")
        self._thread.join(timeout=_PATIENCE_S)
        self._waker.close()

    def _attend(self) -> None:
        while not self._is_closing:
            self._take_if_needed()
            for key, _ in self._selector.select(_BEAT_S if self._adopt is not None else 1.0):
                held = key.fileobj
                assert isinstance(held, socket.socket)
                if held is self._wake:
                    self._wake.recv(64)
                elif held is self.serving or held is self._health:
                    self._accept(held)
                else:
                    self._hear(self._callers[held])
            self._dismiss_the_slow()
        for caller in list(self._callers.values()):
            self._let_go(caller)
        if self._health is not self.serving:
            self._health.close()
        self._selector.close()
        self._wake.close()

    def _take_if_needed(self) -> None:
        should_take = self._adopt is None or self._blocked_for_s() > _BLOCKED_AFTER_S
        if should_take and not self._is_taking:
            self._selector.register(self.serving, selectors.EVENT_READ)
        elif self._is_taking and not should_take:
            self._selector.unregister(self.serving)
        self._is_taking = should_take

    def _blocked_for_s(self) -> float:
        return time.monotonic() - self._beat_at

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # uvicorn was quicker, or the caller has gone
        except OSError as error:  # such as too many open files of user code: they may be fewer a moment later
            logger.warning("a connection cannot be taken: %s", error)
            time.sleep(_BEAT_S)
            return
        connection.setblocking(False)
        caller = _Caller(connection, listening is not self.serving, time.monotonic() + _PATIENCE_S)
        self._callers[connection] = caller
        self._selector.register(connection, selectors.EVENT_READ)

    def _hear(self, caller: _Caller) -> None:
        """Look at what a connection asks, without taking it away from who will answer."""
        try:
            if caller.is_answered:
                if not caller.connection.recv(_LINE_BYTES):
                    self._let_go(caller)
                return
            line, found, _ = caller.connection.recv(_LINE_BYTES, socket.MSG_PEEK).partition(b"\r\n")
        except BlockingIOError:
            return
        except OSError:
            self._let_go(caller)
            return
        if not found:
            # An empty look means that it was closed; a part of a line comes again in a moment.
            self._let_go(caller) if not line else time.sleep(0.001)
            return
        words = line.split(b" ")
        if words[0] == b"GET" and len(words) > 1 and words[1].partition(b"?")[0] == self._path:
            self._answer_health(caller)
        elif self._adopt is None or caller.is_health_port:
            status = b"404 Not Found" if caller.is_health_port else b"503 Service Unavailable"
            reason = b"only health is asked here" if caller.is_health_port else b"this worker is starting"
            self._answer(caller, status, b'{"error":"%b"}' % reason)
        else:
            self._release(caller)
            self._adopt(caller.connection)

    def _answer_health(self, caller: _Caller) -> None:
        if self._adopt is None:
            self._answer(caller, b"204 No Content", b"")
        elif self._blocked_for_s() < _HOPELESS_AFTER_S:
            self._answer(caller, b"200 OK", b'{"status":"healthy"}')
        else:
            self._answer(caller, b"503 Service Unavailable", b'{"error":"a route has blocked this worker for long"}')

    def _answer(self, caller: _Caller, status: bytes, body: bytes) -> None:
        lines = [b"HTTP/1.1 " + status, b"Connection: close"]
        if body:
            lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
        with contextlib.suppress(OSError):
            caller.connection.send(b"\r\n".join([*lines, b"", body]))
            # Closed only when the other side has: the rest of its request would make the answer vanish.
            caller.connection.shutdown(socket.SHUT_WR)
        caller.is_answered = True

    def _dismiss_the_slow(self) -> None:
        now = time.monotonic()
        for caller in [caller for caller in self._callers.values() if caller.deadline < now]:
            self._let_go(caller)

    def _release(self, caller: _Caller) -> None:
        self._selector.unregister(caller.connection)
        del self._callers[caller.connection]

    def _let_go(self, caller: _Caller) -> None:
        self._release(caller)
        caller.connection.close()
