# SPDX-License-Identifier: Apache-2.0
"""Runpod's paths, limits and defaults, shared by the HTTP client and the local platform. No input or output.

Source of every figure: Runpod's public documentation and REST v2 description as of 2026-08, unless a
comment says otherwise.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["EndpointKind"]


class EndpointKind(StrEnum):
    """How an endpoint takes requests; the values are REST v2's."""

    #: Jobs wait in a queue for the next free worker.
    QUEUE = "QUEUE"
    #: HTTP requests go straight to a worker.
    LOAD_BALANCER = "LOAD_BALANCER"


#: Hosts of the cloud: management (REST v2) and job API, both without the `/v2` that every path starts with.
CLOUD_API_BASE: Final = "https://api.runpod.io"
CLOUD_JOB_BASE: Final = "https://api.runpod.ai"

#: Where load-balanced endpoints answer; `{id}` stands for the endpoint.
CLOUD_BALANCED_BASE: Final = "https://{id}.api.runpod.ai"
#: The same below the URL of the local platform. One path segment, because loopback has no subdomains.
LOCAL_BALANCED_PATH: Final = "/lb/{id}"

#: Operations of the job API, as REST v2 names them in `requestUrls`, below the job base, `/v2/` and the endpoint's id.
JOB_PATHS: Final = {
    "run": "/run",
    "runSync": "/runsync",
    "status": "/status/{job_id}",
    "stream": "/stream/{job_id}",
    "cancel": "/cancel/{job_id}",
    "retry": "/retry/{job_id}",
    "purgeQueue": "/purge-queue",
    "health": "/health",
}

#: REST v2 collections: serverless endpoints, network volumes, templates, what can be rented, what it cost,
#: credentials for private images.
SERVERLESS_PATH: Final = "/v2/serverless"
VOLUMES_PATH: Final = "/v2/network-volumes"
TEMPLATES_PATH: Final = "/v2/templates"
CATALOG_PATH: Final = "/v2/catalog"
BILLING_PATH: Final = "/v2/billing"
REGISTRIES_PATH: Final = "/v2/registries"

#: First path segments of REST v2 below `/v2/`; an endpoint id may be none of them: locally both share a port.
RESERVED_ENDPOINT_IDS: Final = frozenset(
    {
        "account",
        "billing",
        "catalog",
        "clusters",
        "network-volumes",
        "pods",
        "registries",
        "serverless",
        "templates",
    }
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

#: Seconds a new job may be unknown to the platform's other servers: so long does Runpod's own 2.0 client ask again.
JOB_VISIBLE_WITHIN_S: Final = 10.0
#: How long a finished job is kept, seconds.
RUN_RETENTION_S: Final = 1_800.0
RUNSYNC_RETENTION_S: Final = 60.0

#: `policy.executionTimeout` and `policy.ttl`, milliseconds: allowed range and the service's defaults.
EXECUTION_TIMEOUT_MIN_MS: Final = 5_000
EXECUTION_TIMEOUT_DEFAULT_MS: Final = 600_000
TTL_MIN_MS: Final = 10_000
TTL_DEFAULT_MS: Final = 86_400_000
POLICY_MAX_MS: Final = 7 * 86_400_000

#: Endpoint timeout and `policy.executionTimeout` where the user set no limit, ms. REST v2 describes no maximum, and
#: the job API allows a week; a day is within either, and a job that hangs does not bill a week.
NO_EXECUTION_LIMIT_MS: Final = 86_400_000

#: Most requests of one endpoint by operation, as (within the period, at once). With many workers the service
#: allows more.
RATE_LIMIT_PERIOD_S: Final = 10.0
RATE_LIMITS: Final = {
    "run": (1_000, 200),
    "runSync": (2_000, 400),
    "status": (2_000, 400),
    "stream": (2_000, 400),
    "cancel": (100, 20),
}

#: The service drops an empty object as input; official SDKs send this instead, and so do we.
EMPTY_INPUT: Final = {"__empty": True}

#: Endpoint environment variable: how many jobs one worker runs at once. The local platform caps jobs in
#: flight per worker at it; absent means that the worker's own loop decides, as on Runpod.
MAX_CONCURRENCY_ENV: Final = "RUNPOD_MAX_CONCURRENCY"

#: Largest request body of the worker's `job-done`, bytes: the official SDK warns above 20 MB and users report
#: refusals from the service.
RESULT_MAX_BYTES: Final = 20_000_000

#: How often a job is given to a worker before it fails because its workers died. Runpod does not say how often.
MAX_ATTEMPTS: Final = 3
#: Extra field of a job answer: how many workers got the job so far; left out while that is at most one.
ATTEMPTS_FIELD: Final = "attempts"
#: How the error text of a job starts when no worker could finish it; tells it from an error of the handler.
WORKER_LOST_PREFIX: Final = "worker lost: "
#: The same when the worker stopped a call of ours for its own time limit.
RUN_LIMIT_PREFIX: Final = "run limit: "
#: How it starts when the endpoint's workers end, again and again, before they take a first job.
WORKER_START_FAILED_PREFIX: Final = "worker did not start: "
#: How the error text of a job starts when its worker could not install what the endpoint asks for.
DEPENDENCIES_FAILED_PREFIX: Final = "dependencies not installed: "
#: How the line begins that such a worker writes to its log.
DEPENDENCIES_FAILED_LOG: Final = "the endpoint's dependencies cannot be installed"

#: Seconds a worker may take until it asks for its first job; the endpoint's `env` can override it.
WORKER_INIT_TIMEOUT_S: Final = 420.0
INIT_TIMEOUT_ENV: Final = "RUNPOD_INIT_TIMEOUT"
#: The same for workers that install something first: a CUDA build of torch is 3 GB.
WORKER_INSTALL_TIMEOUT_S: Final = 1_800.0
#: Milliseconds between the pings of a worker, the official SDK's default, and the variable that changes it.
PING_INTERVAL_DEFAULT_MS: Final = 10_000
PING_INTERVAL_ENV: Final = "RUNPOD_PING_INTERVAL"

#: Defaults of an endpoint: execution timeout in milliseconds, workers, seconds until an idle worker stops.
ENDPOINT_TIMEOUT_DEFAULT_MS: Final = 300_000
WORKERS_MIN_DEFAULT: Final = 0
WORKERS_MAX_DEFAULT: Final = 3
IDLE_TIMEOUT_DEFAULT_S: Final = 10
IDLE_TIMEOUT_MIN_S: Final = 1
IDLE_TIMEOUT_MAX_S: Final = 3_600
QUEUE_DELAY_MIN_S: Final = 0.5

#: A webhook gets the final job; any status but 200 is tried again, this often, after this many seconds.
WEBHOOK_RETRIES: Final = 2
WEBHOOK_RETRY_DELAY_S: Final = 10.0

#: Variables by which the official clients find the service: management base (without `/v2`), job base (with
#: it), key.
API_BASE_ENV: Final = "RUNPOD_API_BASE_URL"
ENDPOINT_BASE_ENV: Final = "RUNPOD_ENDPOINT_BASE_URL"
API_KEY_ENV: Final = "RUNPOD_API_KEY"

#: File in the folder of a worker that is a container: Docker writes the container's id there.
CONTAINER_ID_FILE: Final = "container.id"

#: Variable the local platform gives its workers: a directory they share, removed with the platform.
CACHE_DIR_ENV: Final = "FLASH_PLUGINS_CACHE_DIR"

#: Variables that callers and workers read: how long a part of a pickle must be to become an object, and how much may be
#: in a folder of one machine, bytes.
OBJECTS_MIN_BYTES_ENV: Final = "FLASH_PLUGINS_OBJECTS_MIN_BYTES"
OBJECTS_MAX_BYTES_ENV: Final = "FLASH_PLUGINS_OBJECTS_MAX_BYTES"

#: Endpoint environment variable: what kind of worker this is. `stream`: takes jobs, its handler streams; `http`:
#: serves the routes of a load-balanced endpoint; `calls`: runs calls that come as HTTP requests; absent: takes jobs and
#: answers each once.
HANDLER_ENV: Final = "FLASH_PLUGINS_HANDLER"
HANDLER_STREAMS: Final = "stream"
HANDLER_HTTP: Final = "http"
HANDLER_CALLS: Final = "calls"
#: Endpoint environment variable of the latter: how many calls run at once. Not `MAX_CONCURRENCY_ENV`, by which a
#: balancer would count requests that only wait for an outcome.
CALLS_AT_ONCE_ENV: Final = "FLASH_PLUGINS_CALLS_AT_ONCE"

#: Network volumes: allowed sizes in GB, storage tiers (the usual one first), where Runpod's serverless workers see
#: the volume of their endpoint.
VOLUME_SIZE_MIN_GB: Final = 10
VOLUME_SIZE_MAX_GB: Final = 4_096
VOLUME_TYPES: Final = ("STANDARD", "HIGH_PERFORMANCE")
VOLUME_MOUNT_PATH: Final = "/runpod-volume"
#: Environment of a worker: the id of its network volume, and of the data center it is in.
VOLUME_ID_ENV: Final = "RUNPOD_VOLUME_ID"
DATA_CENTER_ENV: Final = "RUNPOD_DC_ID"
#: Variable the local platform gives its workers: the folder that they see at `VOLUME_MOUNT_PATH`, where the system
#: lets them.
VOLUME_PATH_ENV: Final = "FLASH_PLUGINS_VOLUME_PATH"

#: Endpoint environment variables `FLASH_PLUGINS_CODE_0`, `_1`, …: code that is deployed with the endpoint rather
#: than sent with each job (see `code.cargo`).
CARGO_ENV_PREFIX: Final = "FLASH_PLUGINS_CODE_"
#: Most bytes of one of them: Linux takes 131,072 for a variable with its name.
CARGO_VARIABLE_MAX_BYTES: Final = 100_000
#: Most bytes of all of them: a process starts with 2 MB of arguments and environment at most where its stack is the
#: usual 8 MB, and users have variables of their own.
CARGO_MAX_BYTES: Final = 1_500_000
#: Endpoint environment variables: JSON lists of what workers install before the first call.
DEPENDENCIES_ENV: Final = "FLASH_PLUGINS_DEPENDENCIES"
SYSTEM_DEPENDENCIES_ENV: Final = "FLASH_PLUGINS_SYSTEM_DEPENDENCIES"
#: Endpoint environment variable: `0` where a worker must not use faster ways to download.
ACCELERATE_ENV: Final = "FLASH_PLUGINS_ACCELERATE_DOWNLOADS"

#: Load-balanced endpoints: largest body each way in bytes, longest request, longest wait for a worker, and for one
#: certain worker, in seconds (Runpod's load balancing documentation, 2026-08).
BALANCED_BODY_MAX_BYTES: Final = 30_000_000
#: Bytes of it that calls of ours keep free for what is not a content: heads of envelopes, output of the call.
BALANCED_MARGIN_BYTES: Final = 500_000
BALANCED_REQUEST_TIMEOUT_S: Final = 330.0
BALANCED_WORKER_WAIT_S: Final = 120.0
BALANCED_AFFINITY_WAIT_S: Final = 300.0
#: Header that names the worker that answered; sent back it asks for that worker: `ID`, `strict ID`, `strict-resume ID`.
WORKER_ID_HEADER: Final = "X-Runpod-Worker-Id"
#: What the body of an answer says where that worker does not run any more, and where it was not there in time.
AFFINITY_GONE_ERROR: Final = "affinity_worker_gone"
AFFINITY_TIMEOUT_ERROR: Final = "worker_timeout"
#: What it says on the local platform where a worker has its request surely not got.
WORKER_UNREACHED_TEXT: Final = "cannot be reached on port"
#: What the body of an answer says when there is no worker, in whatever status it comes.
NO_WORKERS_ERROR: Final = "no workers available"
#: Environment of a load-balanced worker: where it serves, and where its health is asked: 200 healthy, 204 starting.
PORT_ENV: Final = "PORT"
PORT_HEALTH_ENV: Final = "PORT_HEALTH"
HEALTH_CHECK_PATH_ENV: Final = "HEALTH_CHECK_PATH"
HEALTH_CHECK_PATH_DEFAULT: Final = "/ping"
BALANCED_PORT_DEFAULT: Final = 80

#: Variables the local platform gives its workers: where it is and the key it wants, for calls that they make.
PLATFORM_URL_ENV: Final = "FLASH_PLUGINS_PLATFORM_URL"
PLATFORM_KEY_ENV: Final = "FLASH_PLUGINS_PLATFORM_KEY"

#: Variables that callers and workers read: the URL of the store of large objects (`off` for none), and the keys of a
#: bucket.
OBJECTS_ENV: Final = "FLASH_PLUGINS_OBJECTS"
S3_ACCESS_KEY_ENV: Final = "FLASH_PLUGINS_S3_ACCESS_KEY"
S3_SECRET_KEY_ENV: Final = "FLASH_PLUGINS_S3_SECRET_KEY"

#: Environment variable with what `pip install` is given where the package is not installed.
PACKAGE_SPEC_ENV: Final = "FLASH_PLUGINS_SPEC"

#: Images of workers that run decorated code: small, and with CUDA and torch. Both have pip, and no ENTRYPOINT that
#: would swallow the start command.
CPU_IMAGE: Final = "python:{python}-slim"
GPU_IMAGE: Final = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"

#: Fields of a REST v2 endpoint whose change makes a new release: workers of the old one are replaced, idle ones at once
#: and busy ones after their job. Changes of all others are applied to running workers.
RELEASE_FIELDS: Final = frozenset({"image", "args", "disk", "env", "ports", "registry", "gpu", "cpu", "networkVolumes"})

#: Endpoint environment variable: JSON with the names of the variables that we set (`env`), so that one which is no
#: longer wanted can be removed while those of others are left alone, and the template it was made from (`template`).
MANAGED_ENV: Final = "FLASH_PLUGINS_MANAGED"
#: Endpoint environment variable: which attempt to create the endpoint made it; tells whether one whose answer got lost
#: came through.
CREATION_ENV: Final = "FLASH_PLUGINS_CREATION"
#: Endpoint environment variable: the caller's Python version, `3.12`, which the worker must share.
PYTHON_ENV: Final = "FLASH_PLUGINS_PYTHON"
#: Variable the local platform gives its workers: the python that they run on, whatever else is on the path.
EXECUTABLE_ENV: Final = "FLASH_PLUGINS_EXECUTABLE"
#: Where a worker puts a Python of the caller's version that its image does not have.
FETCHED_PYTHON: Final = "/tmp/flash-plugins-python"
#: Endpoint id that the official SDKs of apps send to, with the header that says which endpoint they mean, by id or name
#: (runpod 2.0.0rc2 and runpod-flash 1.21, not documented).
SENTINEL_ID: Final = "flash"
SENTINEL_HEADER: Final = "X-Flash-Endpoint"

#: Command line of our own worker, on Runpod in a stock image and on the local platform: find a python, best one of
#: the caller's version, get that with uv if there is none; install the package unless it is there; start.
#: Where even uv has none, the worker starts all the same: it tells each caller which versions do not go together.
#: One POSIX `sh -c` word in single quotes, so no single quote may appear inside.
WORKER_COMMAND: Final = (
    "sh -c '"
    f"v=${PYTHON_ENV}; p=${EXECUTABLE_ENV}; a=; "
    'if [ -z "$p" ]; then '
    "for p in python$v python3 python /opt/conda/bin/python; do "
    "command -v $p >/dev/null 2>&1 || { p=; continue; }; a=${a:-$p}; "
    '[ -n "$v" ] || break; $p -c "import sys; sys.exit(not sys.version.startswith(sys.argv[1]))" $v. && break; p=; '
    "done; "
    '[ -n "$a" ] || { echo "flash-plugins: this image has no python; choose one that has" >&2; exit 1; }; '
    "fi; "
    'pip() { PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore "$@" --quiet --disable-pip-version-check; }; '
    'if [ -z "$p" ]; then '
    'echo "flash-plugins: this image has no Python $v, which the caller has; getting it, without the packages that '
    'the image has for its own" >&2; '
    f"p={FETCHED_PYTHON}/bin/python; u=uv; "
    'command -v uv >/dev/null 2>&1 || { pip $a -m pip install uv; u="$a -m uv"; }; '
    f"[ -x $p ] || $u venv --quiet --seed --python $v {FETCHED_PYTHON} || {{ p=$a; "
    'echo "flash-plugins: Python $v could not be had; use an image that has it, or call from the Python of this image" '
    ">&2; }; "
    "fi; "
    f'm="flash_plugins runpod"; case "${HANDLER_ENV}" in {HANDLER_HTTP}) m="flash_plugins fastapi uvicorn";; '
    f'{HANDLER_CALLS}) m="flash_plugins uvicorn";; esac; '
    '"$p" -c "import sys; from importlib.util import find_spec as f; sys.exit(None in map(f, sys.argv[1:]))" $m || '
    f'pip "$p" -m pip install ${PACKAGE_SPEC_ENV} || '
    f'{{ echo "flash-plugins: pip install ${PACKAGE_SPEC_ENV} failed for $p; see the lines above" >&2; exit 1; }}; '
    'exec "$p" -m flash_plugins.worker'
    "'"
)

#: Endpoint environment variable: the endpoint's name, by which decorated functions know their own workers.
ENDPOINT_NAME_ENV: Final = "FLASH_PLUGINS_ENDPOINT"
#: Variable the local platform gives its workers: it hands out no more jobs at once than `MAX_CONCURRENCY_ENV` says.
CAPPED_ENV: Final = "FLASH_PLUGINS_CAPPED"
