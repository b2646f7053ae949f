# SPDX-License-Identifier: Apache-2.0
"""The submission engine: from a call made in any thread to its outcome.

any thread               dispatcher thread (one event loop, one HTTP client)            delivery thread
fn(x) ─pickles─► Call ──► Session ─► Lane of the endpoint: queue, window ─► job ─► outcome ──► callbacks,
                  ▲                                                                            replayed output
                  └────────────────────────── result, exception ◄──────────────────────────────────┘
"""

from .call import Call, StreamCall
from .session import Session

__all__ = ["Call", "Session", "StreamCall"]
