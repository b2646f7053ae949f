# SPDX-License-Identifier: Apache-2.0
"""A server that answers as a test scripts it, and this process set to take it for Runpod."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import flash_plugins
from tests.unit.client.scripted import KEY, ScriptedServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    flash_plugins.close()
    with ScriptedServer() as server:
        monkeypatch.setenv("FLASH_PLATFORM", "runpod")
        monkeypatch.setenv("RUNPOD_API_KEY", KEY)
        monkeypatch.setenv("RUNPOD_API_BASE_URL", server.url)
        yield server
        flash_plugins.close()
