# SPDX-License-Identifier: Apache-2.0
"""A load-balanced worker that answers small JSON, as little as can be: uvicorn and no framework."""

from __future__ import annotations

import json
import os
from typing import Any

import uvicorn


async def app(scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI
    body = (await receive())["body"]
    asked = json.loads(body) if body else {}
    answer = json.dumps({"x": asked.get("x"), "port": os.environ["PORT"]}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="error", access_log=False)
