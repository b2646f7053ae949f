# SPDX-License-Identifier: Apache-2.0
"""Binary envelopes: what goes in comes out, and what was cut or is something else is an error that says so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_plugins import EnvelopeError
from flash_plugins.batches import CallResult
from flash_plugins.binary import frames, head_of, pack, split, unpack
from flash_plugins.objects.digest import digest_of
from flash_plugins.payload import CallEnvelope, Outcome, decode_outcome

fields = st.dictionaries(
    st.text(max_size=10),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.binary(max_size=200),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
        max_leaves=10,
    ),
    max_size=5,
)


@given(fields)
def test_what_is_packed_comes_out_equal(value: dict[str, Any]) -> None:
    assert unpack(pack(value)) == value


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_messages_of_one_body_come_out_in_order(messages: list[bytes]) -> None:
    assert [bytes(message) for message in split(b"".join(frames(messages)))] == messages


def test_the_head_can_be_read_alone() -> None:
    head = head_of(pack({"id": "c1", "args": b"content", "streams": True}))
    assert (head["id"], head["streams"]) == ("c1", True)
    assert head["args"] != b"content"


def test_contents_travel_as_they_are() -> None:
    content = bytes(range(256)) * 4_000
    assert len(pack({"args": content, "nothing": b""})) < len(content) + 100


def test_a_call_and_its_outcome_travel_in_either_form() -> None:
    code, instance = b"code", b"instance"
    envelope = CallEnvelope(
        code=digest_of(code),
        args=b"\x80\x05arguments",
        python="3.11",
        instance=digest_of(instance),
        packages={"numpy": "numpy==2.0"},
        blobs={digest_of(code): code, digest_of(instance): instance},
    )
    assert CallEnvelope.decode(unpack(pack(envelope.fields(envelope.needs)))) == envelope
    outcome = Outcome(
        result=b"\0" * 1_000, records=({"stream": "stdout", "text": "é"},), seconds=0.5, worker="w", pid=7
    )
    assert decode_outcome(unpack(pack(outcome.fields()))) == decode_outcome(outcome.encode())
    batch = Outcome(results=[CallResult(0, 0.1, b"one"), CallResult(1, 0.2, failure={"type": "ValueError"})])
    assert decode_outcome(unpack(pack(batch.fields()))).results == batch.results


@pytest.mark.parametrize("cut", [0, 3, 7, 20, -1])
def test_a_message_that_was_cut_is_an_error(cut: int) -> None:
    with pytest.raises(EnvelopeError):
        unpack(pack({"args": b"content"})[:cut])


def test_what_is_no_message_is_named() -> None:
    with pytest.raises(EnvelopeError, match="<html>"):
        unpack(b"<html><body>502 Bad Gateway</body></html>")
    with pytest.raises(EnvelopeError, match="not an object"):
        unpack(b"FPB1\0\0\0\x02[]")
    with pytest.raises(TypeError, match="object"):
        pack({"args": object()})


@pytest.mark.parametrize("cut", [1, 5, -1])
def test_a_body_that_was_cut_is_an_error(cut: int) -> None:
    with pytest.raises(EnvelopeError, match="cut"):
        split(b"".join(frames([b"one", b"two"]))[:cut])
