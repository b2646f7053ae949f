# SPDX-License-Identifier: Apache-2.0
"""Every construct of Runpod's page "Create endpoints" for Flash, in words of our own, on the local platform.

Large packages are replaced by small ones. What each construct asks of Runpod: `tests/contract/test_seed_bodies.py`.
"""

from __future__ import annotations

import asyncio
import json  # at the top on purpose: see the tests about imports
import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import flash_plugins
from flash_plugins import CpuInstanceType, DataCenter, Endpoint, EndpointJob, GpuGroup, GpuType, NetworkVolume
from tests.integration.local_support import WORKERS, Client
from tests.integration.test_local_mounts import require_mounts
from tests.registry import keep_installer_caches, require_registry

#: Generous: the box may be busy.
DEADLINE_S = 60.0

Json = dict[str, Any]


# -- a function on a worker ---------------------------------------------------------------------------------


@Endpoint(name="seed-inference", gpu=GpuType.NVIDIA_GEFORCE_RTX_4090)
def infer(data: Json) -> Json:
    import math

    return {"result": math.hypot(*data["vector"]), "pid": os.getpid()}


def test_a_decorated_function_runs_on_a_worker_and_its_result_comes_back() -> None:
    async def main() -> Json:
        return await infer({"vector": [3, 4]})

    result = asyncio.run(main())
    assert result["result"] == 5.0
    assert result["pid"] != os.getpid()


# -- queue-based endpoints ----------------------------------------------------------------------------------


@Endpoint(name="seed-images", gpu=GpuType.NVIDIA_GEFORCE_RTX_4090, workers=(0, 5))
async def process_image(image: Json) -> Json:
    from collections import Counter

    return {"processed": True, "colours": len(Counter(image["pixels"]))}


def test_a_queue_of_calls_is_worked_off_in_parallel() -> None:
    async def main() -> list[Json]:
        return await asyncio.gather(*(process_image({"pixels": "r" * n + "g"}) for n in range(1, 4)))

    assert asyncio.run(main()) == [{"processed": True, "colours": 2}] * 3


@Endpoint(name="seed-item", cpu="cpu5c-4-8", workers=3)
async def process_item(item: int) -> int:
    return item * item


def test_three_calls_at_once() -> None:
    async def main() -> list[int]:
        return list(await asyncio.gather(process_item(1), process_item(2), process_item(3)))

    assert asyncio.run(main()) == [1, 4, 9]


# -- hardware and workers -----------------------------------------------------------------------------------

HARDWARE: list[Json] = [
    {"gpu": GpuType.NVIDIA_A100_80GB_PCIe},
    {"gpu": GpuType.NVIDIA_GEFORCE_RTX_4090},
    {"gpu": [GpuType.NVIDIA_GEFORCE_RTX_4090, GpuType.NVIDIA_RTX_A5000]},
    {},
    {"cpu": "cpu5c-4-8"},
    {"cpu": CpuInstanceType.CPU5C_4_8},
]
NUMBERS: list[Json] = [
    {"gpu": GpuGroup.ANY, "workers": 5},
    {"gpu": GpuGroup.ANY, "workers": (1, 10)},
    {"gpu": GpuGroup.ANY},
]


@pytest.mark.parametrize("parameters", HARDWARE + NUMBERS, ids=str)
def test_gpus_cpus_and_numbers_of_workers_make_no_difference_here(parameters: Json) -> None:
    name = f"seed-hardware-{(HARDWARE + NUMBERS).index(parameters)}"

    @Endpoint(name=name, **parameters)
    async def echo(data: Json) -> Json:
        return data

    assert echo({"a": [1, None, "é"]}).result(DEADLINE_S) == {"a": [1, None, "é"]}


# -- dependencies -------------------------------------------------------------------------------------------


def test_dependencies_are_there_before_the_first_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_registry()
    keep_installer_caches(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    flash_plugins.close()  # the platform hands its environment on

    @Endpoint(name="seed-dependencies", gpu=GpuType.NVIDIA_A100_80GB_PCIe, dependencies=["idna==3.6", "pluggy>=1.0,<9"])
    def generate(prompt: str) -> Json:
        import idna
        import pluggy

        return {"encoded": idna.encode(prompt).decode(), "idna": idna.__version__, "pluggy": pluggy.__version__}

    made = generate("bücher").result(2 * DEADLINE_S)
    flash_plugins.close()
    assert (made["encoded"], made["idna"]) == ("xn--bcher-kva", "3.6")
    assert made["pluggy"].startswith("1.")


@Endpoint(name="seed-imports", gpu=GpuGroup.ANY)
def import_inside(data: list[int]) -> str:
    import json as inside

    return inside.dumps(sum(data))


@Endpoint(name="seed-imports", gpu=GpuGroup.ANY)
def import_at_the_top(data: list[int]) -> str:
    return json.dumps(sum(data))


def test_imports_inside_the_function_work() -> None:
    assert import_inside([1, 2]).result(DEADLINE_S) == "3"


def test_and_so_do_imports_at_the_top_which_the_page_forbids() -> None:
    assert import_at_the_top([1, 2]).result(DEADLINE_S) == "3"


def test_system_dependencies_are_skipped_here_and_the_call_runs() -> None:
    @Endpoint(name="seed-system", gpu=GpuGroup.ANY, system_dependencies=["libgl1-mesa-glx", "libglib2.0-0"])
    async def process_video(frames: int) -> Json:
        return {"processed": frames}

    assert process_video(3).result(DEADLINE_S) == {"processed": 3}


# -- environment --------------------------------------------------------------------------------------------


@Endpoint(name="seed-env", gpu=GpuGroup.ANY, env={"HF_TOKEN": "a token", "MODEL_ID": "gpt2"})
async def load_model() -> Json:
    import os

    return {"model_loaded": os.getenv("MODEL_ID"), "token": os.getenv("HF_TOKEN")}


def test_variables_reach_the_worker() -> None:
    assert load_model().result(DEADLINE_S) == {"model_loaded": "gpt2", "token": "a token"}


# -- persistent storage -------------------------------------------------------------------------------------

cache = NetworkVolume(name="seed-model-cache", size=100, datacenter=DataCenter.US_GA_2)
volumes = [
    NetworkVolume(name="seed-models-us", size=100, datacenter=DataCenter.US_GA_2),
    NetworkVolume(name="seed-models-eu", size=100, datacenter=DataCenter.EU_RO_1),
]


@Endpoint(name="seed-server", gpu=GpuGroup.ANY, datacenter=DataCenter.US_GA_2, volume=cache)
async def serve(data: Json) -> Json:
    from pathlib import Path

    place = Path("/runpod-volume/seen.txt")
    before = place.read_text() if place.exists() else ""
    place.write_text(before + data["name"])
    return {"before": before}


@Endpoint(
    name="seed-global-server",
    gpu=GpuGroup.ANY,
    datacenter=[DataCenter.US_GA_2, DataCenter.EU_RO_1],
    volume=volumes,
)
async def serve_everywhere(data: Json) -> str:
    return os.environ["RUNPOD_DC_ID"]


def test_what_a_worker_writes_to_its_volume_is_there_for_the_next_one(tmp_path: Path) -> None:
    require_mounts(tmp_path)
    assert serve({"name": "a"}).result(DEADLINE_S) == {"before": ""}
    endpoint_id = platform_client().endpoint_named("seed-server")["id"]
    platform_client().request("PATCH", f"/v2/serverless/{endpoint_id}", {"env": {}})  # another worker from here on
    assert serve({"name": "b"}).result(DEADLINE_S) == {"before": "a"}


def test_volumes_of_several_data_centers_are_made_once_each() -> None:
    assert serve_everywhere({}).result(DEADLINE_S) in ("US-GA-2", "EU-RO-1")
    there = platform_client().ok("GET", "/v2/network-volumes")["networkVolumes"]
    made = sorted((v["name"], v["dataCenter"], v["size"]) for v in there if v["name"].startswith("seed-models"))
    assert made == [("seed-models-eu", "EU-RO-1", 100), ("seed-models-us", "US-GA-2", 100)]
    assert len(platform_client().endpoint_named("seed-global-server")["networkVolumes"]) == 2


# -- existing endpoints, and their jobs ---------------------------------------------------------------------


def platform_client() -> Client:
    connection = flash_plugins.platform().connect()
    return Client(connection.api_base, connection.key)


@pytest.fixture
def existing() -> str:
    """The id of an endpoint with a worker script of somebody else."""
    body = {
        "name": "seed-existing",
        "type": "QUEUE",
        "image": "python:3.12-slim",
        "args": f"python {WORKERS / 'echo.py'}",
        "cpu": [{"id": "cpu5c", "vcpuCount": 2}],
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": 0.5},
        "workers": {"min": 0, "max": 2},
    }
    client = platform_client()
    there = {endpoint["name"]: endpoint["id"] for endpoint in client.ok("GET", "/v2/serverless")["endpoints"]}
    return str(there.get("seed-existing") or client.ok("POST", "/v2/serverless", body)["id"])


def test_an_existing_endpoint_is_called_by_its_id(existing: str) -> None:
    async def main() -> tuple[Any, str]:
        endpoint = Endpoint(id=existing)
        job = await endpoint.run({"prompt": "hello"})
        await job.wait()
        return job.output, job.id

    output, job_id = asyncio.run(main())
    assert output["echo"] == {"prompt": "hello"}
    assert job_id


def test_a_job_tells_its_state_waits_and_has_its_result(existing: str) -> None:
    async def main() -> None:
        job = await Endpoint(id=existing).run({"prompt": "hello"})
        assert isinstance(job, EndpointJob)
        assert await job.status() in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
        assert await job.wait(timeout=DEADLINE_S) is job
        assert job.id
        assert job.output["echo"] == {"prompt": "hello"}
        assert job.error is None
        assert job.done is True

    asyncio.run(main())


def test_a_job_that_failed_says_why(existing: str) -> None:
    async def main() -> None:
        job = await Endpoint(id=existing).run({"do": "raise"})
        await job.wait(timeout=DEADLINE_S)
        assert (job.done, await job.status()) == (True, "FAILED")
        assert "no such luck" in str(job.error)

    asyncio.run(main())


def test_a_job_is_cancelled(existing: str) -> None:
    async def main() -> None:
        job = await Endpoint(id=existing).run({"do": "sleep", "seconds": 60})
        await job.cancel()
        assert job.done is True
        assert await job.status() == "CANCELLED"

    asyncio.run(main())


# -- load-balanced endpoints --------------------------------------------------------------------------------

api = Endpoint(name="seed-api", gpu=GpuType.NVIDIA_GEFORCE_RTX_4090, workers=(1, 5))


@api.post("/predict")
async def predict(data: Json) -> Json:
    import statistics

    return {"prediction": statistics.fmean(data["values"])}


@api.get("/health")
async def health() -> Json:
    return {"status": "ok"}


def test_routes_share_workers_and_answer_http() -> None:
    assert api.is_load_balanced
    base_url = api.provision().result(DEADLINE_S).base_url
    key = flash_plugins.platform().connect().key
    answers = []
    for method, path, body in (("POST", "/predict", {"data": {"values": [1, 2, 6]}}), ("GET", "/health", None)):
        request = urllib.request.Request(
            f"{base_url}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            answers.append((json.load(answer), answer.headers["X-Runpod-Worker-Id"]))
    assert [content for content, _ in answers] == [{"prediction": 3.0}, {"status": "ok"}]
    assert len({worker for _, worker in answers}) == 1


def test_an_existing_load_balanced_endpoint_is_called_by_its_id() -> None:
    async def main() -> tuple[Any, Any]:
        endpoint = Endpoint(id=(await api.provision()).id)
        return await endpoint.post("/predict", {"data": {"values": [2]}}), await endpoint.get("/health")

    assert asyncio.run(main()) == ({"prediction": 2.0}, {"status": "ok"})


# -- custom images ------------------------------------------------------------------------------------------


def test_an_image_is_created_once_and_called_by_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is one that Docker could not pull: the configuration says what stands for it here."""
    (tmp_path / "flash-plugins.toml").write_text('[local.images]\n"acme/llm-server:*" = "python server.py"\n')
    (tmp_path / "server.py").write_text(SERVER)
    monkeypatch.chdir(tmp_path)
    llm = Endpoint(name="seed-llm", image="acme/llm-server:latest", gpu=GpuType.NVIDIA_A100_80GB_PCIe)

    async def main() -> tuple[Any, Any]:
        result = await llm.post("/v1/completions", {"prompt": "Hello"})
        return result, await llm.get("/v1/models")

    result, models = asyncio.run(main())
    assert result == {"text": "Hello, world"}
    assert models == {"data": [{"id": "tiny"}]}

    assert platform_client().endpoint_named("seed-llm")["image"] == "acme/llm-server:latest"


#: What stands for the image: no package of ours in it.
SERVER = """
import http.server, json, os

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"data": [{"id": "tiny"}]} if self.path == "/v1/models" else {})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer({"text": asked["prompt"] + ", world"})

    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
