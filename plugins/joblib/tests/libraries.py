# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""Programs of users of other people's libraries. Run as a script, in an environment that has them, never imported.

`python libraries.py NAME` runs one under loky and under `flash`, and prints as JSON what each returned (a digest of
the bytes of each array) and how many tasks ran on flash workers. No program says a word about backends.
"""

import hashlib
import json
import os
import sys

import flash_joblib
import joblib
import numpy as np
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeRegressor


def imbalanced_learn():
    """Forests and bags that resample for each tree, and samplers within the pipeline of a grid search."""
    from imblearn.ensemble import BalancedBaggingClassifier, BalancedRandomForestClassifier
    from imblearn.over_sampling import SMOTE
    from imblearn.pipeline import make_pipeline

    X, y = load_wine(return_X_y=True)
    keep = np.r_[np.flatnonzero(y == 0)[:20], np.flatnonzero(y != 0)]
    X, y = X[keep], y[keep]
    forest = BalancedRandomForestClassifier(24, n_jobs=2, random_state=0).fit(X, y)
    bags = BalancedBaggingClassifier(n_estimators=8, n_jobs=2, random_state=0).fit(X, y)
    pipeline = make_pipeline(SMOTE(random_state=0), KNeighborsClassifier())
    search = GridSearchCV(pipeline, {"smote__k_neighbors": [3, 5], "kneighborsclassifier__n_neighbors": [3, 7]}, cv=3)
    search.fit(X, y)
    scores = cross_validate(forest, X, y, cv=3, scoring="balanced_accuracy")["test_score"]
    return forest.predict_proba(X), bags.predict_proba(X), search.cv_results_["mean_test_score"], scores


def mapie():
    """Prediction intervals: one model for each fold, and jackknife+ after bootstrap."""
    from mapie.regression import CrossConformalRegressor, JackknifeAfterBootstrapRegressor

    X, y = load_diabetes(return_X_y=True)
    tree = DecisionTreeRegressor(max_depth=4, random_state=0)
    cross = CrossConformalRegressor(Ridge(), confidence_level=0.9, cv=6, n_jobs=2, random_state=0)
    boot = JackknifeAfterBootstrapRegressor(tree, confidence_level=0.8, resampling=24, n_jobs=2, random_state=0)
    found = [model.fit_conformalize(X, y).predict_interval(X[:50]) for model in (cross, boot)]
    return [array for points, intervals in found for array in (points, intervals)]


def mlxtend():
    """Sequential and exhaustive feature selection, which score feature sets in parallel."""
    from mlxtend.feature_selection import ExhaustiveFeatureSelector, SequentialFeatureSelector

    X, y = load_wine(return_X_y=True)
    forward = SequentialFeatureSelector(KNeighborsClassifier(), k_features=3, floating=True, cv=3, n_jobs=2)
    exhaustive = ExhaustiveFeatureSelector(
        KNeighborsClassifier(), min_features=2, max_features=2, cv=3, n_jobs=2, print_progress=False
    )
    forward.fit(X, y)
    exhaustive.fit(X[:, :6], y)
    scores = [forward.subsets_[size]["cv_scores"] for size in sorted(forward.subsets_)]
    return *scores, forward.k_feature_idx_, exhaustive.best_idx_, exhaustive.best_score_


def digests(values):
    """Return what identifies each array to the last bit."""
    arrays = [np.ascontiguousarray(value) for value in values]
    return [[str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest()] for array in arrays]


def main():
    program = {"imbalanced-learn": imbalanced_learn, "mapie": mapie, "mlxtend": mlxtend}[sys.argv[1]]
    with joblib.parallel_config(backend="flash", n_jobs=2) as config:
        ours = digests(program())
    run = config["backend"].stats()
    with joblib.parallel_config(backend="loky", n_jobs=2):
        theirs = digests(program())
    processes = [worker.process_id for worker in run.workers]
    said = {"flash": ours, "loky": theirs, "tasks": run.tasks, "last": flash_joblib.last_run().tasks}
    print(json.dumps({**said, "elsewhere": bool(processes) and os.getpid() not in processes}))


if __name__ == "__main__":
    main()
