# SPDX-License-Identifier: Apache-2.0
"""What REST v2 refuses, in terms of what the user wrote: which parameter it is, and what to do. It sends nothing."""

from __future__ import annotations

from typing import Final

from ..errors import ApiError, NotFoundError

__all__ = ["explained"]

#: Parameters of `Endpoint` by where their values are in a REST v2 body; the first that fits counts.
_PARAMETERS: Final = (
    ("gpu.count", "gpu_count"),
    ("gpu.minCudaVersion", "min_cuda_version"),
    ("gpu", "gpu"),
    ("cpu", "cpu"),
    ("workers.idleTimeout", "idle_timeout"),
    ("workers", "workers"),
    ("scaling.type", "scaler_type"),
    ("scaling", "scaler_value"),
    ("image", "image"),
    ("templateId", "template"),
    ("disk", "template"),
    ("ports", "template"),
    ("registry", "template"),
    ("args", "template"),
    ("env", "env"),
    ("dataCenterIds", "datacenter"),
    ("networkVolumes", "volume"),
    ("timeout", "execution_timeout_ms"),
    ("flashboot", "flashboot"),
    ("name", "name"),
)

#: What to do by words of a refusal; the first that fits counts.
_REMEDIES: Final = (
    (("quota", "balance", "max workers", "worker limit", "workers max"),
     "an account may have so many workers in all (5, more with a higher balance): lower workers=, or delete endpoints"),
    (("template",), "check PodTemplate(id=…): it must exist and be a serverless template"),
    (("volume",), "check volume= and datacenter=: a volume must be where the workers may run"),
    (("data center", "datacenter"), "check datacenter=: not every place offers serverless workers or volumes"),
)  # fmt: skip


def explained(error: ApiError, name: str, what: str | None = None) -> ApiError:
    """Return the error with the parameters that it is about and the next step.

    Args:
        error: The refusal.
        name: Name of the endpoint.
        what: What was asked for, if not the endpoint itself.
    """
    parameters = list(dict.fromkeys(filter(None, map(_parameter, error.errors))))
    told = [f"in {', '.join(f'Endpoint({parameter}=…)' for parameter in parameters)}"] if parameters else []
    if (remedy := _remedy(error)) is not None:
        told.append(remedy)
    subject = f"endpoint {name!r}" if what is None else f"endpoint {name!r}, {what}"
    text = "; ".join([f"{subject}: {error}", *told])
    kind = NotFoundError if isinstance(error, NotFoundError) else ApiError
    return kind(text, status=error.status, detail=error.detail, errors=error.errors)


def _parameter(error: str) -> str | None:
    """Return the parameter that a text such as `$.workers.max: must be at least 0` is about."""
    path = error.partition(":")[0].strip().removeprefix("$").removeprefix(".")
    return next((name for start, name in _PARAMETERS if f"{path}.".startswith((f"{start}.", f"{start}["))), None)


def _remedy(error: ApiError) -> str | None:
    if error.status >= 500:
        return "the platform has a problem of its own: try again in a few minutes"
    words = (error.detail or "").casefold()
    for signs, remedy in _REMEDIES:
        if any(sign in words for sign in signs):
            return remedy
    return None
