# SPDX-License-Identifier: Apache-2.0
"""scikit-learn on the `flash` backend gives loky's numbers, to the last bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flash_joblib
import joblib
import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn", minversion="1.4")

from scipy.sparse import csr_matrix  # type: ignore[import-untyped]  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.datasets import load_digits, load_iris  # noqa: E402
from sklearn.ensemble import (  # noqa: E402
    BaggingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning  # noqa: E402
from sklearn.experimental import enable_halving_search_cv  # noqa: E402, F401
from sklearn.feature_selection import RFECV  # noqa: E402
from sklearn.inspection import permutation_importance  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import (  # noqa: E402
    GridSearchCV,
    HalvingGridSearchCV,
    cross_val_predict,
    cross_val_score,
    learning_curve,
    validation_curve,
)
from sklearn.multioutput import MultiOutputClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.svm import SVC  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402
from sklearn.utils.parallel import Parallel, delayed  # noqa: E402

X, y = load_iris(return_X_y=True)


def grid_search() -> Any:
    search = GridSearchCV(make_pipeline(StandardScaler(), SVC()), {"svc__C": [0.1, 1, 10]}, cv=3).fit(X, y)
    return search.cv_results_["split0_test_score"], search.best_score_


def cross_validation() -> Any:
    return cross_val_score(LogisticRegression(max_iter=500), X, y, cv=5)


def forest() -> Any:
    return RandomForestClassifier(40, n_jobs=2, random_state=0).fit(X, y).predict_proba(X)


def bagging() -> Any:
    return BaggingClassifier(DecisionTreeClassifier(), 12, n_jobs=2, random_state=0).fit(X, y).predict_proba(X)


def stacking() -> Any:
    models = [("tree", DecisionTreeClassifier(random_state=0)), ("svm", SVC())]
    return StackingClassifier(models, cv=3).fit(X, y).predict_proba(X)


def importance() -> Any:
    return permutation_importance(SVC().fit(X, y), X, y, n_repeats=3, random_state=0).importances


def curve() -> Any:
    return learning_curve(DecisionTreeClassifier(random_state=0), X, y, cv=3)[1:]


def curve_of_a_parameter() -> Any:
    return validation_curve(SVC(), X, y, param_name="gamma", param_range=[0.01, 0.1, 1.0], cv=3)


def voting() -> Any:
    models = [("logistic", LogisticRegression(max_iter=500)), ("tree", DecisionTreeClassifier(random_state=0))]
    return VotingClassifier(models, voting="soft").fit(X, y, sample_weight=1.0 + y).predict_proba(X)


def halving_search() -> Any:
    tree = DecisionTreeClassifier(random_state=0)
    search = HalvingGridSearchCV(tree, {"max_depth": [1, 2, 3], "min_samples_leaf": [1, 5]}, cv=3, random_state=0)
    search.fit(X, y)
    return search.cv_results_["mean_test_score"], search.cv_results_["n_resources"], search.best_score_


def elimination() -> Any:
    selector = RFECV(LogisticRegression(max_iter=500), cv=3).fit(X, y)
    return selector.ranking_, selector.cv_results_["mean_test_score"]


def calibration() -> Any:
    return CalibratedClassifierCV(SVC(), cv=3, method="isotonic").fit(X, y).predict_proba(X)


def many_outputs() -> Any:
    return MultiOutputClassifier(LogisticRegression(max_iter=500)).fit(X, np.c_[y, y == 1]).predict_proba(X)


def sparse_input() -> Any:
    return cross_val_predict(LogisticRegression(max_iter=500), csr_matrix(X), y, cv=3, method="predict_proba")


def nested_search() -> Any:
    inner = GridSearchCV(RandomForestClassifier(5, n_jobs=2, random_state=0), {"max_depth": [2, 3]}, cv=3, n_jobs=2)
    return cross_val_score(inner, X, y, cv=3)


def search_in_a_validation() -> Any:
    inner = GridSearchCV(SVC(), {"C": [0.1, 1, 10], "gamma": [0.1, 1.0]}, cv=3)
    return cross_val_score(inner, X, y, cv=4)


@pytest.mark.parametrize(
    "compute",
    [
        grid_search,
        halving_search,
        cross_validation,
        forest,
        bagging,
        stacking,
        voting,
        calibration,
        elimination,
        many_outputs,
        sparse_input,
        importance,
        curve,
        curve_of_a_parameter,
        nested_search,
        search_in_a_validation,
    ],
)
def test_numbers_are_lokys(compute: Callable[[], Any]) -> None:
    with joblib.parallel_backend("flash", n_jobs=2) as (backend, _):
        ours = compute()
    assert backend.stats().tasks > 0
    with joblib.parallel_backend("loky", n_jobs=2):
        theirs = compute()
    np.testing.assert_equal(ours, theirs)


def test_a_fit_that_fails_is_scored_as_scikit_learn_does() -> None:
    digits_X, digits_y = load_digits(return_X_y=True)
    with joblib.parallel_backend("flash", n_jobs=2):
        search = GridSearchCV(SVC(), {"C": [1.0, -1.0]}, cv=2)
        with pytest.warns(UserWarning, match="non-finite"), pytest.warns(FitFailedWarning, match="2 fits failed"):
            search.fit(digits_X[:200], digits_y[:200])
    assert np.isnan(search.cv_results_["mean_test_score"][1])
    assert search.best_params_ == {"C": 1.0}


def test_a_random_forest_predicts_with_workers_of_its_own_number() -> None:
    with joblib.parallel_config(backend="flash"):
        RandomForestClassifier(8, n_jobs=3, random_state=0).fit(X, y)
    assert flash_joblib.last_run().tasks == 8


def test_scikit_learns_configuration_holds_on_workers() -> None:
    with (
        joblib.parallel_config(backend="flash", n_jobs=2),
        sklearn.config_context(working_memory=123, assume_finite=True),
    ):
        configs = Parallel()(delayed(sklearn.get_config)() for _ in range(4))
    assert [(config["working_memory"], config["assume_finite"]) for config in configs] == [(123, True)] * 4


def test_a_warning_that_is_an_error_here_is_one_in_a_task() -> None:
    model = LogisticRegression(max_iter=1)
    with joblib.parallel_config(backend="flash", n_jobs=2), warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        with pytest.raises(ConvergenceWarning):
            cross_val_score(model, X, y, cv=3, error_score="raise")


def test_a_memory_map_that_is_read_only_can_be_searched(tmp_path: Path) -> None:
    joblib.dump(X, tmp_path / "X.pkl")
    mapped = joblib.load(tmp_path / "X.pkl", mmap_mode="r")
    with joblib.parallel_config(backend="flash", n_jobs=2):
        scores = cross_val_score(SVC(), mapped, y, cv=3)
    np.testing.assert_equal(scores, cross_val_score(SVC(), X, y, cv=3, n_jobs=1))
