# SPDX-License-Identifier: Apache-2.0
"""A session on the scripted platform, with every event of every call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from flash_plugins import Call, CallEvent, CallStage, Connection, hookimpl
from flash_plugins.clock import FakeClock
from flash_plugins.config import EndpointConfig
from flash_plugins.dispatcher import Session, batch_lane
from flash_plugins.hooks import HookManager
from flash_plugins.options import NO_OPTIONS
from flash_plugins.platforms import provision, rest
from flash_plugins.settings import Settings
from tests.unit.dispatcher.fake import DEADLINE_S, KEY, FakePlatform, FakeRunpod, envelope_of


@dataclass
class Events:
    """A plugin that chooses the platform and notes what happens."""

    platform: FakePlatform
    seen: list[CallEvent] = field(default_factory=list)

    @hookimpl
    def flash_choose_platform(self, settings: Settings) -> FakePlatform:
        return self.platform

    @hookimpl
    def flash_call_event(self, event: CallEvent) -> None:
        self.seen.append(event)

    def stages(self, call: Call[Any]) -> list[str]:
        """Return what was told of a call, but for its beginning, which is not told of calls that end soon."""
        told = [event.stage for event in self.seen if event.call_id == call.number]
        return [str(stage) for stage in told if stage not in (CallStage.STARTED, CallStage.RETURNED)]


def config_of(name: str = "lane", **parameters: Any) -> EndpointConfig:
    return EndpointConfig.from_parameters(name, {"cpu": "cpu5c-4-8", **parameters})


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was created shows at once here, and nothing is too busy for long."""
    monkeypatch.setattr(provision, "VISIBLE_WITHIN_S", 0.3)
    monkeypatch.setattr(rest, "FIRST_PAUSE_S", 0.02)


@pytest.fixture(autouse=True)
def all_fly(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many jobs fly as the window allows, however few workers an endpoint has. Tests of batching override this."""
    monkeypatch.setattr(batch_lane, "slots_of", lambda config: 1_000)


@pytest.fixture
def fake() -> Iterator[FakeRunpod]:
    server = FakeRunpod()
    yield server
    server.close()


@pytest.fixture
def platform(fake: FakeRunpod) -> FakePlatform:
    return FakePlatform(Connection(api_base=fake.base, key=KEY))


@pytest.fixture
def events(platform: FakePlatform) -> Events:
    return Events(platform)


class LoopClock(FakeClock):
    """A clock that stands still until a test moves it; timers run on the session's loop, as they always do."""

    def __init__(self) -> None:
        super().__init__()
        self.session: Session | None = None

    def move(self, seconds: float) -> None:
        """Move on, make what gets due happen, and let the loop go on with it."""
        assert self.session is not None

        async def on_the_loop() -> None:
            await asyncio.sleep(0)
            self.advance(seconds)
            await asyncio.sleep(0)

        self.session.loop.call(on_the_loop(), DEADLINE_S)


@pytest.fixture
def clock() -> LoopClock | None:
    """The session's clock; None for the real one. Tests of time override this with a `LoopClock`."""
    return None


@pytest.fixture
def session(events: Events, clock: LoopClock | None) -> Iterator[Session]:
    made = Session(Settings.load, HookManager([("events", events)], discover=False), clock=clock)
    if clock is not None:
        clock.session = made
    yield made
    made.close()


@pytest.fixture
def submit(session: Session) -> Callable[..., Call[Any]]:
    """Make a call whose result is its argument."""

    def make(
        value: object = None,
        *,
        code: bytes = b"some code",
        config: EndpointConfig | None = None,
        streams: bool = False,
        is_generator: bool = False,
        **options: Any,
    ) -> Call[Any]:
        return session.submit(
            config or config_of(),
            envelope_of(value, code=code),
            function_name="echo",
            streams=streams,
            is_generator=is_generator,
            options=NO_OPTIONS.merged(options) if options else NO_OPTIONS,
        )

    return make
