# SPDX-License-Identifier: Apache-2.0
"""`Endpoint`: a name, hardware and scaling, under which decorated functions run. A thin face over the rest."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from . import process
from .attributes import EndpointAttributes
from .client import TIMEOUT_S, EndpointClient, ExistingTarget, ImageTarget, ProvisionedEndpoint
from .config import EndpointConfig, EndpointParameters
from .deployment import OwnTarget
from .errors import ConfigError, NotFoundError
from .hardware import ServerlessType
from .payload import JOB, REQUEST, STREAM_JOB, Carriage
from .pending import Pending
from .platforms.api import EndpointKind
from .remote import RemoteClass, RemoteFunction, RemoteGenerator, is_generator, note_travel
from .requirements import auto_dependencies
from .routes import RouteTable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .client import EndpointJob, JobStream, Target
    from .dispatcher import Call, Session
    from .options import CallOptions
    from .payload import CallEnvelope

__all__ = ["Endpoint"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class Endpoint(EndpointAttributes):
    """Where code runs on the platform, in one of four patterns.

        @Endpoint(name="square", cpu="cpu5c-4-8", workers=(0, 2))      # a queue of calls and its workers
        def square(x):
            return x * x

        square(7).result()  # 49

        api = Endpoint(name="api", cpu="cpu5c-4-8", workers=(1, 5))    # load-balanced: routes that share workers

        @api.post("/predict")
        async def predict(text: str) -> dict:
            return {"label": "positive"}

        vllm = Endpoint(name="vllm", image="vllm/vllm-openai:latest")  # an image, and its client
        other = Endpoint(id="abc123")                                  # an endpoint that exists, and its client

    Nothing is started, sent or created before the first call.

    Args:
        name: Name of the endpoint on the platform. Default: the name of what is decorated.
        parameters: As described by `EndpointConfig`: id, gpu, cpu, workers, idle_timeout, dependencies,
            system_dependencies, accelerate_downloads, volume, datacenter, env, gpu_count, execution_timeout_ms,
            flashboot, image, scaler_type, scaler_value, template, min_cuda_version, python_version,
            max_concurrency, transport.

    Raises:
        UnknownParameterError: A keyword is no parameter; the closest one is suggested.
        ConfigError: A value cannot be used; the message quotes it and says what can.
    """

    def __init__(self, name: str | None = None, **parameters: Unpack[EndpointParameters]) -> None:
        super().__init__(EndpointConfig.from_parameters(name, parameters), parameters)
        self._client: EndpointClient | None = None
        self._targets: list[RemoteClass[..., Any] | RemoteFunction[..., Any]] = []
        self._streams = False
        self._is_used = False
        self._pinned_targets: int | None = None

    def __repr__(self) -> str:
        if self.config.id is not None:
            return f"<Endpoint id {self.config.id!r}>"
        return f"<Endpoint {self.name!r}, workers {self.config.workers[0]} to {self.config.workers[1]}>"

    @overload
    def __call__(self, target: type[T]) -> RemoteClass[..., T]: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, target: Callable[P, Iterator[T]] | Callable[P, AsyncIterator[T]]) -> RemoteGenerator[P, T]: ...

    @overload
    def __call__(self, target: Callable[P, Coroutine[Any, Any, T]]) -> RemoteFunction[P, T]: ...

    @overload
    def __call__(self, target: Callable[P, T]) -> RemoteFunction[P, T]: ...

    def __call__(self, target: Any) -> Any:
        """Decorate a function (sync, async, generator) or a class.

        Raises:
            ConfigError: It is neither, the endpoint is a client or has routes, or it was called already and serves
                the other kind of function.
        """
        self._refuse_client("decorate a function or class")
        if self.routes:
            raise ConfigError(
                f"endpoint {self.name!r} has routes, so it is load-balanced, and cannot also decorate "
                f"{getattr(target, '__name__', target)!r}: a queue needs an Endpoint of its own"
            )
        if not inspect.isclass(target) and not callable(target):
            raise ConfigError(f"Endpoint decorates functions and classes, not {target!r}")
        if isinstance(target, RemoteFunction | RemoteClass):
            raise ConfigError(f"{target!r} is decorated already")
        if self.config.name is None:
            self.config = self.config.with_name(getattr(target, "__name__", type(target).__name__).strip("<>"))
        self.config = self.config.with_packages([str(getattr(target, "__module__", None)).partition(".")[0]])
        remote: RemoteClass[..., Any] | RemoteFunction[..., Any]
        if inspect.isclass(target):
            remote = RemoteClass(self, target)
        else:
            remote = (RemoteGenerator if is_generator(target) else RemoteFunction)(self, target)
        self._note_streams(remote)
        self._targets.append(remote)
        return remote

    # -- routes, or requests of a client --------------------------------------------------------------------

    def get(self, path: str, data: Any = None, **options: Any) -> Pending[Any]:
        """Declare a GET route (`@api.get("/health")`); of a client (`id=`, `image=`) send a GET request.

        A route's function stays as it is: calling it runs it right there. Query and path parameters become its
        arguments; for the other methods each parameter is a field of the JSON body.

        Args:
            path: Begins with `/`.
            data: Client only: what is sent as JSON.
            options: Client only: as `EndpointClient.request` takes them.

        Raises:
            ConfigError: The path or the endpoint cannot be used for this.
            TypeError: `data` or options were given for a route.
        """
        return self._verb("GET", path, data, options)

    def post(self, path: str, data: Any = None, **options: Any) -> Pending[Any]:
        """As `get`, for POST."""
        return self._verb("POST", path, data, options)

    def put(self, path: str, data: Any = None, **options: Any) -> Pending[Any]:
        """As `get`, for PUT."""
        return self._verb("PUT", path, data, options)

    @overload
    def delete(self, path: None = None) -> Pending[None]: ...

    @overload
    def delete(self, path: str, data: Any = None, **options: Any) -> Pending[Any]: ...

    def delete(self, path: str | None = None, data: Any = None, **options: Any) -> Any:
        """As `get`, for DELETE; without a path, delete the endpoint on the platform.

        Its workers end, and its jobs are cancelled. A later call makes it anew.

        Raises:
            NotFoundError: The platform has no such endpoint.
        """
        if path is None:
            if data is not None or options:
                raise TypeError("delete() without a path deletes the endpoint on the platform and takes nothing else")
            return Pending(self._deleted, f"delete() of {self.client.words}")
        return self._verb("DELETE", path, data, options)

    def patch(self, path: str, data: Any = None, **options: Any) -> Pending[Any]:
        """As `get`, for PATCH."""
        return self._verb("PATCH", path, data, options)

    def _verb(self, method: str, path: Any, data: Any, options: Mapping[str, Any]) -> Pending[Any]:
        if self.is_client:
            return self.client.request(method, path, data, **options)
        if data is not None or options:
            given = ", ".join(["data"] * (data is not None) + list(options))
            raise TypeError(
                f"{method.lower()}({path!r}) declares a route of endpoint {self.name!r} and takes no {given}; to call "
                "the endpoint use its client: endpoint.client." + method.lower() + "(path, data)"
            )
        if self.name is None:
            raise ConfigError(f"{method.lower()}({path!r}): an endpoint with routes needs a name; give name=…")
        if self._targets:
            raise ConfigError(
                f"endpoint {self.name!r} decorates {self._targets[0]!r}, so it is a queue, and cannot also have the "
                f"route {method} {path!r}: routes need an Endpoint of their own"
            )
        if "transport" in self._given:
            raise ConfigError(
                f"endpoint {self.name!r} has transport={self.transport!r} and the route {method} {path!r}: transport "
                "says how calls of decorated functions get to workers; an Endpoint with routes takes none"
            )
        self.routes.check(method, path)

        def declare(function: Callable[P, T]) -> Callable[P, T]:
            self.routes.add(method, path, function)
            package = str(getattr(function, "__module__", None)).partition(".")[0]
            self.config = self.config.with_packages([package])
            return function

        return cast("Pending[Any]", declare)  # which of the two only `is_client` knows

    def _refuse_client(self, what: str) -> None:
        if self.is_client:
            mode = "id" if self.config.id is not None else "image"
            raise ConfigError(
                f"Endpoint({mode}={getattr(self.config, mode)!r}) is a client of an endpoint and cannot {what}; use "
                "Endpoint(name=…) for code of your own"
            )

    # -- jobs -----------------------------------------------------------------------------------------------

    @property
    def client(self) -> EndpointClient:
        """The requests that the endpoint takes: `await api.client.post("/predict", {"text": "…"})`.

        An endpoint with code of one's own is deployed before the first of them, an image before its first; one
        that declares nothing is looked up by its name.
        """
        if self._client is None:
            target: Target = OwnTarget(self)
            if self.config.id is not None:
                target = ExistingTarget(self.config.id)
            elif self.config.image is not None:
                target = ImageTarget(self.config)
            self._client = EndpointClient(target)
        return self._client

    def provision(self, kind: ServerlessType | str | None = None) -> Pending[ProvisionedEndpoint]:
        """Have the endpoint on the platform, with its code deployed; the outcome is its id and its URLs.

        Afterwards any client can use it, without the program that defines it. Call it again after a change.

        Args:
            kind: Of an image: whether it takes jobs (`ServerlessType.QB`) or HTTP requests (`LB`). Default: what the
                first request is. Functions make a queue, routes a load-balanced endpoint.

        Raises:
            ConfigError: An endpoint of that name exists and cannot become this one, or `kind` is another one.
            NotFoundError: Nothing is declared here, and the platform has no endpoint of that name or id.
            UnpicklableError: A function cannot travel.
            PayloadTooLarge: The code is too large to be deployed.
            PlatformError: The platform refuses, or does not answer.
        """
        wanted = None if kind is None else _KINDS[_serverless_type(kind)]
        return Pending(lambda session: self._provisioned(session, wanted), f"provision() of {self.client.words}")

    def run(
        self, input_data: Any, *, webhook: str | None = None, policy: Mapping[str, Any] | None = None, **fields: Any
    ) -> Pending[EndpointJob]:
        """Submit a job, as `EndpointClient.run`: `job = await endpoint.run({"prompt": "hello"})`."""
        return self.client.run(input_data, webhook=webhook, policy=policy, **fields)

    def runsync(
        self,
        input_data: Any,
        timeout: float = TIMEOUT_S,
        *,
        webhook: str | None = None,
        policy: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Pending[EndpointJob]:
        """Submit a job and wait for it up to `timeout` seconds, as `EndpointClient.runsync`."""
        return self.client.runsync(input_data, timeout, webhook=webhook, policy=policy, **fields)

    def status(self, job_id: str) -> Pending[EndpointJob]:
        """Look at a job, as `EndpointClient.status`."""
        return self.client.status(job_id)

    def cancel(self, job_id: str) -> Pending[EndpointJob]:
        """Cancel a job, as `EndpointClient.cancel`."""
        return self.client.cancel(job_id)

    def retry(self, job_id: str) -> Pending[EndpointJob]:
        """Run a job that failed again, as `EndpointClient.retry`."""
        return self.client.retry(job_id)

    def stream(self, job_id: str) -> JobStream:
        """Iterate what a job yields, as `EndpointClient.stream`."""
        return self.client.stream(job_id)

    def purge_queue(self) -> Pending[Mapping[str, Any]]:
        """Drop the jobs that are queued, as `EndpointClient.purge_queue`."""
        return self.client.purge_queue()

    def health(self) -> Pending[Mapping[str, Any]]:
        """Count jobs and workers, as `EndpointClient.health`."""
        return self.client.health()

    # -- inside ---------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        if self.routes:
            note_travel(self)
        # It travels when a function refers to it. The environment may hold secrets, and workers have it already.
        # Routes stay: on a worker they are plain functions, and they would take each other along.
        given = {name: value for name, value in self._given.items() if name not in ("env", "template")}
        config = self.config.without_env()
        if given.get("dependencies") == "auto":
            config = replace(config, dependencies="auto")
        return dict(
            self.__dict__,
            config=config,
            routes=RouteTable(),
            _targets=[],
            _client=None,
            _given=given,
            _is_used=False,  # whether it was called here must not make other code of what is deployed
            _pinned_targets=None,
        )

    def start(self) -> None:
        """Begin to start the platform and to create the endpoint, in the background, ahead of the first call.

        Raises:
            ConfigError: The endpoint has no name yet or allows no worker, or the settings name no platform.
        """
        self._check_callable()
        if not self.routes:
            process.session().start(self.config, streams=self._streams)
            return
        session = process.session()
        beginning = session.perform(lambda: OwnTarget(self).resolve(session, EndpointKind.LOAD_BALANCER))
        beginning.add_done_callback(self._note_beginning)

    def _note_beginning(self, beginning: Future[Any]) -> None:
        if not beginning.cancelled() and (error := beginning.exception()) is not None:
            logger.warning("endpoint %r could not be made ahead of its first request: %s", self.name, error)

    async def _provisioned(self, session: Session, kind: EndpointKind | None) -> ProvisionedEndpoint:
        self.client._target.forget(session)  # what functions refer to may have changed, which only packing them tells
        handle = await self.client._resolved(session, kind)
        return ProvisionedEndpoint(handle.id, handle.name, dict(handle.urls), handle.base_url)

    async def _deleted(self, session: Session) -> None:
        endpoint_id = self.config.id
        if endpoint_id is None:
            if self.name is None:
                raise ConfigError("delete(): this Endpoint has neither a name nor an id")
            name = self.name
            handle = await session.ask(lambda client: client.find(name))
            if handle is None:
                raise NotFoundError(
                    f"delete(): the platform {session.platform().name!r} has no endpoint {name!r}", status=404
                )
            endpoint_id = handle.id
            session.forget(name)
        await session.ask(lambda client: client.delete_endpoint(endpoint_id))

    @property
    def declares_code(self) -> bool:
        """Whether it decorates something or has routes."""
        return bool(self._targets or self.routes)

    def _note_streams(self, remote: RemoteClass[..., Any] | RemoteFunction[..., Any]) -> None:
        if self.is_load_balanced:
            return  # its workers run either kind
        if remote._streams and not self._streams and self._is_used:
            raise ConfigError(
                f"endpoint {self.name!r} was called already, with functions that return; generator functions need "
                "workers that stream: decorate all before the first call, or use an endpoint of another name"
            )
        self._streams = self._streams or remote._streams

    @property
    def _carriage(self) -> Carriage:
        if self.is_load_balanced:
            return REQUEST
        return STREAM_JOB if self._streams else JOB

    def _check_callable(self) -> None:
        if self.config.name is None:
            raise ConfigError("this Endpoint has no name and decorates nothing yet; give name=…")
        self.config.require_workers()
        self.config.require_python()
        self._pin_dependencies()
        self._is_used = True

    def _pin_dependencies(self) -> None:
        """Put versions in place of `dependencies="auto"`, and again once something else was declared."""
        if self._given.get("dependencies") != "auto":
            return
        targets = [*(remote.undecorated for remote in self._targets), *(route.function for route in self.routes)]
        if len(targets) != self._pinned_targets:
            self.config = replace(self.config, dependencies=auto_dependencies(targets))
            self._pinned_targets = len(targets)

    def _submit(
        self,
        envelope: CallEnvelope,
        *,
        function_name: str,
        is_generator: bool,
        options: CallOptions,
        args: bytes = b"",
    ) -> Call[Any]:
        self._check_callable()
        if options.worker is not None and not self.is_load_balanced:
            raise ConfigError(
                f"{function_name}() was called with_options(worker={options.worker!r}), and endpoint {self.name!r} is "
                "a queue, from which any worker takes any call; workers can be chosen where it is load-balanced"
            )
        return process.session().submit(
            self.config,
            envelope,
            function_name=function_name,
            streams=self._streams,
            is_generator=is_generator,
            options=options,
            args=args,
        )


_KINDS = {ServerlessType.QB: EndpointKind.QUEUE, ServerlessType.LB: EndpointKind.LOAD_BALANCER}


def _serverless_type(kind: ServerlessType | str) -> ServerlessType:
    try:
        return ServerlessType(kind)
    except ValueError:
        raise ConfigError(
            f"provision({kind!r}): give ServerlessType.QB for a queue or ServerlessType.LB for a load-balanced endpoint"
        ) from None
