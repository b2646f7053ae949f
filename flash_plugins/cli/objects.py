# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins objects`: what the store of large objects holds, and the removal of what is old."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from .. import process
from ..errors import ConfigError
from ..platforms import api
from .output import EXIT_USAGE, JsonOption, YesOption, confirm, fail, print_json, print_table

if TYPE_CHECKING:
    from ..objects import ObjectEntry, ObjectStore

__all__ = ["objects"]

_DAY_S: Final = 86_400.0
_GB: Final = 1_000_000_000
#: Days without use after which an object may go, see `objects.remote.MIN_AGE_S`.
_DAYS_MIN: Final = 8


def objects(
    store: Annotated[str | None, typer.Option(help="URL of the store, instead of the one that is set.")] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Remove what nobody has used for a while.")] = False,
    older_than: Annotated[
        int | None, typer.Option(min=_DAYS_MIN, metavar="DAYS", help="With --clean: unused for so long; default 8.")
    ] = None,
    keep_gb: Annotated[
        float | None, typer.Option(min=0, metavar="GB", help="With --clean: the least recently used beyond this size.")
    ] = None,
    delete_all: Annotated[bool, typer.Option("--delete-all", help="Remove everything, also what jobs need.")] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the store of large objects; --clean removes what is old, --delete-all everything."""
    if clean and delete_all:
        fail("--clean and --delete-all are two things: give one of them", EXIT_USAGE)
    if not clean and (older_than is not None or keep_gb is not None):
        fail("--older-than and --keep-gb say what --clean removes: add --clean", EXIT_USAGE)
    opened = _opened(store)
    if not clean and not delete_all:
        _show(opened, as_json=as_json)
        return
    from ..objects.cleaning import clean as remove

    if delete_all:
        entries = list(opened.entries())
        confirm(f"remove {_counted(entries)} of {opened.url}, also what running jobs need?", yes=yes)
        done = remove(opened, everything=True)
    else:
        days = _DAYS_MIN if older_than is None and keep_gb is None else older_than
        done = remove(
            opened,
            max_age_s=None if days is None else days * _DAY_S,
            max_bytes=None if keep_gb is None else int(keep_gb * _GB),
        )
    if as_json:
        print_json(
            {"store": opened.url, "removed": done.removed, "removed_bytes": done.removed_bytes, "kept": done.kept,
             "kept_bytes": done.kept_bytes}
        )  # fmt: skip
    else:
        kept = f"{done.kept} are left, {_size(done.kept_bytes)}"
        typer.echo(f"removed {done.removed} objects, {_size(done.removed_bytes)}, of {opened.url}; {kept}")


def _opened(url: str | None) -> ObjectStore:
    if url is None:
        url = process.objects_setting().url
    if url is None:
        raise ConfigError(
            f"no store of large objects is set: give --store URL, or set {api.OBJECTS_ENV} or `objects` in "
            "flash-plugins.toml"
        )
    return process.open_objects(url)


def _show(store: ObjectStore, *, as_json: bool) -> None:
    entries = list(store.entries())
    now = time.time()
    size = sum(entry.ref.size for entry in entries)
    oldest_s = max((now - entry.used_at for entry in entries), default=None)
    unused = [entry for entry in entries if now - entry.used_at > _DAYS_MIN * _DAY_S]
    if as_json:
        print_json(
            {"store": store.url, "objects": len(entries), "bytes": size, "oldest_use_s": oldest_s,
             "unused": len(unused), "unused_bytes": sum(entry.ref.size for entry in unused)}
        )  # fmt: skip
        return
    print_table(
        [
            ("store", store.url),
            ("objects", _counted(entries)),
            ("least recently used", "never" if oldest_s is None else f"{max(oldest_s, 0.0) / _DAY_S:.1f} days ago"),
            (f"unused for {_DAYS_MIN} days", _counted(unused)),
        ]
    )


def _counted(entries: list[ObjectEntry]) -> str:
    count = "1 object" if len(entries) == 1 else f"{len(entries)} objects"
    return f"{count}, {_size(sum(entry.ref.size for entry in entries))}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / _GB:.2f} GB" if size_bytes >= _GB / 10 else f"{size_bytes / 1e6:.2f} MB"
