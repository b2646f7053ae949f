# SPDX-License-Identifier: Apache-2.0
"""Buffers that another thread writes to while they are stored: no name ever stands for another content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flash_plugins.objects import ContentChanged, Ref, digest_of
from flash_plugins.objects import directory as directory_module
from flash_plugins.objects.directory import DirectoryStore
from flash_plugins.objects.space import ObjectSpace, ResultSink

SIZE = 1_000_000


@pytest.fixture
def space(tmp_path: Path) -> Iterator[ObjectSpace]:
    space = ObjectSpace(DirectoryStore(tmp_path / "store"))
    yield space
    space.close()


@pytest.fixture
def changing(monkeypatch: pytest.MonkeyPatch) -> bytearray:
    """Zeros, the last of which becomes one as soon as the first write to the store was made."""
    content, write = bytearray(SIZE), directory_module._write_all

    def change_too(descriptor: int, view: memoryview) -> None:
        write(descriptor, view)
        content[-1] = 1

    monkeypatch.setattr(directory_module, "_write_all", change_too)
    return content


def test_what_was_stored_is_what_its_name_says(space: ObjectSpace, changing: bytearray) -> None:
    ref, _ = space.keep(memoryview(changing))
    assert digest_of(space.fetch(ref)) == ref.digest
    zeros, is_new = space.keep(memoryview(bytes(SIZE)))
    assert is_new
    assert bytes(space.fetch(zeros)) == bytes(SIZE)
    space.release([ref, zeros])


def test_so_it_is_with_results(space: ObjectSpace, changing: bytearray) -> None:
    ref = ResultSink(space, 1000).store(memoryview(changing))
    assert digest_of(space.fetch(ref)) == ref.digest


def test_a_store_refuses_a_content_that_changed(space: ObjectSpace, changing: bytearray) -> None:
    ref = Ref(digest_of(changing), SIZE)
    with pytest.raises(ContentChanged, match="changed while it was stored"):
        space.cache.put(ref, memoryview(changing))
    assert not space.cache.has(ref)
    assert not list((space.cache.root / "incoming").iterdir())
