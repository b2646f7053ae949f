# SPDX-License-Identifier: Apache-2.0
"""The wire form of a call and of its outcome: JSON with base64 inside, versioned. It pickles nothing itself.

A call travels as the `input` of a job:

    {"flash_plugins": 1, "python": "3.11", "code": <digest>, "bundle": <digest>|null, "instance": <digest>|null,
     "method": name|null, "log_level": n, "objects": URL, "packages": {"sklearn": "scikit-learn==1.5.1", …},
     "limit_s": seconds, "blobs": {<digest>: base64, …}, "args": base64}

Where base64 would be of something that repeats itself, it is of that compressed: `z:` and base64.

Many calls of one function travel as one job, with "batch" in place of "args": the arguments of each, see `batches`.

`code`, `bundle` and `instance` name blobs by their hash (see `objects.digest`). A blob rides along until some worker
of the endpoint is known to have it; a worker that lacks one answers `{"missing": [digest, …]}` instead of running
anything, and the call is sent again with those blobs. So code travels once per content, not per call. Large parts of
arguments, code and results are objects (see `objects.codec`): in the store that `objects` names, else blobs too.

Where bytes can travel as they are, `CallEnvelope.fields` and `Outcome.fields` are the same with bytes in place of
base64: see `binary`.

An outcome travels as the job's `output` (success, missing, stream chunk) or, for a failure, as the job's
`error`: JSON text with the keys that the official SDK uses for exceptions, and ours beside them.
"""

from __future__ import annotations

import binascii
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .batches import CallResult, join_parts, pack_results, split_parts, unpack_results
from .errors import EnvelopeError, PayloadTooLarge
from .platforms import api

if TYPE_CHECKING:
    from .objects.space import Lease

__all__ = [
    "JOB",
    "REQUEST",
    "STREAM_JOB",
    "CallEnvelope",
    "Carriage",
    "Outcome",
    "check_size",
    "decode_failure_text",
    "decode_outcome",
    "encode_failure_text",
    "encoded_size",
    "is_envelope",
]

#: Version of the envelope; caller and worker must agree.
ENVELOPE_VERSION = 1
#: Key that marks an envelope of ours.
MARK = "flash_plugins"


def is_envelope(content: object) -> bool:
    """Return whether the input of a job, or its output, is an envelope of ours, of whatever version."""
    return isinstance(content, Mapping) and MARK in content


#: Contents of these sizes are compressed if a sample of them, from their middle, shrinks to this part. Pickles of many
#: calls repeat one another: 0.5 ms turn 50 kB into 3 kB. Smaller ones gain nothing, larger ones would hold up others.
_COMPRESSED_MIN_BYTES = 4_096
_COMPRESSED_MAX_BYTES = 262_144
_SAMPLE_BYTES = 2_048
_WORTHWHILE_PART = 0.7
#: Characters after which something compressed has begun: its table of codes comes first, of some hundred bytes.
_START_CHARACTERS = 2_048
#: What stands before the base64 of something compressed; no base64 begins like this.
_COMPRESSED_MARK = "z:"


def encode_bytes(content: bytes | memoryview) -> str:
    """Return base64 text, of the content compressed where that makes it smaller."""
    if _COMPRESSED_MIN_BYTES <= len(content) <= _COMPRESSED_MAX_BYTES:
        middle = len(content) // 2
        sample = content[middle : middle + _SAMPLE_BYTES]
        if len(zlib.compress(sample, 1)) <= _WORTHWHILE_PART * len(sample):
            return _COMPRESSED_MARK + binascii.b2a_base64(zlib.compress(content, 1), newline=False).decode("ascii")
    return binascii.b2a_base64(content, newline=False).decode("ascii")


def decode_bytes(text: object, what: str) -> bytes:
    """Return what `encode_bytes` was given, or bytes that arrived as such.

    Raises:
        EnvelopeError: `text` is not base64.
    """
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise EnvelopeError(f"{what} is a {type(text).__name__}, not base64 text; was this job made by flash-plugins?")
    is_compressed = text.startswith(_COMPRESSED_MARK)
    try:
        # Strict: else foreign characters are skipped silently.
        content = binascii.a2b_base64(text[len(_COMPRESSED_MARK) :] if is_compressed else text, strict_mode=True)
        return _decompressed(content) if is_compressed else content
    except (ValueError, zlib.error) as error:  # binascii.Error is one, as are characters that are not ASCII
        raise EnvelopeError(f"{what} is not base64 ({error}); it was cut or changed on its way") from error


def decode_start(text: str, count: int) -> bytes:
    """Return the first bytes of what `encode_bytes` was given, without a look at the rest.

    Raises:
        ValueError: There are no such.
    """
    if not text.startswith(_COMPRESSED_MARK):
        return binascii.a2b_base64(text[: (count + 2) // 3 * 4])[:count]
    start = len(_COMPRESSED_MARK)
    try:
        return zlib.decompressobj().decompress(binascii.a2b_base64(text[start : start + _START_CHARACTERS]), count)
    except zlib.error as error:
        raise ValueError(str(error)) from error


def _decompressed(content: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    found = decompressor.decompress(content, _COMPRESSED_MAX_BYTES + 1)  # no more, whatever was sent
    if not decompressor.eof:
        raise ValueError(f"compressed, {len(content)} bytes do not end after {len(found)}")
    return found


def encoded_size(raw_bytes: int) -> int:
    """Return the size of so many bytes as base64."""
    return (raw_bytes + 2) // 3 * 4


@dataclass(frozen=True, slots=True)
class Carriage:
    """What takes calls to workers.

    Attributes:
        max_bytes: Most that it takes for one call.
        size: Returns how many bytes of that so many take.
    """

    max_bytes: int
    size: Callable[[int], int]

    def check(self, raw_bytes: Mapping[str, int], what: str) -> None:
        """As `check_size`, for what is not encoded yet; the message has the size of each part.

        Raises:
            PayloadTooLarge: Together the parts are over the limit.
        """
        sizes = {part: self.size(size) for part, size in raw_bytes.items()}
        if (total := sum(sizes.values())) > self.max_bytes:
            listed = ", ".join(f"{part}: {size / 1e6:.1f} MB" for part, size in sizes.items())
            check_size(total, self.max_bytes, f"{what} ({listed})")


#: Jobs, whose contents are base64; jobs of endpoints that stream; requests to load-balanced workers.
JOB = Carriage(api.RUNSYNC_MAX_BYTES, encoded_size)
STREAM_JOB = Carriage(api.RUN_MAX_BYTES, encoded_size)
REQUEST = Carriage(api.BALANCED_BODY_MAX_BYTES - api.BALANCED_MARGIN_BYTES, lambda size: size)


#: What to do about a call that is too large, and about a result.
CALL_REMEDY = (
    "set up a store for large objects (docs/objects.md), where they travel once and in any size, or load the data on "
    "the worker"
)
RESULT_REMEDY = "set up a store for large objects (docs/objects.md), or return less"


def check_size(size_bytes: int, limit_bytes: int, what: str, remedy: str = CALL_REMEDY) -> None:
    """Refuse what the platform would refuse, before it is sent.

    Raises:
        PayloadTooLarge: `size_bytes` is over `limit_bytes`.
    """
    if size_bytes > limit_bytes:
        raise PayloadTooLarge(
            f"{what} takes {size_bytes / 1e6:.1f} MB on the wire, over the limit of {limit_bytes / 1e6:.0f} MB for one "
            f"call; {remedy}",
            size_bytes=size_bytes,
            limit_bytes=limit_bytes,
        )


@dataclass(frozen=True, slots=True)
class CallEnvelope:
    """One call, or several of one function: what to run, on what, and the blobs it needs by digest.

    Attributes:
        args: Pickled arguments of one call; empty for a batch.
        batch: Pickled arguments of each call of a batch, in the order in which they run; empty for one call.
        packages: What it uses of what is installed at the caller's: by package, the requirement of that version.
        objects: URL of the store of its objects, and of those of its results; None for none.
        held: What keeps its objects stored at the caller's. It does not travel.
        limit_s: Longest time that the worker may take for it, seconds, None for none of its own; then it stops the
            call and answers with an error that begins with `api.RUN_LIMIT_PREFIX`.
        suspect: Of one call that says which step it is at: the step in which its process died before.
    """

    code: str
    args: bytes
    python: str
    bundle: str | None = None
    instance: str | None = None
    method: str | None = None
    log_level: int = 30
    packages: Mapping[str, str] = field(default_factory=dict)
    blobs: Mapping[str, bytes | memoryview] = field(default_factory=dict, repr=False)
    batch: tuple[bytes, ...] = field(default=(), repr=False)
    limit_s: float | None = None
    objects: str | None = None
    held: Lease | None = field(default=None, repr=False, compare=False)
    suspect: int | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Digests of all blobs that the worker must have."""
        named = (self.code, self.bundle, self.instance, *self.blobs)
        return tuple(dict.fromkeys(digest for digest in named if digest))

    def encode(self, blobs: Iterable[str], policy: Mapping[str, int], *, expected_s: float | None = None) -> bytes:
        """Return the request body of a job that carries the named blobs.

        Built by joining: base64 is plain ASCII, and sending it through a JSON encoder costs 2 ms per MB.

        Args:
            expected_s: How long the worker will need for it, seconds, as far as known.
        """
        head = self._head()
        if expected_s is not None:
            head["expected_s"] = round(expected_s, 6)
        carried = ",".join(f'"{digest}":"{encode_bytes(self.blobs[digest])}"' for digest in blobs)
        text = (
            f'{{"policy":{json.dumps(dict(policy))},"input":{json.dumps(head)[:-1]},'
            f'"blobs":{{{carried}}},{self._encoded_arguments()}}}}}'
        )
        return text.encode("ascii")

    def fields(self, blobs: Iterable[str]) -> dict[str, Any]:
        """Return the envelope with the named blobs, with bytes in place of base64."""
        arguments: dict[str, Any] = {"batch": join_parts(self.batch)} if self.batch else {"args": self.args}
        return {**self._head(), "blobs": {digest: bytes(self.blobs[digest]) for digest in blobs}, **arguments}

    def _head(self) -> dict[str, Any]:
        return {
            MARK: ENVELOPE_VERSION,
            "python": self.python,
            "code": self.code,
            "bundle": self.bundle,
            "instance": self.instance,
            "method": self.method,
            "log_level": self.log_level,
            "packages": self.packages,
            **({} if self.limit_s is None else {"limit_s": self.limit_s}),
            **({} if self.objects is None else {"objects": self.objects}),
            **({} if self.suspect is None else {"suspect": self.suspect}),
        }

    def _encoded_arguments(self) -> str:
        if self.batch:
            return f'"batch":"{encode_bytes(join_parts(self.batch))}"'
        return f'"args":"{encode_bytes(self.args)}"'

    @classmethod
    def decode(cls, content: object) -> CallEnvelope:
        """Read the `input` of a job.

        Raises:
            EnvelopeError: It is no call envelope, or one of another version.
        """
        if not isinstance(content, Mapping) or not is_envelope(content):
            raise EnvelopeError(
                "this worker runs calls made by flash-plugins, and the job's input is none "
                f"({_describe(content)}); call the endpoint through flash_plugins.Endpoint"
            )
        if content[MARK] != ENVELOPE_VERSION:
            raise EnvelopeError(
                f"the call has envelope version {content[MARK]!r}, this worker reads {ENVELOPE_VERSION}: "
                "install the same version of flash-plugins on both sides"
            )
        try:
            blobs = content.get("blobs") or {}
            return cls(
                code=str(content["code"]),
                args=b"" if "batch" in content else decode_bytes(content["args"], "the call's arguments"),
                batch=split_parts(decode_bytes(content["batch"], "a batch")) if "batch" in content else (),
                python=str(content["python"]),
                bundle=content.get("bundle"),
                instance=content.get("instance"),
                method=content.get("method"),
                log_level=int(content.get("log_level", 30)),
                packages={str(name): str(pin) for name, pin in (content.get("packages") or {}).items()},
                blobs={digest: decode_bytes(text, f"blob {digest[:12]}") for digest, text in blobs.items()},
                limit_s=None if content.get("limit_s") is None else float(content["limit_s"]),
                objects=content.get("objects"),
                suspect=_number_of(content, "suspect"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, EnvelopeError):
                raise
            raise EnvelopeError(f"the call's envelope is damaged: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a worker sent back for one call or batch, or one chunk of it.

    Exactly one of `result`, `chunk`, `missing`, `failure` is set, or none for the end of a stream and for batches.

    Attributes:
        results: Of a batch: what came of its calls so far, as they finished. The outcome of the job has all of them,
            a chunk those since the chunk before.
        returned: Of a batch: places of calls that the worker gives back and will not begin.
        lost: The place of the call that ran when its process died, and how that died. Calls of a batch that are
            neither here nor in `results` were not begun.
        step: Of the lost call: the step in which it was, if it says such.
        index: Place of a chunk among those of its run, from 0.
        count: How many chunks came before the outcome that ends a stream.
        run: What only this run of the job is named, in every chunk and at the end: the service may run it again.
    """

    result: bytes | None = None
    chunk: bytes | None = None
    missing: tuple[str, ...] = ()
    failure: Mapping[str, Any] | None = None
    records: Sequence[Mapping[str, Any]] = ()
    seconds: float | None = None
    worker: str | None = None
    pid: int | None = None
    ended: bool = False
    index: int | None = None
    count: int | None = None
    run: str | None = None
    results: Sequence[CallResult] = ()
    returned: tuple[int, ...] = ()
    lost: tuple[int, str] | None = None
    step: int | None = None

    def changed(self, **fields: Any) -> Outcome:
        """Return the same with other fields, in a tenth of the 20 µs that `dataclasses.replace` takes of each call."""
        made = object.__new__(Outcome)
        for name in self.__slots__:
            object.__setattr__(made, name, fields[name] if name in fields else getattr(self, name))
        return made

    def encode(self) -> dict[str, Any]:
        """Return the JSON form: the handler's return value, or one yielded chunk."""
        return {name: encode_bytes(v) if isinstance(v, bytes) else v for name, v in self.fields().items()}

    def fields(self) -> dict[str, Any]:
        """Return the same with bytes in place of base64."""
        answer: dict[str, Any] = {MARK: ENVELOPE_VERSION}
        if self.result is not None:
            answer["result"] = self.result
        if self.chunk is not None:
            answer["chunk"] = self.chunk
        if self.missing:
            answer["missing"] = list(self.missing)
        if self.failure is not None:
            answer["failure"] = dict(self.failure)
        if self.records:
            answer["records"] = list(self.records)
        if self.ended:
            answer["ended"] = True
        if self.results:
            answer["results"] = pack_results(self.results)
        if self.returned:
            answer["returned"] = list(self.returned)
        if self.lost is not None:
            answer["lost"] = list(self.lost)
        for name in ("seconds", "worker", "pid", "index", "count", "run", "step"):
            if (value := getattr(self, name)) is not None:
                answer[name] = value
        return answer


def decode_outcome(content: object) -> Outcome:
    """Read what a worker returned.

    Raises:
        EnvelopeError: It is no outcome envelope, or one of another version.
    """
    if not isinstance(content, Mapping) or MARK not in content:
        raise EnvelopeError(
            f"the worker's answer is not one of flash-plugins ({_describe(content)}); does the endpoint run "
            "flash_plugins.worker?"
        )
    if content[MARK] != ENVELOPE_VERSION:
        raise EnvelopeError(
            f"the worker answered with envelope version {content[MARK]!r}, this side reads {ENVELOPE_VERSION}: "
            "install the same version of flash-plugins on both sides"
        )
    result, chunk = content.get("result"), content.get("chunk")
    return Outcome(
        result=None if result is None else decode_bytes(result, "the result"),
        chunk=None if chunk is None else decode_bytes(chunk, "a chunk of the result"),
        missing=tuple(content.get("missing", ())),
        failure=content.get("failure"),
        records=content.get("records", ()),
        seconds=content.get("seconds"),
        worker=content.get("worker"),
        pid=content.get("pid"),
        ended=bool(content.get("ended", False)),
        index=_number_of(content, "index"),
        count=_number_of(content, "count"),
        run=content.get("run"),
        results=unpack_results(decode_bytes(content["results"], "the results")) if "results" in content else (),
        returned=tuple(content.get("returned", ())),
        lost=_lost_of(content),
        step=_number_of(content, "step"),
    )


def _lost_of(content: Mapping[str, Any]) -> tuple[int, str] | None:
    match content.get("lost"):
        case None:
            return None
        case [int(place), str(reason)]:
            return place, reason
        case other:
            raise EnvelopeError(f"the worker's answer names the lost call as {other!r}, not by place and reason")


def _number_of(content: Mapping[str, Any], name: str) -> int | None:
    number = content.get(name)
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
        raise EnvelopeError(f"what was sent has {name} {number!r}, which is no number from 0")
    return number


def encode_failure_text(outcome: Outcome) -> str:
    """Return the text of a job's `error` for a failed call.

    The service is only known to carry `error` as text, so the whole outcome rides in it, beside the keys
    `error_type`, `error_message` and `error_traceback` that the official SDK writes and its tools read.
    """
    failure = outcome.failure or {}
    return json.dumps(
        {
            "error_type": failure.get("type"),
            "error_message": failure.get("message"),
            "error_traceback": failure.get("traceback"),
            **outcome.encode(),
        }
    )


def decode_failure_text(text: str | None) -> Outcome | None:
    """Return the outcome inside a job's `error`, None if the error was not written by `encode_failure_text`."""
    if not text or MARK not in text:
        return None
    try:
        content = json.loads(text)
    except ValueError:
        return None  # somebody else's words that happen to contain our name
    return decode_outcome(content) if isinstance(content, Mapping) and MARK in content else None


def _describe(content: object) -> str:
    if isinstance(content, Mapping):
        return f"an object with keys {sorted(map(str, content))[:6]}"
    return f"a {type(content).__name__}"
