# SPDX-License-Identifier: Apache-2.0
"""A call of a generator function: values while the worker yields them, each once and in its place.

    worker ──chunks, numbered──► platform ──► lane ──_receive──► chunks that wait ──► the one who iterates
                                               ▲                        │
                                               └── asks for no more ◄───┘ while too many wait

The platform forgets a chunk once it has shown it, and may run a job again. The numbers tell what was lost on the
way, came twice or belongs to another run. What was lost may be in what the platform collected of the whole job, so the
values behind a gap are kept until its end.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar, cast

from .. import code
from ..errors import ResultLost, StreamConsumed
from ..failure import decode_exception
from ..objects.space import Lease
from ..payload import Outcome
from .call import Call
from .threads import wake

__all__ = ["StreamCall"]

T = TypeVar("T")

#: What may wait for somebody who iterates before no more is fetched, and behind a gap: bytes, and values.
_MOST_WAITING_BYTES = 8_000_000
_MOST_WAITING = 1_000


class _Chunk:
    """A yielded value as it arrived, with what holds its objects."""

    def __init__(self, pickled: bytes, lease: Lease | None) -> None:
        self._pickled = pickled
        self._lease = lease
        self.size = len(pickled) + (0 if lease is None else sum(ref.size for ref in lease.refs))

    def value(self) -> Any:
        return code.loads(self._pickled, fetch=None if self._lease is None else self._lease.space)


class StreamCall(Call[list[T]], Generic[T]):
    """A call of a generator function: iterate it, or `async for`, to get values as the worker yields them.

    One consumer, once: a value that was given out is not kept. While you iterate, no more than some megabytes
    are fetched ahead of you, so the call is done only after you have come close to its end. `result()`, or
    `await`, waits for the end and returns all values as a list instead, which may then be iterated too.
    """

    def __init__(self, *, endpoint_name: str, function_name: str, number: int, payload_bytes: int = 0) -> None:
        super().__init__(
            endpoint_name=endpoint_name, function_name=function_name, number=number, payload_bytes=payload_bytes
        )
        self._changed = threading.Condition()  # guards what is below; never held while users' code runs
        self._chunks: deque[_Chunk] = deque()
        self._waiting_bytes = 0
        self._received = 0  # of this run, up to the first gap
        self._ahead: dict[int, _Chunk] = {}  # behind the gap, by place
        self._run: str | None = None
        self._is_iterated = False
        self._is_bounded = False
        self._given = 0
        self._on_change: Callable[[], object] = _nothing  # wakes a consumer in a coroutine
        self._on_room: Callable[[], object] = _nothing  # wakes the lane
        Future.add_done_callback(self, _notice_end)

    def result(self, timeout: float | None = None) -> list[T]:
        """Wait for the end and return all values, or raise what the function raised; see `Call.result`.

        Raises:
            StreamConsumed: It is or was iterated; at once, unless the call has failed.
        """
        self._refuse_if_iterated()
        values: list[T] | None = super().result(timeout)
        if values is None:
            raise self._consumed()
        return values

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `Call.exception`. Waits for the end, so what is not consumed meanwhile is kept, however much it is."""
        self._lift_bound()
        return super().exception(timeout)

    async def settled(self) -> None:
        """As `Call.settled`. Waits for the end, so what is not consumed meanwhile is kept, however much it is."""
        self._lift_bound()
        await super().settled()

    def __iter__(self) -> Iterator[T]:
        if (whole := self._claimed()) is not None:
            yield from whole
            return
        try:
            while True:
                with self._changed:
                    while (chunk := self._looked_at()) is None and not self.done():
                        self._changed.wait()
                if chunk is None:
                    break
                yield self._taken(chunk)
        except GeneratorExit:
            self._leave()
            raise
        except KeyboardInterrupt:
            self._interrupt()
            raise
        self._raise_failure()

    async def __aiter__(self) -> AsyncIterator[T]:
        if (whole := self._claimed()) is not None:
            for value in whole:
                yield value
            return
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        self._on_change = lambda: wake(loop, changed.set)
        try:
            while True:
                with self._changed:
                    chunk, is_over = self._looked_at(), self.done()
                if chunk is not None:
                    yield self._taken(chunk)
                elif is_over:
                    break
                else:
                    await changed.wait()
                    changed.clear()
        except (asyncio.CancelledError, GeneratorExit):
            self._leave()
            raise
        finally:
            self._on_change = _nothing
        self._raise_failure()

    async def _awaited(self) -> list[T]:
        self._refuse_if_iterated()
        return await super()._awaited()

    # What the consumer does. Any thread.

    def _claimed(self) -> list[T] | None:
        """Begin to iterate; returns the values if `result()` made them a list before."""
        self._check_process()
        with self._decoding:
            if self._decoded is not None and self._decoded[0] and self._decoded[1] is not None:
                return cast("list[T]", self._decoded[1])
            if self._is_iterated:
                raise self._consumed()
            self._is_iterated = self._is_bounded = True
            return None

    def _looked_at(self) -> _Chunk | None:
        """Return the next chunk and leave it there: Ctrl-C while it is unpickled does not lose it."""
        if not self._chunks:
            return None
        self._given += 1
        return self._chunks[0]

    def _taken(self, chunk: _Chunk) -> T:
        """Return the value of the next chunk, which is let go; what unpickling raises is the outcome of the call."""
        try:
            value = chunk.value()
        except Exception as error:  # unpickling runs the user's classes
            self._not_unpickled(error, "a value")
            with self._decoding:
                self._decoded = (False, error)
            submission = self._submission
            self._settle(error)
            if submission is not None:
                submission.cancel()  # the rest will not be looked at
            self._drop_chunks()
            raise
        with self._changed:
            if self._chunks:  # else `cancel` of another thread let them go
                self._chunks.popleft()
                self._waiting_bytes -= chunk.size
            has_room = not self._is_full()
        if has_room:
            self._on_room()
        return cast(T, value)

    def _raise_failure(self) -> None:
        self._wait(None)
        is_value, outcome = self._decode()
        if not is_value:
            raise outcome

    def _leave(self) -> None:
        """Nobody will look at the rest."""
        self.cancel()
        self._drop_chunks()

    def _drop_chunks(self) -> None:
        with self._changed:
            self._chunks.clear()
            self._waiting_bytes = 0

    def _lift_bound(self) -> None:
        self._is_bounded = False
        self._on_room()

    def _refuse_if_iterated(self) -> None:
        if self._is_iterated and not self.done():
            raise self._consumed()

    def _consumed(self) -> StreamConsumed:
        return StreamConsumed(
            f"the values of {self._words()} are given out to whoever iterates it first, and not kept; iterate it "
            "once, or take the whole list with result() instead"
        )

    # What the lane does. Loop thread.

    async def _room(self) -> None:
        """Wait until somebody who iterates has taken enough of what arrived."""
        loop = asyncio.get_running_loop()
        room = asyncio.Event()
        self._on_room = lambda: wake(loop, room.set)
        try:
            while self._is_full():
                await room.wait()
                room.clear()
        finally:
            self._on_room = _nothing

    def _is_full(self) -> bool:
        is_much = self._waiting_bytes > _MOST_WAITING_BYTES or len(self._chunks) > _MOST_WAITING
        return is_much and self._is_bounded and not self.done()

    def _restart(self) -> bool:
        with self._changed:
            if self._given:
                return False
            self._begin_run(None)
            self._streamed = None
            return True

    def _begin_job(self) -> None:
        super()._begin_job()
        self._begin_run(None)

    def _receive(self, outcome: Outcome) -> None:
        """Take a yielded value, or the end.

        Raises:
            ResultLost: Too many came since one that did not arrive, or those before were given out and belong to
                another run.
        """
        if self.done() or (self._streamed is not None and self._streamed.ended):
            self._drop_objects(outcome.chunk)
            return  # nobody wants it; or a run that had reached its end was repeated
        with self._changed:
            if self._is_another_run(outcome):
                if self._given:
                    raise ResultLost(
                        f"the worker of {self._words()} was lost, and the platform runs the job again; "
                        f"{self._given} values of the first run were given out already, so those of the second "
                        "cannot follow them: repeat the call",
                        job_id=self.job_id,
                    )
                self._begin_run(outcome.run)
            if self._received == 0:
                self._run = outcome.run
            if outcome.chunk is None:
                self._streamed = outcome
                return
            index = self._received if outcome.index is None else outcome.index
            if index < self._received:
                return  # it came before
            self._ahead[index] = _Chunk(outcome.chunk, self._take_objects(outcome.chunk))
            if index > self._received:
                self._refuse_long_gap(index)
                return
            while (chunk := self._ahead.pop(self._received, None)) is not None:
                self._received += 1
                self._chunks.append(chunk)
                self._waiting_bytes += chunk.size
            self._changed.notify_all()
        self._on_change()

    def _complete(self, collected: Iterable[Outcome]) -> Outcome:
        end = self._streamed
        if end is None or self._ahead or (end.count is not None and end.count != self._received):
            self._streamed = None
            for outcome in collected:
                if outcome.chunk is None or (outcome.index is not None and outcome.index >= self._received):
                    self._receive(outcome)
            end = self._streamed or end
        if end is None:
            raise self._lost("the end")
        if self._ahead:
            raise self._lost(f"a part ({min(self._ahead) - self._received} values after the first {self._received})")
        if end.count is not None and end.count != self._received:
            raise self._lost(f"a part (all after the first {self._received} of {end.count} values)")
        return end

    def _is_another_run(self, outcome: Outcome) -> bool:
        if not self._received and not self._ahead:
            return False
        if outcome.run is not None or self._run is not None:
            return outcome.run != self._run
        # A chunk that the worker sent twice is that before this one; the first comes late only in another run.
        return outcome.index == 0 and self._received > 1

    def _begin_run(self, run: str | None) -> None:
        with self._changed:
            self._chunks.clear()
            self._ahead.clear()
            self._waiting_bytes = self._received = 0
            self._run = run

    def _refuse_long_gap(self, index: int) -> None:
        """Give up where so much came behind a gap that it cannot be kept until the platform may fill it."""
        if len(self._ahead) > _MOST_WAITING or sum(chunk.size for chunk in self._ahead.values()) > _MOST_WAITING_BYTES:
            missing = min(self._ahead) - self._received
            raise self._lost(f"a part ({missing} values after the first {self._received}, {index} came since)")

    def _decode_outcome(self, outcome: Outcome) -> tuple[bool, Any]:
        if outcome.failure is not None:
            return False, decode_exception(outcome.failure)
        if self._is_iterated:
            return True, None  # no list of values: they are given out one by one
        try:
            values = [chunk.value() for chunk in self._chunks]
        except Exception as error:  # noqa: BLE001 - unpickling runs the user's classes; it becomes the outcome
            return False, self._not_unpickled(error, "a value")
        self._drop_chunks()
        return True, values


def _notice_end(call: Future[Any]) -> None:
    assert isinstance(call, StreamCall)
    with call._changed:
        call._changed.notify_all()
    call._on_change()
    call._on_room()


def _nothing() -> None: ...
