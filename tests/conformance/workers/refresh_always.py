# SPDX-License-Identifier: Apache-2.0
"""A worker that serves one job in its life, by the start configuration."""

import os
from typing import Any

import runpod

served = 0


def handler(job: dict[str, Any]) -> dict[str, Any]:
    global served
    served += 1
    return {"served": served, "process": os.getpid(), "got": job["input"]}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler, "refresh_worker": True})
