# SPDX-License-Identifier: Apache-2.0
"""A load-balanced endpoint at work: its workers and who gets the next request. It never touches HTTP itself.

    proxy ── claim, release ──> BalancedFleet ── start, signal ──> processes
                                   └──── asks, every so often ──> health of each worker

There is no queue as jobs have one: a request that finds no worker waits for one, for a limited time, and is
never given to a second worker.

Facts: Runpod's load balancing documentation (2026-08). What it leaves open, chosen here: a request goes to the least
busy worker, and among equals to the one that was busy last, so that the others become idle and stop; a worker
has no limit of its own unless `RUNPOD_MAX_CONCURRENCY` in the endpoint's `env` sets one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .. import api
from .affinity import Affinity, Refusal, Waiting
from .clock import Clock
from .crew import Crew, Identity
from .endpoints import EndpointSpec
from .ports import Ports
from .processes import Processes
from .scaler import Demand, wanted_workers
from .workers import BalancedWorker

__all__ = ["BalancedFleet", "Prober", "balanced_environment"]

#: How often the health of a worker is asked, seconds: until it is healthy first, while it is not again, and then.
_STARTING_PROBE_S = 0.05
_UNWELL_PROBE_S = 0.5
_PROBE_S = 3.0
#: Seconds a worker may be unhealthy until it is killed: so long does Runpod keep one that listens
#: on a wrong port.
_UNWELL_MAX_S = 480.0
#: Ids of workers that were scaled down are remembered for `strict-resume`, at most so many.
_RESTING_MAX = 1_000

#: Asks for the health of a worker, once: called with a URL and with what is called once, later, with the HTTP status
#: or with why there is none.
Prober = Callable[[str, Callable[[int | str], None]], None]


class BalancedFleet(Crew[BalancedWorker]):
    """The workers of one load-balanced endpoint and the requests for them. Not thread-safe: one event loop uses it.

    Args:
        prober: Asks a worker for its health.
        ports: Where workers get their ports from; one for all endpoints of a platform.
    """

    _FIRST_WORK = "the worker was healthy and had a request"

    def __init__(
        self,
        spec: EndpointSpec,
        *,
        clock: Clock,
        processes: Processes,
        environment: Callable[[EndpointSpec, BalancedWorker], dict[str, str]],
        prober: Prober,
        ports: Ports,
    ) -> None:
        super().__init__(spec, clock=clock, processes=processes, environment=environment)
        self._prober = prober
        self._ports = ports
        self._waiting: dict[Waiting, None] = {}
        #: Workers that were scaled down and could be woken up again, the latest last.
        self._resting: dict[str, None] = {}
        self._rescale()

    def _apply_spec(self, spec: EndpointSpec) -> None:
        super()._apply_spec(spec)
        self._cap = spec.worker_cap

    # -- the proxy's side ---------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Requests that are with a worker."""
        return sum(worker.requests for worker in self.workers.values())

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker."""
        return len(self._waiting)

    def claim(self, affinity: Affinity | None = None) -> BalancedWorker | None:
        """Return a worker for one request if there is one just now; `release` it afterwards."""
        worker = self._free_worker(affinity)
        if worker is not None:
            self._occupy(worker)
            self._rescale()
        return worker

    def wait(self, affinity: Affinity | None, deliver: Callable[[BalancedWorker | Refusal], None]) -> Waiting:
        """Wait for a worker; `deliver` is called once, maybe at once, with one (`release` it) or with a refusal."""
        waiting = Waiting(affinity, deliver)
        self._waiting[waiting] = None
        limit_s = api.BALANCED_AFFINITY_WAIT_S if waiting.is_bound else api.BALANCED_WORKER_WAIT_S
        waiting.timer = self._clock.call_later(limit_s, lambda: self._expire(waiting, limit_s))
        self._settle()
        return waiting

    def withdraw(self, waiting: Waiting) -> None:
        """End a wait without an answer. Does nothing if it has had one."""
        if waiting in self._waiting:
            self._end_wait(waiting)
            self._settle()

    def release(self, worker: BalancedWorker) -> None:
        """A request is no longer with its worker."""
        worker.requests -= 1
        worker.idle_since = self._clock.monotonic()
        if worker.is_draining and not worker.requests:
            self._stop(worker)
        self._settle()

    def note_answer(self, worker: BalancedWorker) -> None:
        """A worker has begun to answer: starts do not fail."""
        self._failed_starts = 0

    # -- handing out --------------------------------------------------------------------------------------

    def _settle(self) -> None:
        if self._waiting:
            self._feed()
        if not self.is_closed:
            self._resume()
            self._rescale()

    def _feed(self) -> None:
        is_any_free = True
        for waiting in list(self._waiting):
            if not waiting.is_bound and not is_any_free:
                continue
            refusal = self._refusal(waiting.affinity)
            worker = None if refusal is not None else self._free_worker(waiting.affinity)
            if worker is not None:
                self._occupy(worker)
                self._end_wait(waiting)
                waiting.deliver(worker)
            elif refusal is not None:
                self._end_wait(waiting)
                waiting.deliver(refusal)
            elif not waiting.is_bound:
                is_any_free = False

    def _free_worker(self, affinity: Affinity | None) -> BalancedWorker | None:
        if affinity is not None:
            worker = self.workers.get(affinity.worker_id)
            if worker is not None and self._has_room(worker):
                return worker
            if affinity.is_strict:
                return None
        free = [worker for worker in self.workers.values() if self._has_room(worker)]
        return min(free, key=lambda one: (one.requests, -one.idle_since), default=None)

    def _has_room(self, worker: BalancedWorker) -> bool:
        return worker.is_available and (self._cap is None or worker.requests < self._cap)

    def _refusal(self, affinity: Affinity | None) -> Refusal | None:
        """Return why a request need not wait, None if it may hope."""
        if self.is_closed:
            return Refusal(404, "endpoint deleted")
        if affinity is not None and affinity.is_strict:
            worker = self.workers.get(affinity.worker_id)
            is_there = worker is not None and not worker.is_leaving
            if is_there or (affinity.is_resuming and affinity.worker_id in self._resting):
                return None
            return Refusal(404, api.AFFINITY_GONE_ERROR, f"worker {affinity.worker_id} does not run (any more)")
        if self.spec.workers_max == 0:
            return Refusal(503, api.NO_WORKERS_ERROR, "workers.max of this endpoint is 0")
        return None

    def _occupy(self, worker: BalancedWorker) -> None:
        worker.requests += 1
        worker.has_worked = True

    def _expire(self, waiting: Waiting, limit_s: float) -> None:
        if waiting not in self._waiting:
            return
        self._end_wait(waiting)
        if waiting.is_bound and waiting.affinity is not None:
            worker = self.workers.get(waiting.affinity.worker_id)
            state = "is not back" if worker is None else self._describe(worker)
            detail = f"worker {waiting.affinity.worker_id} {state} after {limit_s:g} s"
            waiting.deliver(Refusal(400, api.AFFINITY_TIMEOUT_ERROR, detail))
        else:
            # Of the log, the latest worker's end: the others say the same.
            states = "; ".join(f"worker {one.id} {self._describe(one)}" for one in list(self.workers.values())[-1:])
            detail = f"within {limit_s:g} s; {states or 'none has been started'}"
            waiting.deliver(Refusal(503, api.NO_WORKERS_ERROR, detail))
        self._settle()

    def _describe(self, worker: BalancedWorker) -> str:
        if worker.is_leaving:
            return "is being stopped"
        if worker.is_available:
            return f"is busy with {worker.requests} requests"
        return f"{worker.health}{self._log_text(worker)}"

    def _end_wait(self, waiting: Waiting) -> None:
        del self._waiting[waiting]
        if waiting.timer is not None:
            waiting.timer.cancel()

    # -- scaling: see `Crew` ------------------------------------------------------------------------------

    def _wanted(self, staying: list[BalancedWorker]) -> int:
        spec = self.spec
        demand = Demand(
            queued=sum(not waiting.is_bound for waiting in self._waiting) if self._waiting else 0,
            running=sum(worker.requests for worker in staying),
        )
        wanted = wanted_workers(spec.scaling, demand, workers_min=spec.workers_min, workers_max=spec.workers_max)
        if wanted:  # unhealthy ones do not count
            wanted = min(wanted + sum(worker.ailment is not None for worker in staying), spec.workers_max)
        return wanted

    def _scale_down(self, worker: BalancedWorker) -> None:
        self._resting[worker.id] = None
        if len(self._resting) > _RESTING_MAX:
            del self._resting[next(iter(self._resting))]
        super()._scale_down(worker)

    def _resume(self) -> None:
        """Start the resting workers that requests wait for, as far as there is room."""
        for waiting in self._waiting if self._resting else ():
            affinity = waiting.affinity
            if affinity is None or not affinity.is_resuming or affinity.worker_id in self.workers:
                continue
            is_full = sum(not worker.is_leaving for worker in self.workers.values()) >= self.spec.workers_max
            if affinity.worker_id in self._resting and not is_full:
                del self._resting[affinity.worker_id]
                self._start_as(affinity.worker_id)

    def update(self, spec: EndpointSpec) -> None:
        """Become `spec`; a new version makes an end of the workers that could have been woken up again."""
        if spec.version != self.spec.version:
            self._resting.clear()
        super().update(spec)

    # -- the life of a worker: see `Crew` -----------------------------------------------------------------

    def _hire(self, identity: Identity) -> BalancedWorker:
        env = self.spec.env
        wanted = int(env[api.PORT_ENV]) if api.PORT_ENV in env else None
        wanted_health = int(env[api.PORT_HEALTH_ENV]) if api.PORT_HEALTH_ENV in env else wanted
        port = self._ports.take(wanted)
        return BalancedWorker(
            id=identity.id,
            token=identity.token,
            version=identity.version,
            started_at=identity.started_at,
            started_wall=identity.started_wall,
            seen_at=identity.started_at,
            port=port,
            health_port=port if wanted_health == wanted else self._ports.take(wanted_health),
        )

    def _start_as(self, worker_id: str) -> BalancedWorker:
        worker = super()._start_as(worker_id)
        self._probe(worker)
        return worker

    def _drain(self, worker: BalancedWorker) -> None:
        if not worker.is_leaving:
            # What takes longer than any request may, such as a WebSocket, is cut.
            self._clock.call_later(api.BALANCED_REQUEST_TIMEOUT_S, lambda: self._stop(worker))
        super()._drain(worker)

    def _kill_by(self, worker: BalancedWorker) -> tuple[float, str] | None:
        if worker.ready_at is None:
            complaint = self._complaint(worker, worker.started_at).removesuffix(")")
            hint = f"; {api.INIT_TIMEOUT_ENV} in its env allows more)"
            return worker.started_at + self._init_timeout_s, complaint + hint
        if worker.unwell_since is not None:
            return worker.unwell_since + _UNWELL_MAX_S, self._complaint(worker, worker.unwell_since)
        return None

    def _complaint(self, worker: BalancedWorker, since: float) -> str:
        return f"was not healthy for {self._clock.monotonic() - since:.0f} s ({worker.health})"

    def _lose(self, worker: BalancedWorker, what: str) -> None:
        for port in {worker.port, worker.health_port}:
            self._ports.give_back(port)
        worker.end = f"worker {worker.id} {what}{self._log_text(worker)}"
        worker.is_gone.set()

    def _give_up(self, reason: str) -> None:
        for waiting in [one for one in self._waiting if not one.is_bound]:
            self._end_wait(waiting)
            waiting.deliver(Refusal(502, reason))

    def _drop_work(self) -> None:
        self._feed()  # which refuses everything now

    # -- health -------------------------------------------------------------------------------------------

    def _probe(self, worker: BalancedWorker) -> None:
        if worker.is_stopping or worker.is_gone.is_set():
            return
        url = f"http://127.0.0.1:{worker.health_port}{self.spec.health_path}"
        self._prober(url, lambda found: self._on_health(worker, found))

    def _on_health(self, worker: BalancedWorker, found: int | str) -> None:
        if self.workers.get(worker.id) is not worker or worker.is_stopping:
            return
        now = self._clock.monotonic()
        where = f"its health check GET {self.spec.health_path} on port {worker.health_port}"
        worker.seen_at = now
        worker.health = f"answers {where} with {found}" if isinstance(found, int) else f"fails {where}: {found}"
        is_changed = (found == 200) != (worker.ready_at is not None and worker.ailment is None)
        if found == 200:
            worker.ailment = worker.unwell_since = None
            if worker.ready_at is None:
                worker.ready_at = worker.idle_since = now
        elif worker.ready_at is not None and worker.ailment is None:
            worker.ailment = worker.health
            worker.unwell_since = now
            self._wake_by(now + _UNWELL_MAX_S)
        if worker.ready_at is None:
            delay_s = _STARTING_PROBE_S
        else:
            delay_s = _PROBE_S if worker.ailment is None else _UNWELL_PROBE_S
        self._clock.call_later(delay_s, lambda: self._probe(worker))
        if is_changed:
            self._settle()


def balanced_environment(spec: EndpointSpec, worker: BalancedWorker, cache_dir: str) -> Mapping[str, str]:
    """Return the variables by which a load-balanced worker knows where to serve and who it is.

    `PORT` of the endpoint's own `env` is what the container listens on, on Runpod. Here workers share a machine: the
    wanted port is given to a worker if it is free and not a system port, and else one that is.
    """
    return {
        api.PORT_ENV: str(worker.port),
        api.PORT_HEALTH_ENV: str(worker.health_port),
        api.HEALTH_CHECK_PATH_ENV: spec.health_path,
        "RUNPOD_POD_ID": worker.id,
        "RUNPOD_POD_HOSTNAME": f"{worker.id}-local",
        "RUNPOD_ENDPOINT_ID": spec.id,
        api.CACHE_DIR_ENV: cache_dir,
        api.CAPPED_ENV: "1",
    }
