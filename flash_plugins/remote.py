# SPDX-License-Identifier: Apache-2.0
"""What a decorated function or class becomes: something whose calls run on the endpoint's workers."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from . import code, process
from .dispatcher import Call, StreamCall
from .errors import UnpicklableError
from .mapping import Mappable
from .objects.digest import digest_of
from .objects.space import Lease
from .options import NO_OPTIONS, CallOptions, OptionParameters
from .payload import CallEnvelope, Carriage
from .settings import worker_endpoint
from .work import part

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Unpack

    from .config import EndpointConfig
    from .endpoint import Endpoint

__all__ = [
    "RemoteClass",
    "RemoteFunction",
    "RemoteGenerator",
    "RemoteInstance",
    "RemoteMethod",
    "note_travel",
    "starting_others",
]

P = ParamSpec("P")
T = TypeVar("T")


#: Most bytes of code that calls of a map share, and of arguments with which they do: together far from any limit.
_SHARED_MAX_BYTES = 4_000_000
_PLAIN_MAX_BYTES = 64_000


@dataclass(frozen=True, slots=True)
class _Blob:
    """Something pickled, with its digest, and what keeps its objects stored."""

    pickled: code.Pickled
    digest: str
    lease: Lease | None = None

    @classmethod
    def of(cls, value: object, what: str, config: EndpointConfig | None, before: _Blob | None = None) -> _Blob:
        """Return a value as a blob: the one before if that is the same, and its objects are where they must be."""
        if (
            before is not None
            and (before.lease is None or process.is_open_space(before.lease.space))
            and code.gives_again(value, before.pickled, threshold_bytes=process.object_min_bytes())
        ):
            return before
        sink = process.object_sink(config)
        pickled = code.dumps(value, what=what, sink=sink)
        return cls(pickled, digest_of(pickled.data), sink.lease())


class _Shipped:
    """A function or class as a blob: another one once it, a global or a helper that it uses was changed."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._name = str(getattr(target, "__qualname__", None) or type(target).__qualname__)
        self._latest: _Blob | None = None

    def _blob(self, config: EndpointConfig | None) -> _Blob:
        self._latest = latest = _Blob.of(self._target, f"{self._name}()", config, self._latest)
        return latest

    def envelope(
        self,
        arguments: tuple[Any, ...],
        *,
        carriage: Carriage,
        config: EndpointConfig | None = None,
        method: str | None = None,
        instance: _Blob | None = None,
        shipped: _Blob | None = None,
    ) -> CallEnvelope:
        """Return the call with these arguments, which are pickled now: later changes of them do not travel.

        Args:
            arguments: Positional and keyword arguments.
            carriage: What takes the call to a worker.
            config: The endpoint, whose store takes the large parts; None for that of the platform.
            method: Of an instance, its name.
            instance: Of a call of a method, the arguments of the constructor.
            shipped: The function as it was for a call before; None to take it as it is now.

        Raises:
            UnpicklableError: The function or an argument cannot be pickled.
            PayloadTooLarge: Arguments, function and source together are over the limit of one call.
            StoreError: A large argument cannot be stored.
            PlatformUnavailable: There is a large argument, and the platform does not start.
        """
        where = f"{self._name}()" if method is None else f"{self._name}.{method}()"
        if (name := part.get()[2]) is not None:
            where = str(name)
        sink = process.object_sink(config)
        try:
            packed = code.dumps(arguments, what=f"the arguments of {where}", sink=sink)
        except UnpicklableError as error:
            sink.abandon()
            raise _of_one_argument(self._target, method, arguments, where) or error from error.__cause__
        shipped = shipped or self._blob(config)
        carried = [shipped] if instance is None else [shipped, instance]
        held = sink.lease(*(blob.lease for blob in carried))
        blobs: dict[str, bytes | memoryview] = {blob.digest: blob.pickled.data for blob in carried}
        modules = packed.modules.union(*(blob.pickled.modules for blob in carried))
        bundle = code.bundle_modules(modules) if modules else None
        installed = packed.installed.union(*(blob.pickled.installed for blob in carried))
        if bundle is not None:
            blobs[bundle.digest] = bundle.data
            installed |= bundle.installed
        parts = {"arguments": len(packed.data), "code": sum(map(len, blobs.values()))}
        places = {} if held is None else held.places_by_ref()
        url = next((space.url for space in places.values()), None)
        if places and url is None:
            parts["large objects"] = sum(ref.size for ref in places)
        try:
            carriage.check(parts, f"a call of {where}")
        except BaseException:
            if held is not None:
                held.release()
            raise
        if places and url is None:  # they travel with the call
            blobs.update({ref.digest: space.fetch(ref) for ref, space in places.items()})
        return CallEnvelope(
            code=shipped.digest,
            args=packed.data,
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            bundle=None if bundle is None else bundle.digest,
            instance=None if instance is None else instance.digest,
            method=method,
            log_level=logging.getLogger().getEffectiveLevel(),
            packages=code.stated(installed),
            blobs=blobs,
            objects=url,
            held=held,
        )


def _of_one_argument(target: Any, method: str | None, arguments: Any, where: str) -> UnpicklableError | None:
    """Return the error for the argument that cannot be pickled, by its name; None if each of them can."""
    args, kwargs = arguments
    named = _positional_names(target, method)[: len(args)]
    names = [repr(name) for name in named] + [str(number) for number in range(len(named) + 1, len(args) + 1)]
    for name, value in [*zip(names, args, strict=True), *((repr(key), value) for key, value in kwargs.items())]:
        try:
            code.dumps(value, what=f"argument {name} of {where}")
        except UnpicklableError as error:
            return error
    return None


def _positional_names(target: Any, method: str | None) -> list[str]:
    function = target if method is None else getattr(target, method)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []  # made in C, and tells none
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_self = method is not None and not isinstance(
        inspect.getattr_static(target, method), classmethod | staticmethod
    )
    return names[1:] if takes_self else names


class _Optioned:
    """Something whose calls have options."""

    #: Of the class where none were given: what travels is then the same as if there were none.
    _options: CallOptions = NO_OPTIONS

    def with_options(self, **options: Unpack[OptionParameters]) -> Self:
        """Return the same with options for each call: `f.with_options(retries=3, timeout=60)(x)`.

        They are added to those given before, and change nothing of the code that travels. Calls that a worker makes of
        its own endpoint run in place and take no notice of them.

        Args:
            options: The fields of `CallOptions`.

        Raises:
            UnknownParameterError: A keyword is no option; the closest one is suggested.
            ConfigError: A value cannot be used.
        """
        return self._optioned(self._options.merged(options))

    def _optioned(self, options: CallOptions) -> Self:
        made = object.__new__(type(self))  # not `copy`, which would pack it as for a worker
        made.__dict__.update(self.__dict__, _options=options)
        return made


class _Repeated:
    """Makes many calls of one function, which is pickled for the first of them. One thread.

    Calls with plain arguments, and with the same of everything else, share one envelope.

    Args:
        endpoint: Whose function.
        shipped: The function or class.
        function_name: For messages.
        method: Its method that is called, None for a function.
        instance: The constructor arguments, of a method.
        is_generator: Whether its calls yield values.
        options: Of each call.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        shipped: _Shipped,
        *,
        function_name: str,
        options: CallOptions,
        method: str | None = None,
        instance: _Blob | None = None,
        is_generator: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._shipped = shipped
        self._function_name = function_name
        self._options = options
        self._method = method
        self._instance = instance
        self._is_generator = is_generator
        self._blob: _Blob | None = None
        self._shared: CallEnvelope | None = None
        self._plain_max_bytes = min(process.object_sink(endpoint.config).threshold_bytes, _PLAIN_MAX_BYTES)

    def __call__(self, /, *args: Any) -> Call[Any]:
        """Make a call; raises as `RemoteFunction.__call__`."""
        arguments: tuple[Any, ...] = (args, {})
        plain = code.plain_dumps(arguments, self._plain_max_bytes)
        envelope = self._shared
        if plain is None or envelope is None:
            plain, envelope = b"", self._envelope(arguments, is_plain=plain is not None)
        return self._endpoint._submit(
            envelope,
            function_name=self._function_name,
            is_generator=self._is_generator,
            options=self._options,
            args=plain,
        )

    def _envelope(self, arguments: tuple[Any, ...], *, is_plain: bool) -> CallEnvelope:
        self._blob = self._blob or self._shipped._blob(self._endpoint.config)
        with starting_others(self._endpoint):
            envelope = self._shipped.envelope(
                arguments,
                config=self._endpoint.config,
                carriage=self._endpoint._carriage,
                method=self._method,
                instance=self._instance,
                shipped=self._blob,
            )
        has_room = sum(map(len, envelope.blobs.values())) < _SHARED_MAX_BYTES
        if is_plain and has_room and (envelope.held is None or not envelope.held.refs):
            self._shared = replace(envelope, args=b"", held=None)
        return envelope


class RemoteFunction(_Optioned, Mappable[T], Generic[P, T]):
    """A decorated function: calling it runs it on a worker of its endpoint and returns a `Call` at once.

    Arguments are pickled in the calling thread, so they may be changed right after. On a worker of the same
    endpoint the function runs in place. `T` is the type of the result, of a coroutine function what it returns.
    """

    def __init__(self, endpoint: Endpoint, function: Callable[P, Any]) -> None:
        self.endpoint = endpoint
        self._function = function
        self._streams = is_generator(function)
        self._shipped = _Shipped(function)
        functools.update_wrapper(self, function)

    def __repr__(self) -> str:
        return f"<RemoteFunction {self._shipped._name}() on endpoint {self.endpoint.name!r}>"

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Run the function on a worker.

        Raises:
            UnpicklableError: The function or an argument cannot be pickled.
            PayloadTooLarge: The arguments are over the limit of one call.
            ConfigError: The endpoint allows no worker, the settings name no platform, or an option does not go with
                the endpoint.
        """
        if worker_endpoint() == self.endpoint.name:
            return _in_place(self.endpoint, self._function, args, kwargs, self._shipped._name)
        with starting_others(self.endpoint):
            envelope = self._shipped.envelope(
                (args, kwargs), config=self.endpoint.config, carriage=self.endpoint._carriage
            )
        return self.endpoint._submit(
            envelope, function_name=self._shipped._name, is_generator=self._streams, options=self._options
        )

    def _repeated(self) -> Callable[..., Call[Any]]:
        if worker_endpoint() == self.endpoint.name:
            return self
        return _Repeated(
            self.endpoint,
            self._shipped,
            function_name=self._shipped._name,
            is_generator=self._streams,
            options=self._options,
        )

    def local(self, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run the function here, as if it were not decorated: of a coroutine function the result is a coroutine."""
        return self._function(*args, **kwargs)

    @property
    def undecorated(self) -> Callable[P, Any]:
        """The function itself."""
        return self._function

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else BoundFunction(self, instance)

    def __reduce_ex__(self, protocol: object) -> Any:
        note_travel(self.endpoint)
        # Made empty first and filled later: the function's own globals may lead back here.
        return type(self).__new__, (type(self),), dict(self.__dict__, _shipped=None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shipped = _Shipped(self._function)


class RemoteGenerator(RemoteFunction[P, list[T]], Generic[P, T]):
    """A decorated generator function: calling it returns a `StreamCall`, whose values arrive as they are yielded."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> StreamCall[T]:
        """Run the function on a worker; raises as `RemoteFunction.__call__`."""
        return cast("StreamCall[T]", super().__call__(*args, **kwargs))


class RemoteClass(Generic[P, T]):
    """A decorated class: calling it returns a `RemoteInstance`, without any request.

    The real instance is made on each worker that gets a call, once per worker and equal constructor arguments.
    """

    def __init__(self, endpoint: Endpoint, cls: Callable[P, T]) -> None:
        self.endpoint = endpoint
        self._class = cls
        self._shipped = _Shipped(cls)
        self._streams = any(is_generator(member) for member in _methods(cls).values())
        functools.update_wrapper(self, cls, updated=())

    def __repr__(self) -> str:
        return f"<RemoteClass {self._shipped._name} on endpoint {self.endpoint.name!r}>"

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> RemoteInstance:
        """Return a stand-in for an instance made with these arguments.

        Raises:
            UnpicklableError: The arguments cannot be pickled.
            TypeError: The class does not take these arguments.
        """
        with contextlib.suppress(ValueError):  # a class made in C that tells no signature: the worker will say
            inspect.signature(self._class).bind(*args, **kwargs)
        what = f"the constructor arguments of {self._shipped._name}"
        return RemoteInstance(self, _Blob.of((args, kwargs), what, self.endpoint.config))

    @property
    def local(self) -> Callable[P, T]:
        """The class itself."""
        return self._class

    @property
    def undecorated(self) -> Callable[P, T]:
        """The class itself, by the name that functions have too."""
        return self._class

    def __reduce_ex__(self, protocol: object) -> Any:
        note_travel(self.endpoint)
        return RemoteClass.__new__, (RemoteClass,), dict(self.__dict__, _shipped=None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shipped = _Shipped(self._class)


class RemoteInstance(_Optioned):
    """Stands for one instance of a decorated class; its public methods run on workers.

    `with_options` is the stand-in's own: options for the calls of all its methods.
    """

    def __init__(self, remote_class: RemoteClass[..., Any], arguments: _Blob) -> None:
        self._remote_class = remote_class
        self._arguments = arguments

    def __repr__(self) -> str:
        return f"<RemoteInstance of {self._remote_class._shipped._name}>"

    def __getattr__(self, name: str) -> RemoteMethod:
        if name.startswith("_"):
            raise AttributeError(f"{name!r} is private; only public methods of a decorated class run on workers")
        member = getattr(self._remote_class._class, name, None)
        if not callable(member):
            methods = [method for method in _methods(self._remote_class._class) if not method.startswith("_")]
            raise AttributeError(
                f"{self._remote_class._shipped._name} has no method {name!r}; it has: {', '.join(methods) or 'none'} "
                "(attributes stay on the worker: write a method that returns them)"
            )
        method = RemoteMethod(self, name, is_generator=is_generator(member))
        return method if self._options is NO_OPTIONS else method._optioned(self._options)


class RemoteMethod(_Optioned, Mappable[Any]):
    """A method of a `RemoteInstance`: call it, or `map` it, as a decorated function."""

    def __init__(self, instance: RemoteInstance, name: str, *, is_generator: bool) -> None:
        self._instance = instance
        self._name = name
        self._is_generator = is_generator

    def __call__(self, /, *args: Any, **kwargs: Any) -> Call[Any]:
        """Run the method on a worker; raises as `RemoteFunction.__call__`."""
        remote_class = self._instance._remote_class
        shipped = remote_class._shipped
        if worker_endpoint() == remote_class.endpoint.name:
            return _in_place(remote_class.endpoint, self._run, args, kwargs, f"{shipped._name}.{self._name}")
        with starting_others(remote_class.endpoint):
            envelope = shipped.envelope(
                (args, kwargs),
                config=remote_class.endpoint.config,
                carriage=remote_class.endpoint._carriage,
                method=self._name,
                instance=self._instance._arguments,
            )
        return remote_class.endpoint._submit(
            envelope,
            function_name=f"{shipped._name}.{self._name}",
            is_generator=self._is_generator,
            options=self._options,
        )

    def _label(self) -> str:
        return f"{self._instance._remote_class._class.__name__}.{self._name}"

    def _repeated(self) -> Callable[..., Call[Any]]:
        remote_class = self._instance._remote_class
        if worker_endpoint() == remote_class.endpoint.name:
            return self
        return _Repeated(
            remote_class.endpoint,
            remote_class._shipped,
            function_name=f"{remote_class._shipped._name}.{self._name}",
            method=self._name,
            instance=self._instance._arguments,
            is_generator=self._is_generator,
            options=self._options,
        )

    def _run(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the method right here, on the one instance that this process has for it."""
        from .inplace import instance_here  # only workers need it

        instance = instance_here(self._instance._remote_class._class, self._instance._arguments.pickled.data)
        return getattr(instance, self._name)(*args, **kwargs)


class BoundFunction(Mappable[Any]):
    """A decorated function looked up on an instance of an undecorated class, which becomes its first argument.

    The instance travels with each call.
    """

    def __init__(self, function: RemoteFunction[..., Any], instance: object) -> None:
        self._function = function
        self._instance = instance
        functools.update_wrapper(self, function, updated=())

    def __repr__(self) -> str:
        return f"<{self._function!r} bound to {self._instance!r}>"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Call[Any]:
        """Run the method on a worker; raises as `RemoteFunction.__call__`."""
        return self._function(self._instance, *args, **kwargs)

    def with_options(self, **options: Unpack[OptionParameters]) -> BoundFunction:
        """As `RemoteFunction.with_options`."""
        return BoundFunction(self._function.with_options(**options), self._instance)

    def local(self, /, *args: Any, **kwargs: Any) -> Any:
        """As `RemoteFunction.local`."""
        return self._function.local(self._instance, *args, **kwargs)


def _methods(cls: Any) -> dict[str, Any]:
    """Return the functions of a class by name. Looking runs nothing: no property of the class, no descriptor."""
    found = {}
    for name, member in inspect.getmembers_static(cls):
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if callable(function):
            found[name] = function
    return found


def is_generator(function: Any) -> bool:
    """Return whether calling it yields values, in a coroutine or not."""
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _in_place(endpoint: Endpoint, function: Callable[..., Any], args: Any, kwargs: Any, name: str) -> Call[Any]:
    """Run a call on the worker where it is made."""
    from .inplace import call_here  # only workers need it

    return call_here(function, args, kwargs, endpoint_name=str(endpoint.name), function_name=name)


#: Endpoints whose functions are being pickled, by the thread that does it.
_travelling: ContextVar[list[Endpoint] | None] = ContextVar("flash_plugins_travelling", default=None)


def note_travel(endpoint: Endpoint) -> None:
    """Note that an endpoint travels to a worker, which may use it."""
    if (travelling := _travelling.get()) is not None and endpoint not in travelling:
        travelling.append(endpoint)


@contextlib.contextmanager
def starting_others(endpoint: Endpoint) -> Iterator[None]:
    """Begin to create the endpoints whose functions are pickled within: a worker will call them.

    It could create them itself, but their `env` does not travel.
    """
    travelling: list[Endpoint] = []
    token = _travelling.set(travelling)
    try:
        yield
    finally:
        _travelling.reset(token)
    for other in travelling:
        if other is not endpoint and other.name != worker_endpoint():
            other.start()
