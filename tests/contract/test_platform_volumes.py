# SPDX-License-Identifier: Apache-2.0
"""Network volumes as the local platform serves them, and what workers see of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flash_plugins.platforms.local.launch import launch
from tests.contract.rest_description import Check, refused, schema_check
from tests.integration.local_support import Client, wait_for

PATH = "/v2/network-volumes"
BODY: dict[str, Any] = {"name": "models", "size": 20, "dataCenter": "EU-RO-1"}
ENDPOINT: dict[str, Any] = {
    "name": "attached",
    "type": "QUEUE",
    "image": "python:3.12-slim",
    "args": "sleep 600",
    "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where volumes are kept."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "flash-plugins" / "volumes"


@pytest.fixture
def client(home: Path) -> Iterator[Client]:
    platform = launch()
    yield Client.of(platform)
    platform.stop()


@pytest.fixture(scope="module")
def check() -> Check:
    return schema_check()


def volumes(*listed: object) -> dict[str, Any]:
    """The list, which fits one page."""
    return {"networkVolumes": list(listed), "pagination": {"hasNextPage": False, "nextCursor": None}}


def test_a_volume_lives_from_post_to_delete(client: Client, check: Check, home: Path) -> None:
    check("CreateNetworkVolumeRequest", BODY)
    status, created, _ = client.request("POST", PATH, BODY)
    assert status == 201
    check("NetworkVolume", created)
    assert created == {**BODY, "id": created["id"], "type": "STANDARD"}
    one = f"{PATH}/{created['id']}"
    assert client.ok("GET", one) == created
    listed = client.ok("GET", PATH)
    check("ListNetworkVolumesResponse", listed)
    assert listed == volumes(created)

    patch = {"name": "renamed", "size": 4096}
    check("UpdateNetworkVolumeRequest", patch)
    patched = client.ok("PATCH", one, patch)
    assert patched == {**created, **patch} == client.ok("GET", one)

    (folder,) = home.iterdir()
    (folder / "files" / "deep").mkdir()
    (folder / "files" / "deep" / "file").write_text("x")
    assert client.request("DELETE", one)[:2] == (204, None)
    assert not folder.exists()
    refused(client, check, "GET", one, None, 404)
    refused(client, check, "PATCH", one, patch, 404)
    refused(client, check, "DELETE", one, None, 404)


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({**BODY, "size": 9}, 422, "$.size: must be 10 to 4096, not 9"),
        ({**BODY, "size": 4097}, 422, "$.size: must be 10 to 4096, not 4097"),
        ({**BODY, "name": ""}, 422, "$.name: must not be empty"),
        ({**BODY, "type": "FAST"}, 422, "$.type: must be one of STANDARD, HIGH_PERFORMANCE, not 'FAST'"),
        ({**BODY, "bogus": 1}, 422, "$: additional properties 'bogus' not allowed"),
        ({"name": "models", "size": 20}, 422, "$: missing property 'dataCenter'"),
        ({**BODY, "dataCenter": "MOON-1"}, 400, "data center 'MOON-1' is unknown"),
    ],
)
def test_a_refused_volume_says_why(client: Client, check: Check, body: Any, status: int, text: str) -> None:
    answer = refused(client, check, "POST", PATH, body, status)
    assert text in answer["detail"]
    assert client.ok("GET", PATH) == volumes()


def test_a_volume_only_grows(client: Client, check: Check) -> None:
    created = client.ok("POST", PATH, BODY)
    one = f"{PATH}/{created['id']}"
    assert "cannot shrink" in refused(client, check, "PATCH", one, {"size": 19}, 400)["detail"]
    refused(client, check, "PATCH", one, {}, 422)
    refused(client, check, "PATCH", one, {"dataCenter": "US-KS-2"}, 422)
    assert client.ok("PATCH", one, {"size": 20}) == created


@pytest.mark.parametrize("name", ["../../x", "a/b\0c", "\ud800", "名前", ".", "x" * 3000])
def test_names_are_no_paths_and_need_not_be_unique(client: Client, home: Path, name: str) -> None:
    first, second = (client.ok("POST", PATH, {**BODY, "name": name}) for _ in range(2))
    assert first["name"] == second["name"] == name
    assert first["id"] != second["id"]
    assert {path.parent for path in home.parent.rglob("volume.json")} == set(home.iterdir())
    assert len(list(home.iterdir())) == 2


def test_volumes_outlive_the_platform(home: Path) -> None:
    first = launch()
    created = Client.of(first).ok("POST", PATH, {**BODY, "type": "HIGH_PERFORMANCE"})
    (home / "models-EU-RO-1" / "files" / "weights").write_text("1 2 3")
    first.stop()
    second = launch()
    try:
        assert Client.of(second).ok("GET", PATH) == volumes(created)
        assert (home / "models-EU-RO-1" / "files" / "weights").read_text() == "1 2 3"
    finally:
        second.stop()


def test_without_a_home_volumes_live_as_long_as_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder can be made below this")
    monkeypatch.setenv("XDG_DATA_HOME", str(blocked))
    platform = launch()
    created = Client.of(platform).ok("POST", PATH, BODY)
    assert (platform.run_dir / "volumes" / "models-EU-RO-1" / "files").is_dir()
    assert Client.of(platform).ok("GET", PATH) == volumes(created)
    platform.stop()
    assert not platform.run_dir.exists()


def test_workers_see_the_volume_of_their_endpoint(client: Client, home: Path, tmp_path: Path) -> None:
    older = client.ok("POST", PATH, {**BODY, "dataCenter": "US-KS-2"})["id"]
    volume = client.ok("POST", PATH, BODY)["id"]
    script = "import os, pathlib; v = os.environ; pathlib.Path(v['FLASH_PLUGINS_VOLUME_PATH'], v['RUNPOD_DC_ID'])"
    args = f"python -c \"{script}.write_text(v['RUNPOD_VOLUME_ID'])\""
    client.ok(
        "POST", "/v2/serverless", {**ENDPOINT, "args": args, "workers": {"min": 1}, "networkVolumes": [volume, older]}
    )
    written = home / "models-EU-RO-1" / "files" / "EU-RO-1"
    assert wait_for(lambda: written.exists() and written.read_text()) == volume


def test_workers_without_a_volume_are_told_of_none(client: Client, tmp_path: Path) -> None:
    found = tmp_path / "names"
    script = f"import os, pathlib; pathlib.Path('{found}').write_text(' '.join(['-', *os.environ]))"
    client.ok("POST", "/v2/serverless", {**ENDPOINT, "args": f'python -c "{script}"', "workers": {"min": 1}})
    names = wait_for(lambda: found.read_text().split() if found.exists() else None)
    assert not {"RUNPOD_VOLUME_ID", "FLASH_PLUGINS_VOLUME_PATH", "RUNPOD_DC_ID"} & set(names)


def test_an_endpoint_names_volumes_that_exist_in_its_data_centers(client: Client, check: Check) -> None:
    one = client.ok("POST", PATH, BODY)["id"]
    twin = client.ok("POST", PATH, BODY)["id"]
    far = client.ok("POST", PATH, {**BODY, "dataCenter": "US-KS-2"})["id"]

    def attach(*volumes: str, status: int, **fields: object) -> str:
        body = {**ENDPOINT, "networkVolumes": list(volumes), **fields}
        return str(refused(client, check, "POST", "/v2/serverless", body, status)["detail"])

    assert attach("nosuch", status=404) == "network volume 'nosuch' not found"
    assert "both in EU-RO-1" in attach(one, twin, status=400)
    assert "dataCenterIds allow only US-KS-2" in attach(one, status=400, dataCenterIds=["US-KS-2"])

    created = client.ok("POST", "/v2/serverless", {**ENDPOINT, "networkVolumes": [one, far]})
    assert created["networkVolumes"] == [one, far]
    path = f"/v2/serverless/{created['id']}"
    refused(client, check, "PATCH", path, {"dataCenterIds": ["EU-RO-1"]}, 400)
    refused(client, check, "PATCH", path, {"networkVolumes": ["nosuch"]}, 404)
    assert client.ok("GET", path) == created
    patched = client.ok("PATCH", path, {"networkVolumes": [one], "dataCenterIds": ["EU-RO-1"]})
    assert (patched["networkVolumes"], patched["dataCenterIds"]) == ([one], ["EU-RO-1"])


def test_a_volume_in_use_stays(client: Client, check: Check) -> None:
    volume = client.ok("POST", PATH, BODY)["id"]
    endpoint = client.ok("POST", "/v2/serverless", {**ENDPOINT, "networkVolumes": [volume]})["id"]
    assert endpoint in refused(client, check, "DELETE", f"{PATH}/{volume}", None, 400)["detail"]
    client.ok("DELETE", f"/v2/serverless/{endpoint}")
    client.ok("DELETE", f"{PATH}/{volume}")


def test_what_is_no_volume_is_left_alone(client: Client, home: Path) -> None:
    created = client.ok("POST", PATH, BODY)
    (home / "notes").mkdir()
    (home / "broken-EU-RO-1").mkdir()
    (home / "broken-EU-RO-1" / "volume.json").write_text('{"id": 3')
    assert client.ok("GET", PATH) == volumes(created)


def test_a_volume_that_cannot_be_made_is_a_problem(client: Client, check: Check, home: Path) -> None:
    home.parent.mkdir(parents=True)
    home.write_text("in the way")
    assert "cannot create the network volume" in refused(client, check, "POST", PATH, BODY, 500)["detail"]
    assert client.ok("GET", PATH) == volumes()
