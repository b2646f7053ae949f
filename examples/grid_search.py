# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""A grid search over a pipeline, on flash workers and then on joblib's own loky. The scores must be equal.

Only two lines are there because of flash: `import flash_joblib` and `with joblib.parallel_backend("flash")`.
The transformer is defined in this script, as people do; it travels to the workers by itself.
"""

import time

import flash_joblib
import joblib
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC


def blurred(images, weight):
    """Mix each pixel with its four neighbours."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return (1 - weight) * images + weight * around / 4


class StrokeFeatures(TransformerMixin, BaseEstimator):
    """Pixels of 8 by 8 images, blurred, with the ink of each row and column beside them."""

    def __init__(self, blur=0.0):
        self.blur = blur

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        images = blurred(X.reshape(-1, 8, 8), self.blur)
        return np.hstack([images.reshape(len(X), -1), images.sum(axis=1), images.sum(axis=2)])


def search():
    """Return the grid search, not fitted yet: 36 candidates, 5 folds each."""
    pipeline = Pipeline([("strokes", StrokeFeatures()), ("scale", StandardScaler()), ("svm", SVC())])
    grid = {"strokes__blur": [0.0, 0.2, 0.4], "svm__C": [0.5, 2, 8, 32], "svm__gamma": [0.001, 0.01, 0.03]}
    return GridSearchCV(pipeline, grid, cv=5)


def main():
    X, y = load_digits(return_X_y=True)

    started = time.perf_counter()
    with joblib.parallel_backend("flash"):
        ours = search().fit(X, y)
    flash_s = time.perf_counter() - started

    print(f"best parameters  {ours.best_params_}")
    print(f"best score       {float(ours.best_score_)!r}")
    for worker in flash_joblib.last_run().workers:
        print(f"worker process   {worker.process_id} ({worker.worker_id}): {worker.tasks} tasks")

    started = time.perf_counter()
    with joblib.parallel_backend("loky"):
        theirs = search().fit(X, y)
    loky_s = time.perf_counter() - started

    print(f"score with loky  {float(theirs.best_score_)!r}")
    print(f"wall time        flash {flash_s:.1f} s, loky {loky_s:.1f} s")
    for column in ("mean_test_score", "std_test_score"):
        if not np.array_equal(ours.cv_results_[column], theirs.cv_results_[column]):
            raise SystemExit(f"{column} differs between flash and loky")
    if (ours.best_score_, ours.best_params_) != (theirs.best_score_, theirs.best_params_):
        raise SystemExit("the best candidate differs between flash and loky")
    print("equal to the last bit, for all candidates")


if __name__ == "__main__":
    main()
