# SPDX-License-Identifier: Apache-2.0
"""Arguments of every kind arrive as they are, and tasks may write to them: as if the tasks ran here, one by one."""

from __future__ import annotations

import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse  # type: ignore[import-untyped]
from flash_joblib import BACKEND_NAME
from joblib import Parallel, delayed


def array_of(mapped: Path) -> dict[str, Any]:
    """Return arrays by what is special about them; those named "large" are objects, and loky would map them."""
    large = np.arange(300_000.0).reshape(600, 500)
    on_disk = np.memmap(mapped, dtype="float64", mode="w+", shape=(600, 500))
    on_disk[:] = large
    on_disk.flush()
    read_only = large[:100].copy()
    read_only.flags.writeable = False
    masked = np.ma.masked_array(np.arange(10.0), mask=[i % 3 == 0 for i in range(10)], fill_value=-7)
    structured = np.zeros(4, dtype=[("name", "U5"), ("at", "<f8", (2,)), ("big", ">i4")])
    structured["name"], structured["at"] = ["a", "bb", "", "ééééé"], 0.5
    return {
        "large": large,
        "large Fortran": np.asfortranarray(large),
        "large, every other": large[::2, ::-2],
        "large memmap": np.memmap(mapped, dtype="float64", mode="r", shape=(600, 500)),
        "large memmap, part": on_disk[100:300],
        "read-only": read_only,
        "read-only view": np.broadcast_to(np.arange(3.0), (4, 3)),
        "transposed": np.arange(6).reshape(2, 3).T,
        "masked": masked,
        "large masked": np.ma.masked_greater(large, 1000.0),
        "structured": structured,
        "record": structured.view(np.recarray),
        "objects": np.array([1, "two", None, [3]], dtype=object),
        "dates": np.array(["2026-01-01", "NaT"], dtype="datetime64[D]"),
        "texts": np.array(["a", "long enough"]),
        "none": np.empty((0, 3)),
        "one": np.array(5.0),
        "half": np.arange(4, dtype=np.float16),
        "complex": np.arange(4) * 1j,
    }


def look(value: Any) -> tuple[Any, ...]:
    """Return what is to be the same on both sides."""
    flags = value.flags
    is_object = value.dtype == object
    return (
        type(value) if type(value) is not np.memmap else np.ndarray,  # it travels as its values
        value.dtype.str if value.dtype.names is None else value.dtype.descr,
        value.shape,
        flags.f_contiguous,
        flags.c_contiguous,
        value.tolist() if is_object else np.ma.getdata(value).tobytes(),
        np.ma.getmaskarray(value).tolist() if isinstance(value, np.ma.MaskedArray) else None,
    )


def look_and_return(value: Any) -> tuple[tuple[Any, ...], Any]:
    return look(value), value


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return array_of(tmp_path_factory.mktemp("arrays") / "mapped")


def test_arrays_arrive_and_return_as_they_are(arrays: dict[str, Any]) -> None:
    parallel = Parallel(n_jobs=2, backend=BACKEND_NAME)
    found = parallel(delayed(look_and_return)(value) for value in arrays.values())
    for (name, value), (there, back) in zip(arrays.items(), found, strict=True):
        here = look(value)
        if not value.flags.forc:
            here = (*here[:3], *there[3:5], *here[5:])  # strides of parts are gone, as in any copy of them
        assert there == here, name
        assert look(back) == there, name


def overwrite(value: Any) -> Any:
    value[...] = value[::-1] if value.ndim else 0
    return value


def test_a_task_may_write_to_its_arrays_and_no_other_sees_it(arrays: dict[str, Any]) -> None:
    writable = ["large", "large Fortran", "transposed", "masked", "structured", "objects", "one", "large masked"]
    alone, together = (Parallel(n_jobs=2, backend=BACKEND_NAME, batch_size=size) for size in (1, 4))
    for name in writable:
        before = look(arrays[name])
        expected = look(overwrite(arrays[name].copy(order="K")))
        for back in alone(delayed(overwrite)(arrays[name]) for _ in range(4)):
            assert look(back) == expected, name
        together(delayed(overwrite)(arrays[name]) for _ in range(4))
        assert look(arrays[name]) == before, name


def same(matrix: Any) -> Any:
    return matrix


def scaled(matrix: Any) -> Any:
    matrix.data *= 2
    return matrix


@pytest.mark.parametrize(
    ("form", "task"),
    [("csr", scaled), ("csc", scaled), ("coo", scaled), ("bsr", scaled), ("lil", same), ("dok", same)],
)
def test_sparse_matrices(form: str, task: Callable[[Any], Any]) -> None:
    matrix = scipy.sparse.random_array((300, 400), density=0.2, rng=np.random.default_rng(0)).asformat(form)
    before, expected = matrix.copy(), task(matrix.copy())
    for back in Parallel(n_jobs=2, backend=BACKEND_NAME, batch_size=1)(delayed(task)(matrix) for _ in range(4)):
        assert type(back) is type(matrix)
        assert (back != expected).nnz == 0
    assert (matrix != before).nnz == 0


def test_arrays_inside_of_others(arrays: dict[str, Any]) -> None:
    large = arrays["large"]
    value = {"a": [large, (large, {"b": large.T})], "c": array.array("d", [1.0] * 20_000), "d": bytearray(100_000)}

    def change(value: Any) -> Any:
        is_same = value["a"][0] is value["a"][1][0]
        value["a"][0][0, 0] = -1.0
        value["d"][0] = 9
        return is_same, float(value["a"][1][0][0, 0]), sum(value["c"]), value["d"][0]

    expected = (True, -1.0, 20_000.0, 9)
    parallel = Parallel(n_jobs=2, backend=BACKEND_NAME, batch_size=1)
    assert parallel(delayed(change)(value) for _ in range(6)) == [expected] * 6
    assert large[0, 0] == 0.0
