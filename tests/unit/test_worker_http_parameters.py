# SPDX-License-Identifier: Apache-2.0
"""Where a load-balanced worker takes the parameters of a route function from."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from tests.support import require
from tests.unit.worker_process import Worker, routes, worker

if require("fastapi") and require("uvicorn"):
    from fastapi import BackgroundTasks, Body, Depends, Header, Request, Response, UploadFile
    from pydantic import BaseModel, Field


class Item(BaseModel):
    name: str
    price: float = Field(1.5, gt=0)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


async def one(x: str) -> dict[str, str]:
    return {"x": x}


async def two(x: str, k: int = 2) -> list[Any]:
    return [x, k]


async def data(data: dict) -> Any:  # type: ignore[type-arg]  # as users write it
    return sorted(data)


def nothing() -> str:
    return "called"


def item(item: Item) -> list[Any]:
    return [type(item).__name__, item.name, item.price]


def item_and_query(item: Item, dry: bool = False) -> list[Any]:
    return [item.name, dry]


def items(items: list[Item], first: Item | None = None) -> list[Any]:
    return [[one.name for one in items], first and first.name]


def rich(colour: Colour, point: Point, mode: Literal["a", "b"], share: Annotated[float, Field(le=1)]) -> Any:
    return [colour.name, point.x + point.y, mode, share]


def search(q: str, limit: int = 10, tags: list[str] = [], exact: bool = False, any_of=None) -> Any:  # type: ignore[no-untyped-def]  # noqa: B006
    return [q, limit, tags, exact, any_of]


async def body(request: Request) -> Any:
    return await request.json()


def rename(user_id: int, name: str, *args: Any, notify: bool = True, **kwargs: Any) -> Any:
    return [user_id, name, notify, args, kwargs]


def read(rest: str) -> str:
    return rest


def unannotated(a, b=3):  # type: ignore[no-untyped-def]
    return [a, b]


def odd_names(first, /, json, copy=1, model_config=2, _hidden=3, schema=4):  # type: ignore[no-untyped-def]
    return [first, json, copy, model_config, _hidden, schema]


def marked(a: int, b: Annotated[int, Body()], c: int = Body(5), d: int = Body(6, alias="dee")) -> Any:
    return [a, b, c, d]


def marked_alone(a: int = 1, b: int = Body(2)) -> Any:
    return [a, b]


NOT_JSON = object()


def odd_default(x: int = 1, marker: Any = NOT_JSON) -> Any:
    return [x, marker is NOT_JSON]


def upload(image: bytes, title: str, size: int = 7, meta: dict[str, Any] | None = None) -> Any:
    return [len(image), title, size, meta]


def uploads(images: list[bytes], note: bytes | None = None) -> Any:
    return [[len(image) for image in images], note and note.decode()]


async def upload_file(file: UploadFile, title: str = "none") -> Any:
    return [file.filename, (await file.read()).decode(), title]


def user_of(x_user: Annotated[str, Header()] = "nobody") -> str:
    return x_user


async def injected(
    request: Request, response: Response, tasks: BackgroundTasks, x: int, user: Annotated[str, Depends(user_of)]
) -> Any:
    response.headers["X-Count"] = str(x)
    response.status_code = 202
    tasks.add_task(print, "background task ran")
    return [request.method, x, user]


CARGO = routes(
    ("POST", "/one", one), ("PUT", "/one", one), ("PATCH", "/one", one), ("DELETE", "/one", one), ("GET", "/one", one),
    ("POST", "/two", two), ("POST", "/data", data), ("POST", "/nothing", nothing), ("POST", "/item", item),
    ("POST", "/item-and-query", item_and_query), ("POST", "/items", items), ("POST", "/rich", rich),
    ("GET", "/body", body),
    ("GET", "/search", search), ("PUT", "/users/{user_id}", rename), ("GET", "/files/{rest:path}", read),
    ("POST", "/unannotated", unannotated), ("GET", "/unannotated", unannotated), ("POST", "/odd-names", odd_names),
    ("POST", "/odd-default", odd_default), ("POST", "/upload", upload), ("POST", "/uploads", uploads),
    ("POST", "/upload-file", upload_file), ("POST", "/injected", injected),
    ("POST", "/marked", marked), ("POST", "/marked-alone", marked_alone),
)  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with worker(CARGO, tmp_path_factory.mktemp("worker")) as running:
        yield running


def multipart(**parts: str | bytes | list[bytes]) -> tuple[bytes, dict[str, str]]:
    """Return a body with files for bytes and fields for texts, and its headers."""
    boundary = uuid.uuid4().hex
    body = b""
    for name, content in parts.items():
        for part in content if isinstance(content, list) else [content]:
            is_file = isinstance(part, bytes)
            file = f'; filename="{name}.bin"' if is_file else ""
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
            body += head.encode() + (part if isinstance(part, bytes) else part.encode()) + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_row_27_a_single_parameter_is_a_field_of_the_body(served: Worker, method: str) -> None:
    answer = served.request(method, "/one", {"x": "hi"})
    assert (answer.status, answer.json) == (200, {"x": "hi"})


def test_row_27_get_reads_the_query(served: Worker) -> None:
    assert served.get("/one?x=hi").json == {"x": "hi"}
    assert served.get("/search?q=a&limit=3&tags=x&tags=y&exact=true&any_of=z").json == ["a", 3, ["x", "y"], True, "z"]
    assert served.get("/search?q=a").json == ["a", 10, [], False, None]
    refused = served.get("/search?limit=many")
    assert refused.status == 422
    assert [error["loc"] for error in refused.json["detail"]] == [["query", "q"], ["query", "limit"]]


def test_get_reads_json_where_a_client_sends_it(served: Worker) -> None:
    """As official clients do with the data of a GET request."""
    sent = {"q": "ü&", "tags": ["x", 1], "limit": 3, "exact": True, "any_of": None, "other": {"a": 1}}
    assert served.request("GET", "/search", sent).json == ["ü&", 3, ["x", "1"], True, None]
    assert served.request("GET", "/search?q=url&tags=z", sent).json == ["url", 3, ["z"], True, None]
    assert served.request("GET", "/search?q=url", [1]).json == ["url", 10, [], False, None]
    broken = served.request("GET", "/search?q=url", b"{", headers={"Content-Type": "application/json"})
    assert broken.json == ["url", 10, [], False, None]
    assert served.request("GET", "/body", {"x": [1]}).json == {"x": [1]}


def test_row_27_several_parameters_are_fields_and_defaults_hold(served: Worker) -> None:
    assert served.post("/two", {"x": "a", "k": 5}).json == ["a", 5]
    assert served.post("/two", {"x": "a"}).json == ["a", 2]
    assert served.post("/data", {"data": {"b": 1, "a": 2}}).json == ["a", "b"]
    assert served.post("/nothing").json == "called"
    assert served.post("/nothing", {"anything": 1}).json == "called"
    # Where every parameter has a default, no body is needed; one that JSON cannot hold stays itself.
    assert served.post("/odd-default").json == [1, True]
    assert served.post("/odd-default", {"x": 5}).json == [5, True]
    assert served.post("/odd-default", {"x": 5, "marker": 6}).json == [5, False]


def test_row_27_a_refusal_names_the_field_of_the_body(served: Worker) -> None:
    refused = served.post("/two", {"k": "many"})
    assert refused.status == 422
    assert {tuple(error["loc"]) for error in refused.json["detail"]} == {("body", "x"), ("body", "k")}
    assert served.post("/one").json["detail"][0]["loc"] == ["body"]
    assert served.post("/one", b"{not json", Content_Type="application/json").status == 422
    assert served.post("/item", {"name": "a", "price": -1}).json["detail"][0]["loc"] == ["body", "price"]


def test_row_27_a_model_is_the_body_itself(served: Worker) -> None:
    assert served.post("/item", {"name": "a", "price": 2}).json == ["Item", "a", 2.0]
    assert served.post("/item-and-query?dry=1", {"name": "a"}).json == ["a", True]
    # Models inside of other types are fields, and arrive as models.
    assert served.post("/items", {"items": [{"name": "a"}], "first": {"name": "b"}}).json == [["a"], "b"]
    assert served.post("/items", {"items": []}).json == [[], None]


def test_fields_become_what_they_are_annotated_as(served: Worker) -> None:
    sent = {"colour": "red", "point": {"x": 1, "y": 2}, "mode": "a", "share": 0.5}
    assert served.post("/rich", sent).json == ["RED", 3, "a", 0.5]
    refused = served.post("/rich", {**sent, "colour": "blue", "share": 2}).json["detail"]
    assert {tuple(error["loc"]) for error in refused} == {("body", "colour"), ("body", "share")}


def test_row_27_path_parameters_work_beside_the_body(served: Worker) -> None:
    found = served.request("PUT", "/users/7", {"name": "ann", "notify": False, "unknown": 1})
    assert found.json == [7, "ann", False, [], {}]
    assert served.request("PUT", "/users/x", {"name": "ann"}).json["detail"][0]["loc"] == ["path", "user_id"]
    assert served.get("/files/a/b/c.txt").json == "a/b/c.txt"


def test_row_27_a_parameter_without_annotation_takes_anything(served: Worker) -> None:
    assert served.post("/unannotated", {"a": [1, {"b": None}]}).json == [[1, {"b": None}], 3]
    assert served.post("/unannotated", {"a": None, "b": "x"}).json == [None, "x"]
    assert served.get("/unannotated?a=1").json == ["1", 3]
    assert served.post("/unannotated", {}).json["detail"][0]["loc"] == ["body", "a"]


def test_parameters_may_have_any_name(served: Worker) -> None:
    assert served.post("/odd-names", {"first": 1, "json": 2}).json == [1, 2, 1, 2, 3, 4]
    sent = {"first": 1, "json": 2, "copy": 3, "model_config": 4, "_hidden": 5, "schema": 6}
    assert served.post("/odd-names", sent).json == [1, 2, 3, 4, 5, 6]


def test_row_27_bytes_are_files_and_the_others_form_fields(served: Worker) -> None:
    body, headers = multipart(image=b"\x00\x01\x02", title="cat", meta='{"a": [1]}')
    assert served.request("POST", "/upload", body, headers=headers).json == [3, "cat", 7, {"a": [1]}]
    body, headers = multipart(image=b"1", title="cat", size="9")
    assert served.request("POST", "/upload", body, headers=headers).json == [1, "cat", 9, None]
    body, headers = multipart(title="cat")
    refused = served.request("POST", "/upload", body, headers=headers)
    assert (refused.status, refused.json["detail"][0]["loc"]) == (422, ["body", "image"])
    body, headers = multipart(images=[b"1", b"22"], note=b"text")
    assert served.request("POST", "/uploads", body, headers=headers).json == [[1, 2], "text"]
    body, headers = multipart(file=b"content", title="cat")
    assert served.request("POST", "/upload-file", body, headers=headers).json == ["file.bin", "content", "cat"]


def test_what_fastapi_provides_is_provided(served: Worker) -> None:
    answer = served.post("/injected", {"x": 3}, X_User="ann")
    assert (answer.status, answer.json) == (202, ["POST", 3, "ann"])
    assert answer.headers["x-count"] == "3"
    served.wait_for_log("background task ran")


def test_parameters_marked_as_body_are_fields_beside_the_others(served: Worker) -> None:
    assert served.post("/marked", {"a": 1, "b": 2}).json == [1, 2, 5, 6]
    assert served.post("/marked", {"a": 1, "b": 2, "c": 3, "dee": 4}).json == [1, 2, 3, 4]
    assert served.post("/marked", {"a": 1}).json["detail"][0]["loc"] == ["body", "b"]
    assert served.post("/marked-alone").json == [1, 2]
    assert served.post("/marked-alone", {"b": 3}).json == [1, 3]


def test_the_description_has_the_parameters_by_their_names(served: Worker) -> None:
    described = served.get("/openapi.json").json
    assert described["info"]["title"] == "the-endpoint"
    fields = described["components"]["schemas"]["TwoBody"]
    assert (sorted(fields["properties"]), fields["required"]) == (["k", "x"], ["x"])
    assert described["paths"]["/item"]["post"]["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Item"
    }
    assert served.get("/docs").status == 200


def test_a_parameter_that_no_request_can_carry_ends_the_worker_with_its_name(tmp_path: Path) -> None:
    class Opaque:
        pass

    def odd(good: int, bad: Opaque) -> None:
        return None

    odd.__annotations__ = {"good": int, "bad": Opaque}
    with worker(routes(("POST", "/odd", odd)), tmp_path, is_ready=False) as running:
        assert running.process.wait(60) == 1
        assert "parameter 'bad', annotated" in running.log
        assert "route POST /odd" in running.log
