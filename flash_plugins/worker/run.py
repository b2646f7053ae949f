# SPDX-License-Identifier: Apache-2.0
"""One call: from its envelope to something that can be called, with what the worker remembers between calls.

    envelope ──► blobs, objects (mapped from a folder) ──► source bundle on sys.path ──► function or instance ──► args

It never talks to a platform and never decides where or when a call runs (see `runner`).
"""

from __future__ import annotations

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, cast

from .. import code
from ..code.cargo import Cargo, PackedCargo, load
from ..errors import EnvelopeError, PayloadError
from ..objects.codec import refs_of
from ..objects.directory import DirectoryStore
from ..objects.space import DEFAULT_THRESHOLD_BYTES
from ..objects.store import ObjectStore, Ref
from ..payload import CallEnvelope
from ..platforms import api
from .store import Stores, space_of_thread, use_space

__all__ = ["MissingBlobs", "Prepared", "Preparer", "python_version"]

#: Functions and classes, and instances, that a worker keeps; the least recently used one goes first.
_LOADED_MAX = 256
_INSTANCES_MAX = 16

#: Positional and keyword arguments, as they are pickled.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def python_version() -> str:
    """Return this interpreter's version as callers state it, such as `3.11`."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


class MissingBlobs(PayloadError):
    """The call names blobs that this worker does not have.

    Attributes:
        digests: Their names.
    """

    def __init__(self, digests: Iterable[str]) -> None:
        self.digests = tuple(digests)
        super().__init__(f"this worker lacks {', '.join(digest[:12] for digest in self.digests)}")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call that only needs to be made: `function(*args, **kwargs)`."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Preparer:
    """Turns envelopes into calls, remembering functions, bundles and instances. Thread-safe."""

    def __init__(
        self,
        cache_folder: Path,
        *,
        threshold_bytes: int = DEFAULT_THRESHOLD_BYTES,
        max_bytes: int | None = None,
    ) -> None:
        #: What workers of this machine share.
        self.folder = cache_folder
        self._stores = Stores(cache_folder, max_bytes=max_bytes, open_store=_opened)
        self._blobs = DirectoryStore(cache_folder / "blobs")
        self._threshold_bytes = threshold_bytes
        self._bundles = cache_folder / "bundles"
        self._lock = RLock()
        self._active_bundle: str | None = None
        self._loaded = _Recent(_LOADED_MAX)  # functions and classes of users, by digest
        self._instances = _Recent(_INSTANCES_MAX)

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Preparer:
        """Return the one that a worker's environment describes."""
        most = environ.get(api.OBJECTS_MAX_BYTES_ENV)
        return cls(
            Path(environ[api.CACHE_DIR_ENV]),
            threshold_bytes=int(environ.get(api.OBJECTS_MIN_BYTES_ENV) or DEFAULT_THRESHOLD_BYTES),
            max_bytes=int(most) if most else None,
        )

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
        space = self._stores.of(envelope.objects)
        use_space(space, self._threshold_bytes)
        named = {envelope.code, envelope.bundle, envelope.instance}
        for digest, content in envelope.blobs.items():
            (self._blobs if digest in named else space.cache).add(digest, content)
        lacking = [digest for digest in named if digest and not self._is_here(digest)]
        if not lacking:
            lacking = [ref.digest for ref in space.pull(self._objects_of(envelope))]
        if lacking:
            raise MissingBlobs(lacking)
        with self._lock:
            if envelope.bundle is not None:
                self._activate(envelope.bundle)
            target = self._load(envelope.code)
            if envelope.method is not None:
                instance = self._instance(envelope.code, target, envelope.instance or "")
                target = getattr(instance, envelope.method)
        return cast("Callable[..., Any]", target)

    def arguments(self, pickled: bytes) -> Arguments:
        """Return the arguments of one call."""
        try:
            return cast("Arguments", code.loads(pickled, fetch=space_of_thread()))
        except PayloadError:
            raise
        except Exception as error:
            with contextlib.suppress(Exception):  # the user's class may refuse attributes
                error.add_note("raised on the worker, while the arguments of the call were unpickled")
            raise

    def deployed(self, packed: PackedCargo) -> Cargo:
        """Return the functions that were deployed with the endpoint: the same object until a module of them changes.

        Raises:
            Exception: What the user's modules raise when they are imported.
        """
        with self._lock:
            if packed.bundle_digest is not None:
                if not self._is_here(packed.bundle_digest):
                    self._blobs.add(packed.bundle_digest, packed.bundle)
                self._activate(packed.bundle_digest)
            return cast("Cargo", self._loaded.get_or_make(packed.digest, lambda: load(packed.code)))

    def _is_here(self, digest: str) -> bool:
        return digest in self._loaded or digest == self._active_bundle or self._blobs.find(digest) is not None

    def _objects_of(self, envelope: CallEnvelope) -> Iterator[Ref]:
        """Iterate the objects that the calls of an envelope need; those of what is loaded are in memory already."""
        for part in (envelope.args, *envelope.batch):
            yield from refs_of(part)
        if envelope.code not in self._loaded:
            yield from refs_of(self._read(envelope.code))
        if envelope.instance is not None and (envelope.code, envelope.instance) not in self._instances:
            yield from refs_of(self._read(envelope.instance))

    def _read(self, digest: str) -> bytes:
        """Return a blob's content.

        Raises:
            MissingBlobs: It is not here, or its file was damaged and is removed: it must be sent again.
        """
        content = self._blobs.read(digest)
        if content is None:
            raise MissingBlobs([digest])
        return content

    def _activate(self, digest: str) -> None:
        if digest == self._active_bundle:
            return
        folder = code.install_bundle(digest, self._read(digest), self._bundles)
        if code.activate_bundle(folder):  # changed source: what was loaded from the old one is out of date
            self._loaded.clear()
            self._instances.clear()
        self._active_bundle = digest

    def _load(self, digest: str) -> Any:
        return self._loaded.get_or_make(digest, lambda: code.loads(self._read(digest), fetch=space_of_thread()))

    def _instance(self, code_digest: str, made_of: Any, arguments: str) -> Any:
        def make() -> Any:
            args, kwargs = cast("Arguments", code.loads(self._read(arguments), fetch=space_of_thread()))
            return made_of(*args, **kwargs)

        return self._instances.get_or_make((code_digest, arguments), make)


def _opened(url: str) -> ObjectStore:
    from .stores import open_remote  # for a store beyond this machine only

    return open_remote(url)


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
