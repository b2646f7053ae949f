# SPDX-License-Identifier: Apache-2.0
"""Progress in a notebook, with a stand-in for the parts of IPython that are used; a real kernel is in `conformance`."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from flash_plugins import CallEvent, CallStage
from flash_plugins.builtin.progress import Progress, notebook, plugin
from flash_plugins.builtin.progress.notebook import current_cell


class Kernel:
    """What is displayed, by the id of the output, and the cell that runs."""

    def __init__(self) -> None:
        self.shell = SimpleNamespace(kernel=object(), execution_count=1)
        self.outputs: dict[str, list[dict[str, str]]] = {}

    def display(self, kinds: dict[str, str], *, raw: bool, display_id: str, update: bool) -> None:
        assert raw
        assert update == (display_id in self.outputs)
        self.outputs.setdefault(display_id, []).append(kinds)

    def texts(self) -> list[str]:
        """Return what stands in each output."""
        return [shown[-1]["text/plain"] for shown in self.outputs.values()]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    ipython: Any = ModuleType("IPython")
    ipython.get_ipython = lambda: made.shell
    display: Any = ModuleType("IPython.display")
    display.display = made.display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    for name in ("_QUIET_S", "_TICK_S"):
        monkeypatch.setattr(plugin, name, 0.03)
    monkeypatch.setattr(notebook, "_INTERVAL_S", 0.03)
    return made


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def has_outputs(kernel: Kernel, count: int) -> bool:
    return len(kernel.outputs) == count


def tell(shown: Progress, number: int, stage: CallStage) -> None:
    shown.flash_call_event(CallEvent(stage, endpoint="e", function="f", call_id=number))


def test_a_cell_has_one_output_that_is_rewritten(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_LINGER_S", 60.0)
    shown = Progress(lambda: "on")
    tell(shown, 1, CallStage.QUEUED)
    until(lambda: any(len(output) > 1 for output in kernel.outputs.values()))
    tell(shown, 1, CallStage.DONE)
    until(lambda: "1/1 calls done" in kernel.texts()[-1])  # at once, not only when the stretch is over
    shown._finish()
    (output,) = kernel.outputs.values()
    assert '<progress value="1" max="1"' in output[-1]["text/html"]


def test_another_cell_has_an_output_of_its_own(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_LINGER_S", 60.0)
    shown = Progress(lambda: "on")
    for cell in (1, 2):
        kernel.shell.execution_count = cell
        tell(shown, cell, CallStage.QUEUED)
        until(partial(has_outputs, kernel, cell))
        tell(shown, cell, CallStage.DONE)
    shown._finish()
    until(lambda: not any(thread.name == "flash-progress" for thread in threading.enumerate()))
    assert [text.partition(" · ")[0] for text in kernel.texts()] == ["e: 1/1 calls done", "e: 1/1 calls done"]


def test_a_shell_on_a_terminal_is_no_notebook(kernel: Kernel) -> None:
    assert current_cell() is not None
    del kernel.shell.kernel
    assert current_cell() is None


def test_ipython_that_is_loaded_but_does_not_run_is_no_notebook(kernel: Kernel) -> None:
    kernel.shell = None  # type: ignore[assignment]
    assert current_cell() is None


def test_a_stream_that_was_given_is_used_in_a_notebook_too(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_LINGER_S", 0.03)
    out = io.StringIO()
    shown = Progress(lambda: "on", stream=out)
    tell(shown, 1, CallStage.QUEUED)
    time.sleep(0.1)
    tell(shown, 1, CallStage.DONE)
    until(out.getvalue)
    assert not kernel.outputs
