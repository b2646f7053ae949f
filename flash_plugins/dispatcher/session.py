# SPDX-License-Identifier: Apache-2.0
"""A process's connection to its platform: the choice, the client, the lanes, and the end of it all."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..clock import Clock, SystemClock
from ..config import EndpointConfig
from ..errors import ConfigError, FlashPluginsError, PlatformUnavailable
from ..hooks import HookManager
from ..options import NO_OPTIONS, CallOptions
from ..payload import CallEnvelope
from ..platforms import api
from ..platforms.packages import installation_env, worker_packages
from ..settings import ObjectSettings, Settings
from ..work import part
from .arrivals import Arrivals
from .call import Call
from .claims import Claims
from .deployments import Deployments
from .lane import Lane, Submission
from .objects import SessionObjects
from .pauses import Pauses
from .queue_lane import QueueLane
from .stream import StreamCall
from .threads import BackgroundLoop, DeliveryThread, in_thread
from .uploads import Uploads
from .window import Poller

if TYPE_CHECKING:
    from ..images import LocalImage
    from ..platforms.base import Platform
    from ..platforms.provision import EndpointPlan
    from ..platforms.runpod import EndpointHandle, RunpodClient

__all__ = ["Session"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that the loop may take for what takes it no time, before the end of the process goes on without it.
_LOOP_TIMEOUT_S = 5.0
#: Seconds the end of a process waits for cancellations before it says so, and between looks at what is left.
_SILENCE_S = 1.0
_LOOK_S = 0.02
#: Seconds to wait for a platform that is being started, so that it can be ended.
_CONNECT_TIMEOUT_S = 20.0
#: How many platforms in a row may end under a call that was not sent.
_MAX_MOVES = 3


class Session:
    """Everything between calls and one platform. Made once per process; `submit` may be called from any thread.

    Args:
        settings: What the process is set to, asked when the platform is chosen.
        hooks: The process's plugins.
        clock: Where the time of retries and limits comes from; None for the real one.
        objects: Returns where the user wants large objects.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        hooks: HookManager,
        *,
        clock: Clock | None = None,
        objects: Callable[[], ObjectSettings] = ObjectSettings,
    ) -> None:
        self._settings = settings
        self.clock = clock or SystemClock()
        self.pauses = Pauses(self, lambda submission: self._lane(submission.call.endpoint_name).requeue(submission))
        self.uploads = Uploads(self, lambda submission: self._lane(submission.call.endpoint_name).requeue(submission))
        self.hooks = hooks
        self.loop = BackgroundLoop()
        self.delivery = DeliveryThread()
        self.poller = Poller(self.clock)
        self._lanes: dict[tuple[object, ...], Lane] = {}
        self._replaced: list[Lane] = []  # of endpoints that were redefined, until their last job is over
        self._claims = Claims()
        self._numbers = itertools.count(1)
        self._arrivals = Arrivals(self.loop, self._lane)
        self._keys: dict[str, tuple[EndpointConfig, bool, tuple[object, ...]]] = {}  # of lanes, by name
        self._lock = threading.Lock()
        self._choosing = threading.Lock()
        self._platform: Platform | None = None
        self._client: RunpodClient | None = None
        self._connecting: asyncio.Lock | None = None
        self._connect_thread: threading.Thread | None = None
        self._provisioning: dict[str, asyncio.Lock] = {}
        self._told_skipped: set[str] = set()  # endpoints whose system_dependencies nobody installs here
        self.deployments = Deployments()
        own = settings()
        self._volume_urls: dict[tuple[object, ...], str | None] = {}  # of endpoints whose volume is their store
        self.objects = SessionObjects(
            self._waited_objects_url,
            setting=objects,
            open_store=hooks.object_store,
            threshold_bytes=own.objects_min_bytes,
            max_bytes=own.objects_max_bytes,
            tell=self.tell,
        )
        self._is_closed = False

    @property
    def client(self) -> RunpodClient:
        """The HTTP client; there is one once a lane was provisioned."""
        if self._client is None:
            raise PlatformUnavailable("the connection to the platform was closed; make the call again")
        return self._client

    @property
    def is_limited(self) -> bool:
        """Whether the platform is a service with limits, whose workers may take more jobs than they run at once."""
        return self._client is not None and self._client.connection.limits is not None

    @property
    def has_platform(self) -> bool:
        """Whether the platform was chosen."""
        return self._platform is not None

    def objects_url(self, config: EndpointConfig) -> str | None:
        """Return the store that calls of an endpoint use, None for none. Known once the endpoint is provisioned."""
        if self._client is None:
            return None
        if self.objects.may_use_volume(self._client.connection, config):
            return self._volume_urls.get((str(config.name), config.version))
        return self.objects.url_at(self._client.connection)

    async def find_objects_url(self, config: EndpointConfig | None) -> str | None:
        """As `objects_url`, which then knows it; of the platform itself for None. Loop thread."""
        from ..hardware import S3_DATACENTERS
        from ..objects.location import runpod_location

        client = await self.connected()
        if config is None or not self.objects.may_use_volume(client.connection, config):
            return self.objects.url_at(client.connection)
        name = str(config.name)
        async with self._provisioning.setdefault(name, asyncio.Lock()):
            key = (name, config.version)
            if key not in self._volume_urls:
                volume = await client.provisioner.object_volume(config)
                has_api = volume is not None and volume.data_center in [center.value for center in S3_DATACENTERS]
                self._volume_urls[key] = (
                    runpod_location(volume.id, volume.data_center).url if volume is not None and has_api else None
                )
            return self._volume_urls[key]

    def _waited_objects_url(self, config: EndpointConfig | None, timeout_s: float) -> str | None:
        """As `find_objects_url`, from any thread but the loop's."""
        if self._is_closed:
            raise PlatformUnavailable("this process is ending, so no more calls are taken")
        self.platform()

        async def found() -> str | None:
            if (reason := self.lost_reason()) is not None:
                self._forget_platform(reason)
            return await self.find_objects_url(config)

        url: str | None = self.loop.call(found(), timeout_s)
        return url

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
        name = str(config.name)
        self._claims.claim(config, streams=streams)
        self.loop.post(lambda: self._lane(name).provision())

    def submit(
        self,
        config: EndpointConfig,
        envelope: CallEnvelope,
        *,
        function_name: str,
        streams: bool,
        is_generator: bool,
        options: CallOptions = NO_OPTIONS,
        args: bytes = b"",
    ) -> Call[Any]:
        """Take a call; never blocks on the network.

        Args:
            config: The endpoint, with its name.
            envelope: The call.
            function_name: For messages.
            streams: Whether the endpoint's workers stream.
            is_generator: Whether this call yields values rather than returning one.
            options: How often it is tried, and how long it may take.
            args: Pickled arguments, where `envelope` is that of many calls and has none.

        Raises:
            PlatformUnavailable: The process is ending.
            ConfigError: Settings or plugins name no platform that exists, or calls of another endpoint of the
                same name are not done.
            HookError: A plugin failed while it chose the platform.
        """
        if self._is_closed:
            raise PlatformUnavailable("this process is ending, so no more calls are taken")
        self.platform()  # a wrong setting is an error here and now, at the call
        name = str(config.name)
        self._claims.claim(config, streams=streams, function_name=function_name, is_call=True)
        if options.run_timeout is not None:
            envelope = replace(envelope, limit_s=options.run_timeout)
        kind = StreamCall if is_generator else Call
        call: Call[Any] = kind(
            endpoint_name=name,
            function_name=function_name,
            number=next(self._numbers),
            payload_bytes=len(args or envelope.args) + (0 if envelope.held is None else envelope.held.new_bytes),
        )
        call._held, call._objects = envelope.held, lambda: self.objects.open(self.objects_url(config))
        call._run_callback = self.delivery.post
        call._release = self._claims.release
        if (work := part.get())[0] is not None:
            call.work, call.tasks, call.name = work
        self._arrivals.add(call, envelope, options, args)
        return call

    def perform(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        """Run a coroutine on the loop and return its outcome to be; cancelling that cancels the coroutine. Any thread.

        Raises:
            PlatformUnavailable: The process is ending.
            ConfigError: Settings or plugins name no platform that exists.
            HookError: A plugin failed while it chose the platform.
        """
        if self._is_closed:
            raise PlatformUnavailable("this process is ending, so nothing more is sent")
        self.platform()
        future: Future[T] = Future()

        def begin() -> None:
            task = self.loop.spawn(_into(future, work))
            future.add_done_callback(lambda done: self.loop.post(task.cancel) if done.cancelled() else None)

        self.loop.post(begin)
        return future

    def cancel_all(self) -> None:
        """Cancel every call of this process, without waiting. Any thread."""

        def cancel() -> None:
            for submission in self._submissions():
                submission.call.cancel()

        self.loop.post(cancel)

    def claim(self, config: EndpointConfig, *, streams: bool) -> tuple[EndpointConfig, bool]:
        """Take a name for an endpoint, as a call does, and return what it stands for now. Any thread.

        Raises:
            ConfigError: Calls of another endpoint of that name are not done.
        """
        self._claims.claim(config, streams=streams)
        return self._claims.current(str(config.name))

    async def provision(
        self,
        config: EndpointConfig,
        *,
        kind: api.EndpointKind = api.EndpointKind.QUEUE,
        streams: bool = False,
        cargo: Mapping[str, str] | None = None,
    ) -> EndpointHandle:
        """Return the endpoint on the platform, made once however many ask at once. Loop thread.

        Args:
            config: What it should be; with an `image`, its workers are none of ours.
            kind: How it takes requests.
            streams: Whether its workers stream.
            cargo: Variables with the code that is deployed with it; None leaves those that it has.
        """
        name = str(config.name)
        async with self._provisioning.setdefault(name, asyncio.Lock()):
            client = await self.connected()
            env, image_args = await self._start_of(client, config, kind, streams=streams)
            handle = await client.ensure_endpoint(config, env, kind=kind, cargo=cargo, image_args=image_args)
        await self.find_objects_url(config)
        return handle

    async def plan(
        self,
        config: EndpointConfig,
        *,
        kind: api.EndpointKind,
        streams: bool = False,
        cargo: Mapping[str, str] | None = None,
    ) -> EndpointPlan:
        """Return what `provision` would do, and what it would cost. Changes nothing. Loop thread."""
        from ..platforms.body import Wanted

        client = await self.connected()
        env, image_args = await self._start_of(client, config, kind, streams=streams)
        return await client.provisioner.plan(Wanted(config, env, kind, cargo, image_args))

    async def _start_of(
        self, client: RunpodClient, config: EndpointConfig, kind: api.EndpointKind, *, streams: bool
    ) -> tuple[dict[str, str], str]:
        """Return the variables that we add, and the start command of an image where that is not its own."""
        if config.image is None:
            return self._own_env(client, config, kind, streams=streams), ""
        if client.connection.runs_images:
            return {}, ""
        image = await self._local_image(config)
        own = {*config.env, *(config.template.variables if config.template is not None else ())}
        return {name: value for name, value in image.env.items() if name not in own}, image.args

    def _own_env(
        self, client: RunpodClient, config: EndpointConfig, kind: api.EndpointKind, *, streams: bool
    ) -> dict[str, str]:
        """Return the variables of workers of ours."""
        is_balanced = kind is api.EndpointKind.LOAD_BALANCER
        env = {**_worker_env(str(config.name), streams=streams), **installation_env(config)}
        if is_balanced:
            env[api.HANDLER_ENV] = api.HANDLER_CALLS if config.kind is kind else api.HANDLER_HTTP
        if config.system_dependencies and not client.connection.runs_images and config.name not in self._told_skipped:
            self._told_skipped.add(str(config.name))
            self.tell(
                f"endpoint {config.name!r}: system_dependencies are skipped where workers run on this machine; install "
                f"them here if they are missing: {', '.join(config.system_dependencies)}",
                config.name,
            )
        if not client.connection.has_package and api.PACKAGE_SPEC_ENV not in config.env:
            spec = self._settings().package_spec
            env[api.PACKAGE_SPEC_ENV] = spec or worker_packages(config, is_balanced=is_balanced)
        return env

    async def _local_image(self, config: EndpointConfig) -> LocalImage:
        """Return what stands for the endpoint's image on a platform that runs none. Loop thread."""
        asked, _ = in_thread(lambda: self.hooks.local_image(config))  # reads files, may ask Docker
        image = await asked
        if image is None:
            raise ConfigError(
                f"endpoint {config.name!r}: no plugin has a command for image {config.image!r} on platform "
                f"{self.platform().name!r}; are the built-in ones unregistered?"
            )
        return image

    def tell(self, text: str, endpoint: str | None = None) -> None:
        """Tell the user something while calls go on. Any thread; never waits for whoever reads it."""
        self.delivery.post(lambda: self.hooks.notice(text, endpoint=endpoint))

    @property
    def is_ending(self) -> bool:
        """Whether the process ends: then threads, subprocesses and imports fail, which is nobody's fault."""
        return self._is_closed or not threading.main_thread().is_alive()

    def lost_reason(self) -> str | None:
        """Return why the platform we are connected to is gone, None while it lives or cannot tell."""
        return None if self._platform is None or self._client is None else self._platform.lost_reason()

    def explain(self, error: FlashPluginsError, lane: Lane) -> FlashPluginsError:
        """Return `error` of a call on `lane`, or a better one when the platform itself is gone. Loop thread."""
        reason = lane.lost_reason()
        if reason is None or self.is_ending:
            return error
        self._leave(lane, reason)
        return _gone(reason, error)

    async def ask(self, question: Callable[[RunpodClient], Awaitable[T]]) -> T:
        """Return what a request of the platform brings; one that is gone meanwhile is left and named. Loop thread.

        Raises:
            PlatformUnavailable: The platform cannot be started, or is gone.
            Exception: Whatever the request raises.
        """
        from ..platforms.runpod import TransportFailure

        client = await self.connected()
        try:
            return await question(client)
        except TransportFailure as error:
            reason = self.lost_reason()
            if reason is None or self.is_ending:
                raise
            if client is self._client:
                self._forget_platform(reason)
            raise _gone(reason, error) from error

    def forget(self, name: str) -> None:
        """Note that an endpoint was deleted: the next call of that name makes it anew. Loop thread."""
        self.deployments.forget(name)
        for key in [key for key in self._lanes if key[0] == name]:
            self._replaced.append(self._lanes.pop(key))

    def move_on(self, lane: Lane, reason: str, *, unsent: list[Submission]) -> None:
        """Leave a platform that is gone, and give the calls that were surely not sent to the next. Loop thread."""
        self._leave(lane, reason)
        for submission in unsent:
            submission.moves += 1
            if submission.moves < _MAX_MOVES:
                self._lane(str(lane.config.name)).requeue(submission)
            else:
                error = PlatformUnavailable(f"{submission.call!r} was not sent: {reason}, and so did those before it")
                lane.settle_error(submission, error)

    def close(self) -> None:
        """Cancel everything, leave the platform, end the threads. Idempotent.

        Waits until a platform that outlives us knows what to cancel. Ctrl-C ends that wait.
        """
        with self._lock:
            if self._is_closed:
                return
            is_program_ending = self.is_ending
            self._is_closed = True
        platform = self._platform
        try:
            unfinished = self.loop.call(self._cancel_calls(), _LOOP_TIMEOUT_S)
            if unfinished and is_program_ending:
                calls = "1 call was" if unfinished == 1 else f"{unfinished} calls were"
                _say(f"{calls} cancelled unfinished because the program ended")
            if self.tells_platform:
                self._wait_for_cancels()
            self.loop.call(self._end_tasks(), _LOOP_TIMEOUT_S)
        except TimeoutError:
            logger.warning("cancelling the calls of this process took too long; some may still run on the platform")
        finally:
            if self._connect_thread is not None:
                self._connect_thread.join(_CONNECT_TIMEOUT_S)  # what it starts must not be started after the end
            self.objects.close()
            if platform is not None:
                platform.close()
            self.loop.stop()
            self.delivery.stop()

    def _lane(self, name: str) -> Lane:
        """Return the lane of what a name stands for now. Loop thread."""
        config, streams = self._claims.current(name)
        known = self._keys.get(name)
        if known is not None and known[0] is config and known[1] is streams:
            key = known[2]  # finding out what a config is costs 50 µs
        else:
            key = (name, config.version, streams)
            self._keys[name] = (config, streams, key)
        if key not in self._lanes:
            self._replaced = [lane for lane in self._replaced if lane.submissions]
            for other in [other for other in self._lanes if other[0] == name]:
                self._replaced.append(self._lanes.pop(other))
            self._lanes[key] = _lane_class(config)(self, config, streams=streams)
        return self._lanes[key]

    def _submissions(self) -> list[Submission]:
        lanes = [*self._lanes.values(), *self._replaced]
        return [*self.pauses, *self.uploads, *(submission for lane in lanes for submission in lane.submissions)]

    async def connected(self) -> RunpodClient:
        """Return the client of the platform, which is chosen and started if it was not. Loop thread."""
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            if self._client is None:
                # Starting a platform takes half a second, and importing its client some of that: side by side.
                connecting, self._connect_thread = in_thread(lambda: self.platform().connect())
                importing, _ = in_thread(_client_class)
                connection, client_class = await asyncio.gather(connecting, importing)
                self._client = client_class(connection, tell=self.tell, lost=self.lost_reason)
            return self._client

    def _leave(self, lane: Lane, reason: str) -> None:
        """Forget a platform that is gone, unless another call of the same connection did: the next connects anew."""
        if lane in [*self._lanes.values(), *self._replaced]:
            self._forget_platform(reason)

    def _forget_platform(self, reason: str) -> None:
        lanes = [*self._lanes.values(), *self._replaced]
        self.objects.leave()
        self._volume_urls.clear()
        client, self._client = self._client, None
        if client is not None:
            self.loop.spawn(client.aclose())
        self.deployments.clear()
        self._lanes.clear()
        self._replaced.clear()
        for left in lanes:
            left.lose(reason)
        for left in lanes:
            self.move_on(left, reason, unsent=left.take_queue())

    @property
    def tells_platform(self) -> bool:
        """Whether a cancelled call must be cancelled on the platform too: not if that ends together with us."""
        return not self._is_closed or (self._platform is not None and self._platform.outlives_us)

    async def _cancel_calls(self) -> int:
        """Cancel all calls; return how many were not done."""
        unfinished = [submission for submission in self._submissions() if not submission.call.done()]
        for submission in unfinished:
            submission.call.cancel()
        return len(unfinished)

    def _wait_for_cancels(self) -> None:
        """Wait, in the thread that ends the process, until the platform knows what to cancel."""
        says_at: float | None = time.monotonic() + _SILENCE_S
        left: list[str | None] = []
        try:
            while left := self.loop.call(self._not_cancelled(), _LOOP_TIMEOUT_S):
                if says_at is not None and time.monotonic() > says_at:
                    _say(f"{len(left)} jobs are still to be cancelled on the platform; Ctrl-C leaves them running")
                    says_at = None
                time.sleep(_LOOK_S)
        except KeyboardInterrupt:
            jobs = [job_id or "one without an id yet" for job_id in left]
            _say(f"not cancelled, and running until their time limits: {', '.join(jobs) or 'unknown jobs'}")

    async def _not_cancelled(self) -> list[str | None]:
        """Return the jobs that the platform may still run, None for one without an id."""
        return [job for lane in [*self._lanes.values(), *self._replaced] for job in lane.uncancelled()]

    async def _end_tasks(self) -> None:
        await self.loop.cancel_tasks()
        if self._client is not None:
            await self._client.aclose()
            self._client = None


def _gone(reason: str, error: FlashPluginsError) -> PlatformUnavailable:
    gone = PlatformUnavailable(
        f"{reason}; calls in flight are lost, and what they did is unknown. The next call starts it again"
    )
    gone.__cause__ = error
    return gone


def _say(line: str) -> None:
    """Write a line for the user, where there is somebody to read it."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # closed: nobody reads it
            sys.stderr.write(f"flash-plugins: {line}\n")
            sys.stderr.flush()


async def _into(future: Future[T], work: Callable[[], Awaitable[T]]) -> None:
    """Give `future` the outcome of `work`; somebody may have cancelled it meanwhile."""
    try:
        value = await work()
    except asyncio.CancelledError:
        with contextlib.suppress(InvalidStateError):
            future.set_exception(PlatformUnavailable("this process is ending, and what it asked for is given up"))
        raise
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
        with contextlib.suppress(InvalidStateError):
            future.set_exception(error)
    else:
        with contextlib.suppress(InvalidStateError):
            future.set_result(value)


def _lane_class(config: EndpointConfig) -> type[Lane]:
    if config.kind is not api.EndpointKind.LOAD_BALANCER:
        return QueueLane
    from .balanced_lane import BalancedLane  # which few processes need

    return BalancedLane


def _client_class() -> type[RunpodClient]:
    from ..platforms.runpod import RunpodClient

    return RunpodClient


def _worker_env(name: str, *, streams: bool) -> dict[str, str]:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    env = {api.PYTHON_ENV: version, api.ENDPOINT_NAME_ENV: name}
    if streams:
        env[api.HANDLER_ENV] = api.HANDLER_STREAMS
    return env
