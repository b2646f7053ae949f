# SPDX-License-Identifier: Apache-2.0
"""REST v2 through runpod 2.0: the public commands, its apps client, and the transport below both."""

from typing import Any

import runpod
from runpod.api.rest import run_rest_request
from runpod.apps.api import AppsApiClient
from transcript import Setting, play, raised  # type: ignore[import-not-found]

QUEUE_BODY = {
    "name": "rest-wrapper",
    "type": "QUEUE",
    "image": "python:3.12-slim",
    "args": "python worker.py",
    "env": {"COLOUR": "blue"},
    "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
    "workers": {"min": 0, "max": 0, "idleTimeout": 5},
}


def life_of_an_endpoint(setting: Setting) -> Any:
    created = run_rest_request("POST", "/v2/serverless", json=QUEUE_BODY)
    assert created is not None
    path = f"/v2/serverless/{created['id']}"
    read = run_rest_request("GET", path)
    listed = [endpoint["id"] for endpoint in runpod.get_endpoints()]
    changed = run_rest_request("PATCH", path, json={"name": "renamed", "env": {"COLOUR": "red"}})
    reread = run_rest_request("GET", path)
    workers = run_rest_request("GET", path + "/workers")
    deleted = run_rest_request("DELETE", path)
    gone = raised(lambda: run_rest_request("GET", path))
    listed_after = [endpoint["id"] for endpoint in runpod.get_endpoints()]
    return {
        "created": created,
        "read": read,
        "listed": listed,
        "changed": changed,
        "reread": reread,
        "workers": workers,
        "deleted": deleted,
        "gone": gone,
        "listed_after": listed_after,
    }


async def life_through_the_apps_client(setting: Setting) -> Any:
    api = AppsApiClient()
    created = await api.save_endpoint(
        {
            "name": "apps-client",
            "type": "QB",
            "template": {
                "imageName": "python:3.12-slim",
                "containerDiskInGb": 10,
                "dockerArgs": "python worker.py",
                "env": [{"key": "COLOUR", "value": "blue"}],
            },
            "workersMin": 0,
            "workersMax": 0,
            "idleTimeout": 5,
            "scalerType": "QUEUE_DELAY",
            "scalerValue": 4,
            "executionTimeoutMs": 20_000,
            "flashBootType": "OFF",
            "instanceIds": ["cpu3c-2-4"],
        }
    )
    changed = await api.save_endpoint({"id": created["id"], "type": "QB", "executionTimeoutMs": 30_000})
    listed = [endpoint["id"] for endpoint in await api.list_my_endpoints()]
    workers = await api.endpoint_workers(created["id"])
    deleted = await api.delete_endpoint(created["id"])
    listed_after = [endpoint["id"] for endpoint in await api.list_my_endpoints()]
    return {
        "created": created,
        "changed": changed,
        "listed": listed,
        "workers": workers,
        "deleted": deleted,
        "listed_after": listed_after,
    }


def gpu_endpoint(setting: Setting) -> Any:
    body = {key: value for key, value in QUEUE_BODY.items() if key != "cpu"}
    body["gpu"] = {"pools": ["ADA_24"], "count": 1}
    created = run_rest_request("POST", "/v2/serverless", json=body)
    assert created is not None
    run_rest_request("DELETE", f"/v2/serverless/{created['id']}")
    return created


async def workers_of_a_serving_endpoint(setting: Setting) -> Any:
    return await AppsApiClient().endpoint_workers(setting.jobs)


def unknown_field(setting: Setting) -> Any:
    try:
        run_rest_request("POST", "/v2/serverless", json={**QUEUE_BODY, "bogus": 1})
    except runpod.error.QueryError as error:
        return {"status": error.status_code, "errors": error.errors, "text": str(error)}
    return {"status": None}


def gpu_and_cpu_together(setting: Setting) -> Any:
    body = {**QUEUE_BODY, "gpu": {"pools": ["ADA_24"], "count": 1}}
    return raised(lambda: run_rest_request("POST", "/v2/serverless", json=body))


def unknown_template(setting: Setting) -> Any:
    return raised(lambda: runpod.create_endpoint("from-template", template_id="no-such-template"))


def unknown_endpoint(setting: Setting) -> Any:
    return raised(lambda: run_rest_request("DELETE", "/v2/serverless/no-such-endpoint"))


def wrong_key(setting: Setting) -> Any:
    return raised(lambda: run_rest_request("GET", "/v2/serverless", api_key="wrong"))


if __name__ == "__main__":
    play(
        [
            life_of_an_endpoint,
            life_through_the_apps_client,
            gpu_endpoint,
            workers_of_a_serving_endpoint,
            unknown_field,
            gpu_and_cpu_together,
            unknown_template,
            unknown_endpoint,
            wrong_key,
        ]
    )
