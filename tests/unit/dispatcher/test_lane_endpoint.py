# SPDX-License-Identifier: Apache-2.0
"""The endpoint behind a lane: made once, reused, brought up to date, made again, or a clear error."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import flash_plugins
from flash_plugins import ApiError, AuthenticationError, Call, ConfigError, Connection, PlatformUnavailable, PodTemplate
from flash_plugins.config import EndpointConfig
from flash_plugins.dispatcher import Session
from flash_plugins.dispatcher import session as session_module
from flash_plugins.platforms import api, provision, rest
from flash_plugins.platforms.body import Wanted, endpoint_body
from tests.unit.dispatcher.conftest import Events, config_of
from tests.unit.dispatcher.fake import (
    DEADLINE_S,
    KEY,
    RESET,
    Answer,
    FakePlatform,
    FakeRunpod,
    Gate,
    Request,
    problem,
)

Submit = Callable[..., Call[Any]]

STREAM_ENV = {api.HANDLER_ENV: api.HANDLER_STREAMS}


def listed_body(config: EndpointConfig, **env: str) -> dict[str, Any]:
    """What the session asks for, as an earlier process may have made it."""
    ours = session_module._worker_env(str(config.name), streams=False)
    return endpoint_body(Wanted(config, {**ours, **env}), api.WORKER_COMMAND)


def test_many_first_calls_make_one_endpoint(fake: FakeRunpod, submit: Submit) -> None:
    began = threading.Barrier(10)

    def five(n: int) -> list[Call[Any]]:
        began.wait(DEADLINE_S)
        return [submit(5 * n + i) for i in range(5)]

    with ThreadPoolExecutor(10) as pool:
        calls = [call for batch in pool.map(five, range(10)) for call in batch]
    assert sorted(call.result(DEADLINE_S) for call in calls) == list(range(50))
    assert len(fake.seen("create")) == 1
    assert len(fake.seen("list")) == 2  # before and after: somebody else may have made it meanwhile


def test_the_endpoint_can_be_made_ahead_of_the_first_call(fake: FakeRunpod, session: Session, submit: Submit) -> None:
    session.start(config_of(), streams=False)
    fake.wait_for("create")
    assert submit(1).result(DEADLINE_S) == 1
    assert len(fake.seen("create")) == 1


@pytest.fixture
def on_a_worker(fake: FakeRunpod, platform: FakePlatform) -> None:
    platform.connection = Connection(api_base=fake.base, key=KEY, keeps_endpoints=True)


@pytest.mark.usefixtures("on_a_worker")
def test_a_worker_leaves_the_endpoint_that_it_calls_as_it_is(fake: FakeRunpod, submit: Submit) -> None:
    fake.add_endpoint(listed_body(config_of(idle_timeout=5), SECRET="of its owner"))
    assert submit(1).result(DEADLINE_S) == 1
    assert [request.operation for request in fake.requests] == ["list", "runSync"]


@pytest.mark.usefixtures("on_a_worker")
def test_a_worker_waits_for_an_endpoint_whose_environment_it_does_not_have(fake: FakeRunpod, submit: Submit) -> None:
    config = config_of(env={"SECRET": "of its owner"})
    call = submit(1, config=config.without_env())
    fake.wait_for("list", 2)
    fake.add_endpoint(listed_body(config))
    assert call.result(DEADLINE_S) == 1
    assert not fake.seen("create")


@pytest.mark.usefixtures("on_a_worker")
def test_an_endpoint_that_nobody_creates_is_an_error_on_a_worker(
    fake: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision, "CREATION_PAUSES_S", (0.01, 0.01))
    call = submit(1, config=config_of(env={"SECRET": "of its owner"}).without_env())
    with pytest.raises(ConfigError, match=r"provision\(\)") as caught:
        call.result(DEADLINE_S)
    assert "of its owner" not in str(caught.value)
    assert not fake.seen("create")


@pytest.mark.usefixtures("on_a_worker")
def test_a_worker_creates_an_endpoint_of_which_it_knows_everything(fake: FakeRunpod, submit: Submit) -> None:
    assert submit(1).result(DEADLINE_S) == 1
    assert len(fake.seen("create")) == 1


def test_an_equal_endpoint_is_used_as_it_is(fake: FakeRunpod, submit: Submit) -> None:
    fake.add_endpoint(listed_body(config_of()))
    assert submit(1).result(DEADLINE_S) == 1
    assert [request.operation for request in fake.requests] == ["list", "runSync"]


def test_answers_with_more_fields_than_were_sent_are_equal(fake: FakeRunpod, submit: Submit) -> None:
    body = listed_body(config_of())
    body["cpu"] = [{**flavor, "memory": 8} for flavor in body["cpu"]]
    body |= {"createdAt": "2026-01-01T00:00:00Z", "networkVolumes": [], "aFieldOfTomorrow": 1}
    fake.add_endpoint(body)
    submit().result(DEADLINE_S)
    assert not fake.seen("patch")


@pytest.mark.parametrize(
    ("parameters", "field", "value"),
    [
        ({"workers": (1, 3)}, "workers", {"min": 1, "max": 3, "idleTimeout": 60}),
        ({"idle_timeout": 5}, "workers", {"min": 0, "max": 1, "idleTimeout": 5}),
        ({"flashboot": False}, "flashboot", "OFF"),
        ({"execution_timeout_ms": 9_000}, "timeout", 9_000),
        ({"scaler_value": 1.5}, "scaling", {"type": "QUEUE_DELAY", "queueDelay": 1.5}),
        ({"datacenter": "EU-RO-1"}, "dataCenterIds", ["EU-RO-1"]),
    ],
)
def test_a_changed_setting_is_patched_alone(
    fake: FakeRunpod, submit: Submit, parameters: dict[str, Any], field: str, value: object
) -> None:
    fake.add_endpoint(listed_body(config_of()))
    submit(config=config_of(**parameters)).result(DEADLINE_S)
    (patch,) = fake.seen("patch")
    assert patch.json == {field: value}
    assert patch.path == "/v2/serverless/ep1"
    assert not fake.seen("create")


def test_another_cpu_is_patched_with_the_disk_that_it_may_have(fake: FakeRunpod, submit: Submit) -> None:
    fake.add_endpoint(listed_body(config_of()))
    submit(config=config_of(cpu="cpu3g-2-8")).result(DEADLINE_S)
    (patch,) = fake.seen("patch")
    assert patch.json == {"cpu": [{"id": "cpu3g", "vcpuCount": 2}], "disk": 20}


def test_a_changed_variable_is_patched_with_all_variables(fake: FakeRunpod, submit: Submit) -> None:
    fake.add_endpoint(listed_body(config_of(env={"A": "1"})))
    submit(config=config_of(env={"A": "2"})).result(DEADLINE_S)
    (patch,) = fake.seen("patch")
    assert list(patch.json) == ["env"]
    assert patch.json["env"]["A"] == "2"
    assert patch.json["env"][api.ENDPOINT_NAME_ENV] == "lane"


def test_a_changed_variable_of_the_template_is_patched_too(fake: FakeRunpod, submit: Submit) -> None:
    for value in "12":
        submit(config=config_of(template=PodTemplate(env={"A": value}))).result(DEADLINE_S)
    (patch,) = fake.seen("patch")
    assert patch.json["env"]["A"] == "2"


def test_a_variable_that_is_no_longer_set_is_removed(fake: FakeRunpod, submit: Submit) -> None:
    fake.add_endpoint(listed_body(config_of(env={"OLD": "1"}), **STREAM_ENV))
    submit().result(DEADLINE_S)
    (patch,) = fake.seen("patch")
    assert patch.json == {"env": listed_body(config_of())["env"]}


def test_a_wider_choice_of_gpus_is_patched(fake: FakeRunpod, submit: Submit) -> None:
    narrow = config_of(cpu=None, gpu="NVIDIA H100 NVL")
    body = listed_body(narrow)
    assert body["gpu"]["excludedTypes"]
    fake.add_endpoint(body)
    submit(config=config_of(cpu=None, gpu="ADA_80_PRO")).result(DEADLINE_S)
    (patch,) = fake.seen("patch")
    assert patch.json["gpu"]["pools"] == ["ADA_80_PRO"]
    assert not patch.json["gpu"].get("excludedTypes")


@pytest.mark.parametrize(("there", "wanted"), [({"gpu": "any"}, {"cpu": "cpu5c-4-8"}), ({"cpu": "cpu5c-4-8"}, {})])
def test_another_kind_of_hardware_is_refused(
    fake: FakeRunpod, submit: Submit, there: dict[str, Any], wanted: dict[str, Any]
) -> None:
    fake.add_endpoint(listed_body(EndpointConfig.from_parameters("lane", there)))
    with pytest.raises(ConfigError, match=r"kind of hardware.*another name"):
        submit(config=EndpointConfig.from_parameters("lane", wanted)).result(DEADLINE_S)
    assert [request.operation for request in fake.requests] == ["list"]


def test_a_load_balanced_endpoint_of_that_name_is_refused(fake: FakeRunpod, submit: Submit) -> None:
    fake.add_endpoint({**listed_body(config_of()), "type": "LOAD_BALANCER"})
    with pytest.raises(ConfigError, match="LOAD_BALANCER"):
        submit().result(DEADLINE_S)


@pytest.mark.parametrize("advice", ["check the key in the drawer", None])
def test_a_wrong_key_fails_all_that_wait_and_the_next_call_tries_again(
    fake: FakeRunpod, submit: Submit, platform: FakePlatform, advice: str | None
) -> None:
    platform.connection = Connection(api_base=fake.base, key=KEY, key_advice=advice)
    gate = Gate(fake)

    async def refuse(request: Any) -> Answer:
        await gate(request)
        return problem(401, "no such key")

    fake.script("list", refuse)
    calls = [submit(n) for n in range(5)]
    fake.wait_for("list")
    gate.open()
    errors = [call.exception(DEADLINE_S) for call in calls]
    assert all(isinstance(error, AuthenticationError) for error in errors)
    assert str(errors[0]).endswith(advice or "no such key")
    assert not fake.seen("runSync")
    assert submit("again").result(DEADLINE_S) == "again"


def test_a_refused_body_is_an_error_with_every_reason(fake: FakeRunpod, submit: Submit) -> None:
    reasons = ["$.workers.max: must be >= 0", "$: additional properties 'bogus' not allowed"]
    fake.script("create", problem(422, "Request validation failed", errors=reasons))
    error = submit().exception(DEADLINE_S)
    assert isinstance(error, ApiError)
    assert error.status == 422
    for words in (*reasons, "Request validation failed", "422", "POST"):
        assert words in str(error)
    assert submit(1).result(DEADLINE_S) == 1


@pytest.mark.parametrize("status", [400, 403, 409, 500])
@pytest.mark.parametrize("operation", ["list", "create"])
def test_other_refusals_are_errors_of_the_call(fake: FakeRunpod, submit: Submit, operation: str, status: int) -> None:
    fake.script(operation, problem(status, "not today"))
    error = submit().exception(DEADLINE_S)
    assert isinstance(error, AuthenticationError if status == 403 else ApiError)
    assert "not today" in str(error)
    assert not fake.seen("runSync")


@pytest.mark.parametrize("content", [b"<html>", [1]])
def test_a_list_that_nobody_described_is_an_error(fake: FakeRunpod, submit: Submit, content: Any) -> None:
    fake.script("list", Answer(200, content))
    with pytest.raises(ApiError, match="not what Runpod's description says"):
        submit().result(DEADLINE_S)


def test_an_endpoint_without_request_urls_is_an_error(fake: FakeRunpod, submit: Submit) -> None:
    fake.script("create", Answer(201, {"id": "e1", "name": "lane"}))
    with pytest.raises(ApiError, match="requestUrls"):
        submit().result(DEADLINE_S)


@pytest.mark.parametrize("operation", ["list", "create", "patch"])
def test_a_rate_limit_on_the_endpoint_is_waited_for(fake: FakeRunpod, submit: Submit, operation: str) -> None:
    if operation == "patch":
        fake.add_endpoint(listed_body(config_of(idle_timeout=5)))
    too_many = problem(429, "slow down")
    too_many.headers["Retry-After"] = "0.05"  # type: ignore[index]
    fake.script(operation, too_many, too_many)
    assert submit(1).result(DEADLINE_S) == 1
    assert len(fake.endpoints) == 1
    assert len(fake.seen(operation)) == (4 if operation == "list" else 3)  # one more look after the creation


def test_a_platform_that_is_not_there_yet_is_tried_again(
    fake: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "FIRST_PAUSE_S", 0.05)
    fake.deafen()
    call = submit(1)
    fake.loop.call_soon_threadsafe(lambda: fake.loop.call_later(0.1, lambda: fake.loop.create_task(fake.begin())))
    assert call.result(DEADLINE_S) == 1


def test_a_platform_that_is_not_there_is_an_error(
    fake: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "FIRST_PAUSE_S", 0.01)
    fake.deafen()
    error = submit(1).exception(DEADLINE_S)
    assert isinstance(error, PlatformUnavailable)
    assert fake.base in str(error)
    fake.listen()
    assert submit(2).result(DEADLINE_S) == 2


def lose(fake: FakeRunpod, platform: FakePlatform) -> None:
    """End the platform; the next connection starts another one."""
    platform.lost = "platform 'fake' ended with exit code 9"
    fake.deafen()
    fake.hang_up()
    fake.endpoints.clear()

    def start_again() -> None:
        platform.lost, platform.on_connect = None, lambda: None
        fake.listen()

    platform.on_connect = start_again


def test_a_platform_that_ends_before_the_endpoint_is_made_is_started_again(
    fake: FakeRunpod, submit: Submit, platform: FakePlatform, events: Events
) -> None:
    def vanish(request: Request) -> Answer:
        platform.lost = "platform 'fake' ended with exit code 9"
        platform.on_connect = lambda: setattr(platform, "lost", None)
        return RESET

    fake.script("create", vanish)
    calls = [submit(n) for n in range(5)]
    assert [call.result(DEADLINE_S) for call in calls] == list(range(5))
    assert platform.connects == 2
    assert events.stages(calls[0]) == ["queued", "sent", "done"]


def test_a_platform_that_ended_while_nothing_was_sent_is_started_again_by_the_next_call(
    fake: FakeRunpod, submit: Submit, platform: FakePlatform, events: Events
) -> None:
    for _ in range(5):  # however often: each time something was done in between
        assert submit(1).result(DEADLINE_S) == 1
        lose(fake, platform)
    calls = [submit(n) for n in range(20)]
    assert [call.result(DEADLINE_S) for call in calls] == list(range(20))
    assert platform.connects == 6
    assert events.stages(calls[0]) == ["queued", "sent", "done"]


def test_a_platform_that_ends_whenever_it_is_started_is_an_error(
    fake: FakeRunpod, submit: Submit, platform: FakePlatform
) -> None:
    fake.deafen()
    platform.lost = "platform 'fake' ended with exit code 9"
    error = submit(1).exception(DEADLINE_S)
    assert isinstance(error, PlatformUnavailable)
    assert "exit code 9" in str(error)
    assert platform.connects == 3
    platform.lost = None
    fake.listen()
    assert submit(2).result(DEADLINE_S) == 2


def test_calls_in_flight_on_a_platform_that_ended_fail_although_the_next_one_runs(
    fake: FakeRunpod, submit: Submit, platform: FakePlatform
) -> None:
    fake.is_slow = True
    flying = submit("flying")
    fake.wait_for("stream")
    fake.is_slow = False
    lose(fake, platform)
    assert submit("next").result(DEADLINE_S) == "next"
    error = flying.exception(DEADLINE_S)
    assert isinstance(error, PlatformUnavailable)
    assert "exit code 9" in str(error)


def test_a_call_that_waits_for_a_new_platform_can_be_cancelled(
    fake: FakeRunpod, submit: Submit, platform: FakePlatform, events: Events
) -> None:
    submit(1).result(DEADLINE_S)
    lose(fake, platform)
    start_again, is_cancelled = platform.on_connect, threading.Event()

    def wait_and_start() -> None:
        assert is_cancelled.wait(DEADLINE_S)
        start_again()

    platform.on_connect = wait_and_start
    call = submit("unwanted")
    fake.wait_until(lambda: platform.connects == 2, "no second connection")
    assert call.cancel()
    is_cancelled.set()
    assert submit("wanted").result(DEADLINE_S) == "wanted"
    assert len(fake.jobs) == 2
    assert events.stages(call)[-1] == "cancelled"


def test_calls_that_move_to_another_connection_are_queued_once(
    fake: FakeRunpod, submit: Submit, platform: FakePlatform, events: Events
) -> None:
    fake.deafen()
    platform.lost = "platform 'fake' ended with exit code 9"
    calls = [submit(n, config=config_of(f"lane{n % 4}")) for n in range(12)]
    assert {type(call.exception(DEADLINE_S)) for call in calls} == {PlatformUnavailable}
    fake.wait_until(lambda: len(events.seen) >= 24, "events are missing")
    assert [events.stages(call) for call in calls] == [["queued", "failed"]] * 12


def test_calls_that_were_not_sent_when_the_platform_ended_are_sent_to_the_next(
    fake: FakeRunpod, submit: Submit, platform: FakePlatform
) -> None:
    # given
    fake.is_slow = True
    calls = [submit(n) for n in range(230)]
    fake.wait_for("stream", 200)
    fake.is_slow = False
    are_lost = threading.Event()

    def start_again() -> None:
        assert are_lost.wait(DEADLINE_S)
        platform.lost = None
        fake.listen()

    platform.on_connect = start_again
    # when
    platform.lost = "platform 'fake' ended with exit code 9"
    fake.deafen()
    fake.hang_up()
    # then
    errors = [call.exception(DEADLINE_S) for call in calls[:200]]
    are_lost.set()
    assert {type(error) for error in errors} == {PlatformUnavailable}
    assert "exit code 9" in str(errors[-1])
    assert [call.result(DEADLINE_S) for call in calls[200:]] == list(range(200, 230))
    assert platform.connects == 2


def test_an_endpoint_that_may_or_may_not_have_been_made_is_not_made_twice(
    fake: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.script("create", RESET)
    error = submit().exception(DEADLINE_S)
    assert isinstance(error, PlatformUnavailable)
    assert len(fake.seen("create")) == 1


def test_an_endpoint_that_was_deleted_is_made_again(fake: FakeRunpod, submit: Submit) -> None:
    submit().result(DEADLINE_S)
    fake.endpoints.clear()
    calls = [submit(n) for n in range(20)]
    assert [call.result(DEADLINE_S) for call in calls] == list(range(20))
    assert len(fake.seen("create")) == 2


def test_an_endpoint_that_is_never_found_is_an_error(fake: FakeRunpod, submit: Submit) -> None:
    fake.script("runSync", *[Answer(404, {"error": "no such endpoint"})] * 10)
    error = submit().exception(DEADLINE_S)
    assert isinstance(error, LookupError)
    assert isinstance(error, ApiError)
    assert len(fake.seen("runSync")) == 2


def test_request_urls_can_be_moved_to_another_host(fake: FakeRunpod, submit: Submit, platform: FakePlatform) -> None:
    fake.url_base = "https://nowhere.invalid"
    platform.connection = Connection(api_base=fake.base, key=KEY, job_base=fake.base)
    fake.is_slow = True
    call = submit(1)
    fake.wait_for("stream")
    fake.finish("job-1")
    assert call.result(DEADLINE_S) == 1
    assert fake.seen("runSync")[0].path == "/odd/ep1/begin-and-wait"


def test_the_command_of_the_platform_starts_the_workers(
    fake: FakeRunpod, submit: Submit, platform: FakePlatform
) -> None:
    platform.connection = Connection(api_base=fake.base, key=KEY, worker_command="start me")
    submit().result(DEADLINE_S)
    (body,) = [request.json for request in fake.seen("create")]
    assert body["args"] == "start me"
    assert body["env"][api.ENDPOINT_NAME_ENV] == "lane"
    assert api.HANDLER_ENV not in body["env"]


def test_where_the_command_installs_our_package_the_endpoint_says_which(
    fake: FakeRunpod, submit: Submit, platform: FakePlatform
) -> None:
    platform.connection = Connection(api_base=fake.base, key=KEY, has_package=False)
    submit().result(DEADLINE_S)
    (body,) = [request.json for request in fake.seen("create")]
    assert body["env"][api.PACKAGE_SPEC_ENV] == f"flash-plugins[worker]=={flash_plugins.__version__}"


def test_where_it_does_not_the_endpoint_says_nothing(fake: FakeRunpod, submit: Submit) -> None:
    submit().result(DEADLINE_S)
    assert api.PACKAGE_SPEC_ENV not in fake.seen("create")[0].json["env"]


def test_an_adapter_is_installed_with_it(fake: FakeRunpod, submit: Submit, platform: FakePlatform) -> None:
    platform.connection = Connection(api_base=fake.base, key=KEY, has_package=False)
    submit(1, config=config_of().with_packages(["mine"])).result(DEADLINE_S)
    submit(2, config=config_of().with_packages(["flash_joblib"])).result(DEADLINE_S)
    (patch,) = [request.json for request in fake.seen("patch")]
    version = flash_plugins.__version__
    wanted = f"flash-plugins-joblib=={version} flash-plugins[worker]=={version}"
    assert patch["env"][api.PACKAGE_SPEC_ENV] == wanted
    submit(3, config=config_of()).result(DEADLINE_S)  # a function of the user's on the same endpoint changes nothing
    assert len(fake.seen("patch")) == 1


def test_what_is_installed_can_be_set(
    fake: FakeRunpod, submit: Submit, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.connection = Connection(api_base=fake.base, key=KEY, has_package=False)
    monkeypatch.setenv(api.PACKAGE_SPEC_ENV, "--pre flash-plugins[worker]")
    monkeypatch.setattr(session_module, "worker_packages", None)
    submit(config=config_of("a")).result(DEADLINE_S)
    submit(config=config_of("b", env={api.PACKAGE_SPEC_ENV: "./mine.whl"})).result(DEADLINE_S)
    specs = [request.json["env"][api.PACKAGE_SPEC_ENV] for request in fake.seen("create")]
    assert specs == ["--pre flash-plugins[worker]", "./mine.whl"]


def test_one_name_with_two_configs_is_one_endpoint_brought_up_to_date(
    fake: FakeRunpod, submit: Submit, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flash_plugins")
    assert submit(1).result(DEADLINE_S) == 1
    assert submit(2, config=config_of(idle_timeout=5)).result(DEADLINE_S) == 2
    assert submit(3, config=config_of(idle_timeout=5)).result(DEADLINE_S) == 3
    assert len(fake.endpoints) == len(fake.seen("patch")) == 1
    lines = [record.getMessage() for record in caplog.records if "takes the place" in record.getMessage()]
    assert lines == ["endpoint 'lane' takes the place of an earlier one: idle_timeout is 5 and 60"]
    assert submit(4).result(DEADLINE_S) == 4  # back to the first: the platform is told
    assert len(fake.seen("patch")) == 2


@pytest.mark.parametrize(
    ("parameters", "words"), [({"workers": 3, "idle_timeout": 5}, "workers is (0, 3) and (0, 1); idle_timeout is 5"),
                              ({"env": {"TOKEN": "s3cret"}}, "env differs")]
)  # fmt: skip
def test_one_name_with_two_configs_at_once_is_an_error_that_names_what_differs(
    fake: FakeRunpod, submit: Submit, parameters: dict[str, Any], words: str
) -> None:
    fake.is_slow = True
    call = submit(1)
    submit(2)  # an equal one is welcome
    fake.wait_for("stream", 2)
    with pytest.raises(ConfigError) as caught:
        submit(3, config=config_of(**parameters))
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError, match="another name"):
        submit(3, config=config_of(**parameters))
    call.cancel()
    assert not fake.seen("patch")


def test_an_endpoint_cannot_be_started_differently_under_calls(
    fake: FakeRunpod, submit: Submit, session: Session
) -> None:
    fake.is_slow = True
    submit(1)
    with pytest.raises(ConfigError, match="idle_timeout"):
        session.start(config_of(idle_timeout=5), streams=False)
    session.start(config_of(), streams=False)


def test_a_generator_under_the_name_of_busy_functions_is_an_error_that_names_both(
    fake: FakeRunpod, submit: Submit
) -> None:
    fake.is_slow = True
    submit(1)
    with pytest.raises(ConfigError, match=r"'lane'.*echo\(\).*stream"):
        submit(2, streams=True, is_generator=True)


def test_a_generator_under_the_name_of_idle_functions_makes_them_all_stream(fake: FakeRunpod, submit: Submit) -> None:
    assert submit(1).result(DEADLINE_S) == 1
    stream = submit(2, streams=True, is_generator=True)
    fake.wait_for("run")
    assert fake.seen("patch")[0].json["env"].items() >= STREAM_ENV.items()
    stream.cancel()
    plain = submit(3)
    fake.wait_for("run", 2)
    assert len(fake.seen("patch")) == 1
    plain.cancel()


def test_jobs_of_an_endpoint_that_was_redefined_are_still_cancelled_at_the_end(
    fake: FakeRunpod, submit: Submit, session: Session, platform: FakePlatform
) -> None:
    platform.outlives_us = True
    fake.is_slow = True
    fake.script("cancel", *[Answer(429, {}, {"Retry-After": "0.05"})] * 3)
    old = submit(1)
    fake.wait_for("stream")
    old.cancel()
    submit(2, config=config_of(idle_timeout=5))
    fake.wait_for("runSync", 2)
    session.close()
    assert {job.status for job in fake.jobs.values()} == {"CANCELLED"}


def test_an_endpoint_of_generators_says_so_to_its_workers(fake: FakeRunpod, submit: Submit) -> None:
    call = submit(1, streams=True)
    fake.wait_for("run")
    (body,) = [request.json for request in fake.seen("create")]
    assert body["env"].items() >= STREAM_ENV.items()
    call.cancel()
