# SPDX-License-Identifier: Apache-2.0
"""joblib on flash-plugins: `import flash_joblib`, then `joblib.parallel_backend("flash")`.

Importing it registers the backend under the name `flash`, here and (since batches name this package) on
the workers. It starts nothing and sends nothing.
"""

from __future__ import annotations

from joblib import register_parallel_backend

from .backend import BACKEND_NAME, FlashBackend
from .stats import RunStats, WorkerStats, last_run

__all__ = ["BACKEND_NAME", "FlashBackend", "RunStats", "WorkerStats", "last_run"]

register_parallel_backend(BACKEND_NAME, FlashBackend)
