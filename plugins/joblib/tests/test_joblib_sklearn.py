# SPDX-License-Identifier: Apache-2.0
"""scikit-learn on the `flash` backend gives loky's numbers, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flash_joblib
import joblib
import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn", minversion="1.4")

from sklearn.datasets import load_digits, load_iris  # noqa: E402
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, StackingClassifier  # noqa: E402
from sklearn.exceptions import FitFailedWarning  # noqa: E402
from sklearn.inspection import permutation_importance  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score, learning_curve  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.svm import SVC  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402

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


def nested_search() -> Any:
    inner = GridSearchCV(RandomForestClassifier(5, n_jobs=2, random_state=0), {"max_depth": [2, 3]}, cv=3, n_jobs=2)
    return cross_val_score(inner, X, y, cv=3)


@pytest.mark.parametrize(
    "compute", [grid_search, cross_validation, forest, bagging, stacking, importance, curve, nested_search]
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
