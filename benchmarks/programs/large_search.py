# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""A grid search over an array of megabytes: `large_search.py BACKEND SAMPLES CANDIDATES`. Its parent watches it.

Prints `ready` when two workers are warm, the data is there and nothing of it was sent. Each line on stdin is one
`fit` of the same data; each is answered with its seconds and the best score, as JSON. The end of stdin is the end.
"""

import gc
import json
import sys
import time

import numpy as np
from backends import backend
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB

#: Columns of 8 bytes: 50,000 rows are 100 MB.
FEATURES = 250
FOLDS = 5


def made(samples):
    """Return a classification problem, the same in every process, without a copy of X beside it."""
    random = np.random.default_rng(7)
    X = random.standard_normal((samples, FEATURES))
    return X, (X[:, :5] @ np.arange(1.0, 6.0) > random.standard_normal(samples)).astype(np.int64)


def search(candidates):
    return GridSearchCV(GaussianNB(), {"var_smoothing": list(np.logspace(-9, 0, candidates))}, cv=FOLDS, refit=False)


def say(text):
    print(text, flush=True)


def main():
    name, samples, candidates = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with backend(name):
        search(8).fit(*made(2_000))  # starts the workers, which import what they need
        X, y = made(samples)
        gc.collect()
        say("ready")
        while sys.stdin.readline():
            began = time.perf_counter()
            done = search(candidates).fit(X, y)
            say(json.dumps({"seconds": time.perf_counter() - began, "best_score": repr(float(done.best_score_))}))


if __name__ == "__main__":
    main()
