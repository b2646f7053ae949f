# SPDX-License-Identifier: Apache-2.0
"""The smallest program with one remote call, as a user would write it."""

from flash_plugins import Endpoint


@Endpoint(name="square", cpu="cpu5c-4-8", workers=(0, 2))
def square(x: int) -> int:
    return x * x


if __name__ == "__main__":
    print(square(7).result(), flush=True)
