# SPDX-License-Identifier: Apache-2.0
"""Every construct of Runpod's page "Create endpoints" for Flash, in words of our own, on the local platform.

Large packages are replaced by small ones. What each construct asks of Runpod: `tests/contract/test_seed_bodies.py`.
"""

from __future__ import annotations

import asyncio
import json  # at the top on purpose: see the tests about imports
import os
from typing import Any

import pytest

import flash_plugins
from flash_plugins import CpuInstanceType, Endpoint, EndpointJob, GpuGroup, GpuType
from tests.integration.local_support import WORKERS, Client
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


def test_dependencies_are_there_before_the_first_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
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


# -- existing endpoints, and their jobs ---------------------------------------------------------------------


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
    connection = flash_plugins.platform().connect()
    client = Client(connection.api_base, connection.key)
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
