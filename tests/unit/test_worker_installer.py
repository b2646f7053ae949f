# SPDX-License-Identifier: Apache-2.0
"""Which of the resolved packages are installed over a worker's base, and which it does without."""

from __future__ import annotations

import pytest

from flash_plugins.worker.base import needs_for_an_extra
from flash_plugins.worker.installer import lacking

WANTED = "-r /tmp/wanted.txt"


def test_what_the_base_has_in_that_version_is_not_installed() -> None:
    resolved = [f"anyio==4.1  # via {WANTED}", "idna==3.6  # via anyio"]
    assert lacking(resolved, {}) == ["anyio==4.1", "idna==3.6"]
    assert lacking(resolved, {"idna": "3.6"}) == ["anyio==4.1"]
    assert lacking(resolved, {"idna": "3.7"}) == ["anyio==4.1", "idna==3.6"]
    assert lacking(resolved, {"anyio": "4.1", "idna": "3.6"}) == []


def test_what_only_packages_of_the_base_need_is_not_installed() -> None:
    resolved = [
        f"accelerate==1.0  # via {WANTED}", "torch==2.8.0  # via accelerate", "nvidia-cublas-cu12==12.8  # via torch",
        "nvidia-cudart-cu12==12.8  # via nvidia-cublas-cu12, torch",
    ]  # fmt: skip
    assert lacking(resolved, {"torch": "2.8.0"}) == ["accelerate==1.0"]
    assert len(lacking(resolved, {"torch": "2.7.0"})) == 4


def test_a_part_of_the_version_that_only_the_base_has_does_not_matter() -> None:
    assert lacking([f"torch==2.8.0+cu128  # via {WANTED}"], {"torch": "2.8.0"}) == []


def test_what_somebody_else_needs_too_is_installed() -> None:
    resolved = [f"a==1  # via {WANTED}", f"b==1  # via {WANTED}", "c==1  # via a, b"]
    assert lacking(resolved, {"a": "1"}) == ["b==1", "c==1"]


def test_what_an_extra_of_a_package_of_the_base_needs_is_installed() -> None:
    # httpx is here, and names h2 under its extra `http2` only.
    resolved = [f"httpx==0.28.1  # via {WANTED}", "h2==4.1  # via httpx", "hpack==4.0  # via h2"]
    assert lacking(resolved, {"httpx": "0.28.1"}) == ["h2==4.1", "hpack==4.0"]


def test_addresses_are_always_installed() -> None:
    resolved = [f"idna @ https://example.com/idna.whl  # via {WANTED}", "other==1  # via idna"]
    assert lacking(resolved, {"idna": "3.6"}) == ["idna @ https://example.com/idna.whl", "other==1"]


def test_comments_and_blank_lines_are_no_packages() -> None:
    assert lacking(["# by uv", "", f"a==1  # via {WANTED}"], {}) == ["a==1"]


@pytest.mark.parametrize(
    ("name", "need", "is_for_an_extra"),
    [("httpx", "h2", True), ("httpx", "httpcore", False), ("httpx", "no-such", False), ("no-such", "h2", False)],
)
def test_needs_of_an_extra(name: str, need: str, is_for_an_extra: bool) -> None:
    assert needs_for_an_extra(name, need) is is_for_an_extra
