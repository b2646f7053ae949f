# SPDX-License-Identifier: Apache-2.0
"""The cheap stages of the pipeline, on CPU workers."""

from runpod_flash import CpuInstanceType, Endpoint


@Endpoint(name="p03-clean", cpu=CpuInstanceType.CPU3G_2_8, idle_timeout=5)
async def clean(payload: dict) -> dict:
    """Reduce white space and count."""
    import re

    text = re.sub(r"\s+", " ", payload["text"]).strip()
    return {"text": text, "words": len(text.split())}


@Endpoint(name="p03-report", cpu=CpuInstanceType.CPU3G_2_8, idle_timeout=5)
async def report(payload: dict) -> dict:
    """Name the best label."""
    best = max(payload["scores"], key=payload["scores"].get)
    return {"label": best, "score": payload["scores"][best], "stages": [*payload["stages"], "report"]}
