# SPDX-License-Identifier: Apache-2.0
"""The table of behaviours in docs/endpoint.md is whole, and the parameters there are those of the code."""

from __future__ import annotations

import re

from flash_plugins.config import EndpointParameters
from tests.support import ROOT

PAGE = (ROOT / "docs" / "endpoint.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| (?P<number>\d+) \| (?P<behaviour>[^|]+) \| (?P<shared>[^|]+) \| (?P<test>[^|]*) \|$", re.MULTILINE
)


def test_every_row_is_there_and_names_a_test_of_it() -> None:
    rows = list(ROW.finditer(PAGE))
    assert [int(row["number"]) for row in rows] == list(range(1, 37))
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for row in rows:
        name = row["test"].strip().strip("`")
        if not name:
            assert row["shared"].startswith("not shared"), f"row {row['number']} names no test"
            continue
        assert name.startswith(f"test_row_{int(row['number']):02}_"), f"row {row['number']} names {name}"
        assert re.search(rf"def {name}\(", tests), f"row {row['number']}: there is no test {name}"


def test_every_parameter_is_in_the_table_of_parameters() -> None:
    table = PAGE.partition("## Parameters")[2].partition("###")[0]
    listed = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(listed) == sorted(["name", *EndpointParameters.__annotations__])
