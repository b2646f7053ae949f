# SPDX-License-Identifier: Apache-2.0
"""Functions cached with `joblib.Memory` ask and fill the caller's cache, on real workers of the local platform."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flash_joblib import memo
from joblib import Memory, Parallel, delayed
from joblib.memory import CacheWarning, MemorizedFunc, MemorizedResult, NotMemorizedResult, expires_after


def pid_of(x: Any) -> tuple[Any, int]:
    return x, os.getpid()


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "cache", verbose=0)


@pytest.fixture(scope="module")
def pool() -> Iterator[Parallel]:
    with Parallel(n_jobs=2, backend="flash") as managed:
        yield managed


def sent(pool: Parallel, tasks: Any) -> tuple[list[Any], int]:
    """Results of a call, and how many tasks workers ran for it."""
    stats = pool._backend.stats()
    before = stats.tasks
    results = pool(tasks)
    return results, stats.tasks - before


def test_a_miss_is_computed_by_a_worker_and_a_hit_is_not_sent(memory: Memory, pool: Parallel) -> None:
    cached = memory.cache(pid_of)
    assert cached(0) == (0, os.getpid())  # by a call without us
    first, ran = sent(pool, (delayed(cached)(i) for i in range(6)))
    assert [x for x, _ in first] == list(range(6))
    assert ran == 5
    assert first[0][1] == os.getpid()
    assert os.getpid() not in {pid for _, pid in first[1:]}
    assert sent(pool, (delayed(cached)(i) for i in range(6))) == (first, 0)
    assert [cached(i) for i in range(6)] == first
    assert all(cached.check_call_in_cache(i) for i in range(6))
    with Parallel(n_jobs=2, backend="flash", return_as="generator") as other:
        assert list(other(delayed(memory.cache(pid_of))(i) for i in range(6))) == first


def test_cached_and_other_functions_share_a_batch(memory: Memory, pool: Parallel) -> None:
    cached = memory.cache(pid_of)
    cached(1)
    with Parallel(n_jobs=2, backend="flash", batch_size=4) as batches:
        tasks = [delayed(abs)(-1), delayed(cached)(1), delayed(cached)(2), delayed(abs)(-3)] * 2
        results, ran = sent(batches, tasks)
    assert [r if isinstance(r, int) else r[0] for r in results] == [1, 1, 2, 3] * 2
    assert 5 <= ran <= 6  # two equal tasks may be under way at once


def test_shelved_results_are_references_into_the_callers_cache(memory: Memory, pool: Parallel) -> None:
    cached = memory.cache(pid_of)
    first, ran = sent(pool, (delayed(cached.call_and_shelve)(i) for i in range(3)))
    assert ran == 3
    assert all(isinstance(one, MemorizedResult) for one in first)
    again, ran = sent(pool, (delayed(cached.call_and_shelve)(i) for i in range(3)))
    assert ran == 0
    assert [one.get() for one in again] == [one.get() for one in first] == [cached(i) for i in range(3)]


def test_other_ways_to_call_a_cached_function(memory: Memory, pool: Parallel) -> None:
    cached = memory.cache(pid_of)
    old = cached(1)
    assert sent(pool, [delayed(cached.check_call_in_cache)(i) for i in range(3)]) == ([False, True, False], 0)
    (forced,), ran = sent(pool, [delayed(cached.call)(1)])
    assert ran == 1
    assert forced != old
    assert type(forced) is type(cached.call(7))
    assert sent(pool, [delayed(functools.partial(cached, 7))()]) == ([cached(7)], 0)
    assert sent(pool, [delayed(cached.clear)(warn=False)]) == ([None], 0)
    assert not cached.check_call_in_cache(7)


def test_without_a_cache_everything_is_sent(pool: Parallel) -> None:
    cached = Memory(None).cache(pid_of)
    assert sent(pool, [delayed(cached)(1)] * 2)[1] == 2
    (shelved,), _ = sent(pool, [delayed(cached.call_and_shelve)(1)])
    assert isinstance(shelved, NotMemorizedResult)
    assert shelved.get()[0] == 1


def test_ignored_arguments_and_keywords_find_what_a_local_call_stored(memory: Memory, pool: Parallel) -> None:
    def scaled(x: int, scale: int = 2, *, verbose: bool = False, **rest: int) -> tuple[int, int]:
        return x * scale + sum(rest.values()), os.getpid()

    cached = memory.cache(scaled, ignore=["verbose"])
    expected = [cached(1), cached(1, 5, other=3), cached(1, scale=3)]
    tasks = [delayed(cached)(x=1, verbose=True), delayed(cached)(1, scale=5, other=3), delayed(cached)(1, 3)]
    assert sent(pool, tasks) == (expected, 0)
    with pytest.raises(ValueError, match="Wrong number of arguments"):
        pool([delayed(cached)(scale=1)])


class Model:
    def __init__(self, memory: Memory, factor: int) -> None:
        self.factor = factor
        self.predict = memory.cache(self.predict)  # type: ignore[method-assign]

    def predict(self, x: int) -> tuple[int, int]:
        return x * self.factor, os.getpid()


def test_cached_methods_and_callables_of_other_kinds(memory: Memory, pool: Parallel) -> None:
    model = Model(memory, 3)
    first, ran = sent(pool, [delayed(model.predict)(2)])
    assert (first[0][0], ran) == (6, 1)
    assert model.predict(2) == first[0]
    assert sent(pool, [delayed(Model(memory, 3).predict)(2)]) == (first, 0)
    for other, argument in ((np.negative, 3), (functools.partial(pow, 2), 5), (lambda x: x + 1, 4)):
        cached = memory.cache(other)
        result, ran = sent(pool, [delayed(cached)(argument)])
        assert ran == 1
        assert sent(pool, [delayed(cached)(argument)]) == (result, 0)
        assert cached.check_call_in_cache(argument)


async def waited(x: int) -> tuple[int, int]:
    return x, os.getpid()


def test_async_functions_give_what_awaiting_them_gives(memory: Memory, pool: Parallel) -> None:
    plain, _ = sent(pool, [delayed(waited)(1)])
    assert plain[0][0] == 1
    cached = memory.cache(waited)
    first, ran = sent(pool, [delayed(cached)(1)])
    assert (first[0][0], ran) == (1, 1)
    assert sent(pool, [delayed(cached)(1)]) == (first, 0)


def test_results_are_mapped_as_the_cache_says(tmp_path: Path, pool: Parallel) -> None:
    cached = Memory(tmp_path, mmap_mode="r", verbose=0).cache(np.arange)
    for ran in (1, 0):
        (array,), were = sent(pool, [delayed(cached)(1000.0)])
        assert were == ran
        assert isinstance(array, np.memmap)
        assert Path(str(array.filename)).is_relative_to(tmp_path)
        assert array.sum() == 499_500.0


def test_entries_that_are_no_longer_valid_are_computed_again(memory: Memory, pool: Parallel) -> None:
    seen: list[dict[str, Any]] = []

    def is_valid(metadata: dict[str, Any]) -> bool:
        seen.append(metadata)
        return False

    lasting = memory.cache(pid_of, cache_validation_callback=expires_after(hours=1))
    first, _ = sent(pool, [delayed(lasting)(1)])
    assert sent(pool, [delayed(lasting)(1)]) == (first, 0)
    stale = memory.cache(pid_of, cache_validation_callback=is_valid)
    assert sent(pool, [delayed(stale)(1)])[1] == 1
    assert [metadata["input_args"] for metadata in seen] == [{"x": "1"}]


def test_verbose_output_is_joblibs_and_appears_here(
    tmp_path: Path, pool: Parallel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pid_of, "__module__", "__main__")
    cached = Memory(tmp_path, verbose=5).cache(pid_of)
    pool([delayed(cached)(41)])
    said = capsys.readouterr().out
    assert "pid_of(41)" in said
    assert "test_joblib_memory.pid_of" in said
    assert "pid_of - " in said
    pool([delayed(cached)(41)])
    said = capsys.readouterr().out
    assert "Loading pid_of" in said
    assert "cache loaded" in said


def _defined(source: str, path: Path) -> Callable[..., Any]:
    path.write_text(source)
    names: dict[str, Any] = {"__name__": "changing"}
    exec(compile(source, str(path), "exec"), names)
    function: Callable[..., Any] = names["f"]
    return function


def test_a_function_whose_code_changed_starts_with_an_empty_cache(
    tmp_path: Path, pool: Parallel, caplog: pytest.LogCaptureFixture
) -> None:
    memory, path = Memory(tmp_path / "cache", verbose=1), tmp_path / "changing.py"
    cached = memory.cache(_defined("def f(x):\n    return x + 1\n", path))
    assert pool([delayed(cached)(1)]) == [2]
    cached = memory.cache(_defined("def f(x):\n    return x + 2\n", path))
    with caplog.at_level(logging.WARNING):
        assert pool([delayed(cached)(1)]) == [3]
    assert "Clearing function cache" in caplog.text
    assert sent(pool, [delayed(cached)(1)]) == ([3], 0)


def test_a_broken_entry_is_told_and_computed_again(
    memory: Memory, tmp_path: Path, pool: Parallel, caplog: pytest.LogCaptureFixture
) -> None:
    cached = memory.cache(pid_of)
    cached(1)
    (entry,) = tmp_path.rglob("output.pkl")
    entry.write_bytes(b"no pickle")
    with caplog.at_level(logging.WARNING):
        first, ran = sent(pool, [delayed(cached)(1)])
    assert (first[0][0], ran) == (1, 1)
    assert "Exception while loading results" in caplog.text
    assert cached(1) == first[0]


def _block(tmp_path: Path) -> None:
    """Make storing fail: a file where the cache's folders were (permissions would not stop root)."""
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").touch()


def test_a_result_that_cannot_be_stored_is_returned_with_a_warning(
    memory: Memory, tmp_path: Path, pool: Parallel
) -> None:
    def break_cache(x: int) -> int:
        _block(tmp_path)
        return x

    cached = memory.cache(break_cache)
    with pytest.warns(CacheWarning, match="Unable to cache to disk"):
        assert pool([delayed(cached)(5)]) == [5]


def test_a_result_that_cannot_be_stored_is_an_error_if_warnings_are(
    memory: Memory, tmp_path: Path, pool: Parallel
) -> None:
    def break_cache(x: int) -> int:
        _block(tmp_path)
        return x

    cached = memory.cache(break_cache)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CacheWarning, match="Unable to cache to disk"):
            pool([delayed(cached)(5)])


def test_a_task_that_fails_stores_nothing_and_the_next_call_works(memory: Memory, pool: Parallel) -> None:
    cached = memory.cache(divided)
    with pytest.raises(ZeroDivisionError):
        pool([delayed(cached)(0)])
    assert not cached.check_call_in_cache(0)
    assert pool([delayed(cached)(2)]) == [0.5]


def divided(x: int) -> float:
    return 1 / x


def test_arguments_are_those_of_the_moment_of_the_call(memory: Memory, pool: Parallel) -> None:
    cached, buffer = memory.cache(np.sum), np.zeros(10)
    for i in range(3):
        buffer[:] = i
        assert pool([delayed(cached)(buffer)]) == [10.0 * i]
    for i in range(3):
        assert cached(np.full(10, float(i))) == 10.0 * i


class Own(MemorizedFunc):  # type: ignore[misc]  # joblib has no types
    """A kind of cached function that we know nothing of."""


def test_a_kind_that_joblib_does_not_have_uses_a_cache_on_the_worker(
    memory: Memory, pool: Parallel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memo, "_told", set())
    own = Own(pid_of, memory.store_backend, verbose=0)
    first, ran = sent(pool, [delayed(own)(1)])
    assert (first[0][0], ran) == (1, 1)
    assert "cache on the worker" in caplog.text
    assert sent(pool, [delayed(own)(1)]) == (first, 1)  # the worker's disk is this one


def test_a_cached_function_inside_a_task_uses_the_disk_of_its_worker(memory: Memory, pool: Parallel) -> None:
    def outer(x: int) -> Any:
        return memory.cache(pid_of)(x)

    (first,), ran = sent(pool, [delayed(outer)(1)])
    assert ran == 1
    assert memory.cache(pid_of)(1) == first
