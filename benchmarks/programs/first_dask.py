# SPDX-License-Identifier: Apache-2.0
"""The smallest program with one remote call, as a user would write it."""

from dask.distributed import Client  # type: ignore[import-not-found, unused-ignore]


def square(x: int) -> int:
    return x * x


if __name__ == "__main__":
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        print(client.submit(square, 7).result(), flush=True)
