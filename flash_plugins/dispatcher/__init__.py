# SPDX-License-Identifier: Apache-2.0
"""The submission engine: from a call made in any thread to its outcome.

any thread               dispatcher thread (one event loop, one HTTP client)            delivery thread
fn(x) ─pickles─► Call ──► Session ─► Lane of the endpoint: queue, window ─► job ─► outcome ──► callbacks,
                  ▲                                                                            replayed output
                  └────────────────────────── result, exception ◄──────────────────────────────────┘
"""

from .call import Call
from .session import Session
from .stream import StreamCall

__all__ = ["Call", "Session", "StreamCall"]
