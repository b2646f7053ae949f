# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""Nested cross-validation: how good is a model whose parameters are searched for, too?

The outer folds go to the workers. The grid search within each of them is a task's own `Parallel` call, and so stays
on that worker, on its cores.
"""

import flash_joblib
import joblib
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

GRID = {"svc__C": [0.1, 1, 10], "svc__gamma": [0.01, 0.1, 1]}


def main():
    X, y = load_wine(return_X_y=True)
    search = GridSearchCV(make_pipeline(StandardScaler(), SVC()), GRID, cv=3, n_jobs=2)
    with joblib.parallel_config(backend="flash", n_jobs=2):
        found = cross_validate(search, X, y, cv=5, return_estimator=True)
    for score, fitted in zip(found["test_score"], found["estimator"], strict=True):
        print(f"fold {score:.3f} with {fitted.best_params_}")
    print(f"accuracy {found['test_score'].mean():.3f} ± {found['test_score'].std():.3f}")
    print(f"{flash_joblib.last_run().tasks} tasks on workers, 28 fits in each")


if __name__ == "__main__":
    main()
