# SPDX-License-Identifier: Apache-2.0
"""The hello world of Runpod's worker documentation: a plain function."""

import os
from typing import Any

import runpod


def handler(job: dict[str, Any]) -> dict[str, Any]:
    return {
        "got": job["input"],
        "job_id": job["id"],
        "worker_id": os.environ["RUNPOD_POD_ID"],
        "endpoint_id": os.environ["RUNPOD_ENDPOINT_ID"],
        "greeting": os.environ.get("GREETING"),
        "version": runpod.__version__,
    }


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
