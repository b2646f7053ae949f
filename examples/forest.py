# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""A random forest and its permutation importances, on flash workers.

`n_jobs` is where scikit-learn users expect it; `flash` takes over wherever joblib would have used processes
or threads of this machine.
"""

import flash_joblib
import joblib
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.inspection import permutation_importance
from sklearn.model_selection import train_test_split


def main():
    data = load_breast_cancer()
    X_train, X_test, y_train, y_test = train_test_split(data.data, data.target, random_state=0)

    with joblib.parallel_config(backend="flash", n_jobs=2) as config:
        forest = RandomForestClassifier(200, n_jobs=2, random_state=0).fit(X_train, y_train)
        found = permutation_importance(forest, X_test, y_test, n_repeats=3, random_state=0)

    print(f"accuracy {forest.score(X_test, y_test):.3f}")
    for index in found.importances_mean.argsort()[::-1][:3]:
        print(f"{data.feature_names[index]:24} {found.importances_mean[index]:.4f}")
    print(config["backend"].stats())
    print(f"the last call alone: {flash_joblib.last_run().tasks} tasks")


if __name__ == "__main__":
    main()
