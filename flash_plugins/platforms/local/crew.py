# SPDX-License-Identifier: Apache-2.0
"""The workers of one endpoint, from start to exit. What they work on is the business of `fleet` and `balanced`.

    start ──> initializing ──> ready ──> draining ──> stopping (SIGTERM, later SIGKILL) ──> exit
                   │             └── idle for too long ──────┘                               ▲
                   └── too slow, or silent: killed ─────────────────────────────────────────┘

Everything happens by events, on one event loop. A worker that ends before it was given work is a failed
start: the next ones are delayed, and after a few in a row what waits is told the reason.
"""

from __future__ import annotations

import secrets
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from .. import api
from .clock import Clock, Timer
from .endpoints import EndpointSpec, random_id
from .processes import Processes, describe_exit, worker_argv
from .scaler import restart_delay_s
from .workers import Worker

__all__ = ["Crew", "Identity"]

#: Starts in a row that end without work taken until what waits fails with the reason.
_FAILED_STARTS_MAX = 3
#: Seconds a worker gets to end after SIGTERM.
_STOP_GRACE_S = 5.0
#: Log lines shown in the error of what workers could not finish.
_LOG_LINES = 20

AnyWorker = TypeVar("AnyWorker", bound=Worker)


@dataclass(frozen=True, slots=True)
class Identity:
    """What every worker starts its life with; the fields of `Worker` of the same names."""

    id: str
    token: str
    version: int
    started_at: float
    started_wall: float


class Crew(ABC, Generic[AnyWorker]):
    """The workers of one endpoint. Not thread-safe: one event loop uses it.

    Args:
        environment: Returns the whole environment of a worker of an endpoint.
    """

    #: What a worker must have had for its start to count as a success, as in "before …".
    _FIRST_WORK: ClassVar[str]

    def __init__(
        self,
        spec: EndpointSpec,
        *,
        clock: Clock,
        processes: Processes,
        environment: Callable[[EndpointSpec, AnyWorker], dict[str, str]],
    ) -> None:
        self.spec = spec
        self.workers: dict[str, AnyWorker] = {}
        self.is_closed = False
        self.is_ending = False  # together with the platform
        self._clock = clock
        self._processes = processes
        self._environment = environment
        self._failed_starts = 0
        self._start_not_before = 0.0
        self._wake: Timer | None = None
        self._wake_at = float("inf")
        self._apply_spec(spec)

    # -- what the kinds of endpoints differ in ------------------------------------------------------------

    @abstractmethod
    def _hire(self, identity: Identity) -> AnyWorker:
        """Return a new worker; its process is started next."""

    @abstractmethod
    def _wanted(self, staying: list[AnyWorker]) -> int:
        """Return how many workers there should be; `staying` are those that are not leaving."""

    @abstractmethod
    def _kill_by(self, worker: AnyWorker) -> tuple[float, str] | None:
        """Return when to kill a worker and what will have been wrong by then, if something is."""

    @abstractmethod
    def _settle(self) -> None:
        """Hand out what can be handed out after a change, and rescale."""

    @abstractmethod
    def _lose(self, worker: AnyWorker, what: str) -> None:
        """Deal with the work of a worker whose process `what` (as in "ended with exit code 1")."""

    @abstractmethod
    def _give_up(self, reason: str) -> None:
        """Fail everything that waits for a worker: none starts."""

    @abstractmethod
    def _drop_work(self) -> None:
        """End all work: the endpoint is deleted."""

    def _dismiss(self, worker: AnyWorker) -> None:
        """Free a worker from what it waits for: it is asked to end next."""

    # -- the owner's side ---------------------------------------------------------------------------------

    def worker_counts(self) -> dict[str, int]:
        """Return how many workers are in which state, in lower case."""
        counts = dict.fromkeys(("running", "idle", "initializing", "throttled", "unhealthy"), 0)
        for worker in self.workers.values():
            if not worker.is_stopping:
                counts[worker.status.lower()] += 1
        return counts

    def update(self, spec: EndpointSpec) -> None:
        """Become `spec`: idle workers of an older version are replaced at once, busy ones after their work."""
        self._apply_spec(spec)
        for worker in list(self.workers.values()):
            if worker.version != spec.version:
                self._drain(worker)
        surplus = [worker for worker in self.workers.values() if not worker.is_leaving][spec.workers_max :]
        for worker in surplus:
            self._drain(worker)
        self._failed_starts = 0
        self._settle()

    def close(self) -> None:
        """End all work and stop all workers."""
        self.is_closed = True
        self._drop_work()
        for worker in list(self.workers.values()):
            self._stop(worker)
        if self._wake is not None:
            self._wake.cancel()

    def _apply_spec(self, spec: EndpointSpec) -> None:
        self.spec = spec
        self._init_timeout_s = float(spec.env.get(api.INIT_TIMEOUT_ENV, api.WORKER_INIT_TIMEOUT_S))

    # -- scaling ------------------------------------------------------------------------------------------

    def _rescale(self) -> None:
        staying = [worker for worker in self.workers.values() if not worker.is_leaving]
        wanted = self._wanted(staying)
        if wanted > len(staying):
            self._start(wanted - len(staying))
        elif wanted < len(staying):
            self._stop_idle(staying, len(staying) - wanted)

    def _stop_idle(self, staying: list[AnyWorker], surplus: int) -> None:
        now = self._clock.monotonic()
        for worker in staying:
            if worker.load or worker.ready_at is None:
                continue
            stop_at = worker.idle_since + self.spec.idle_timeout_s
            if stop_at > now:
                self._wake_by(stop_at)
            elif surplus > 0:
                surplus -= 1
                self._scale_down(worker)

    def _scale_down(self, worker: AnyWorker) -> None:
        self._stop(worker)

    def _wake_by(self, when: float) -> None:
        if when >= self._wake_at or self.is_closed:
            return
        if self._wake is not None:
            self._wake.cancel()
        self._wake_at = when
        self._wake = self._clock.call_later(when - self._clock.monotonic(), self._on_wake)

    def _on_wake(self) -> None:
        self._wake = None
        self._wake_at = float("inf")
        if not self.is_closed:
            self._check_workers()
            self._rescale()

    # -- the life of a worker -----------------------------------------------------------------------------

    def _start(self, count: int) -> None:
        if self._clock.monotonic() < self._start_not_before:
            self._wake_by(self._start_not_before)
            return
        for _ in range(count):
            self._start_as(random_id())

    def _start_as(self, worker_id: str) -> AnyWorker:
        now = self._clock.monotonic()
        worker = self._hire(
            Identity(worker_id, secrets.token_hex(16), self.spec.version, now, self._clock.wall()),
        )
        self.workers[worker.id] = worker

        def on_exit(code: int | None, failure: str | None) -> None:
            self._on_exit(worker, code, failure)

        self._processes.start(worker.id, worker_argv(self.spec.args), self._environment(self.spec, worker), on_exit)
        self._wake_by(now + self._init_timeout_s)
        return worker

    def _drain(self, worker: AnyWorker) -> None:
        worker.is_draining = True
        if not worker.load:
            self._stop(worker)

    def _stop(self, worker: AnyWorker) -> None:
        """Have a worker end: ask it, and insist when it takes too long."""
        if worker.is_stopping or self.workers.get(worker.id) is not worker:
            return
        worker.is_stopping = True
        self._dismiss(worker)
        self._processes.signal(worker.id, signal.SIGTERM)

        def insist() -> None:
            if self.workers.get(worker.id) is worker:
                self._processes.signal(worker.id, signal.SIGKILL)

        self._clock.call_later(_STOP_GRACE_S, insist)

    def _check_workers(self) -> None:
        """Kill workers that never got ready or fell silent; `_on_exit` does the rest."""
        now = self._clock.monotonic()
        for worker in self.workers.values():
            verdict = None if worker.is_stopping else self._kill_by(worker)
            if verdict is None:
                continue
            due, reason = verdict
            if now < due:
                self._wake_by(due)
            elif worker.killed_because is None:
                worker.killed_because = f"{reason} and was killed"
                self._processes.signal(worker.id, signal.SIGKILL)

    def _on_exit(self, worker: AnyWorker, code: int | None, failure: str | None) -> None:
        self.workers.pop(worker.id, None)
        self._dismiss(worker)
        what = worker.killed_because or (f"could not be started: {failure}" if code is None else describe_exit(code))
        self._lose(worker, what)
        if not worker.is_leaving and not worker.has_worked and not self.is_closed:
            self._on_failed_start(worker, what)
        self._settle()

    def _on_failed_start(self, worker: AnyWorker, what: str) -> None:
        self._failed_starts += 1
        self._start_not_before = self._clock.monotonic() + restart_delay_s(self._failed_starts)
        if self._failed_starts >= _FAILED_STARTS_MAX:
            command = "flash_plugins.worker" if self.spec.args == api.WORKER_COMMAND else repr(self.spec.args)
            self._give_up(
                f"{api.WORKER_START_FAILED_PREFIX}{self._failed_starts} starts of {command} in a row ended "
                f"before {self._FIRST_WORK}; the last one {what}{self._log_text(worker)}"
            )

    def _log_text(self, worker: AnyWorker) -> str:
        lines = self._processes.log_tail(worker.id, _LOG_LINES)
        return "; its log ends with:\n" + "\n".join(lines) if lines else "; it wrote no log"
