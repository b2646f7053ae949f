# SPDX-License-Identifier: Apache-2.0
"""Envelopes: what goes out comes back equal, and whatever else arrives is an error that says so."""

from __future__ import annotations

import base64
import json
import random
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_plugins import EnvelopeError, PayloadTooLarge
from flash_plugins.batches import CallResult, pack_results, split_parts, unpack_results
from flash_plugins.objects.digest import digest_of
from flash_plugins.payload import (
    CallEnvelope,
    Outcome,
    check_size,
    decode_bytes,
    decode_failure_text,
    decode_outcome,
    decode_start,
    encode_bytes,
    encode_failure_text,
    encoded_size,
)

POLICY = {"executionTimeout": 5_000, "ttl": 10_000}

contents = st.binary(max_size=200)


@st.composite
def envelopes(draw: st.DrawFn) -> CallEnvelope:
    code, bundle, instance = draw(contents), draw(st.none() | contents), draw(st.none() | contents)
    blobs = {digest_of(blob): blob for blob in (code, bundle, instance) if blob is not None}
    return CallEnvelope(
        code=digest_of(code),
        args=draw(contents),
        python=draw(st.sampled_from(["3.11", "3.14"])),
        bundle=None if bundle is None else digest_of(bundle),
        instance=None if instance is None else digest_of(instance),
        method=draw(st.none() | st.text(max_size=20)),
        log_level=draw(st.integers(0, 60)),
        blobs=blobs,
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


def sent(envelope: CallEnvelope, *blobs: str) -> Any:
    """The job as a platform reads it."""
    return json.loads(envelope.encode(blobs, POLICY))


@given(envelopes())
def test_an_envelope_survives_the_wire(envelope: CallEnvelope) -> None:
    job = sent(envelope, *envelope.blobs)
    assert job["policy"] == POLICY
    assert CallEnvelope.decode(job["input"]) == envelope


@given(envelopes())
def test_an_envelope_without_blobs_names_what_it_needs(envelope: CallEnvelope) -> None:
    arrived = CallEnvelope.decode(sent(envelope)["input"])
    assert arrived.blobs == {}
    assert arrived.needs == envelope.needs
    assert set(envelope.needs) == set(envelope.blobs)
    assert arrived.args == envelope.args


def test_only_the_named_blobs_travel() -> None:
    envelope = CallEnvelope(code="a", bundle="b", args=b"", python="3.11", blobs={"a": b"1", "b": b"2"})
    assert set(sent(envelope, "b")["input"]["blobs"]) == {"b"}


def test_the_input_is_never_an_empty_object() -> None:
    assert sent(CallEnvelope(code="", args=b"", python=""))["input"]


def test_the_body_is_ascii_and_close_to_the_size_of_its_content() -> None:
    args = random.Random(3).randbytes(30_000)
    envelope = CallEnvelope(code="c", args=args, python="3.11", method="größer")
    body = envelope.encode([], POLICY)
    assert body.isascii()
    assert 40_000 <= len(body) <= 40_500


def test_contents_are_not_shown() -> None:
    assert "secret" not in repr(CallEnvelope(code="c", args=b"", python="3.11", blobs={"c": b"secret"}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "a NoneType"),
        ("text", "a str"),
        ([], "a list"),
        ({}, "keys []"),
        ({"prompt": "hi", "seed": 1}, "['prompt', 'seed']"),
        ({"flash_plugins": 2}, "version 2"),
        ({"flash_plugins": None}, "version None"),
        ({"flash_plugins": 1}, "damaged: KeyError"),
        ({"flash_plugins": 1, "code": "c", "args": 5, "python": "3"}, "arguments is a int"),
        ({"flash_plugins": 1, "code": "c", "args": "A", "python": "3"}, "arguments is not base64"),
        ({"flash_plugins": 1, "code": "c", "args": "", "python": "3", "blobs": []}, None),
        ({"flash_plugins": 1, "code": "c", "args": "", "python": "3", "blobs": ["x"]}, "damaged"),
        ({"flash_plugins": 1, "code": "c", "args": "", "python": "3", "blobs": {"ab": "%"}}, "blob ab"),
        ({"flash_plugins": 1, "code": "c", "args": "", "python": "3", "log_level": "high"}, "damaged"),
    ],
)
def test_an_input_of_somebody_else_is_an_error(content: Any, words: str | None) -> None:
    if words is None:
        assert CallEnvelope.decode(content).blobs == {}
        return
    with pytest.raises(EnvelopeError) as caught:
        CallEnvelope.decode(content)
    assert words in str(caught.value)


@given(
    json_values | st.dictionaries(st.sampled_from(["flash_plugins", "code", "args", "python", "blobs"]), json_values)
)
def test_no_input_does_anything_but_decode_or_fail_as_an_envelope(content: Any) -> None:
    try:
        CallEnvelope.decode(content)
    except EnvelopeError:
        return


outcomes = st.one_of(
    st.builds(Outcome, result=contents),
    st.builds(Outcome, chunk=contents, index=st.none() | st.integers(0, 99_999), run=st.none() | st.text()),
    st.builds(Outcome, missing=st.lists(st.text(min_size=1), min_size=1).map(tuple)),
    st.builds(Outcome, failure=st.dictionaries(st.text(), json_values, min_size=1)),
    st.builds(Outcome, ended=st.just(True), count=st.none() | st.integers(0, 99_999)),
)


@given(outcomes, st.none() | st.floats(0, 1e6), st.none() | st.text(), st.none() | st.integers(1, 99_999))
def test_an_outcome_survives_the_wire(outcome: Outcome, seconds: float, worker: str, pid: int) -> None:
    from dataclasses import replace

    outcome = replace(outcome, seconds=seconds, worker=worker, pid=pid, records=[{"stream": "stdout", "text": "ä"}])
    assert decode_outcome(json.loads(json.dumps(outcome.encode()))) == outcome


@pytest.mark.parametrize("name", ["index", "count"])
@pytest.mark.parametrize("number", [-1, "0", 1.5, True, [0]])
def test_a_place_that_is_no_number_is_an_error(name: str, number: Any) -> None:
    with pytest.raises(EnvelopeError, match=name):
        decode_outcome({"flash_plugins": 1, "ended": True, name: number})


def test_an_empty_result_is_a_result() -> None:
    assert decode_outcome(Outcome(result=b"").encode()).result == b""
    assert decode_outcome(Outcome(ended=True).encode()).result is None


@given(st.dictionaries(st.sampled_from(["type", "message", "traceback", "other"]), json_values, min_size=1))
def test_a_failure_rides_in_the_error_text(failure: dict[str, Any]) -> None:
    outcome = Outcome(failure=failure, worker="w", pid=1, seconds=0.5)
    assert decode_failure_text(encode_failure_text(outcome)) == outcome


def test_a_failure_has_the_keys_of_the_official_sdk() -> None:
    text = encode_failure_text(Outcome(failure={"type": "KeyError", "message": "'x'", "traceback": "Traceback"}))
    content = json.loads(text)
    assert content["error_type"] == "KeyError"
    assert content["error_message"] == "'x'"
    assert content["error_traceback"] == "Traceback"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "boom",
        "flash_plugins.worker: killed",
        '"flash_plugins"',
        '["flash_plugins"]',
        '{"a": "flash_plugins"}',
    ],
)
def test_an_error_of_somebody_else_is_none_of_ours(text: str | None) -> None:
    assert decode_failure_text(text) is None


def test_a_failure_of_another_version_is_an_error() -> None:
    with pytest.raises(EnvelopeError, match="version 9"):
        decode_failure_text('{"flash_plugins": 9}')


@given(contents)
def test_bytes_survive_base64(content: bytes) -> None:
    text = encode_bytes(content)
    assert "\n" not in text
    assert decode_bytes(text, "it") == content


@pytest.mark.parametrize("size", [4_096, 50_000, 262_144])
def test_what_repeats_itself_is_compressed(size: int) -> None:
    content = bytes(range(64)) * (size // 64)
    text = encode_bytes(content)
    assert len(text) < size / 10
    assert decode_bytes(text, "it") == content


@pytest.mark.parametrize(
    "content", [b"abcd", b"abcd" * 10_000, random.Random(4).randbytes(6_000)], ids=["short", "same", "noise"]
)
@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_start_is_known_without_the_rest(content: bytes, count: int) -> None:
    assert decode_start(encode_bytes(content), count) == content[:count]


def test_a_start_of_something_else_is_an_error() -> None:
    with pytest.raises(ValueError, match="header"):
        decode_start("z:" + base64.b64encode(b"something else").decode(), 4)


@pytest.mark.parametrize("size", [4_095, 262_145])
def test_small_and_large_contents_are_not_compressed(size: int) -> None:
    assert len(encode_bytes(bytes(size))) == encoded_size(size)


def test_what_does_not_shrink_is_not_compressed() -> None:
    content = random.Random(5).randbytes(100_000)
    assert len(encode_bytes(content)) == encoded_size(len(content))
    assert decode_bytes(encode_bytes(memoryview(content)), "it") == content


@pytest.mark.parametrize(
    "packed",
    [b"no zlib", zlib.compress(bytes(5_000))[:-3], zlib.compress(bytes(50_000_000))],
    ids=["other", "cut", "bomb"],
)
def test_what_was_not_compressed_by_us_is_an_error_that_names_the_part(packed: bytes) -> None:
    with pytest.raises(EnvelopeError, match="the part"):
        decode_bytes("z:" + base64.b64encode(packed).decode(), "the part")


@pytest.mark.parametrize("text", ["%%%%", "AAA", "AA=A", "AAAA\n", "äöü", "AA AA", "=", 5, None, bytearray(b"AAAA")])
def test_anything_but_base64_is_an_error_that_names_the_part(text: object) -> None:
    with pytest.raises(EnvelopeError, match="the part"):
        decode_bytes(text, "the part")


@pytest.mark.parametrize("size", [0, 10])
def test_what_fits_passes(size: int) -> None:
    check_size(size, 10, "it")


def test_what_does_not_fit_is_an_error_with_both_sizes() -> None:
    with pytest.raises(PayloadTooLarge, match=r"the parcel takes 12\.0 MB.*limit of 10 MB") as caught:
        check_size(12_000_000, 10_000_000, "the parcel")
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (12_000_000, 10_000_000)
    assert isinstance(caught.value, ValueError)


_CALLS = st.lists(st.binary(max_size=40), min_size=1, max_size=20)
_RESULTS = st.lists(
    st.one_of(
        st.builds(CallResult, st.integers(0, 5_000), st.floats(0, 1e6), result=st.binary(max_size=40)),
        st.builds(CallResult, st.integers(0, 5_000), st.floats(0, 1e6), failure=st.just({"type": "ValueError"})),
    ),
    min_size=1,
    max_size=20,
)


@given(_CALLS)
def test_a_batch_survives_the_wire(calls: list[bytes]) -> None:
    envelope = CallEnvelope(code="c" * 32, args=b"", python="3.11", batch=tuple(calls))
    content = json.loads(envelope.encode([], {}))["input"]
    assert "args" not in content
    assert CallEnvelope.decode(content) == envelope


@given(_RESULTS, st.lists(st.integers(0, 5_000), max_size=5), st.none() | st.tuples(st.integers(0, 9), st.text()))
def test_results_of_a_batch_survive_the_wire(
    results: list[CallResult], returned: list[int], lost: tuple[int, str] | None
) -> None:
    outcome = Outcome(results=results, returned=tuple(returned), lost=lost)
    assert decode_outcome(json.loads(json.dumps(outcome.encode()))) == outcome


@pytest.mark.parametrize("content", [b"", b"\x05\x00\x00\x00", b"\x01\x00\x00\x00\x09\x00\x00\x00ab"])
def test_a_batch_that_was_cut_is_an_error(content: bytes) -> None:
    with pytest.raises(EnvelopeError, match="damaged"):
        split_parts(content)


def test_results_that_were_cut_are_an_error() -> None:
    packed = pack_results([CallResult(0, 0.1, result=b"abc")])
    for end in range(1, len(packed)):
        with pytest.raises(EnvelopeError, match="damaged"):
            unpack_results(packed[:end])


@pytest.mark.parametrize("lost", ["0", [0], ["0", "killed"], {"index": 0}])
def test_a_lost_call_that_is_not_named_is_an_error(lost: Any) -> None:
    with pytest.raises(EnvelopeError, match="by place and reason"):
        decode_outcome({"flash_plugins": 1, "lost": lost})
