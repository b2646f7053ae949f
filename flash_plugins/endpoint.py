# SPDX-License-Identifier: Apache-2.0
"""`Endpoint`: a name, hardware and scaling, under which decorated functions run. A thin face over the rest."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from . import process
from .config import EndpointConfig, EndpointParameters
from .errors import ConfigError
from .remote import RemoteClass, RemoteFunction, RemoteGenerator, is_generator

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .dispatcher import Call
    from .payload import CallEnvelope

__all__ = ["Endpoint"]

P = ParamSpec("P")
T = TypeVar("T")


class Endpoint:
    """Where decorated functions and classes run: a queue of calls and the workers that serve it.

        @Endpoint(name="square", cpu="cpu5c-4-8", workers=(0, 2))
        def square(x):
            return x * x

        square(7).result()  # 49

    Nothing is started, sent or created before the first call.

    Args:
        name: Name of the endpoint on the platform. Default: the name of what is decorated.
        parameters: As described by `EndpointConfig`: gpu, cpu, workers, idle_timeout, env, gpu_count,
            execution_timeout_ms, flashboot, scaler_type, scaler_value, datacenter, min_cuda_version,
            max_concurrency.

    Raises:
        UnknownParameterError: A keyword is no parameter; the closest one is suggested.
        ConfigError: A value cannot be used; the message quotes it and says what can.
    """

    def __init__(self, name: str | None = None, **parameters: Unpack[EndpointParameters]) -> None:
        self.config = EndpointConfig.from_parameters(name, parameters)
        self._streams = False
        self._is_used = False

    def __repr__(self) -> str:
        return f"<Endpoint {self.name!r}, workers {self.config.workers[0]} to {self.config.workers[1]}>"

    @property
    def name(self) -> str | None:
        """Name of the endpoint; None until something is decorated, unless it was given."""
        return self.config.name

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
            ConfigError: It is neither, or the endpoint was called already and serves the other kind of function.
        """
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
        return remote

    def __getstate__(self) -> dict[str, Any]:
        # It travels when a function refers to it. The environment may hold secrets, and workers have it already.
        return dict(self.__dict__, config=self.config.without_env())

    def start(self) -> None:
        """Begin to start the platform and to create the endpoint, in the background, ahead of the first call.

        Raises:
            ConfigError: The endpoint has no name yet or allows no worker, or the settings name no platform.
        """
        self._check_callable()
        process.session().start(self.config, streams=self._streams)

    def _note_streams(self, remote: RemoteClass[..., Any] | RemoteFunction[..., Any]) -> None:
        if remote._streams and not self._streams and self._is_used:
            raise ConfigError(
                f"endpoint {self.name!r} was called already, with functions that return; generator functions need "
                "workers that stream: decorate all before the first call, or use an endpoint of another name"
            )
        self._streams = self._streams or remote._streams

    def _check_callable(self) -> None:
        if self.config.name is None:
            raise ConfigError("this Endpoint has no name and decorates nothing yet; give name=…")
        self.config.require_workers()
        self._is_used = True

    def _submit(self, envelope: CallEnvelope, *, function_name: str, is_generator: bool) -> Call[Any]:
        self._check_callable()
        return process.session().submit(
            self.config,
            envelope,
            function_name=function_name,
            streams=self._streams,
            is_generator=is_generator,
        )
