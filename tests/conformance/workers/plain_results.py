# SPDX-License-Identifier: Apache-2.0
"""A handler whose result is whatever JSON value it was asked for, dictionaries or not."""

from typing import Any

import runpod


def handler(job: dict[str, Any]) -> Any:
    return job["input"]["result"]


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
