# SPDX-License-Identifier: Apache-2.0
"""The command `flash-plugins`. Its folder is the only place of the package that prints."""

from __future__ import annotations

import importlib.util
import sys

from ..errors import ConfigError, FlashPluginsError

__all__ = ["main"]


def main() -> None:
    """Run the command line; exit code 2 for a wrong call or setting, 1 for anything else that goes wrong."""
    for name in ("typer", "rich"):
        if importlib.util.find_spec(name) is None:
            sys.exit(f"flash-plugins: the command line needs the package {name!r}: pip install 'flash-plugins[cli]'")

    from .app import app
    from .output import EXIT_FAILED, EXIT_USAGE, note

    try:
        app()
    except FlashPluginsError as error:  # its message says what to do; a traceback would only hide that
        note(str(error))
        sys.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED)
