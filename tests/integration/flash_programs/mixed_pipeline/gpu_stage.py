# SPDX-License-Identifier: Apache-2.0
"""The expensive stage of the pipeline, on GPU workers."""

from runpod_flash import Endpoint, GpuGroup


@Endpoint(name="p03-score", gpu=GpuGroup.ADA_24, workers=(0, 2), idle_timeout=5)
async def score(payload: dict) -> dict:
    """Score labels; a tiny stand-in for a model."""
    happy = sum(payload["text"].lower().count(word) for word in ("good", "great", "fine"))
    return {"positive": (1 + happy) / (2 + payload["words"]), "negative": 1 / (2 + payload["words"])}
