# SPDX-License-Identifier: Apache-2.0
"""The smallest program with one remote call, as a user would write it."""

from loky import get_reusable_executor  # type: ignore[import-not-found, unused-ignore]


def square(x: int) -> int:
    return x * x


if __name__ == "__main__":
    print(get_reusable_executor(max_workers=2).submit(square, 7).result(), flush=True)
