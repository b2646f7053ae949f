# SPDX-License-Identifier: Apache-2.0
"""The smallest program with one remote call, as a user would write it."""

import ray  # type: ignore[import-not-found, unused-ignore]


def square(x: int) -> int:
    return x * x


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    print(ray.get(ray.remote(square).remote(7)), flush=True)
