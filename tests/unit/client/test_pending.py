# SPDX-License-Identifier: Apache-2.0
"""An operation that is cancelled ends every wait for it: nobody waits for an outcome that never comes."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest

from flash_plugins import Endpoint
from tests.unit.client.scripted import Answer, ScriptedServer

HEALTH = "GET /v2/abc/health"
#: Seconds after which a wait that should have ended counts as one without an end.
LATE_S = 20


def test_result_after_a_wait_was_cancelled_says_so(server: ScriptedServer) -> None:
    server.script(HEALTH, Answer({}, after_s=60))
    pending = Endpoint(id="abc").health()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pending, 0.1)

    asyncio.run(give_up())
    with pytest.raises(CancelledError, match=r"health\(\) of endpoint 'abc' was cancelled"):
        pending.result(LATE_S)


def test_close_ends_the_result_that_another_thread_waits_for(server: ScriptedServer) -> None:
    server.script(HEALTH, Answer({}, after_s=60))
    pending = Endpoint(id="abc").health()
    raised: list[BaseException] = []

    def wait() -> None:
        with pytest.raises(CancelledError) as caught:
            pending.result(LATE_S)
        raised.append(caught.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    server.wait_for_requests(1)
    pending.close()
    waiting.join(LATE_S / 2)
    assert not waiting.is_alive()
    assert len(raised) == 1
