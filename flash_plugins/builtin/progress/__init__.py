# SPDX-License-Identifier: Apache-2.0
"""How far the calls of this process are, shown while they run: a plugin that anybody may replace.

flash_call_event ──► plugin: one stretch of work at a time ──► tally: counts ──► text: words
                        └── a thread, while calls run ──► terminal, notebook or log
"""

from .plugin import Progress

__all__ = ["Progress"]
