# SPDX-License-Identifier: Apache-2.0
"""Other people's libraries that use joblib inside give loky's numbers, to the last bit, with their tasks on workers.

Run with `-m conformance`. They are in an environment of their own, with the newest NumPy and scikit-learn.
"""

from __future__ import annotations

import json
import os
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conformance.environments import require
from tests.support import ROOT

TESTS = Path(__file__).parent

#: The libraries, by the name of their package.
LIBRARIES = ("imbalanced-learn==0.14.2", "mapie==1.6.0", "mlxtend==0.25.0")

#: Seconds for one program under both backends; under ten on an idle machine.
PROGRAM_S = 200


def what_we_need() -> list[str]:
    """Return our own requirements with the local platform, in the versions of this environment."""
    needed = [Requirement(line) for line in metadata.requires("flash-plugins") or ()]
    names = {one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": "local"})}
    return [f"{name}=={metadata.version(name)}" for name in sorted(names)]


@pytest.mark.conformance
@pytest.mark.timeout(900)
@pytest.mark.parametrize("library", [line.partition("==")[0] for line in LIBRARIES])
def test_numbers_are_lokys_and_come_from_workers(library: str, tmp_path: Path) -> None:
    python = require(LIBRARIES[0], *LIBRARIES[1:], *what_we_need()).python
    # Ours comes by PYTHONPATH. Without compiled modules each worker would compile scikit-learn again.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    paths = [str(TESTS.parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(paths).rstrip(os.pathsep)
    done = subprocess.run(
        [python, str(TESTS / "libraries.py"), library],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=PROGRAM_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["flash"] == said["loky"]
    assert said["tasks"] >= said["last"] > 0
    assert said["elsewhere"], "the tasks ran in the program's own process"
