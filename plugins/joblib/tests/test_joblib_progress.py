# SPDX-License-Identifier: Apache-2.0
"""What plugins are told of the tasks of `Parallel` calls: how many, of how many, under which name."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import joblib
import pytest
from flash_joblib.lengths import total_of
from joblib import Parallel, delayed

import flash_plugins
from flash_plugins import CallEvent, CallStage, Work, hookimpl


class Events:
    def __init__(self) -> None:
        self.works: dict[Work, list[int]] = {}

    @hookimpl
    def flash_call_event(self, event: CallEvent) -> None:
        if event.stage is CallStage.QUEUED and event.work is not None:
            self.works.setdefault(event.work, []).append(event.tasks)

    def told(self) -> list[tuple[str, int | None, bool, int]]:
        """Return label, total, whether it is complete, and how many tasks the calls carried, of each work."""
        return [(work.label, work.total, work.is_complete, sum(tasks)) for work, tasks in self.works.items()]


@pytest.fixture
def events() -> Iterator[Events]:
    made = Events()
    flash_plugins.register(made)
    yield made
    flash_plugins.unregister(made)


def double(x: int) -> int:
    return 2 * x


def test_sized_input_has_a_total(events: Events) -> None:
    Parallel(n_jobs=2, backend="flash")([delayed(double)(i) for i in range(30)])
    assert events.told() == [("double", 30, True, 30)]


def test_an_expression_over_something_sized_has_one_too(events: Events) -> None:
    Parallel(n_jobs=2, backend="flash")(delayed(double)(i) for i in range(30))
    assert events.told() == [("double", 30, True, 30)]


def test_a_generator_has_none_until_it_is_exhausted(events: Events) -> None:
    def tasks() -> Iterator[Any]:
        for i in range(30):
            yield delayed(double)(i)

    Parallel(n_jobs=2, backend="flash")(tasks())
    assert events.told() == [("double", None, True, 30)]


def test_each_call_of_a_parallel_object_is_a_work(events: Events) -> None:
    with Parallel(n_jobs=2, backend="flash") as parallel:
        for total in (3, 5):
            parallel([delayed(double)(i) for i in range(total)])
    assert events.told() == [("double", 3, True, 3), ("double", 5, True, 5)]


def test_all_tasks_in_one_call_are_counted(events: Events) -> None:
    Parallel(n_jobs=2, backend="flash", batch_size=15, pre_dispatch="all")([delayed(double)(i) for i in range(30)])
    assert list(events.works.values()) == [[15, 15]]


def test_a_call_that_fails_is_complete(events: Events) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        Parallel(n_jobs=2, backend="flash")(delayed(int)(text) for text in ["x"] * 500)
    ((label, total, is_complete, _),) = events.told()
    assert (label, total, is_complete) == ("int", 500, True)


@pytest.mark.parametrize(
    ("function", "label"),
    [
        (functools.partial(double, 1), "double"),
        (joblib.Memory(None).cache(double), "double"),
        (lambda: None, "<lambda>"),
    ],
)
def test_the_name_is_that_of_the_function_itself(events: Events, function: Any, label: str) -> None:
    arguments = (1,) if isinstance(function, joblib.memory.NotMemorizedFunc) else ()
    Parallel(n_jobs=2, backend="flash")([delayed(function)(*arguments) for _ in range(2)])
    assert [work.label for work in events.works] == [label]


def test_scikit_learn_is_named_and_counted(events: Events) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.model_selection import GridSearchCV
    from sklearn.tree import DecisionTreeClassifier

    X, y = datasets.load_iris(return_X_y=True)
    with joblib.parallel_config(backend="flash", n_jobs=2):
        GridSearchCV(DecisionTreeClassifier(), {"max_depth": [1, 2, 3]}, cv=4).fit(X, y)
    assert events.told() == [("_fit_and_score", 12, True, 12)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: (x for x in [1, 2, 3]),
        lambda: (x for x in (y for y in (1, 2, 3))),
        lambda: ((i, x) for i, x in enumerate([5, 6, 7])),
        lambda: ((a, b) for a, b in zip([1, 2, 3], range(4), strict=False)),
        lambda: (x for x in (1, 2, 3)),
        lambda: iter(range(3)),
    ],
)
def test_what_is_over_something_sized_tells_its_length_at_any_time(make: Any) -> None:
    iterator = make()
    assert total_of(iterator) == 3
    next(iterator)
    assert total_of(iterator) == 3


@pytest.mark.skipif(not hasattr(itertools.product(), "__setstate__"), reason="it tells no more from Python 3.14 on")
def test_products_tell_their_length() -> None:
    assert total_of(itertools.product("ab", range(3), [0])) == 6
    assert total_of(x for x in itertools.product(enumerate("ab"), enumerate(range(3)))) == 6


def test_what_may_leave_out_or_repeat_something_tells_nothing() -> None:
    def generate() -> Iterator[int]:
        yield 1

    for iterator in (
        (x for x in [1, 2] if x),
        ((x, y) for x in [1, 2] for y in [1, 2]),
        (x if x else 0 for x in [1, 2]),
        generate(),
        (x for x in generate()),
        map(abs, [1]),
        itertools.count(),
        iter({1, 2}),
        zip([1], generate(), strict=False),
        object(),
        None,
    ):
        assert total_of(iterator) is None
    exhausted = (x for x in [1])
    list(exhausted)
    assert total_of(exhausted) is None


@pytest.mark.parametrize(("verbose", "stream"), [(1, "err"), (10, "err"), (51, "out")])
def test_what_joblib_says_by_itself_is_right_with_batches(
    verbose: int, stream: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Parallel(n_jobs=2, backend="flash", verbose=verbose)(delayed(double)(i) for i in range(60))[-1] == 118
    said = [
        line for line in getattr(capsys.readouterr(), stream).splitlines() if line.startswith("[Parallel(n_jobs=2)]")
    ]
    assert said[0] == "[Parallel(n_jobs=2)]: Using backend FlashBackend with 2 concurrent workers."
    assert said[-1].startswith("[Parallel(n_jobs=2)]: Done  60 out of  60 | elapsed: ")
    done = [int(line.partition("Done ")[2].split()[0]) for line in said[1:]]
    assert done == sorted(done)
