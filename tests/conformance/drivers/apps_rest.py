# SPDX-License-Identifier: Apache-2.0
"""REST v2 through runpod 2.0: the public commands, its apps client, and the transport below both."""

from typing import Any

import runpod
from runpod.api.rest import run_rest_request
from runpod.apps.api import AppsApiClient
from runpod.apps.volume import VolumeResolver
from transcript import Setting, describe, play, raised  # type: ignore[import-not-found]

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


def life_from_a_template(setting: Setting) -> Any:
    template = runpod.create_template(
        "stock",
        "python:3.12-slim",
        docker_start_cmd="python worker.py",
        container_disk_in_gb=12,
        ports="80/http, 81/tcp",
        env={"COLOUR": "blue"},
        is_serverless=True,
    )
    created = runpod.create_endpoint(
        "from-template",
        template["id"],
        gpu_ids="ADA_48_PRO,-NVIDIA L40",
        workers_max=0,
        flashboot=True,
        allowed_cuda_versions="12.4, 12.8",
    )
    other = runpod.create_template(
        "other", "python:3.13-slim", docker_start_cmd="python other.py", env={"COLOUR": "red"}, is_serverless=True
    )
    changed = runpod.update_endpoint_template(created["id"], other["id"])
    path = f"/v2/templates/{template['id']}"
    in_use = raised(lambda: run_rest_request("DELETE", path))
    run_rest_request("DELETE", f"/v2/serverless/{created['id']}")
    deleted = run_rest_request("DELETE", path)
    gone = raised(lambda: runpod.create_endpoint("too-late", template["id"]))
    return {
        "template": template,
        "created": created,
        "changed": changed,
        "in_use": in_use,
        "deleted": deleted,
        "gone": gone,
    }


def template_for_pods(setting: Setting) -> Any:
    template = runpod.create_template("pods", "python:3.12-slim")
    return raised(lambda: runpod.create_endpoint("from-pods", template["id"]))


async def balanced_endpoint_through_the_apps_client(setting: Setting) -> Any:
    api = AppsApiClient()
    created = await api.save_endpoint(
        {
            "name": "apps-client-api",
            "type": "LB",
            "template": {
                "imageName": "python:3.12-slim",
                "dockerArgs": "python worker.py",
                "ports": "80/http",
                "env": [{"key": "PORT", "value": "80"}],
            },
            "workersMin": 0,
            "workersMax": 0,
            "scalerType": "REQUEST_COUNT",
            "scalerValue": 4,
            "instanceIds": ["cpu3c-2-4"],
        }
    )
    await api.delete_endpoint(created["id"])
    return created


async def volume_is_created_and_found_again(setting: Setting) -> Any:
    name = "apps-volume"
    api = AppsApiClient()
    wanted = runpod.NetworkVolume(name, size=20, datacenter="EU-RO-1")
    first = await VolumeResolver(api).resolve(wanted)
    second = await VolumeResolver(api).resolve(wanted)
    listed = [volume for volume in await api.list_network_volumes() if volume["name"] == name]
    attached = await api.save_endpoint(
        {
            "name": "with-volume",
            "type": "QB",
            "template": {"imageName": "python:3.12-slim", "dockerArgs": "python worker.py"},
            "workersMax": 0,
            "scalerType": "QUEUE_DELAY",
            "scalerValue": 4,
            "instanceIds": ["cpu3c-2-4"],
            "networkVolumeIds": [{"networkVolumeId": first["id"]}],
            "locations": "EU-RO-1",
        }
    )
    await api.delete_endpoint(attached["id"])
    run_rest_request("DELETE", f"/v2/network-volumes/{first['id']}")
    return {"first": first, "second": second, "listed": listed, "attached": attached["networkVolumes"]}


async def volume_that_must_exist(setting: Setting) -> Any:
    wanted = runpod.NetworkVolume("no-such-volume", create=False)
    try:
        await VolumeResolver(AppsApiClient()).resolve(wanted)
    except Exception as error:  # noqa: BLE001 - any error is the answer here
        return describe(error)
    return {"type": None}


async def catalog(setting: Setting) -> Any:
    api = AppsApiClient()
    return {
        "gpus": [gpu["id"] for gpu in runpod.get_gpus()],
        "gpu": runpod.get_gpu("NVIDIA L4", gpu_quantity=2),
        "no_such_gpu": raised(lambda: runpod.get_gpu("NVIDIA L5")),
        "stock": await api.gpu_stock_status("NVIDIA L4", "EU-RO-1"),
        "no_stock": await api.gpu_stock_status("NVIDIA L4", "MOON-1"),
        "cpu_stock": await api.cpu_stock_status("cpu5c-4-8", "EU-RO-1"),
        "no_cpu_stock": await api.cpu_stock_status("cpu5c-64-128", "EU-RO-1"),
        "volume_places": sorted(await api.network_volume_datacenters()),
    }


async def registry_credentials(setting: Setting) -> Any:
    api = AppsApiClient()
    created = runpod.create_container_registry_auth("hub", "me", "secret")
    listed = await api.list_registry_auths()
    deleted = runpod.delete_container_registry_auth(created["id"])
    return {"created": created, "listed": listed, "deleted": deleted, "after": await api.list_registry_auths()}


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
            life_from_a_template,
            template_for_pods,
            balanced_endpoint_through_the_apps_client,
            volume_is_created_and_found_again,
            volume_that_must_exist,
            catalog,
            registry_credentials,
            workers_of_a_serving_endpoint,
            unknown_field,
            gpu_and_cpu_together,
            unknown_template,
            unknown_endpoint,
            wrong_key,
        ]
    )
