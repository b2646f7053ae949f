# SPDX-License-Identifier: Apache-2.0
"""Runpod's own description of REST v2, where it is at hand: `RUNPOD_OPENAPI`, or beside the checkout.

It is not ours to ship; without it nothing is checked against it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema

from tests.integration.local_support import Client
from tests.support import ROOT

__all__ = ["Check", "description_path", "refused", "schema_check"]

#: Checks an answer (or a body) against the schema of that name.
Check = Callable[[str, Any], None]


def description_path() -> Path | None:
    """Return the file with the description, None where there is none."""
    given = os.environ.get("RUNPOD_OPENAPI")
    beside = sorted(ROOT.parent.glob("shared/**/runpod-openapi-v2.json"))
    path = Path(given) if given else next(iter(beside), None)
    return path if path is not None and path.is_file() else None


def schema_check() -> Check:
    """Return a check against the description; it checks nothing without that."""
    path = description_path()
    if path is None:
        return lambda schema, answer: None
    document = json.loads(path.read_text())

    def validate(schema: str, answer: Any) -> None:
        root = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
        jsonschema.Draft202012Validator(root).validate(answer)

    return validate


def refused(client: Client, check: Check, method: str, path: str, body: object, status: int) -> Any:
    """Return the problem that a request is answered with."""
    got, answer, headers = client.request(method, path, body)
    assert got == status, answer
    assert headers["content-type"] == "application/problem+json"
    assert answer["status"] == status
    check("ErrorResponse", answer)
    return answer
