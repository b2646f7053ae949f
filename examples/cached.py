# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""A function cached with `joblib.Memory`: what workers computed is in the cache here, and is never sent again."""

import tempfile

import flash_joblib
import numpy as np
from joblib import Memory, Parallel, delayed
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA


def unexplained(images, components):
    """Return the share of the variance that so many components leave out."""
    return float(1 - PCA(components, random_state=0).fit(images).explained_variance_ratio_.sum())


def main():
    images = load_digits().data
    with tempfile.TemporaryDirectory() as folder:
        cached = Memory(folder, verbose=0).cache(unexplained)
        for numbers in (range(1, 9), range(1, 13)):
            shares = Parallel(n_jobs=2, backend="flash")(delayed(cached)(images, number) for number in numbers)
            print(f"{len(numbers)} results, {flash_joblib.last_run().tasks} of them new: {np.round(shares, 2)}")
        print(f"and a plain call here: {cached(images, 8):.2f}")


if __name__ == "__main__":
    main()
