# SPDX-License-Identifier: Apache-2.0
"""How an exception travels as JSON, from the worker that raised it to the caller that raises it again.

`encode_exception` never fails and never exceeds its limit; `decode_exception` never raises what it decodes.
An exception is taken apart rather than pickled whole, because unpickling calls `cls(*args)`, which breaks
every class whose `__init__` takes something else than what it passes to `super().__init__`.
"""

from __future__ import annotations

import base64
import copyreg
import json
import logging
import pickle
import traceback
import types
from collections.abc import Mapping, Sequence
from typing import Any

from flash_plugins.code import dumps, loads
from flash_plugins.code.modules import OWN_PACKAGES
from flash_plugins.errors import RemoteError, UnpicklableError

__all__ = ["RemoteTraceback", "decode_exception", "describe_exception", "encode_exception"]

_log = logging.getLogger(__name__)

#: Links of a chain, and levels of groups, that travel. Two or three are usual; the text has them all.
_DEPTH_LIMIT = 32

#: Bytes below which an exception of a chain or group is left out rather than cut further.
_SMALLEST_SHARE_BYTES = 1024

#: Bytes that a member of a group may take at least: better some of them whole than all cut to nothing.
_MEMBER_SHARE_BYTES = 8192

#: Notes kept of one exception, and characters of each.
_NOTES_LIMIT = 32
_NOTE_LIMIT_CHARS = 2000

#: Attributes implemented in C that are not state: links of the chain, and `obj` of AttributeError and
#: NameError, which may be anything of any size (Python 3.12 does not pickle it either).
_NOT_STATE = frozenset({"args", "obj", "exceptions", "message"})

_OWN_WAYS_TO_PICKLE = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs_ex__")

#: An exception, taken apart: its class pickled, the rest pickled, and whether the rest is the exception
#: itself, by its own __reduce__, or (arguments, attributes, slots).
_Parts = tuple[bytes, bytes, bool]


class RemoteTraceback(Exception):
    """The traceback of an exception on the worker, as the cause of the one raised here.

    Attributes:
        text: The traceback as the worker formatted it, causes and groups included.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


# The value types are those of JSON.
def encode_exception(exc: BaseException, *, limit_bytes: int = 262_144) -> dict[str, Any]:
    """An exception as a JSON object of at most about `limit_bytes`.

    Attributes that cannot be pickled, or are too large, stay behind and are named in a note. Frames of our
    own runner at the start of the traceback are left out. Long messages and tracebacks are cut in the middle.

    Returns:
        `type`, `message`, `traceback` (of the whole chain for `exc` itself, of one exception inside it),
        `pickle` (base64, None if the class cannot travel), `notes`, `cause`, `context`, `context_is_cause`,
        `suppress_context`, and `exceptions` for a group.
    """
    return _encode(exc, limit_bytes, ())


def describe_exception(exc: BaseException, *, limit_bytes: int = 65_536) -> dict[str, str]:
    """An exception in words only, under the keys that the official SDK uses; never fails.

    Returns:
        `error_type`, `error_message` and `error_traceback`, long ones cut in the middle.
    """
    return {
        "error_type": _cut(_type_name(type(exc)), 500),
        "error_message": _cut(_text_of(exc), limit_bytes // 8),
        "error_traceback": _cut(_format(exc, chain=True), limit_bytes),
    }


def _encode(exc: BaseException, limit_bytes: int, above: tuple[BaseException, ...]) -> dict[str, Any]:
    above = (*above, exc)
    cause, context = exc.__cause__, exc.__context__
    members = exc.exceptions if isinstance(exc, BaseExceptionGroup) else ()
    alone = cause is None and context is None and not members
    share = limit_bytes if alone else limit_bytes // 2
    notes = _notes_of(exc)
    pickled = _take_apart(exc, share // 3, notes)
    while notes and len(json.dumps(notes)) > share // 8:
        notes.pop()
    encoded: dict[str, Any] = {
        "type": _cut(_type_name(type(exc)), 500),
        "message": _cut(_text_of(exc), share // 8),
        "traceback": _cut(_format(exc, chain=len(above) == 1), share // 3),
        "pickle": pickled,
        "notes": notes,
        "cause": None,
        "context": None,
        "context_is_cause": cause is not None and context is cause,
        "suppress_context": exc.__suppress_context__,
        "exceptions": [],
    }
    left = limit_bytes - len(json.dumps(encoded))
    if cause is not None:
        encoded["cause"] = _encode_linked(cause, left if context in (None, cause) else left // 2, above)
        left = limit_bytes - len(json.dumps(encoded))
    if context is not None and context is not cause:
        encoded["context"] = _encode_linked(context, left // 2 if members else left, above)
        left = limit_bytes - len(json.dumps(encoded))
    for position, member in enumerate(members):
        share = min(left, max(_MEMBER_SHARE_BYTES, left // (len(members) - position)))
        is_cut = position > 0 and left < _MEMBER_SHARE_BYTES
        one = None if is_cut else _encode_linked(member, share, above)
        if one is None:
            notes.append(f"{len(members) - position} more exceptions of this group were cut")
            break
        left -= len(json.dumps(one))
        encoded["exceptions"].append(one)
    return encoded


def _encode_linked(exc: BaseException, limit_bytes: int, above: tuple[BaseException, ...]) -> dict[str, Any] | None:
    is_cycle = any(exc is other for other in above)
    if is_cycle or len(above) >= _DEPTH_LIMIT or limit_bytes < _SMALLEST_SHARE_BYTES:
        return None
    return _encode(exc, limit_bytes, above)


def _take_apart(exc: BaseException, limit_bytes: int, notes: list[str]) -> str | None:
    """The base64 of the pickled parts of `exc`; adds a note for each that stays behind."""
    limit_bytes = limit_bytes * 3 // 4
    cls = type(exc)
    try:
        class_data = dumps(cls, what="its class").data
    except UnpicklableError as error:
        _log.debug("class %s cannot travel: %s", cls, error)
        return None
    limit_bytes -= len(class_data) + 64
    rest = _by_its_own_reduce(exc, limit_bytes)
    parts: _Parts = (class_data, rest or _state_of(exc, limit_bytes, notes), rest is not None)
    if limit_bytes < 0 or len(parts[1]) > limit_bytes:
        return None
    return base64.b64encode(pickle.dumps(parts, 5)).decode("ascii")


def _by_its_own_reduce(exc: BaseException, limit_bytes: int) -> bytes | None:
    """`exc` pickled by a `__reduce__` of its class, if there is one and it gives back the same."""
    cls = type(exc)
    is_own = cls in copyreg.dispatch_table or any(
        name in vars(klass) for klass in cls.__mro__ if _is_written_in_python(klass) for name in _OWN_WAYS_TO_PICKLE
    )
    if not is_own or isinstance(exc, BaseExceptionGroup):
        return None
    try:
        pickled = dumps(exc, what="the exception").data
        copy = loads(pickled)
        same = (
            type(copy) is cls
            and isinstance(copy, BaseException)
            and repr(copy.args) == repr(exc.args)
            and str(copy) == str(exc)
        )
    except Exception as error:  # noqa: BLE001 - the user's code, which may raise anything; the state is sent instead
        _log.debug("__reduce__ of %s failed: %r", cls, error)
        return None
    return pickled if same and len(pickled) <= limit_bytes else None


def _state_of(exc: BaseException, limit_bytes: int, notes: list[str]) -> bytes:
    arguments = (exc.message,) if isinstance(exc, BaseExceptionGroup) else exc.args
    attributes = {k: v for k, v in vars(exc).items() if k not in ("__notes__", "remote_traceback")}
    slots = _slots_of(exc)
    try:
        data = dumps((arguments, attributes, slots), what="the exception").data
        if len(data) <= limit_bytes:
            return data
    except UnpicklableError as error:
        _log.debug("some of %s stays behind: %s", type(exc), error)
    share = limit_bytes // (len(arguments) + len(attributes) + len(slots) + 1)
    kept_arguments = tuple(_argument_or_text(f"argument {i}", value, share, notes) for i, value in enumerate(arguments))
    kept = [
        {k: v for k, v in values.items() if _can_go(f"attribute {k!r}", v, share, notes)}
        for values in (attributes, slots)
    ]
    return dumps((kept_arguments, *kept), what="the exception").data


def _slots_of(exc: BaseException) -> dict[str, object]:
    """Attributes that are not in `__dict__`: those of builtin exceptions, and `__slots__`."""
    found: dict[str, object] = {}
    for klass in type(exc).__mro__:
        for name, descriptor in vars(klass).items():
            is_slot = isinstance(descriptor, (types.MemberDescriptorType, types.GetSetDescriptorType))
            is_native = not _is_written_in_python(klass)
            if not is_slot or name.startswith("__") or (is_native and name in _NOT_STATE):
                continue
            try:
                value = getattr(exc, name)
            except AttributeError:
                continue  # a slot without a value
            if value is not None:
                found.setdefault(name, value)
    return found


def _argument_or_text(name: str, value: object, limit_bytes: int, notes: list[str]) -> object:
    if isinstance(value, str):
        return _cut(value, limit_bytes)
    return value if _can_go(name, value, limit_bytes, notes) else _cut(_text_of(value, repr), limit_bytes)


def _can_go(name: str, value: object, limit_bytes: int, notes: list[str]) -> bool:
    try:
        size = len(dumps(value, what=name).data)
    except UnpicklableError as error:
        reason = str(error.__cause__ or error)
    else:
        if size <= limit_bytes:
            return True
        reason = f"{size} bytes pickled"
    notes.append(_cut(f"{name} ({_type_name(type(value))}) stayed on the worker: {reason}", _NOTE_LIMIT_CHARS))
    return False


def _notes_of(exc: BaseException) -> list[str]:
    notes = getattr(exc, "__notes__", None)
    if not isinstance(notes, Sequence) or isinstance(notes, str):
        return []
    return [_cut(_text_of(note), _NOTE_LIMIT_CHARS) for note in notes[:_NOTES_LIMIT]]


def _format(exc: BaseException, *, chain: bool) -> str:
    try:
        formatted = traceback.TracebackException.from_exception(exc)
        _strip_own_frames(formatted, exc)
        return "".join(formatted.format(chain=chain))
    except Exception as error:  # noqa: BLE001 - user code runs in there; the exception must still get through
        return f"{_type_name(type(exc))}: {_text_of(exc)}\n(its traceback could not be formatted: {error!r})\n"


def _is_own(frame: types.FrameType) -> bool:
    # The module that a process was started with is called __main__; its specification knows better.
    name = getattr(frame.f_globals.get("__spec__"), "name", None) or frame.f_globals.get("__name__")
    return str(name).partition(".")[0] in OWN_PACKAGES


def _strip_own_frames(formatted: traceback.TracebackException, exc: BaseException) -> None:
    """Leave out the frames at the start that are the worker's own; at least one frame stays."""
    pending: list[tuple[traceback.TracebackException | None, BaseException | None]] = [(formatted, exc)]
    while pending:
        text, original = pending.pop()
        if text is None or original is None:
            continue
        own = 0
        for frame, _ in traceback.walk_tb(original.__traceback__):
            if not _is_own(frame):
                break
            own += 1
        del text.stack[: min(own, len(text.stack) - 1)]
        pending += [(text.__cause__, original.__cause__), (text.__context__, original.__context__)]
        if isinstance(original, BaseExceptionGroup):
            pending += zip(text.exceptions or (), original.exceptions, strict=False)


# Failures come from JSON: the values are checked here, at the border.
def decode_exception(failure: Mapping[str, Any]) -> BaseException:
    """The exception that `encode_exception` encoded, ready to be raised.

    It has its class, arguments, attributes, notes, cause, context and members, and the remote traceback as
    the last cause of its chain and as `remote_traceback`. `SystemExit`, `KeyboardInterrupt` and other
    exceptions that would end this process come as a `RemoteError`, and so do those whose class cannot be
    found or rebuilt here. Never raises, whatever the failure holds.
    """
    exc = _decode(failure, is_raised=True)
    text = failure.get("traceback")
    if isinstance(text, str) and text:
        _set(_end_of_chain(exc), "__cause__", RemoteTraceback(text))
        vars(exc)["remote_traceback"] = text
    return exc


def _decode(failure: Mapping[str, Any], *, is_raised: bool) -> BaseException:
    members = [_decode(m, is_raised=True) for m in _list_in(failure, "exceptions") if isinstance(m, Mapping)]
    exc: BaseException | None = None
    notes = [note for note in _list_in(failure, "notes") if isinstance(note, str)]
    try:
        exc = _rebuild(failure.get("pickle"), failure, members, notes)
        reason = "it did not say why" if exc is None else ""
    except Exception as error:  # noqa: BLE001 - unpickling runs the user's code, which may raise anything
        _log.debug("exception %s cannot be rebuilt", failure.get("type"), exc_info=True)
        reason = f"{type(error).__name__}: {_text_of(error)}"
    ends_process = exc is not None and not isinstance(exc, (Exception, BaseExceptionGroup))
    if exc is None or (is_raised and ends_process):
        exc = _stand_in(failure, None if ends_process else reason)
    if notes:
        vars(exc)["__notes__"] = notes
    _link(exc, failure)
    return exc


def _list_in(failure: Mapping[str, Any], key: str) -> list[object]:
    value = failure.get(key)
    return value if isinstance(value, list) else []


def _rebuild(
    encoded: object, failure: Mapping[str, Any], members: list[BaseException], notes: list[str]
) -> BaseException:
    if not isinstance(encoded, str):
        raise UnpicklableError("its class could not be pickled on the worker")
    class_data, rest, is_whole = pickle.loads(base64.b64decode(encoded))
    cls = loads(class_data)
    if not (isinstance(cls, type) and issubclass(cls, BaseException)):
        raise TypeError(f"{cls!r} is not an exception class")
    state: Any  # what _state_of pickled, or the exception itself
    try:
        state = loads(rest)
    except Exception as error:  # noqa: BLE001 - as in _decode; the class matters more than what it holds
        notes.append(f"its arguments and attributes cannot be rebuilt here: {type(error).__name__}: {_text_of(error)}")
        message = str(failure.get("message"))
        return _assemble(cls, (message,), {}, {}, members)
    if not is_whole:
        arguments, attributes, slots = state
        return _assemble(cls, arguments, attributes, slots, members)
    if not isinstance(state, BaseException):
        raise TypeError(f"its __reduce__ made a {type(state).__name__} here")
    return state


def _assemble(
    cls: type[BaseException],
    arguments: tuple[Any, ...],
    attributes: dict[str, object],
    slots: dict[str, object],
    members: list[BaseException],
) -> BaseException:
    """An instance with its state, for which `__init__` of its own class was not called."""
    native: Any = next(klass for klass in cls.__mro__ if not _is_written_in_python(klass))
    exc: BaseException
    if issubclass(cls, BaseExceptionGroup):
        exc = BaseExceptionGroup.__new__(cls, str(arguments[0]), members)
    else:
        try:
            exc = cls.__new__(cls, *arguments)
        except Exception:  # noqa: BLE001 - a __new__ of the user's with other parameters
            exc = native.__new__(cls, *arguments)
        assert isinstance(exc, BaseException)
        try:
            native.__init__(exc, *arguments)  # sets what C code keeps: errno, start and end, lineno ...
        except Exception as error:  # noqa: BLE001 - one that needs other arguments; its slots are set below
            _log.debug("%s does not take %r: %s", native, arguments, error)
        _set(exc, "args", arguments)
    vars(exc).update(attributes)
    for name, value in slots.items():
        try:
            _set(exc, name, value)
        except (AttributeError, TypeError):
            continue  # read-only here: its class computes it
    return exc


def _stand_in(failure: Mapping[str, Any], reason: str | None) -> RemoteError:
    type_name, message = str(failure.get("type") or "exception"), str(failure.get("message") or "")
    shown = f"{type_name}: {message}" if message else type_name
    if reason is None:
        hint = f"the function raised {type_name} on the worker; raised here, it would have ended this process"
    else:
        hint = f"class {type_name} cannot be rebuilt here: {reason}"
    return RemoteError(f"{shown} ({hint})", type_name=type_name)


def _link(exc: BaseException, failure: Mapping[str, Any]) -> None:
    cause, context = failure.get("cause"), failure.get("context")
    if isinstance(context, Mapping):
        _set(exc, "__context__", _decode(context, is_raised=False))
    if isinstance(cause, Mapping):
        decoded = _decode(cause, is_raised=False)
        _set(exc, "__cause__", decoded)
        if failure.get("context_is_cause"):
            _set(exc, "__context__", decoded)
    _set(exc, "__suppress_context__", failure.get("suppress_context") is True)


def _end_of_chain(exc: BaseException) -> BaseException:
    """The exception that a printed traceback of `exc` starts with."""
    while True:
        earlier = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
        if earlier is None:
            return exc
        exc = earlier


def _set(exc: BaseException, name: str, value: object) -> None:
    object.__setattr__(exc, name, value)  # a frozen dataclass refuses setattr


def _is_written_in_python(cls: type) -> bool:
    return bool(cls.__flags__ & (1 << 9))  # Py_TPFLAGS_HEAPTYPE


def _type_name(cls: type) -> str:
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"


def _text_of(value: object, convert: type[str] | Any = str) -> str:
    """`str(value)` as valid Unicode, whatever `__str__` does."""
    try:
        text = convert(value)
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    except Exception as error:  # noqa: BLE001 - the user's __str__ may raise anything
        return f"<{convert.__name__}() of a {type(value).__name__} failed: {type(error).__name__}>"


def _cut(text: str, limit_bytes: int) -> str:
    """`text`, without its middle if it is longer than `limit_bytes` in JSON."""
    size = len(json.dumps(text))
    kept = len(text)
    while size > limit_bytes and kept > 0:
        kept = min(kept - 1, max(0, kept * (limit_bytes - 48) // size))
        head = kept * 2 // 3
        shorter = f"{text[:head]}\n[... {len(text) - kept} characters cut ...]\n{text[len(text) - (kept - head) :]}"
        size = len(json.dumps(shorter))
        if size <= limit_bytes or kept == 0:
            return shorter
    return text
