# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""Plain `Parallel` with results as they come: a scan that stops as soon as it has found what it looks for."""

import warnings

import flash_joblib
from joblib import Parallel, delayed


def longest_collatz_chain(start, stop):
    """Return (steps, number) of the number in the range that takes the most steps to 1."""
    best = (0, start)
    for number in range(start, stop):
        steps, n = 0, number
        while n != 1:
            n = n // 2 if n % 2 == 0 else 3 * n + 1
            steps += 1
        best = max(best, (steps, number))
    return best


def main():
    ranges = ((first, first + 5_000) for first in range(1, 1_000_000, 5_000))
    results = Parallel(n_jobs=2, backend="flash", return_as="generator_unordered")(
        delayed(longest_collatz_chain)(*bounds) for bounds in ranges
    )
    for steps, number in results:
        if steps > 300:
            print(f"{number} takes {steps} steps")
            break
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joblib warns that the rest was cancelled, which is the point
        results.close()
    print(f"{flash_joblib.last_run().tasks} of 200 ranges were searched, the rest was cancelled")


if __name__ == "__main__":
    main()
