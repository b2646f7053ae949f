# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""A random search over a gradient boosting model, and the same search by successive halving, on flash workers."""

import flash_joblib
import joblib
from scipy.stats import loguniform, randint
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import HalvingRandomSearchCV, RandomizedSearchCV

SPACE = {"learning_rate": loguniform(0.01, 0.5), "max_depth": randint(1, 4), "subsample": [0.6, 0.8, 1.0]}


def main():
    X, y = load_breast_cancer(return_X_y=True)
    model = GradientBoostingClassifier(n_estimators=20, random_state=0)
    searches = {
        "random search": RandomizedSearchCV(model, SPACE, n_iter=12, cv=3, random_state=0),
        "halving": HalvingRandomSearchCV(model, SPACE, n_candidates=12, cv=3, random_state=0),
    }
    with joblib.parallel_config(backend="flash", n_jobs=2) as config:
        for name, search in searches.items():
            search.fit(X, y)
            best = {key: round(float(value), 3) for key, value in search.best_params_.items()}
            print(f"{name:14} {search.best_score_:.3f} with {best}, after {flash_joblib.last_run().tasks} fits")
    print(f"{config['backend'].stats().tasks} fits in all")


if __name__ == "__main__":
    main()
