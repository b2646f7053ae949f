# SPDX-License-Identifier: Apache-2.0
"""What the user asks of the workers: options of the backend, made into an `Endpoint`. It sends nothing."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import cloudpickle
import joblib

from flash_plugins import (
    CallOptions,
    ConfigError,
    Endpoint,
    EndpointConfig,
    RemoteFunction,
    UnknownParameterError,
    UnpicklableError,
)

from .batch import Initializer, run_batch

__all__ = ["BackendOptions"]

#: Worker used when neither `gpu` nor `cpu` is given: joblib code is CPU code until somebody says otherwise.
DEFAULT_CPU = "cpu5c-4-8"

#: Requests per worker at which the platform adds one: every batch that waits deserves a worker, up to n_jobs.
_SCALER = {"scaler_type": "REQUEST_COUNT", "scaler_value": 1}

#: Fewest workers that `n_jobs=-1` means without `workers`: with one, joblib would run everything here.
_MIN_DEFAULT_WORKERS = 2

#: Options of the backend itself.
_OWN = ("endpoint", "batch", "initializer", "initargs")

#: Options of each call that carries a batch.
_OF_CALLS = ("retries", "retry_on", "backoff", "queue_timeout", "run_timeout", "idempotent")

#: Parameters of `Endpoint` that make it the client of something which runs no code of its caller.
_OF_CLIENTS = ("id", "image")

#: Two ways to say which hardware: the one given later replaces the other.
_HARDWARE = ("gpu", "cpu")

#: What joblib passes to every backend, or its users to those that share memory: of no use on a worker elsewhere.
_HINTS = frozenset({"max_nbytes", "temp_folder", "mmap_mode", "prefer", "require", "verbose", "context"})

#: Parameters of `Endpoint`, beside its name.
_OF_ENDPOINTS = frozenset(field.name for field in dataclasses.fields(EndpointConfig) if field.compare) - {"name"}

#: Parameters of joblib's own.
_OF_PARALLEL = frozenset(inspect.signature(joblib.Parallel.__init__).parameters) - {"self", "backend_kwargs"}

_lock = threading.Lock()
_functions: dict[tuple[str, str], tuple[Endpoint, RemoteFunction[..., Any]]] = {}
#: Of endpoints that users made. They hold their functions, so weak on both sides.
_functions_given: weakref.WeakKeyDictionary[Endpoint, weakref.ref[RemoteFunction[..., Any]]] = (
    weakref.WeakKeyDictionary()
)


class BackendOptions:
    """Options given to the backend, checked when made. Immutable.

    Args:
        options: `endpoint` (an `Endpoint` or the name for one); `batch` (tasks in each job, "auto" for as many as are
            worth one); `initializer` and `initargs` (called once in every worker process before its first task, as
            with loky); `retries`, `retry_on`, `backoff`, `queue_timeout`, `run_timeout` and `idempotent` of each batch,
            as for `with_options`; and any parameter of `Endpoint`.

    Raises:
        UnknownParameterError: An option is none of these; the closest one is suggested.
        ConfigError: A value cannot be used, or `endpoint` is an `Endpoint` and parameters of one are given too.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._given = {key: value for key, value in options.items() if value is not None and key not in _HINTS}
        self._parameters = {key: value for key, value in self._given.items() if key not in (*_OWN, *_OF_CALLS)}
        _refuse_strange(self._parameters)
        self._call_options = _checked_call_options({key: self._given[key] for key in _OF_CALLS if key in self._given})
        self._endpoint = self._given.get("endpoint")
        self._workers: tuple[int, int] | None = None  # None: as many as n_jobs asks for
        if isinstance(self._endpoint, Endpoint):
            _check_endpoint(self._endpoint, self._parameters)
            self._workers = self._endpoint.config.workers
        elif self._endpoint is not None and (not isinstance(self._endpoint, str) or not self._endpoint.strip()):
            raise ConfigError(f"the flash backend got endpoint={self._endpoint!r}: give an Endpoint or a name")
        elif self._parameters or self._endpoint:
            checked = _make_endpoint(self._endpoint or "joblib", self._parameters)
            if "workers" in self._parameters:
                self._workers = checked.config.workers
        if self._workers is not None and self._workers[1] == 0:
            raise ConfigError("the flash backend needs at least one worker: workers ends at 0")
        if not callable(self._given.get("initializer", print)):
            raise ConfigError(f"the flash backend got initializer={self._given['initializer']!r}: give a function")
        if not isinstance(self._given.get("initargs", ()), Iterable):
            raise ConfigError(f"the flash backend got initargs={self._given['initargs']!r}: give a tuple of arguments")
        self.batch = self._checked_batch()

    def _checked_batch(self) -> int | None:
        """Return the tasks of each batch, None for as many as are worth a job."""
        batch = self._given.get("batch", "auto")
        if batch == "auto":
            return 1 if self._call_options.get("run_timeout") is not None else None  # the time of one task, then
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise ConfigError(f"the flash backend got batch={batch!r}: give a number of tasks, at least 1, or 'auto'")
        return batch

    def merged(self, more: Mapping[str, Any]) -> BackendOptions:
        """Return these options with `more` on top; hardware in `more` replaces what was given before."""
        if not more:
            return self
        replaced = _HARDWARE if any(more.get(name) is not None for name in _HARDWARE) else ()
        kept = {key: value for key, value in self._given.items() if key not in replaced}
        return BackendOptions({**kept, **{key: value for key, value in more.items() if value is not None}})

    def as_dict(self) -> dict[str, Any]:
        """Return what `BackendOptions` can be made from again."""
        return dict(self._given)

    @property
    def all_workers(self) -> int:
        """How many workers `n_jobs=-1` means: the most that `workers` allows, else this machine's cores."""
        return self._workers[1] if self._workers else max(joblib.cpu_count(), _MIN_DEFAULT_WORKERS)

    def initializer(self) -> Initializer | None:
        """Return what every worker process calls first, None if nothing.

        Raises:
            UnpicklableError: It cannot travel.
        """
        function = self._given.get("initializer")
        if function is None:
            return None
        args = tuple(self._given.get("initargs", ()))
        try:
            pickled = cloudpickle.dumps((function, args))
        except Exception as error:
            raise UnpicklableError(f"initializer {function!r} with {args!r} cannot be pickled: {error}") from error
        return Initializer(pickled, hashlib.sha256(pickled).hexdigest())

    def function(self, n_jobs: int) -> tuple[Endpoint, RemoteFunction[..., Any]]:
        """Return the endpoint for `n_jobs` workers and `run_batch` on it; the same ones when asked again."""
        endpoint, function = self._plain_function(n_jobs)
        return endpoint, function.with_options(**self._call_options) if self._call_options else function

    def _plain_function(self, n_jobs: int) -> tuple[Endpoint, RemoteFunction[..., Any]]:
        if isinstance(self._endpoint, Endpoint):
            return self._endpoint, _function_of(self._endpoint)
        least, most = self._workers or (0, n_jobs)
        most = min(most, n_jobs)
        described = repr(sorted(self._parameters.items()))
        name = self._endpoint or _default_name(described if self._parameters else None, most)
        with _lock:
            key = (name, f"{most} {described}")
            if key not in _functions:
                endpoint = _make_endpoint(name, {**self._parameters, "workers": (min(least, most), most)})
                _functions[key] = (endpoint, endpoint(run_batch))
            return _functions[key]


def _function_of(endpoint: Endpoint) -> RemoteFunction[..., Any]:
    with _lock:
        known = _functions_given.get(endpoint)
        function = None if known is None else known()
        if function is None:
            function = endpoint(run_batch)
            _functions_given[endpoint] = weakref.ref(function)
        return function


def _refuse_strange(parameters: Mapping[str, Any]) -> None:
    """Refuse what are options of something else, with the way to say it."""
    for name, value in parameters.items():
        if name in _OF_CLIENTS:
            raise ConfigError(
                f"the flash backend got {name}={value!r}: an Endpoint with {name} runs what is there, not your tasks; "
                "leave it out" + (", or give endpoint= the name of your own" if name == "id" else "")
            )
        if name == "dependencies" and value == "auto":
            raise ConfigError(
                "the flash backend got dependencies='auto', and workers are made before anybody knows what the tasks "
                "will use; name it, such as dependencies=['scikit-learn==1.9.1']"
            )
        if name in ("name", "worker"):
            use = "endpoint=" if name == "name" else "workers="
            raise UnknownParameterError(f"the flash backend has no option {name!r}; did you mean {use[:-1]!r}?")
        if name in _OF_PARALLEL:
            raise UnknownParameterError(
                f"the flash backend has no option {name!r}: it is one of Parallel's, Parallel({name}={value!r})"
                + ("; to limit the time of a task on its worker give run_timeout" if name == "timeout" else "")
                + ("; for code whose Parallel is not yours give batch" if name == "batch_size" else "")
            )
        if name not in _OF_ENDPOINTS:
            known = [*_OWN, *_OF_CALLS, *sorted(_OF_ENDPOINTS - set(_OF_CLIENTS))]
            close = difflib.get_close_matches(name, [*known, "n_jobs"], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
            raise UnknownParameterError(f"the flash backend has no option {name!r}; {hint}")


def _checked_call_options(given: dict[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        try:
            CallOptions(**{name: value})
        except ConfigError as error:
            wanted = str(error).removeprefix(f"with_options({name}={value!r}): ")
            raise ConfigError(f"the flash backend got {name}={value!r}: {wanted}") from None
    return given


def _check_endpoint(endpoint: Endpoint, parameters: Mapping[str, Any]) -> None:
    what = f"the flash backend got endpoint={endpoint.name or endpoint.config.id!r} (an Endpoint)"
    if parameters:
        raise ConfigError(f"{what} and also {', '.join(sorted(parameters))}: set these on the Endpoint, or give a name")
    if endpoint.is_client:
        raise ConfigError(
            f"{what}: it is the client of something that exists and runs no tasks; give one without id and image"
        )
    if endpoint.routes:
        raise ConfigError(f"{what}: it has routes, and tasks need an Endpoint of their own")


def _default_name(described: str | None, workers: int) -> str:
    digest = "" if described is None else f"-{hashlib.sha256(described.encode()).hexdigest()[:8]}"
    return f"joblib{digest}-n{workers}"


def _make_endpoint(name: str, parameters: Mapping[str, Any]) -> Endpoint:
    complete: dict[str, Any] = {**_SCALER, **parameters}
    if not {"gpu", "cpu"} & complete.keys():
        complete["cpu"] = DEFAULT_CPU
    return Endpoint(name, **complete)
