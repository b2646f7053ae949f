# SPDX-License-Identifier: Apache-2.0
"""Large parts of arguments and results, stored once by their content and named by its hash.

    pickler ─► codec.Packer ─► sink ─► space ─► directory, remote store
    loads ◄─── codec.unpack ◄─ fetch ◄─ space ◄─┘

`store` is the protocol of a store, `directory` one that is a folder (with `holds` and `mapped`), `digest` the hash,
`codec` the form of a pickle whose large parts are elsewhere, `space` what a process has of all that, `handles` what
users hold of it.
"""

from .codec import Fetch, Sink, refs_of
from .digest import digest_of
from .handles import ObjectRef
from .store import ContentChanged, ObjectEntry, ObjectMissing, ObjectStore, Ref

__all__ = [
    "ContentChanged",
    "Fetch",
    "ObjectEntry",
    "ObjectMissing",
    "ObjectRef",
    "ObjectStore",
    "Ref",
    "Sink",
    "digest_of",
    "refs_of",
]
