# SPDX-License-Identifier: Apache-2.0
"""From a config to the one endpoint of that name: created once, brought up to date, said in words."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar

import pytest

from flash_plugins import (
    ApiError,
    ConfigError,
    Connection,
    EndpointConfig,
    NetworkVolume,
    NotFoundError,
    PlatformUnavailable,
)
from flash_plugins.platforms import api, provision
from flash_plugins.platforms.api import EndpointKind
from flash_plugins.platforms.body import Wanted
from flash_plugins.platforms.http import HttpClient
from flash_plugins.platforms.prices import price_range
from flash_plugins.platforms.provision import PlanAction, Provisioner
from flash_plugins.platforms.rest import RestClient
from flash_plugins.platforms.runpod import EndpointHandle, RunpodClient
from tests.unit.dispatcher.fake import DEADLINE_S, KEY, RESET, Answer, FakeRunpod, Request, problem

T = TypeVar("T")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "VISIBLE_WITHIN_S", 0.5)
    monkeypatch.setattr(provision, "VOLUME_SETTLE_S", 0.05)


@pytest.fixture
def fake() -> Iterator[FakeRunpod]:
    server = FakeRunpod()
    yield server
    server.close()


@pytest.fixture
def told() -> list[str]:
    return []


def wanted(name: str = "x", *, kind: EndpointKind = EndpointKind.QUEUE, cargo: Any = None, **parameters: Any) -> Wanted:
    config = EndpointConfig.from_parameters(name, {"cpu": "cpu5c-2-4", **parameters})
    return Wanted(config, {api.PYTHON_ENV: "3.12"}, kind, cargo)


def connection_of(fake: FakeRunpod) -> Connection:
    return Connection(api_base=fake.base, key=KEY)


def run(fake: FakeRunpod, work: Callable[[Provisioner], Awaitable[T]], told: list[str] | None = None) -> T:
    async def main() -> T:
        http = HttpClient(connection_of(fake))
        try:
            tell = (told if told is not None else []).append
            provisioner = Provisioner(RestClient(http), connection_of(fake), tell=tell)
            async with asyncio.timeout(DEADLINE_S):
                return await work(provisioner)
        finally:
            await http.aclose()

    return asyncio.run(main())


# -- what is sent, and what is said -----------------------------------------------------------------------------


def test_the_same_again_sends_nothing(fake: FakeRunpod, told: list[str]) -> None:
    first = run(fake, lambda p: p.ensure(wanted(env={"A": "1"})), told)
    second = run(fake, lambda p: p.ensure(wanted(env={"A": "1"})), told)
    assert first.id == second.id
    assert [request.operation for request in fake.requests] == ["list", "create", "list", "list"]
    assert told == []


def test_changes_are_said_with_what_replaces_workers_and_no_value_of_the_environment(
    fake: FakeRunpod, told: list[str]
) -> None:
    run(fake, lambda p: p.ensure(wanted(workers=3, env={"TOKEN": "s3cret", "GONE": "1"})), told)
    changed = wanted(workers=5, env={"TOKEN": "t0psecret"}, datacenter="EU-RO-1", flashboot=False)
    run(fake, lambda p: p.ensure(changed), told)
    assert told == [
        "endpoint 'x' changes: workers.max 3 → 5; flashboot FLASHBOOT → OFF; dataCenterIds none → EU-RO-1; "
        "env (GONE, TOKEN) replaces its workers"
    ]
    (patch,) = fake.seen("patch")
    assert set(patch.json) == {"workers", "flashboot", "dataCenterIds", "env"}


def test_several_changes_that_replace_workers_are_one_sentence(fake: FakeRunpod, told: list[str]) -> None:
    run(fake, lambda p: p.ensure(wanted(cpu=None, gpu="ADA_24")), told)
    run(fake, lambda p: p.ensure(wanted(cpu=None, gpu="4090", gpu_count=2, min_cuda_version="12.9")), told)
    run(fake, lambda p: p.ensure(wanted(cpu=None, gpu="H100 NVL", gpu_count=2, min_cuda_version="12.9")), told)
    assert told == [
        "endpoint 'x' changes: gpu.count 1 → 2 and gpu.minCudaVersion 12.8 → 12.9 replace its workers",
        "endpoint 'x' changes: gpu.pools ADA_24 → ADA_80_PRO without NVIDIA H100 80GB HBM3, NVIDIA H100 PCIe replaces "
        "its workers",
    ]
    first, second = (request.json for request in fake.seen("patch"))
    assert first == {"gpu": {"count": 2, "minCudaVersion": "12.9"}}
    assert set(second["gpu"]) == {"pools", "excludedTypes"}


def test_variables_of_the_platform_are_left_alone(fake: FakeRunpod, told: list[str]) -> None:
    made = run(fake, lambda p: p.ensure(wanted(env={"A": "1", "B": "1"})), told)
    fake.endpoints[made.id]["env"]["RUNPOD_SOMETHING"] = "theirs"
    run(fake, lambda p: p.ensure(wanted(env={"A": "1", "B": "1"})), told)
    assert not fake.seen("patch")
    run(fake, lambda p: p.ensure(wanted(env={"A": "2"})), told)
    env = fake.endpoints[made.id]["env"]
    assert (env["A"], env["RUNPOD_SOMETHING"], "B" in env) == ("2", "theirs", False)


def test_an_edited_list_of_names_is_survived(fake: FakeRunpod, told: list[str]) -> None:
    made = run(fake, lambda p: p.ensure(wanted(env={"A": "1"})), told)
    for nonsense in ("[]", "{", '{"env": 3}', "null"):
        fake.endpoints[made.id]["env"][api.MANAGED_ENV] = nonsense
        run(fake, lambda p: p.ensure(wanted(env={"A": "1"})), told)
    assert not fake.seen("patch")


def test_deployed_code_stays_until_other_code_is_deployed(fake: FakeRunpod, told: list[str]) -> None:
    code = {f"{api.CARGO_ENV_PREFIX}{n}": f"part {n}" for n in range(3)}
    made = run(fake, lambda p: p.ensure(wanted(cargo=code)), told)
    run(fake, lambda p: p.ensure(wanted()), told)
    assert not fake.seen("patch")
    run(fake, lambda p: p.ensure(wanted(cargo={f"{api.CARGO_ENV_PREFIX}0": "new"})), told)
    env = fake.endpoints[made.id]["env"]
    assert {name: value for name, value in env.items() if name.startswith(api.CARGO_ENV_PREFIX)} == {
        f"{api.CARGO_ENV_PREFIX}0": "new"
    }
    assert told == ["endpoint 'x' changes: env (deployed code) replaces its workers"]


def test_workers_that_the_platform_took_away_from_an_idle_endpoint_come_back(fake: FakeRunpod) -> None:
    made = run(fake, lambda p: p.ensure(wanted(workers=3)))
    fake.endpoints[made.id]["workers"]["max"] = 0
    assert run(fake, lambda p: p.ensure(wanted(workers=3))).workers_max == 3


def test_max_concurrency_of_a_load_balanced_endpoint_is_said_to_have_no_effect(
    fake: FakeRunpod, told: list[str]
) -> None:
    balanced = wanted(kind=EndpointKind.LOAD_BALANCER, max_concurrency=5)
    plan = run(fake, lambda p: p.plan(balanced, is_priced=False), told)
    assert len(plan.notes) == 1
    assert "max_concurrency=5 has no effect" in plan.notes[0]


def test_a_cpu_that_rest_v2_does_not_have_is_said_once_also_where_the_endpoint_is_new(
    fake: FakeRunpod, told: list[str]
) -> None:
    run(fake, lambda p: p.ensure(wanted(cpu="cpu3c-1-2")), told)
    assert [line for line in told if "cpu3c-1-2" in line] == told
    assert len(told) == 1


# -- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "detail", "errors", "words"),
    [
        (422, "validation failed", ["$.workers.max: must be >= 0", "$.gpu.count: too many"],
         ["Endpoint(workers=…), Endpoint(gpu_count=…)", "must be >= 0"]),
        (400, "Max workers exceed your quota of 5", [], ["so many workers in all", "lower workers="]),
        (404, "template not found", [], ["PodTemplate(id=…)"]),
        (400, "data center XX is unknown", [], ["check datacenter="]),
    ],
)  # fmt: skip
def test_a_refusal_names_the_parameter_and_the_remedy(
    fake: FakeRunpod, status: int, detail: str, errors: list[str], words: list[str]
) -> None:
    fake.script("create", problem(status, detail, errors=errors))
    with pytest.raises(ApiError) as raised:
        run(fake, lambda p: p.ensure(wanted()))
    assert isinstance(raised.value, NotFoundError) == (status == 404)
    assert raised.value.status == status
    for text in [*words, detail, "endpoint 'x'", str(status)]:
        assert text in str(raised.value)


def test_parameters_that_cannot_go_together_create_nothing(fake: FakeRunpod) -> None:
    with pytest.raises(ConfigError, match="REQUEST_COUNT"):
        run(fake, lambda p: p.ensure(wanted(kind=EndpointKind.LOAD_BALANCER, scaler_type="QUEUE_DELAY",
                                            volume=NetworkVolume(name="v"))))  # fmt: skip
    assert fake.requests == []


# -- created once -----------------------------------------------------------------------------------------------


class Delayed:
    """Listings that show an endpoint, or a volume, only some looks after its creation; older ones never later."""

    def __init__(self, fake: FakeRunpod, what: str, *, looks: int) -> None:
        self.fake, self.what, self.looks = fake, what, looks
        self.seen: dict[str, int] = {}
        self.stamp = itertools.count()
        behave = fake.behave

        async def late(request: Request) -> Answer:
            answer = await behave(request)
            if request.operation.startswith("create"):
                answer.content["createdAt"] = f"2026-01-01T00:00:{next(self.stamp):02}Z"
            if request.operation not in ("list", "list volumes"):
                return answer
            ((name, entries),) = answer.content.items()
            shown, is_hidden = [], False
            for entry in entries:
                self.seen[entry["id"]] = self.seen.get(entry["id"], -1) + 1
                is_hidden = is_hidden or self.seen[entry["id"]] < self.looks
                shown += [] if is_hidden else [entry]
            return Answer(content={name: shown})

        fake.behave = late  # type: ignore[method-assign]


@pytest.mark.parametrize("looks", [0, 1, 3])
def test_processes_that_create_the_same_endpoint_at_once_end_with_one(fake: FakeRunpod, looks: int) -> None:
    Delayed(fake, "endpoint", looks=looks)
    arrived = 0
    all_arrived = asyncio.Event()

    async def together(request: Request) -> Answer:
        nonlocal arrived
        arrived += 1
        if arrived == 6:
            all_arrived.set()
        await all_arrived.wait()
        return await fake.behave(request)

    fake.script("create", *[together] * 6)

    async def six(_: Provisioner) -> list[str]:
        clients = [HttpClient(connection_of(fake)) for _ in range(6)]
        makers = [Provisioner(RestClient(client), connection_of(fake)) for client in clients]
        found = await asyncio.gather(*(maker.ensure(wanted(workers=3)) for maker in makers))
        for client in clients:
            await client.aclose()
        return [endpoint.id for endpoint in found]

    ids = run(fake, six)
    assert arrived == 6
    assert len(set(ids)) == 1
    assert set(fake.endpoints) == set(ids)


def test_an_endpoint_whose_creation_was_never_answered_is_found(fake: FakeRunpod) -> None:
    async def lose(request: Request) -> Answer:
        await fake.behave(request)
        return RESET

    fake.script("create", lose)
    assert run(fake, lambda p: p.ensure(wanted())).id == "ep1"
    assert len(fake.endpoints) == len(fake.seen("create")) == 1


def test_one_that_was_never_answered_and_a_faster_one_of_somebody_else_leave_one(fake: FakeRunpod) -> None:
    async def lose(request: Request) -> Answer:
        fake.endpoints["aa"] = {**request.json, "env": {}, "id": "aa", "createdAt": "2026-01-01T00:00:00Z"}
        mine = await fake.behave(request)
        mine.content["createdAt"] = "2026-01-01T00:00:01Z"
        return problem(502, "bad gateway")

    fake.script("create", lose)
    assert run(fake, lambda p: p.ensure(wanted())).id == "aa"
    assert set(fake.endpoints) == {"aa"}


def test_an_endpoint_that_was_not_created_is_said_to_be_unknown(fake: FakeRunpod) -> None:
    fake.script("create", RESET)
    with pytest.raises(PlatformUnavailable, match="may or may not have been created"):
        run(fake, lambda p: p.ensure(wanted()))
    assert len(fake.seen("create")) == 1


def test_an_endpoint_that_is_deleted_while_it_is_changed_is_made_again(fake: FakeRunpod) -> None:
    first = run(fake, lambda p: p.ensure(wanted()))

    async def delete(request: Request) -> Answer:
        fake.endpoints.clear()
        return problem(404, "no such endpoint")

    fake.script("patch", delete)
    second = run(fake, lambda p: p.ensure(wanted(workers=5)))
    assert (set(fake.endpoints), second.workers_max) == ({second.id}, 5)
    assert second.id != first.id


def test_a_change_that_names_something_unknown_is_an_error(fake: FakeRunpod) -> None:
    run(fake, lambda p: p.ensure(wanted()))
    fake.script("patch", problem(404, "template not found"))
    with pytest.raises(NotFoundError, match="template not found"):
        run(fake, lambda p: p.ensure(wanted(workers=5)))
    assert len(fake.seen("patch")) == 1


def test_an_endpoint_whose_name_tells_of_flashboot_is_the_same(fake: FakeRunpod) -> None:
    made = run(fake, lambda p: p.ensure(wanted()))
    fake.endpoints[made.id]["name"] = "x -fb"
    assert run(fake, lambda p: p.ensure(wanted())).id == made.id
    assert len(fake.seen("create")) == 1
    assert not fake.seen("patch")


def test_the_oldest_of_several_is_used_and_none_is_deleted(fake: FakeRunpod, told: list[str]) -> None:
    for day in (3, 1, 2):
        made = fake.add_endpoint(run(fake, lambda p: p.plan(wanted(), is_priced=False)).body)
        made["createdAt"] = f"2026-01-0{day}T00:00:00Z"
    assert run(fake, lambda p: p.ensure(wanted()), told).id == "ep2"
    assert len(fake.endpoints) == 3
    assert told == ["3 endpoints are named 'x': the oldest, ep2, is used, and ep3, ep1 left as it is"]


# -- volumes ----------------------------------------------------------------------------------------------------


def test_a_volume_is_created_once_and_found_by_name_and_data_center(fake: FakeRunpod, told: list[str]) -> None:
    fake.volumes["other"] = {"id": "other", "name": "models", "size": 10, "dataCenter": "US-KS-2", "type": "STANDARD"}
    volume = NetworkVolume(name="models", size=50, datacenter="EU-RO-1")
    for _ in range(2):
        made = run(fake, lambda p: p.ensure(wanted(volume=volume)), told)
    (created,) = fake.seen("create volume")
    assert created.json == {"name": "models", "size": 50, "dataCenter": "EU-RO-1"}
    (volume_id,) = set(fake.volumes) - {"other"}
    assert made.volumes == (volume_id,)
    assert made.data_centers == ("EU-RO-1",)
    assert told == ["network volume 'models' of 50 GB is created in EU-RO-1: it costs money until it is deleted"]
    assert not fake.seen("patch")


def test_volumes_of_several_data_centers(fake: FakeRunpod) -> None:
    both = [NetworkVolume(name="a", datacenter="EU-RO-1"), NetworkVolume(name="b", datacenter="US-KS-2")]
    made = run(fake, lambda p: p.ensure(wanted(volume=both)))
    assert made.data_centers == ("EU-RO-1", "US-KS-2")
    assert [fake.volumes[volume]["name"] for volume in made.volumes] == ["a", "b"]


def test_a_volume_of_an_id_tells_where_the_workers_are(fake: FakeRunpod) -> None:
    fake.volumes["v9"] = {"id": "v9", "name": "mine", "size": 10, "dataCenter": "US-KS-2", "type": "STANDARD"}
    made = run(fake, lambda p: p.ensure(wanted(volume=NetworkVolume(id="v9"))))
    assert (made.volumes, made.data_centers) == (("v9",), ("US-KS-2",))
    with pytest.raises(ConfigError, match=r"'v9' is in US-KS-2, and EU-RO-1 was asked for"):
        run(fake, lambda p: p.ensure(wanted(volume=NetworkVolume(id="v9"), datacenter="EU-RO-1")))


def test_a_volume_of_an_id_that_does_not_exist_is_an_error_with_a_remedy(fake: FakeRunpod) -> None:
    with pytest.raises(ConfigError, match=r"NetworkVolume\(id='nope'\) does not exist.*give name="):
        run(fake, lambda p: p.ensure(wanted(volume=NetworkVolume(id="nope"))))
    assert not fake.endpoints


def test_processes_that_create_the_same_volume_at_once_end_with_one(fake: FakeRunpod) -> None:
    arrived = 0
    all_arrived = asyncio.Event()

    async def together(request: Request) -> Answer:
        nonlocal arrived
        arrived += 1
        if arrived == 3:
            all_arrived.set()
        await all_arrived.wait()
        return await fake.behave(request)

    fake.script("create volume", *[together] * 3)

    async def three(_: Provisioner) -> list[tuple[str, ...]]:
        clients = [HttpClient(connection_of(fake)) for _ in range(3)]
        makers = [Provisioner(RestClient(client), connection_of(fake)) for client in clients]
        volume = NetworkVolume(name="models")
        found = await asyncio.gather(*(m.ensure(wanted(f"e{n}", volume=volume)) for n, m in enumerate(makers)))
        for client in clients:
            await client.aclose()
        return [endpoint.volumes for endpoint in found]

    attached = run(fake, three)
    assert {(volume,) for volume in fake.volumes} == set(attached)
    assert len(fake.volumes) == 1


# -- plans ------------------------------------------------------------------------------------------------------


def test_a_plan_says_what_would_happen_and_does_nothing(fake: FakeRunpod) -> None:
    with_volume = wanted(volume=NetworkVolume(name="models"))
    plan = run(fake, lambda p: p.plan(with_volume, is_priced=False))
    assert (plan.action, plan.endpoint) == (PlanAction.CREATE, None)
    assert [volume.name for volume in plan.new_volumes] == ["models"]
    assert not fake.endpoints
    assert not fake.volumes
    run(fake, lambda p: p.ensure(wanted(workers=3)))
    assert run(fake, lambda p: p.plan(wanted(workers=3), is_priced=False)).action is PlanAction.REUSE
    plan = run(fake, lambda p: p.plan(wanted(workers=3, volume=NetworkVolume(name="models")), is_priced=False))
    assert plan.action is PlanAction.UPDATE
    assert "volume 'models' is created and attached" in str(plan)
    plan = run(fake, lambda p: p.plan(wanted(workers=5), is_priced=False))
    assert (plan.action, str(plan)) == (PlanAction.UPDATE, "endpoint 'x' changes: workers.max 3 → 5")
    assert not any(change.replaces_workers for change in plan.difference.changes)
    plan = run(fake, lambda p: p.plan(wanted(cpu=None, gpu="any"), is_priced=False))
    assert plan.action is PlanAction.REFUSE
    assert "CPU" in str(plan)
    assert not fake.seen("patch")


def test_a_plan_shows_no_secret(fake: FakeRunpod) -> None:
    run(fake, lambda p: p.ensure(wanted(env={"TOKEN": "s3cret"})))
    plan = run(fake, lambda p: p.plan(wanted(env={"TOKEN": "t0psecret"}), is_priced=False))
    assert "secret" not in f"{plan!r} {plan}"


def prices(fake: FakeRunpod, **parameters: Any) -> str:
    config = EndpointConfig.from_parameters("x", parameters)

    async def ask(provisioner: Provisioner) -> str:
        return str(await price_range(provisioner._rest, config))

    return run(fake, ask)


def test_prices_are_a_range_with_source_and_date(fake: FakeRunpod) -> None:
    table = "(https://docs.runpod.io/serverless/pricing, 2026-08)"
    assert prices(fake, gpu=["4090", "A4000"], workers=3) == (
        f"$0.58 to $1.12 per worker and hour, at most $3.35 for 3 workers {table}"
    )
    assert prices(fake, gpu="4090", gpu_count=2) == f"$2.23 per worker and hour, at most $2.23 for 1 worker {table}"
    assert prices(fake, gpu=["4090", "5090"]).endswith(f"no price for ADA_32_PRO {table}")
    assert prices(fake, cpu="cpu5c-4-8") == f"no price is published for cpu5c-4-8 {table}"


def test_prices_of_the_platform_win(fake: FakeRunpod) -> None:
    def catalog(name: str, entries: list[Mapping[str, Any]]) -> None:
        path = f"unknown GET /v2/catalog/{name}"
        fake.script(path, Answer(content={name: entries}))

    gpu = {"name": "RTX 4090", "pool": "ADA_24", "memory": 24}
    catalog("gpus", [{**gpu, "id": "NVIDIA GeForce RTX 4090", "price": {"secure": 1, "serverless": 2.5}}])
    text = prices(fake, gpu="4090", workers=2)
    assert text.startswith("$2.50 per worker and hour, at most $5.00 for 2 workers")
    assert fake.base in text
    catalog("cpus", [{"id": "cpu5c", "price": {"serverlessPerVcpu": 0.03}}])
    assert prices(fake, cpu="cpu5c-4-8").startswith("$0.12 per worker and hour")


# -- the client above -------------------------------------------------------------------------------------------


def test_the_base_url_of_a_load_balanced_endpoint_is_used_as_it_is(fake: FakeRunpod) -> None:
    urls = {"base": "https://e1.api.runpod.ai/", "health": "https://e1.api.runpod.ai/ping"}

    async def answer(request: Request) -> Answer:
        fake.endpoints["e1"] = {**request.json, "id": "e1", "requestUrls": urls}
        return Answer(201, fake.endpoints["e1"])

    fake.script("create", answer)

    async def ask(_: Provisioner) -> EndpointHandle:
        client = RunpodClient(Connection(api_base=fake.base, key=KEY, job_base="http://127.0.0.1:1"))
        try:
            asked = wanted(kind=EndpointKind.LOAD_BALANCER)
            return await client.ensure_endpoint(asked.config, asked.env, kind=asked.kind)
        finally:
            await client.aclose()

    handle = run(fake, ask)
    assert handle.kind is EndpointKind.LOAD_BALANCER
    assert handle.base_url == "https://e1.api.runpod.ai"
