# SPDX-License-Identifier: Apache-2.0
"""What the user asks of the workers: options of the backend, made into an `Endpoint`. It sends nothing."""

from __future__ import annotations

import difflib
import hashlib
import threading
from collections.abc import Mapping
from typing import Any

import cloudpickle
import joblib

from flash_plugins import ConfigError, Endpoint, RemoteFunction, UnknownParameterError, UnpicklableError

from .batch import Initializer, run_batch

__all__ = ["BackendOptions"]

#: Worker used when neither `gpu` nor `cpu` is given: joblib code is CPU code until somebody says otherwise.
DEFAULT_CPU = "cpu5c-4-8"

#: Requests per worker at which the platform adds one: every batch that waits deserves a worker, up to n_jobs.
_SCALER = {"scaler_type": "REQUEST_COUNT", "scaler_value": 1}

#: Fewest workers that `n_jobs=-1` means without `workers`: with one, joblib would run everything here.
_MIN_DEFAULT_WORKERS = 2

#: Options of the backend itself; all others are parameters of `Endpoint`.
_OWN = ("endpoint", "initializer", "initargs")

_lock = threading.Lock()
_functions: dict[tuple[str, str], tuple[Endpoint, RemoteFunction[..., Any]]] = {}


class BackendOptions:
    """Options given to the backend, checked when made. Immutable.

    Args:
        options: `endpoint` (an `Endpoint` or the name for one), `initializer` and `initargs` (called once in
            every worker process before its first task, as with loky) and any parameter of `Endpoint`.

    Raises:
        UnknownParameterError: An option is neither; the closest one is suggested.
        ConfigError: A value cannot be used, or `endpoint` is an `Endpoint` and something else is given too.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._given = {key: value for key, value in options.items() if value is not None}
        self._parameters = {key: value for key, value in self._given.items() if key not in _OWN}
        self._endpoint = self._given.get("endpoint")
        self._workers: tuple[int, int] | None = None  # None: as many as n_jobs asks for
        if isinstance(self._endpoint, Endpoint):
            self._workers = self._endpoint.config.workers
            if self._parameters:
                raise ConfigError(
                    f"the flash backend got endpoint={self._endpoint.name!r} (an Endpoint) and also "
                    f"{', '.join(sorted(self._parameters))}: set these on the Endpoint, or give a name"
                )
        elif self._endpoint is not None and not isinstance(self._endpoint, str):
            raise ConfigError(f"the flash backend got endpoint={self._endpoint!r}: give an Endpoint or a name")
        elif self._parameters or self._endpoint:
            checked = _make_endpoint(self._endpoint or "joblib", self._parameters)
            if "workers" in self._parameters:
                self._workers = checked.config.workers
        if self._workers is not None and self._workers[1] == 0:
            raise ConfigError("the flash backend needs at least one worker: workers ends at 0")
        if not callable(self._given.get("initializer", print)):
            raise ConfigError(f"the flash backend got initializer={self._given['initializer']!r}: give a function")

    def merged(self, more: Mapping[str, Any]) -> BackendOptions:
        """Return these options with `more` on top."""
        return BackendOptions({**self._given, **more}) if more else self

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
        if isinstance(self._endpoint, Endpoint):
            return self._endpoint, self._endpoint(run_batch)
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


def _default_name(described: str | None, workers: int) -> str:
    digest = "" if described is None else f"-{hashlib.sha256(described.encode()).hexdigest()[:8]}"
    return f"joblib{digest}-n{workers}"


def _make_endpoint(name: str, parameters: Mapping[str, Any]) -> Endpoint:
    complete: dict[str, Any] = {**_SCALER, **parameters}
    if not {"gpu", "cpu"} & complete.keys():
        complete["cpu"] = DEFAULT_CPU
    try:
        return Endpoint(name, **complete)
    except UnknownParameterError as error:
        for key in parameters:
            if repr(key) in str(error) and (close := difflib.get_close_matches(key, _OWN, n=1)):
                raise UnknownParameterError(
                    f"the flash backend has no option {key!r}; did you mean {close[0]!r}?"
                ) from error
        raise
