# SPDX-License-Identifier: Apache-2.0
"""A process's connection to its platform: the choice, the client, the lanes, and the end of it all."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..config import EndpointConfig, Settings
from ..errors import ConfigError, FlashPluginsError, PlatformUnavailable
from ..hooks import HookManager
from ..payload import CallEnvelope
from ..platforms import api
from .call import Call
from .lane import Lane, Submission
from .stream import StreamCall
from .threads import BackgroundLoop, DeliveryThread
from .window import Poller

if TYPE_CHECKING:
    from ..platforms.base import Platform
    from ..platforms.runpod import EndpointHandle, RunpodClient

__all__ = ["Session"]

logger = logging.getLogger(__name__)

#: Seconds that the end of a process waits for cancellations to reach the platform: an id is known after one second.
_CANCEL_TIMEOUT_S = 2.5


class Session:
    """Everything between calls and one platform. Made once per process; `submit` may be called from any thread.

    Args:
        settings: What the process is set to, asked when the platform is chosen.
        hooks: The process's plugins.
    """

    def __init__(self, settings: Callable[[], Settings], hooks: HookManager) -> None:
        self._settings = settings
        self.hooks = hooks
        self.loop = BackgroundLoop()
        self.delivery = DeliveryThread()
        self.poller = Poller()
        self._lanes: dict[tuple[object, ...], Lane] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._choosing = threading.Lock()
        self._platform: Platform | None = None
        self._client: RunpodClient | None = None
        self._connecting: asyncio.Lock | None = None
        self._provisioning: dict[str, asyncio.Lock] = {}
        self._is_closed = False

    @property
    def client(self) -> RunpodClient:
        """The HTTP client; there is one once a lane was provisioned."""
        if self._client is None:
            raise PlatformUnavailable("the connection to the platform was closed; make the call again")
        return self._client

    @property
    def has_platform(self) -> bool:
        """Whether the platform was chosen."""
        return self._platform is not None

    def platform(self) -> Platform:
        """Return the platform of this process, chosen on the first ask. Thread-safe; blocks on plugins only.

        Raises:
            ConfigError: Settings or plugins name none that exists.
            HookError: A plugin failed while it chose.
        """
        with self._choosing:
            if self._platform is None:
                chosen = self.hooks.choose_platform(self._settings())
                if chosen is None:
                    raise ConfigError("no plugin chose a platform; is the built-in choice unregistered?")
                self._platform = chosen
                self.hooks.platform_chosen(chosen)
            return self._platform

    def start(self, config: EndpointConfig, *, streams: bool) -> None:
        """Begin to connect and to provision, in the background. Raises as `submit` does."""
        self.platform()
        self.loop.post(lambda: self._lane(config, streams=streams).provision())

    def submit(
        self,
        config: EndpointConfig,
        envelope: CallEnvelope,
        *,
        function_name: str,
        streams: bool,
        is_generator: bool,
    ) -> Call[Any]:
        """Take a call; never blocks on the network.

        Args:
            config: The endpoint, with its name.
            envelope: The call.
            function_name: For messages.
            streams: Whether the endpoint's workers stream.
            is_generator: Whether this call yields values rather than returning one.

        Raises:
            PlatformUnavailable: The process is ending.
            ConfigError: Settings or plugins name no platform that exists.
            HookError: A plugin failed while it chose the platform.
        """
        if self._is_closed:
            raise PlatformUnavailable("this process is ending, so no more calls are taken")
        self.platform()  # a wrong setting is an error here and now, at the call
        kind = StreamCall if is_generator else Call
        call: Call[Any] = kind(
            endpoint_name=str(config.name),
            function_name=function_name,
            number=next(self._numbers),
            payload_bytes=len(envelope.args),
        )
        call._run_callback = self.delivery.post

        def accept() -> None:
            lane = self._lane(config, streams=streams)
            submission = Submission(lane, call, envelope)
            call._submission = submission
            if not call.done():  # cancelled between the lines
                lane.enqueue(submission)

        self.loop.post(accept)
        return call

    def cancel_all(self) -> None:
        """Cancel every call of this process, without waiting. Any thread."""

        def cancel() -> None:
            for submission in self._submissions():
                submission.call.cancel()

        self.loop.post(cancel)

    async def provision(self, config: EndpointConfig, *, streams: bool) -> EndpointHandle:
        """Return the endpoint on the platform, made once however many ask at once. Loop thread."""
        name = str(config.name)
        async with self._provisioning.setdefault(name, asyncio.Lock()):
            client = await self._connected()
            return await client.ensure_endpoint(config, _worker_env(name, streams=streams))

    def lost_reason(self) -> str | None:
        """Return why the platform is gone, None while it lives or cannot tell."""
        return None if self._platform is None else self._platform.lost_reason()

    def explain(self, error: FlashPluginsError, lane: Lane) -> FlashPluginsError:
        """Return `error` of a call on `lane`, or a better one when the platform itself is gone. Loop thread."""
        reason = self.lost_reason()
        if reason is None or not isinstance(error, ConnectionError | FlashPluginsError):
            return error
        gone = PlatformUnavailable(
            f"{reason}; calls in flight are lost, and what they did is unknown. The next call starts it again"
        )
        gone.__cause__ = error
        if lane in self._lanes.values():  # else another call of the same connection was here before
            self._disconnect()
        return gone

    def close(self) -> None:
        """Cancel everything, leave the platform, end the threads. Idempotent; blocks a few seconds at most."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        platform = self._platform
        try:
            self.loop.call(self._cancel_and_disconnect(), _CANCEL_TIMEOUT_S * 2)
        except TimeoutError:
            logger.warning("cancelling the calls of this process took too long; some may still run on the platform")
        finally:
            if platform is not None:
                platform.close()
            self.loop.stop()
            self.delivery.stop()

    def _lane(self, config: EndpointConfig, *, streams: bool) -> Lane:
        key = (config.name, config.fingerprint, streams, *sorted(config.env.items()))
        if key not in self._lanes:
            self._lanes[key] = Lane(self, config, streams=streams)
        return self._lanes[key]

    def _submissions(self) -> list[Submission]:
        return [submission for lane in self._lanes.values() for submission in lane.submissions]

    async def _connected(self) -> RunpodClient:
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            if self._client is None:
                loop = asyncio.get_running_loop()
                # Starting a platform and importing the HTTP client take half a second each: side by side.
                connecting = loop.run_in_executor(None, lambda: self.platform().connect())
                importing = loop.run_in_executor(None, _client_class)
                connection, client_class = await asyncio.gather(connecting, importing)
                self._client = client_class(connection)
            return self._client

    def _disconnect(self) -> None:
        """Forget a platform that is gone: calls that were not sent, and the next one, connect anew."""
        client, self._client = self._client, None
        if client is not None:
            self.loop.spawn(client.aclose())
        waiting = [lane.take_queue() for lane in self._lanes.values()]
        self._lanes.clear()
        for submissions in waiting:
            for submission in submissions:
                self._lane(submission.lane.config, streams=submission.lane.streams).requeue(submission)

    @property
    def tells_platform(self) -> bool:
        """Whether a cancelled call must be cancelled on the platform too: not if that ends together with us."""
        return not self._is_closed or (self._platform is not None and self._platform.outlives_us)

    async def _cancel_and_disconnect(self) -> None:
        for submission in self._submissions():
            submission.call.cancel()
        await self.loop.cancel_tasks(grace_s=_CANCEL_TIMEOUT_S if self.tells_platform else 0.0)
        if self._client is not None:
            await self._client.aclose()
            self._client = None


def _client_class() -> type[RunpodClient]:
    from ..platforms.runpod import RunpodClient

    return RunpodClient


def _worker_env(name: str, *, streams: bool) -> dict[str, str]:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    env = {api.PYTHON_ENV: version, api.ENDPOINT_NAME_ENV: name}
    if streams:
        env[api.HANDLER_ENV] = api.HANDLER_STREAMS
    return env
