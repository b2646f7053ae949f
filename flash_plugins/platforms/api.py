# SPDX-License-Identifier: Apache-2.0
"""Runpod's paths, limits and defaults, shared by the HTTP client and the local platform. No input or output.

Source of every figure: Runpod's public documentation and REST v2 description as of 2026-08, unless a
comment says otherwise.
"""

from __future__ import annotations

from typing import Final

#: Hosts of the cloud: management (REST v2) and job API, both without the `/v2` that every path starts with.
CLOUD_API_BASE: Final = "https://api.runpod.io"
CLOUD_JOB_BASE: Final = "https://api.runpod.ai"

#: REST v2 collection of serverless endpoints.
SERVERLESS_PATH: Final = "/v2/serverless"

#: First path segments of REST v2 below `/v2/`; an endpoint id may be none of them (both share one port locally).
RESERVED_ENDPOINT_IDS: Final = frozenset(
    {"account", "billing", "catalog", "clusters", "network-volumes", "pods", "registries", "serverless", "templates"}
)

#: Largest request body of `/run` and `/runsync`, bytes ("10 MB", "20 MB").
RUN_MAX_BYTES: Final = 10_000_000
RUNSYNC_MAX_BYTES: Final = 20_000_000
#: Largest single chunk of a stream, bytes.
STREAM_CHUNK_MAX_BYTES: Final = 1_000_000

#: `/runsync?wait=`: milliseconds the request is held.
RUNSYNC_WAIT_MIN_MS: Final = 1_000
RUNSYNC_WAIT_MAX_MS: Final = 300_000
RUNSYNC_WAIT_DEFAULT_MS: Final = 90_000

#: How long a finished job is kept, seconds.
RUN_RETENTION_S: Final = 1_800.0
RUNSYNC_RETENTION_S: Final = 60.0

#: `policy.executionTimeout` and `policy.ttl`, milliseconds: allowed range and the service's defaults.
EXECUTION_TIMEOUT_MIN_MS: Final = 5_000
EXECUTION_TIMEOUT_DEFAULT_MS: Final = 600_000
TTL_MIN_MS: Final = 10_000
TTL_DEFAULT_MS: Final = 86_400_000
POLICY_MAX_MS: Final = 7 * 86_400_000

#: The service drops an empty object as input; official SDKs send this instead, and so do we.
EMPTY_INPUT: Final = {"__empty": True}

#: Endpoint environment variable: how many jobs one worker runs at once. The local platform caps jobs in
#: flight per worker at it; absent means that the worker's own loop decides, as on Runpod.
MAX_CONCURRENCY_ENV: Final = "RUNPOD_MAX_CONCURRENCY"
