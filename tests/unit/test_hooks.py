# SPDX-License-Identifier: Apache-2.0
"""Plugins: registration, who is asked first, and what a failing plugin does."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flash_plugins import CallEvent, CallStage, Connection, HookError, hookimpl
from flash_plugins.builtin import notice
from flash_plugins.builtin.object_stores import ObjectStores
from flash_plugins.hooks import HookManager
from flash_plugins.objects import ObjectMissing, ObjectStore, Ref
from flash_plugins.objects.digest import digest_of
from flash_plugins.objects.open import open_store
from flash_plugins.objects.store import ObjectEntry
from flash_plugins.settings import Settings
from flash_plugins.worker.stores import open_remote


class Nowhere:
    name = "nowhere"
    reason = "a test says so"
    outlives_us = False

    def connect(self) -> Connection:
        return Connection(api_base="http://127.0.0.1:1", key="k")

    def lost_reason(self) -> str | None:
        return None

    def close(self) -> None: ...


class Chooser:
    def __init__(self, answer: Nowhere | None) -> None:
        self.answer = answer
        self.asked = 0

    @hookimpl
    def flash_choose_platform(self, settings: Settings) -> Nowhere | None:
        self.asked += 1
        return self.answer


class Listener:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    @hookimpl
    def flash_platform_chosen(self, platform: Nowhere) -> None:
        self.seen.append(platform)

    @hookimpl
    def flash_call_event(self, event: CallEvent) -> None:
        self.seen.append(event.stage)


class Failing:
    @hookimpl
    def flash_choose_platform(self, settings: Settings) -> None:
        raise ZeroDivisionError("choosing")

    @hookimpl
    def flash_platform_chosen(self, platform: Nowhere) -> None:
        raise ZeroDivisionError("told")

    @hookimpl
    def flash_call_event(self, event: CallEvent) -> None:
        raise ZeroDivisionError("told")


EVENT = CallEvent(CallStage.QUEUED, endpoint="e", function="f", call_id=1)


def manager(*plugins: object) -> HookManager:
    return HookManager([(type(plugin).__name__, plugin) for plugin in plugins], discover=False)


def test_flash_choose_platform_takes_the_first_answer_of_the_plugin_registered_last() -> None:
    first, silent, last = Chooser(Nowhere()), Chooser(None), Chooser(Nowhere())
    hooks = HookManager([("first", first), ("last", last), ("silent", silent)], discover=False)
    assert hooks.choose_platform(Settings()) is last.answer
    assert (first.asked, last.asked, silent.asked) == (0, 1, 1)


def test_flash_choose_platform_is_a_gate_whose_failure_names_the_plugin() -> None:
    with pytest.raises(HookError, match=r"'Failing'.*flash_choose_platform.*choosing") as caught:
        manager(Failing()).choose_platform(Settings())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_flash_platform_chosen_is_told_and_its_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    listener, platform = Listener(), Nowhere()
    with caplog.at_level(logging.ERROR):
        manager(listener, Failing()).platform_chosen(platform)
    assert listener.seen == [platform]
    assert "'Failing'" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_flash_notice_is_told_and_its_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Reader:
        def __init__(self) -> None:
            self.seen: list[tuple[str, str | None]] = []

        @hookimpl
        def flash_notice(self, text: str, endpoint: str | None) -> None:
            self.seen.append((text, endpoint))

    class Deaf:
        @hookimpl
        def flash_notice(self, text: str) -> None:
            raise ZeroDivisionError("told")

    reader = Reader()
    with caplog.at_level(logging.ERROR):
        manager(reader, Deaf()).notice("workers.max 3 → 5", endpoint="x")
    assert reader.seen == [("workers.max 3 → 5", "x")]
    assert "flash_notice" in caplog.text


def test_the_built_in_notice_writes_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    manager(notice).notice("why calls wait")
    assert capsys.readouterr().err == "flash-plugins: why calls wait\n"


def test_flash_call_event_is_told_and_its_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    with caplog.at_level(logging.ERROR):
        manager(listener, Failing()).call_event(EVENT)
    assert listener.seen == [CallStage.QUEUED]
    assert "flash_call_event" in caplog.text


def test_an_observer_that_would_end_the_process_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Leaving:
        @hookimpl
        def flash_call_event(self, event: CallEvent) -> None:
            raise SystemExit(3)

    manager = HookManager([("leaving", Leaving())], discover=False)
    manager.call_event(CallEvent(CallStage.DONE, endpoint="e", function="f", call_id=1))
    assert "SystemExit" in caplog.text


def test_a_misspelt_hook_is_refused() -> None:
    class Misspelt:
        @hookimpl
        def flash_call_evnt(self, event: CallEvent) -> None: ...

    hooks = manager()
    plugin = Misspelt()
    with pytest.raises(HookError, match="flash_call_evnt"):
        hooks.register(plugin)
    with pytest.raises(HookError, match="not registered"):
        hooks.unregister(plugin)


def test_a_plugin_is_registered_once_and_can_be_removed() -> None:
    listener, hooks = Listener(), manager()
    hooks.register(listener)
    with pytest.raises(HookError, match="cannot be registered"):
        hooks.register(listener)
    hooks.call_event(EVENT)
    hooks.unregister(listener)
    hooks.call_event(EVENT)
    assert listener.seen == [CallStage.QUEUED]


def test_a_plugin_can_be_removed_by_its_name_and_replaced() -> None:
    first, second, hooks = Listener(), Listener(), manager()
    hooks.register(first, name="listener")
    hooks.unregister("listener")
    hooks.register(second, name="listener")
    hooks.call_event(EVENT)
    assert (first.seen, second.seen) == ([], [CallStage.QUEUED])
    with pytest.raises(HookError, match="'nobody' is not registered"):
        hooks.unregister("nobody")


def test_installed_plugins_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "found_plugin.py").write_text(
        "from flash_plugins import hookimpl\nseen = []\n"
        "@hookimpl\ndef flash_platform_chosen(platform):\n    seen.append(platform.name)\n"
    )
    metadata = tmp_path / "found_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: found-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[flash_plugins]\nfound = found_plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    hooks = HookManager()
    hooks.platform_chosen(Nowhere())
    import found_plugin  # type: ignore[import-not-found]

    assert found_plugin.seen == ["nowhere"]
    assert "found" in hooks.plugin_names()


def test_an_installed_plugin_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('broken on purpose')\n")
    metadata = tmp_path / "broken_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[flash_plugins]\nbroken = broken_plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(HookError, match="broken on purpose"):
        HookManager().choose_platform(Settings())


class Memory:
    """Keeps objects in this process; a plugin could as well speak to any service."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._kept: dict[str, bytes] = {}

    def has(self, ref: Ref) -> bool:
        return ref.digest in self._kept

    def put(self, ref: Ref, content: memoryview) -> None:
        self._kept[ref.digest] = bytes(content)

    def get(self, ref: Ref) -> memoryview:
        if ref.digest not in self._kept:
            raise ObjectMissing(f"{ref} is not in {self.url}", (ref,))
        return memoryview(bytearray(self._kept[ref.digest]))

    def hold(self, ref: Ref) -> None:
        self.get(ref)

    def release(self, ref: Ref) -> None: ...

    def delete(self, ref: Ref) -> None:
        self._kept.pop(ref.digest, None)

    def entries(self) -> Iterator[ObjectEntry]:
        return (ObjectEntry(Ref(digest, len(content)), 0.0) for digest, content in self._kept.items())


class MemoryPlugin:
    @hookimpl
    def flash_object_store(self, url: str) -> ObjectStore | None:
        return Memory(url) if url.startswith("memory://") else None


def test_flash_object_store_opens_what_is_not_built_in(tmp_path: Path) -> None:
    hooks = HookManager([("object-stores", ObjectStores(lambda: None)), ("memory", MemoryPlugin())], discover=False)
    store = hooks.object_store("memory://here")
    assert isinstance(store, ObjectStore)
    assert isinstance(store, Memory)
    assert store.url == "memory://here"
    folder = hooks.object_store(tmp_path.as_uri())
    assert folder is not None
    assert folder.url == tmp_path.as_uri()
    assert hooks.object_store("gs://bucket") is None


def test_a_failing_flash_object_store_is_named() -> None:
    class Broken:
        @hookimpl
        def flash_object_store(self, url: str) -> None:
            raise ZeroDivisionError(url)

    with pytest.raises(HookError, match=r"'Broken' failed in flash_object_store: ZeroDivisionError: x://"):
        manager(Broken()).object_store("x://")


def test_flash_object_store_is_found_where_it_is_installed_also_on_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = """
import flash_plugins
from flash_plugins.objects.open import open_store

@flash_plugins.hookimpl
def flash_object_store(url):
    return open_store(url.replace("nearby:", "file:")) if url.startswith("nearby:") else None
"""
    (tmp_path / "nearby_objects.py").write_text(plugin)
    info = tmp_path / "nearby_objects-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nearby-objects\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flash_plugins]\nnearby = nearby_objects\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    content = b"through a plugin"
    ref = Ref(digest_of(content), len(content))
    try:
        open_remote(f"nearby://{tmp_path}/objects").put(ref, memoryview(content))
    finally:
        sys.modules.pop("nearby_objects", None)
    assert bytes(open_store((tmp_path / "objects").as_uri()).get(ref)) == content
