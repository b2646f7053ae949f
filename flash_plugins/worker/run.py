# SPDX-License-Identifier: Apache-2.0
"""One call: from its envelope to something that can be called, with what the worker remembers between calls.

    envelope ──► blobs (memory, then disk) ──► source bundle on sys.path ──► function or instance ──► args

It never talks to a platform and never decides where or when a call runs (see `runner`).
"""

from __future__ import annotations

import logging
import os
import platform as python_platform
import re
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, cast

from .. import code
from ..code.cargo import Cargo, PackedCargo, load
from ..errors import EnvelopeError, PayloadError
from ..payload import CallEnvelope, digest_of

__all__ = ["BlobCache", "MissingBlobs", "Prepared", "Preparer", "python_version"]

logger = logging.getLogger(__name__)

_DIGEST = re.compile(r"[0-9a-f]{64}")

#: Functions and classes, and instances, that a worker keeps; the least recently used one goes first.
_LOADED_MAX = 256
_INSTANCES_MAX = 16

#: Positional and keyword arguments, as they are pickled.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def python_version() -> str:
    """Return this interpreter's version as callers state it, such as `3.11`."""
    return ".".join(python_platform.python_version_tuple()[:2])


class MissingBlobs(PayloadError):
    """The call names blobs that this worker does not have.

    Attributes:
        digests: Their names.
    """

    def __init__(self, digests: Iterable[str]) -> None:
        self.digests = tuple(digests)
        super().__init__(f"this worker lacks {', '.join(digest[:12] for digest in self.digests)}")


class BlobCache:
    """Blobs by digest, on disk so that all workers of one machine share them. Process- and thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def add(self, digest: str, content: bytes) -> None:
        """Keep a blob.

        Raises:
            EnvelopeError: Its content is not what the digest says.
        """
        if digest_of(content) != digest:
            raise EnvelopeError(f"blob {digest[:12]} was changed on its way: its content has another digest")
        path = self._path(digest)
        if path.exists():
            return
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".incoming-")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)  # whole or not at all, whoever else writes it

    def has(self, digest: str) -> bool:
        """Return whether the blob is here."""
        return self._path(digest).exists()

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise EnvelopeError(f"{digest[:80]!r} is no digest: the call's envelope is damaged")
        return self._folder / digest

    def read(self, digest: str) -> bytes:
        """Return a blob's content.

        Raises:
            MissingBlobs: It is not here, or its file was damaged and is removed: it must be sent again.
        """
        path = self._path(digest)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise MissingBlobs([digest]) from None
        if digest_of(content) != digest:
            logger.warning("the cached blob %s was changed on disk; it is fetched again", digest[:12])
            path.unlink(missing_ok=True)
            raise MissingBlobs([digest])
        return content


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call that only needs to be made: `function(*args, **kwargs)`."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Preparer:
    """Turns envelopes into calls, remembering functions, bundles and instances. Thread-safe."""

    def __init__(self, cache_folder: Path) -> None:
        #: What workers of this machine share.
        self.folder = cache_folder
        self._blobs = BlobCache(cache_folder / "blobs")
        self._bundles = cache_folder / "bundles"
        self._lock = RLock()
        self._active_bundle: str | None = None
        self._loaded = _Recent(_LOADED_MAX)  # functions and classes of users, by digest
        self._instances = _Recent(_INSTANCES_MAX)

    def prepare(self, envelope: CallEnvelope) -> Prepared:
        """Return the call that the envelope describes.

        Raises:
            MissingBlobs: Blobs must be sent first.
            EnvelopeError: Caller and worker do not fit together.
            Exception: What the user's code raises as it is loaded: see `target`.
        """
        return Prepared(self.target(envelope), *self.arguments(envelope.args))

    def target(self, envelope: CallEnvelope) -> Callable[..., Any]:
        """Return what the envelope's calls are calls of: a function, or a method of an instance that is kept.

        Loading may import the user's packages, and make the instance of a class: whatever those raise comes out.

        Raises:
            MissingBlobs: Blobs must be sent first.
            EnvelopeError: Caller and worker do not fit together.
        """
        if envelope.python != python_version():
            raise EnvelopeError(
                f"the caller runs Python {envelope.python} and this worker Python {python_version()}: functions "
                "travel as bytecode, so both must have the same minor version; use a worker image of the caller's"
            )
        with self._lock:
            for digest, content in envelope.blobs.items():
                self._blobs.add(digest, content)
            missing = [d for d in envelope.needs if not self._is_loaded(d) and not self._blobs.has(d)]
            if missing:
                raise MissingBlobs(missing)
            if envelope.bundle is not None:
                self._activate(envelope.bundle)
            target = self._load(envelope.code)
            if envelope.method is not None:
                instance = self._instance(envelope.code, target, envelope.instance or "")
                target = getattr(instance, envelope.method)
        return cast("Callable[..., Any]", target)

    def arguments(self, pickled: bytes) -> Arguments:
        """Return the arguments of one call."""
        return cast("Arguments", code.loads(pickled))

    def deployed(self, packed: PackedCargo) -> Cargo:
        """Return the functions that were deployed with the endpoint: the same object until a module of them changes.

        Raises:
            Exception: What the user's modules raise when they are imported.
        """
        with self._lock:
            if packed.bundle_digest is not None:
                if packed.bundle_digest != self._active_bundle and not self._blobs.has(packed.bundle_digest):
                    self._blobs.add(packed.bundle_digest, packed.bundle)
                self._activate(packed.bundle_digest)
            return cast("Cargo", self._loaded.get_or_make(packed.digest, lambda: load(packed.code)))

    def _is_loaded(self, digest: str) -> bool:
        return digest in self._loaded or digest == self._active_bundle

    def _activate(self, digest: str) -> None:
        if digest == self._active_bundle:
            return
        folder = code.install_bundle(digest, self._blobs.read(digest), self._bundles)
        if code.activate_bundle(folder):  # changed source: what was loaded from the old one is out of date
            self._loaded.clear()
            self._instances.clear()
        self._active_bundle = digest

    def _load(self, digest: str) -> Any:
        return self._loaded.get_or_make(digest, lambda: code.loads(self._blobs.read(digest)))

    def _instance(self, code_digest: str, made_of: Any, arguments: str) -> Any:
        def make() -> Any:
            args, kwargs = cast("Arguments", code.loads(self._blobs.read(arguments)))
            return made_of(*args, **kwargs)

        return self._instances.get_or_make((code_digest, arguments), make)


class _Recent:
    """The most recently used values by key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[object, Any] = OrderedDict()

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def get_or_make(self, key: object, make: Callable[[], Any]) -> Any:
        """Return the value of `key`, made now unless it is kept; the least recently used one may be let go."""
        if key not in self._values:
            value = make()
            while len(self._values) >= self._most:
                self._values.popitem(last=False)
            self._values[key] = value
        self._values.move_to_end(key)
        return self._values[key]

    def clear(self) -> None:
        """Let all go."""
        self._values.clear()
