# SPDX-License-Identifier: Apache-2.0
"""A server that looks like vLLM's from outside: `python openai_stub.py --port PORT`; it echoes the prompt."""

import argparse
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_known = self.path in ("/ping", "/v1/models")
        self.answer(200 if is_known else 404, {"data": [{"id": os.environ.get("MODEL", "stub")}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200, {"choices": [{"text": f"echo {request['prompt']}"}]})

    def answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None: ...


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "0")))
    ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Handler).serve_forever()
