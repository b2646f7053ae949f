# SPDX-License-Identifier: Apache-2.0
"""A load-balanced worker as Runpod's tutorial writes one: FastAPI, `/ping`, routes of its own."""

import os
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException

app = FastAPI()


@app.get("/ping")
async def ping() -> dict[str, str]:
    return {"status": "healthy"}


@app.post("/generate")
async def generate(body: dict[str, Any]) -> dict[str, Any]:
    return {"generated": body["prompt"].upper()}


@app.api_route("/items/{item}", methods=["GET", "PUT", "PATCH", "DELETE"])
async def items(item: int, body: dict[str, Any] | None = None) -> dict[str, Any]:
    if item == 404:
        raise HTTPException(404, "no such item")
    return {"item": item, "body": body}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
