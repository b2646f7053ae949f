# SPDX-License-Identifier: Apache-2.0
"""What a call of a route function sends."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated, Any

import pytest

from flash_plugins import ConfigError, Endpoint
from flash_plugins.client.balanced import BalancedRequest
from flash_plugins.client.routecall import decoder_of, request_of
from tests.support import require

pydantic = require("pydantic")


class Item(pydantic.BaseModel):  # type: ignore[misc, name-defined]  # pydantic is optional here
    name: str


def _sent(method: str, path: str, function: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    api = Endpoint(name="api", cpu="cpu5c-4-8")
    getattr(api, method)(path)(function)
    (route,) = api.routes
    return request_of(route, args, kwargs)


def test_parameters_of_other_methods_are_fields_of_the_body() -> None:
    def predict(text: str, n: int = 1, more: dict[str, int] | None = None) -> None: ...

    assert _sent("post", "/p", predict, "hi", more={"a": 1}) == {"path": "/p", "data": {"text": "hi", "more": {"a": 1}}}
    assert _sent("delete", "/p", predict, text="hi") == {"path": "/p", "data": {"text": "hi"}}


def test_no_arguments_are_no_body() -> None:
    assert _sent("post", "/p", lambda: None) == {"path": "/p", "data": None}


def test_parameters_of_get_are_the_query() -> None:
    def find(q: str, tags: list[str], limit: int | None = None) -> None: ...

    assert _sent("get", "/f", find, "x", ["a", "b"], limit=None) == {
        "path": "/f",
        "params": {"q": "x", "tags": ["a", "b"]},
    }


def test_path_parameters_are_filled_in_beside_the_body() -> None:
    def change(item_id: int, name: str) -> None: ...

    def read(where: str) -> None: ...

    assert _sent("put", "/items/{item_id}", change, 7, "new") == {"path": "/items/7", "data": {"name": "new"}}
    assert _sent("get", "/files/{where:path}", read, "a/b c") == {"path": "/files/a/b%20c", "params": {}}


@pytest.mark.parametrize("value", ["a/b", ""])
def test_what_cannot_be_a_part_of_the_path_is_refused(value: str) -> None:
    def read(name: str) -> None: ...

    with pytest.raises(ConfigError, match="part of the path"):
        _sent("get", "/items/{name}", read, value)


def test_a_model_is_the_body_itself() -> None:
    def create(item: Item, dry: bool = False) -> None: ...

    def both(one: Item, two: Item) -> None: ...

    item = Item(name="a")
    assert _sent("post", "/i", create, item, dry=True) == {"path": "/i", "data": item, "params": {"dry": True}}
    assert _sent("post", "/i", both, item, item)["data"] == {"one": item, "two": item}


@dataclasses.dataclass
class Point:
    x: int


def test_objects_beside_a_model_are_in_the_body_with_it() -> None:
    def create(item: Item, more: dict[str, int], at: Point | None = None, n: int = 1) -> None: ...

    item = Item(name="a")
    sent = _sent("post", "/i", create, item, {"a": 1}, n=2)
    assert sent == {"path": "/i", "data": {"item": item, "more": {"a": 1}}, "params": {"n": 2}}
    assert _sent("get", "/i", lambda: None) == {"path": "/i", "params": {}}

    def look(item: Item, q: str = "") -> None: ...

    assert _sent("get", "/i", look, item, "x") == {"path": "/i", "data": item, "params": {"q": "x"}}


def test_what_parameters_are_marked_with_is_heeded() -> None:
    fastapi = require("fastapi")
    who = fastapi.Depends(lambda: "nobody")

    token, b = fastapi.Header(), fastapi.Body(2)

    def mark(a: int, q: str = fastapi.Query("z"), x_token: str = token, b: int = b, user: str = who) -> None: ...

    sent = _sent("post", "/m", mark, 1, q="y", x_token="t", b=3)
    assert sent == {"path": "/m", "headers": {"x-token": "t"}, "params": {"q": "y"}, "data": {"a": 1, "b": 3}}
    with pytest.raises(TypeError, match="'x_token'"):
        _sent("post", "/m", mark, 1)
    with pytest.raises(TypeError, match="'user' is made on the worker"):
        _sent("post", "/m", mark, 1, x_token="t", user="me")

    def noted(a: str, user: str) -> None: ...

    noted.__annotations__.update(a=Annotated[str, fastapi.Form()], user=Annotated[str, who])

    assert _sent("post", "/n", noted, "x") == {"path": "/n", "data": {"a": "x"}, "files": {}}
    form = BalancedRequest.make("POST", "/n", {"a": "x"}, timeout_s=1, files={})
    assert asyncio.run(form._encoded("http://h"))[1] == b"a=x"

    def whole(item: Item) -> None: ...

    whole.__annotations__["item"] = Annotated[Item, fastapi.Body(embed=True)]

    assert _sent("post", "/w", whole, Item(name="a"))["data"] == {"item": Item(name="a")}


def test_bytes_are_files_and_the_others_form_fields() -> None:
    def upload(image: bytes, title: str, mask: bytes | None = None, pages: list[bytes] | None = None) -> None: ...

    assert _sent("post", "/u", upload, b"1", "x", mask=None, pages=[b"2", b"3"]) == {
        "path": "/u",
        "data": {"title": "x"},
        "files": {"image": ("image", b"1"), "pages": [("pages", b"2"), ("pages", b"3")]},
    }


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [((), {}, "'text'"), (("a", 1, 2), {}, "too many"), (("a",), {"other": 1}, "other")],
)
def test_arguments_that_do_not_fit_are_a_type_error_here(args: Any, kwargs: Any, words: str) -> None:
    def predict(text: str, n: int = 1) -> None: ...

    with pytest.raises(TypeError, match=rf"predict\(\).*{words}"):
        _sent("post", "/p", predict, *args, **kwargs)


def test_the_rest_of_the_arguments_does_not_travel() -> None:
    def predict(text: str, *more: str, **options: str) -> None: ...

    assert _sent("post", "/p", predict, "a")["data"] == {"text": "a"}
    with pytest.raises(TypeError, match="does not travel"):
        _sent("post", "/p", predict, "a", size="1")


def test_what_fastapi_provides_is_not_asked_for() -> None:
    fastapi = require("fastapi")

    def look(request: fastapi.Request, n: int) -> None: ...  # type: ignore[name-defined]  # imported just now

    assert _sent("get", "/l", look, n=1)["params"] == {"n": 1}


def test_a_model_comes_back_as_one() -> None:
    def make(name: str) -> Item: ...  # type: ignore[empty-body]

    def tell(name: str) -> dict[str, str]: ...  # type: ignore[empty-body]

    api = Endpoint(name="api", cpu="cpu5c-4-8")
    api.get("/m")(make)
    api.get("/t")(tell)
    first, second = api.routes
    decode = decoder_of(first)
    assert decode is not None
    assert decode({"name": "a"}) == Item(name="a")
    assert decoder_of(second) is None


def test_routes_are_methods_of_the_client() -> None:
    api = Endpoint(name="api", cpu="cpu5c-4-8")

    @api.post("/predict")
    def predict(text: str) -> int:
        return len(text)

    def other() -> None: ...

    pending = api.client.predict("x")
    assert repr(pending) == "<Pending POST '/predict' of endpoint 'api': not sent yet>"
    pending.close()
    with pytest.raises(AttributeError, match=r"no route 'predikt'; routes: .*predict"):
        _ = api.client.predikt
    with pytest.raises(ConfigError, match=r"other\(\) answers no route .*predict"):
        api.client.call(other)
