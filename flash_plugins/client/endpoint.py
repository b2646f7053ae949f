# SPDX-License-Identifier: Apache-2.0
"""`EndpointClient`: the requests that an endpoint takes, whoever made it. It creates no endpoint: its target may.

Every operation returns a `Pending`: nothing is sent before it is awaited or asked for its `result()`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, overload

from ..dispatcher.readiness import Readiness
from ..dispatcher.window import Patience
from ..errors import ApiError, ConfigError, NotFoundError, PayloadTooLarge, PlatformUnavailable
from ..pending import Pending
from ..platforms import api
from ..platforms.api import EndpointKind
from .balanced import BalancedRequest, checked_timeout
from .job import EndpointJob, JobStream
from .jsonable import to_json
from .routecall import decoder_of, request_of
from .targets import is_not_found, was_not_sent

if TYPE_CHECKING:
    from ..dispatcher import Session
    from ..platforms.runpod import EndpointHandle, RunpodClient
    from ..routes import Route
    from .targets import Target

__all__ = ["TIMEOUT_S", "EndpointClient"]


P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that a request may take unless its caller says otherwise: as in `runpod_flash`.
TIMEOUT_S: Final = 60.0


class EndpointClient:
    """The client of one endpoint: jobs for a queue, HTTP requests for a load-balanced one.

    Made by `Endpoint.client`. Thread-safe. Routes of one's own endpoint are methods, under the names of their
    functions: `await api.client.predict(text="…")`; see `call`.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._readiness = Readiness()
        self._new_jobs: dict[str, float] = {}  # by id, until when they may be unknown to a server of the platform

    def __repr__(self) -> str:
        return f"<EndpointClient of {self._target.words}>"

    @property
    def words(self) -> str:
        """What it is the client of, such as `endpoint 'abc123'`."""
        return self._target.words

    # -- jobs -----------------------------------------------------------------------------------------------

    def run(
        self, input_data: Any, *, webhook: str | None = None, policy: Mapping[str, Any] | None = None, **fields: Any
    ) -> Pending[EndpointJob]:
        """Submit a job; the outcome is the job, which may still be queued.

        Args:
            input_data: What the handler gets as `input`, anything that JSON can express.
            webhook: URL to which the platform posts the job once it is over.
            policy: Limits of this job: `executionTimeout` and `ttl` in milliseconds, `lowPriority`.
            fields: Further fields of the request, such as `s3Config`.

        Raises:
            TypeError: JSON cannot express the input.
            PayloadTooLarge: It is more than the platform takes in one job (10 MB).
            ApiError: The platform refused; also a `httpx.HTTPStatusError` where httpx is imported.
        """
        body = _job_body(input_data, api.RUN_MAX_BYTES, "run()", {"webhook": webhook, "policy": policy, **fields})
        return self._pending("run()", lambda session: self._job(session, "run", body=body))

    def runsync(
        self,
        input_data: Any,
        timeout: float = TIMEOUT_S,
        *,
        webhook: str | None = None,
        policy: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Pending[EndpointJob]:
        """Submit a job and wait for it on the platform; the outcome is the job, unfinished if that was too short.

        Args:
            input_data: As for `run`.
            timeout: Seconds to wait, 1 to 300. Then `wait()` of the job goes on.
            webhook: As for `run`.
            policy: As for `run`.
            fields: As for `run`.

        Raises:
            PayloadTooLarge: It is more than the platform takes in one job (20 MB).
            Exception: As for `run`.
        """
        more = {"webhook": webhook, "policy": policy, **fields}
        body = _job_body(input_data, api.RUNSYNC_MAX_BYTES, "runsync()", more)
        wait_ms = min(
            max(int(checked_timeout(timeout, "runsync()") * 1000), api.RUNSYNC_WAIT_MIN_MS), api.RUNSYNC_WAIT_MAX_MS
        )
        hold_s = wait_ms / 1000 + _HOLD_SLACK_S
        return self._pending(
            "runsync()",
            lambda session: self._job(session, "runSync", body=body, query=f"?wait={wait_ms}", read_timeout_s=hold_s),
        )

    def status(self, job_id: str) -> Pending[EndpointJob]:
        """Look at a job by its id; the outcome is the job as it is now.

        Raises:
            NotFoundError: There is no such job, or it is no longer kept.
        """
        return self._pending("status()", lambda session: self._job(session, "status", _checked_id(job_id)))

    def cancel(self, job_id: str) -> Pending[EndpointJob]:
        """Cancel a job by its id, queued or running; the outcome is the job."""
        return self._pending("cancel()", lambda session: self._job(session, "cancel", _checked_id(job_id)))

    def retry(self, job_id: str) -> Pending[EndpointJob]:
        """Run a job that failed or timed out again, under the same id and with the same input; the outcome is the job.

        Raises:
            ApiError: It did neither, or is no longer kept.
        """
        return self._pending("retry()", lambda session: self._job(session, "retry", _checked_id(job_id)))

    def stream(self, job_id: str) -> JobStream:
        """Return what a job yields, for `async for` or `for`; nothing is asked before the first step."""
        return JobStream(self, _checked_id(job_id))

    def purge_queue(self) -> Pending[Mapping[str, Any]]:
        """Drop all jobs that are queued; the outcome is the platform's answer: `removed` is how many there were."""
        return self._pending("purge_queue()", lambda session: self._job_answer(session, "purgeQueue"))

    def health(self) -> Pending[Mapping[str, Any]]:
        """Count jobs and workers; the outcome has the mappings `jobs` and `workers`."""
        return self._pending("health()", lambda session: self._job_answer(session, "health"))

    # -- HTTP requests --------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        data: Any = None,
        *,
        timeout: float = TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        files: Mapping[str, Any] | None = None,
    ) -> Pending[Any]:
        """Send a request to a load-balanced endpoint; the outcome is the content of the answer.

        That is what its JSON stands for, else its text, else its bytes, and None where there is none.

        Args:
            method: `GET`, `POST` or any other.
            path: Begins with `/`; may have a query.
            data: Sent as JSON, with `files` as the fields of a form beside them.
            timeout: Seconds without an answer after which it is given up. Waiting for a first worker of an
                endpoint of one's own comes on top.
            headers: Further headers, or others than those that are sent by default.
            params: The query.
            files: Files of a form by field: bytes, open files, or `(name, content)`.

        Raises:
            ConfigError: The path does not begin with `/`.
            PayloadTooLarge: The body is more than the platform takes (30 MB).
            ApiError: The status of the answer is no success; with `response`, and also a `httpx.HTTPStatusError`
                where httpx is imported.
            PlatformError: No answer came; also a `httpx.TransportError`.
        """
        request = BalancedRequest.make(
            method, path, data, timeout_s=timeout, headers=headers, params=params, files=files
        )
        what, misuse = f"{method.upper()} {path!r}", self._target.misuse
        return self._pending(what, lambda session: self._exchanged(session, request), misuse=misuse)

    def get(self, path: str, data: Any = None, **options: Any) -> Pending[Any]:
        """As `request`, with GET."""
        return self.request("GET", path, data, **options)

    def post(self, path: str, data: Any = None, **options: Any) -> Pending[Any]:
        """As `request`, with POST."""
        return self.request("POST", path, data, **options)

    def put(self, path: str, data: Any = None, **options: Any) -> Pending[Any]:
        """As `request`, with PUT."""
        return self.request("PUT", path, data, **options)

    def delete(self, path: str, data: Any = None, **options: Any) -> Pending[Any]:
        """As `request`, with DELETE."""
        return self.request("DELETE", path, data, **options)

    def patch(self, path: str, data: Any = None, **options: Any) -> Pending[Any]:
        """As `request`, with PATCH."""
        return self.request("PATCH", path, data, **options)

    @overload
    def call(self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Pending[T]: ...

    @overload
    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Pending[T]: ...

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Pending[Any]:
        """Call a route of one's own endpoint by its function: `await api.client.call(predict, text="…")`.

        Arguments become parts of the path, the query, fields of the JSON body, the body itself (a model of pydantic)
        or files (bytes), as the worker reads them. The outcome is the content of the answer; where the function is
        annotated to return a model of pydantic, that model.

        Raises:
            ConfigError: The function answers no route of the endpoint.
            TypeError: It does not take these arguments.
            Exception: As for `request`.
        """
        route = next((route for route in self._target.routes if route.function is function), None)
        if route is None:
            name = getattr(function, "__qualname__", function)
            raise ConfigError(f"{name}() answers no route of {self._target.words}; it has: {self._route_words()}")
        return self._called(route, args, kwargs)

    def __getattr__(self, name: str) -> Callable[..., Pending[Any]]:
        if name.startswith("_"):  # also what unpickling looks for, before there is a target
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        for route in self._target.routes:
            if getattr(route.function, "__name__", None) == name:
                return lambda *args, **kwargs: self._called(route, args, kwargs)
        raise AttributeError(
            f"the client of {self._target.words} has no operation and no route {name!r}; routes: {self._route_words()}"
        )

    # -- inside ---------------------------------------------------------------------------------------------

    def _pending(self, operation: str, work: Any, *, misuse: str | None = None) -> Pending[Any]:
        return Pending(work, f"{operation} of {self._target.words}", misuse=misuse)

    async def _job(self, session: Session, operation: str, job_id: str | None = None, **request: Any) -> EndpointJob:
        return EndpointJob(await self._job_answer(session, operation, job_id, **request), self)

    async def _job_answer(
        self, session: Session, operation: str, job_id: str | None = None, **request: Any
    ) -> dict[str, Any]:
        """Return what an operation of the job API is answered with. Loop thread."""

        async def ask(client: RunpodClient, handle: EndpointHandle) -> dict[str, Any]:
            return await client.job_answer(handle, operation, job_id, **request)

        patience = Patience()
        while True:
            try:
                answer = await self._asked(session, EndpointKind.QUEUE, ask, operation=operation)
                if operation in ("run", "runSync"):
                    self._note_new_job(answer.get("id"))
                return answer
            except NotFoundError:
                if job_id is None or time.monotonic() > self._new_jobs.get(job_id, 0.0):
                    raise
                await asyncio.sleep(_VISIBILITY_PAUSE_S)
            except PlatformUnavailable as error:
                if operation in ("run", "runSync") and getattr(error, "was_sent", False):
                    error.add_note("the platform may or may not run the job, so it is not sent again")
                raise
            except ApiError as error:
                retry_after_s = getattr(error, "retry_after_s", None)  # of RateLimited: nothing was accepted
                if retry_after_s is None or operation == "status" or not await patience.pause(retry_after_s):
                    raise  # `EndpointJob.wait` takes every refusal of a look for the end, as `runpod_flash` does

    def _note_new_job(self, job_id: object) -> None:
        now = time.monotonic()
        for old in [old for old, until in self._new_jobs.items() if until < now]:
            del self._new_jobs[old]
        self._new_jobs[str(job_id)] = now + api.JOB_VISIBLE_WITHIN_S

    async def _asked(
        self,
        session: Session,
        kind: EndpointKind,
        ask: Callable[[RunpodClient, EndpointHandle], Awaitable[T]],
        *,
        operation: str | None = None,
    ) -> T:
        """Return what the endpoint answers; one that is gone, alone or with its platform, is made or found again, once.

        That is where nothing was sent, or where the platform said that there is no such endpoint.
        """
        needs_code = operation in (None, "run", "runSync", "retry")
        handle = await self._target.resolve(session, kind, needs_code=needs_code)
        try:
            try:
                return await session.ask(lambda client: ask(client, handle))
            except (NotFoundError, PlatformUnavailable) as error:
                if not self._target.can_move:
                    raise
                is_gone = was_not_sent(error)
                if (
                    is_not_found(error) and operation not in _OF_ONE_JOB
                ):  # maybe by user code, which looks for something else
                    is_gone = not await session.ask(lambda client: client.exists(handle.id))
                if not is_gone:
                    raise
            self._target.forget(session)
            again = await self._target.resolve(session, kind, needs_code=needs_code)
            return await session.ask(lambda client: ask(client, again))
        except Exception as error:
            self._target.explain(error, session)
            raise

    def _called(self, route: Route, args: Any, kwargs: Any) -> Pending[Any]:
        given, decode = request_of(route, args, kwargs), decoder_of(route)
        path = given.pop("path")
        request = BalancedRequest.make(route.method, path, timeout_s=TIMEOUT_S, **given)

        async def work(session: Session) -> Any:
            content = await self._exchanged(session, request)
            return content if decode is None else decode(content)

        return self._pending(f"{route.method} {path!r}", work)

    def _route_words(self) -> str:
        return ", ".join(route.function_name for route in self._target.routes) or "none"

    async def _exchanged(self, session: Session, request: BalancedRequest) -> Any:
        async def send(client: RunpodClient, handle: EndpointHandle) -> Any:
            idle_timeout_s = self._target.idle_timeout_s
            if idle_timeout_s is None:
                return await request.exchange(client, handle)
            await self._readiness.wait(client, handle, idle_timeout_s, tell=session.tell)
            content = await request.exchange(client, handle)
            self._readiness.note(handle, idle_timeout_s)
            return content

        return await self._asked(session, EndpointKind.LOAD_BALANCER, send)

    async def _resolved(self, session: Session, kind: EndpointKind | None) -> EndpointHandle:
        return await self._target.resolve(session, kind)


#: Seconds between two questions for a job that the platform does not know yet.
_VISIBILITY_PAUSE_S = 0.5
#: Operations of the job API about one job, which may be what is not found.
_OF_ONE_JOB: Final = frozenset({"status", "stream", "cancel", "retry"})
#: Seconds more than the platform's own hold before a held request counts as dead.
_HOLD_SLACK_S = 30.0


def _checked_id(job_id: object) -> str:
    if not isinstance(job_id, str) or not job_id:
        raise ConfigError(f"{job_id!r} is no id of a job; run() gives one: job.id")
    return job_id


def _job_body(input_data: Any, limit_bytes: int, what: str, more: Mapping[str, Any]) -> bytes:
    """Return the body of a submission. The service drops an empty object, so a mark is sent in place of one."""
    wanted = api.EMPTY_INPUT if isinstance(input_data, dict) and not input_data else input_data
    fields = {"input": wanted, **{name: value for name, value in more.items() if value is not None}}
    content = to_json(fields, f"the input of {what}")
    if len(content) > limit_bytes:
        raise PayloadTooLarge(
            f"the input of {what} takes {len(content) / 1e6:.1f} MB as JSON, and the platform takes "
            f"{limit_bytes / 1e6:g} MB in one request; pass a URL or the path of a file on a volume instead",
            size_bytes=len(content),
            limit_bytes=limit_bytes,
        )
    return content
