# SPDX-License-Identifier: Apache-2.0
"""A load-balanced API: bodies field by field, a model as body, query and path parameters, a file."""

import asyncio

from pydantic import BaseModel, Field
from runpod_flash import Endpoint

api = Endpoint(name="p06-text-api", cpu="cpu3c-1-2", workers=(1, 2))

NOTES: dict[int, str] = {}


class Order(BaseModel):
    """The body of one route."""

    item: str
    count: int = Field(default=1, ge=1)


@api.get("/health")
async def health() -> dict:
    return {"status": "healthy"}


@api.post("/transform")
async def transform(text: str, operation: str = "upper") -> dict:
    """Two fields of one JSON body."""
    if operation not in ("upper", "lower", "title"):
        raise ValueError(f"unknown operation {operation!r}")
    return {"result": getattr(text, operation)()}


@api.post("/statistics")
async def statistics(numbers: list[float]) -> dict:
    import statistics

    return {"mean": statistics.fmean(numbers), "most": max(numbers)}


@api.post("/orders")
async def order(order: Order) -> dict:
    return {"total": f"{order.count} x {order.item}"}


@api.get("/search")
def search(term: str, limit: int = 2) -> list[str]:
    return [name for name in ("alpha", "beta", "gamma") if term in name][:limit]


@api.put("/notes/{number}")
async def write(number: int, text: str) -> dict:
    NOTES[number] = text
    return {"number": number, "text": NOTES[number]}


@api.delete("/notes/{number}")
async def erase(number: int) -> dict:
    return {"number": number, "was": NOTES.pop(number, None)}


@api.post("/files")
async def count_lines(file: bytes, label: str = "") -> dict:
    return {"label": label, "lines": file.count(b"\n"), "bytes": len(file)}


async def main() -> None:
    print(await health())
    print(await transform("hello world", "title"), await statistics([1, 2, 6]))
    print(await order(Order(item="tea", count=2)), search("a", limit=3))
    print(await write(3, "three"), await erase(3))
    print(await count_lines(b"one\ntwo\n", label="text"))


if __name__ == "__main__":
    asyncio.run(main())
