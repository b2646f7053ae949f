# SPDX-License-Identifier: Apache-2.0
"""Start a worker: `python -m flash_plugins.worker`, configured by the environment that the platform sets."""

from __future__ import annotations

import logging
import os
import sys
import tempfile

from ..platforms import api


def main() -> int:
    """Serve jobs; returns the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s:%(name)s:%(message)s")
    serves_http = os.environ.get(api.HANDLER_ENV) in (api.HANDLER_HTTP, api.HANDLER_CALLS)
    if "RUNPOD_WEBHOOK_GET_JOB" not in os.environ and not serves_http:
        sys.stderr.write(
            "flash_plugins.worker: RUNPOD_WEBHOOK_GET_JOB is not set, so no platform started this process; workers "
            "are started by Runpod or by the local platform when a decorated function is called\n"
        )
        return 2
    os.environ.setdefault(
        "FLASH_PLUGINS_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"flash-plugins-{os.getuid()}")
    )
    if serves_http:
        from .http import serve as serve_http

        return serve_http()
    from .environment import enter

    reason = enter()
    if reason is not None:
        from .refusal import serve_refusals

        serve_refusals(reason)
        return 0
    from .queue import serve

    serve()
    return 0


if __name__ == "__main__":  # the SDK's ping process imports this module again where processes are spawned
    sys.exit(main())
