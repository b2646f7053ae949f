# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""The grid search of examples/grid_search.py on one backend: `grid_search.py BACKEND REPEATS CANDIDATES [MARKS]`.

Prints JSON: seconds of each repeat and the best score. With MARKS, a folder, it does not warm up, and tells when
work began: the first `fit` in a process notes the time there, and so does the first task that is done.
"""

import json
import os
import sys
import time
from pathlib import Path

import joblib
import numpy as np
from backends import backend
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, ParameterGrid
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

GRID = {"strokes__blur": [0.0, 0.2, 0.4], "svm__C": [0.5, 2, 8, 32], "svm__gamma": [0.001, 0.01, 0.03]}


def blurred(images, weight):
    """Mix each pixel with its four neighbours."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return (1 - weight) * images + weight * around / 4


def mark(folder, what):
    """Note the time of the first `what` of this process."""
    path = Path(folder, f"{what}-{os.getpid()}")
    if not path.exists():
        path.write_text(repr(time.time()))


class StrokeFeatures(TransformerMixin, BaseEstimator):
    """Pixels of 8 by 8 images, blurred, with the ink of each row and column beside them."""

    def __init__(self, blur=0.0, marks=None):
        self.blur = blur
        self.marks = marks

    def fit(self, X, y=None):
        if self.marks:
            mark(self.marks, "started")
        return self

    def transform(self, X):
        images = blurred(X.reshape(-1, 8, 8), self.blur)
        return np.hstack([images.reshape(len(X), -1), images.sum(axis=1), images.sum(axis=2)])


def search(candidates, marks):
    """Return the grid search with the first `candidates` parameter sets, 5 folds each, not fitted yet."""
    pipeline = Pipeline([("strokes", StrokeFeatures(marks=marks)), ("scale", StandardScaler()), ("svm", SVC())])
    chosen = list(ParameterGrid(GRID))[:candidates]
    grid = [{key: [value] for key, value in candidate.items()} for candidate in chosen]
    return GridSearchCV(pipeline, grid, cv=5, refit=False)


def note_completions(marks):
    """Have joblib note when the first batch of tasks is done and its results are here."""
    before = joblib.parallel.BatchCompletionCallBack.__call__

    def completed(self, *args, **kwargs):
        mark(marks, "done")
        return before(self, *args, **kwargs)

    joblib.parallel.BatchCompletionCallBack.__call__ = completed


def main():
    name, repeats, candidates = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    marks = sys.argv[4] if len(sys.argv) > 4 else None
    X, y = load_digits(return_X_y=True)
    seconds = []
    if marks:
        note_completions(marks)
    with backend(name):
        if not marks:
            search(2, None).fit(X, y)  # starts the workers, which import what they need
        for _ in range(repeats):
            began = time.perf_counter()
            done = search(candidates, marks).fit(X, y)
            seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": seconds, "best_score": repr(float(done.best_score_))}))


if __name__ == "__main__":
    main()
