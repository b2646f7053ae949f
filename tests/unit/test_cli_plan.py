# SPDX-License-Identifier: Apache-2.0
"""A plan as JSON: what changes, what of it replaces workers, and no value of the environment."""

from __future__ import annotations

import json

from flash_plugins.cli.plan import _as_json
from flash_plugins.platforms.changes import difference_of
from flash_plugins.platforms.provision import EndpointPlan, PlanAction


def test_a_plan_as_json_says_which_changes_replace_workers() -> None:
    found = {"workers": {"min": 0, "max": 3}, "env": {"TOKEN": "s3cret"}}
    body = {"workers": {"min": 0, "max": 5}, "env": {"TOKEN": "t0psecret"}}
    plan = EndpointPlan("x", PlanAction.UPDATE, None, difference_of(found, body), body)
    shown = _as_json(plan, None)
    assert shown["changes"] == [
        {"setting": "workers.max", "old": "3", "new": "5", "replacesWorkers": False},
        {"setting": "env (TOKEN)", "old": None, "new": None, "replacesWorkers": True},
    ]
    assert "secret" not in json.dumps(shown)
