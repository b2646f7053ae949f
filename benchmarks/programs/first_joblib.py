# SPDX-License-Identifier: Apache-2.0
"""The smallest program with one `Parallel` call, as a user would write it: `first_joblib.py BACKEND`."""

from __future__ import annotations

import sys

from backends import backend  # type: ignore[import-not-found]
from joblib import Parallel, delayed


def square(x: int) -> int:
    return x * x


if __name__ == "__main__":
    with backend(sys.argv[1]):
        print(Parallel()(delayed(square)(x) for x in range(4)), flush=True)
