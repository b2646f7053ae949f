# SPDX-License-Identifier: Apache-2.0
"""Progress in a notebook: one output of the cell, which is rewritten. IPython is used where it runs, never loaded."""

from __future__ import annotations

import sys
import uuid
from typing import Any, Final

from .tally import Snapshot
from .text import html_of, line_of

__all__ = ["NotebookOutput", "current_cell"]

#: Seconds between two updates: each is a message to the browser, and is kept with the notebook.
_INTERVAL_S: Final = 0.5


def current_cell() -> object:
    """Return what stands for the cell that runs now, None where this is no kernel of a notebook."""
    shell = _shell()
    return None if shell is None else (id(shell), shell.execution_count)


def _shell() -> Any:
    """Return IPython's shell where a kernel runs it. A terminal's shell is no notebook."""
    ipython = sys.modules.get("IPython")
    get_ipython = getattr(ipython, "get_ipython", None)
    shell = None if get_ipython is None else get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


class NotebookOutput:
    """Shows progress as HTML with a bar; as plain text where a front end shows no HTML."""

    def __init__(self) -> None:
        self._display_id = uuid.uuid4().hex
        self._is_shown = False
        self._is_forgotten = False
        self.shows_rest = True
        self.first_after_s = 0.0

    def show(self, snapshot: Snapshot) -> float:
        """Show how far the work is; returns after how many seconds it is due again."""
        if not self._is_forgotten:
            from IPython.display import display  # runs already, see `current_cell`

            # As data of its own kinds, not as an object that IPython asks for its kinds.
            kinds = {"text/plain": line_of(snapshot), "text/html": html_of(snapshot)}
            display(kinds, raw=True, display_id=self._display_id, update=self._is_shown)
            self._is_shown = True
        return _INTERVAL_S

    def give_way(self) -> None:
        """Nothing is in the way of anybody."""

    def end(self, snapshot: Snapshot | None) -> None:
        """Show the last counts, which stay."""
        if snapshot is not None:
            self.show(snapshot)

    def forget(self) -> None:
        """Show nothing more: this is a forked child, and the sockets are its parent's."""
        self._is_forgotten = True
