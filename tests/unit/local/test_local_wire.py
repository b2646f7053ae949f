# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flash_plugins.platforms.local.wire import dump, member, parse_object, with_member_in_front

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["output", "error", "stopPod"]), JSON, min_size=1), st.booleans())
def test_a_member_is_cut_out_as_it_came(report: dict[str, Any], is_ascii: bool) -> None:
    text = " " + json.dumps(report, ensure_ascii=is_ascii) + "\n"
    body = text.encode("utf-8", "replace")
    parsed = parse_object(body)
    for name in report:
        assert json.loads(member(body, parsed, name)) == parsed[name]


@given(st.dictionaries(st.text(), JSON, min_size=1))
def test_a_member_in_front_leaves_the_others_as_they_are(request: dict[str, Any]) -> None:
    request.pop("id", None)
    request["input"] = 1
    found = json.loads(with_member_in_front(b" \n" + dump(request), b'"id":"7"'))
    assert found == {"id": "7", **request}


def test_lone_surrogates_pass() -> None:
    assert parse_object(dump({"output": "\ud800"})) == {"output": "\ud800"}
