# SPDX-License-Identifier: Apache-2.0
"""joblib's backends with two workers each, by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import joblib


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Make `flash`, `loky`, `threading`, `dask` or `ray` joblib's backend inside the block."""
    if name == "dask":
        from dask.distributed import Client  # type: ignore[import-not-found, unused-ignore]

        with (
            Client(n_workers=2, threads_per_worker=1, dashboard_address=None),
            joblib.parallel_backend("dask", n_jobs=2),
        ):
            yield
        return
    if name == "ray":
        import ray  # type: ignore[import-not-found, unused-ignore]
        from ray.util.joblib import register_ray  # type: ignore[import-not-found, unused-ignore]

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        register_ray()
    if name == "flash":
        import flash_joblib  # noqa: F401  registers the backend
    with joblib.parallel_backend(name, n_jobs=2):
        yield
