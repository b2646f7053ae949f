# SPDX-License-Identifier: Apache-2.0
"""scikit-learn's own shipped tests with `flash` as the default backend: what loky passes, `flash` passes.

Run with `-m conformance`. `flash` runs everything, loky only what `flash` did not pass; see `shipped.py` for how.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support import ROOT

TESTS = Path(__file__).parent

#: Modules of tests whose estimators run tasks by joblib. Those that take minutes for a few tasks are left out
#: (decomposition, logistic regression, Gaussian processes).
MODULES = (
    "sklearn.model_selection.tests.test_search",
    "sklearn.model_selection.tests.test_validation",
    "sklearn.model_selection.tests.test_successive_halving",
    "sklearn.model_selection.tests.test_classification_threshold",
    "sklearn.ensemble.tests.test_bagging",
    "sklearn.ensemble.tests.test_voting",
    "sklearn.ensemble.tests.test_stacking",
    "sklearn.ensemble.tests.test_forest",
    "sklearn.ensemble.tests.test_iforest",
    "sklearn.tests.test_multioutput",
    "sklearn.tests.test_multiclass",
    "sklearn.tests.test_calibration",
    "sklearn.tests.test_pipeline",
    "sklearn.tests.test_metaestimators_metadata_routing",
    "sklearn.compose.tests.test_column_transformer",
    "sklearn.feature_selection.tests.test_rfe",
    "sklearn.feature_selection.tests.test_mutual_info",
    "sklearn.inspection.tests.test_permutation_importance",
    "sklearn.inspection.tests.test_partial_dependence",
    "sklearn.utils.tests.test_parallel",
    "sklearn.callback.tests.test_callback_context",
    "sklearn.callback.tests.test_callback_support",
    "sklearn.callback.tests.test_progressbar",
    "sklearn.callback.tests.test_scoring_monitor",
)

#: Tests that loky passes and `flash` does not, by module and name: each with why. None at present.
NOT_OURS: dict[str, str] = {}

#: Tests that pass by chance, with loky as well: each with why. They may fail.
BY_CHANCE = {
    "sklearn.model_selection.tests.test_validation::test_cross_val_predict_decision_function_shape": "two tasks that "
    "run at once fail, and it asserts which one is first",
    "sklearn.callback.tests.test_progressbar::test_progress_during_fit_composition[meta_estimator0]": "it asserts that "
    "no task has made progress when another one ends",
    "sklearn.tests.test_multioutput::test_multi_output_classification": "a forest predicts in threads of this process "
    "(require='sharedmem'), which add up probabilities in the order they end, and it asserts that two sums are equal "
    "to the last bit",
}

#: An item that is expected to fail by its authors, and does, is as good as one that passes.
GOOD = ("passed", "xfailed", "skipped")

#: Seconds for one item. The longest asks for 32 workers and takes a minute on two cores, with loky as well.
ITEM_S = 300

#: Seconds for one module.
MODULE_S = 1200

Found = dict[str, dict[str, Any]]


def run_shipped(module: str, backend: str, folder: Path, only: Iterable[str] | None = None) -> Found:
    """Run a module's items with `backend` as the default, in a process of their own; outcomes by module and name."""
    outcomes = folder / f"{backend}.json"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(TESTS), str(TESTS.parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
        ).rstrip(os.pathsep),
        "SHIPPED_BACKEND": backend,
        "SHIPPED_OUTCOMES": str(outcomes),
    }
    if only is not None:
        items = folder / "items.json"
        items.write_text(json.dumps(list(only)))
        environment["SHIPPED_ITEMS"] = str(items)
    # Of conftest.py files only scikit-learn's: that of a checkout which holds the environment would be found, too.
    command = [sys.executable, "-m", "pytest", "--pyargs", module, "--noconftest", "-p", "sklearn.conftest"]
    command += ["-p", "shipped", "-c", os.devnull, f"--rootdir={folder}", "-p", "no:cacheprovider"]
    options = [f"--timeout={ITEM_S}", "-q", "--tb=short", "--disable-warnings"]
    done = subprocess.run(
        command + options, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert outcomes.exists(), done.stdout + done.stderr
    return cast("Found", json.loads(outcomes.read_text()))


@pytest.mark.conformance
@pytest.mark.timeout(MODULE_S)
@pytest.mark.parametrize("module", MODULES)
def test_flash_passes_what_loky_passes_of_scikit_learns_own_tests(module: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", minversion="1.9")  # callbacks are new
    flash = run_shipped(module, "flash", tmp_path)
    failed = {name for name, item in flash.items() if item["outcome"] not in GOOD}
    loky = run_shipped(module, "loky", tmp_path, failed) if failed else {}
    beyond_loky = {name for name in failed if name in loky and loky[name]["outcome"] not in GOOD}
    skipped = sum(item["outcome"] == "skipped" for item in flash.values())
    remote = [item["tasks"] for item in flash.values() if item["tasks"]]
    print(
        f"\n{module}: flash passes {len(flash) - len(failed) - skipped} of {len(flash)}, {skipped} are skipped, "
        f"{len(beyond_loky)} of the {len(failed)} others fail with loky, too; "
        f"{len(remote)} of them ran {sum(remote)} tasks on workers"
    )
    assert sum(remote) > 0, "no test of this module uses the backend"
    assert not {name: flash[name]["reason"] for name in failed - beyond_loky - NOT_OURS.keys() - BY_CHANCE.keys()}
    unneeded = [name for name in NOT_OURS if name.startswith(module) and name not in failed]
    assert not unneeded, "these pass now: take them off the list"
