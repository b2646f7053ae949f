# SPDX-License-Identifier: Apache-2.0
"""The two ways in which a handler fails: it raises, or it returns a dictionary with `error`."""

from pathlib import Path
from typing import Any

import runpod


def handler(job: dict[str, Any]) -> dict[str, Any]:
    how = job["input"]["how"]
    if how == "raise":
        raise ValueError("bad juju")
    if how == "return":
        return {"error": "out of ideas", "tried": 3}
    first_time = Path(job["input"]["marker"])
    if not first_time.exists():
        first_time.touch()
        raise RuntimeError("the first time fails")
    return {"recovered": True}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
