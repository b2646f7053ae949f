# SPDX-License-Identifier: Apache-2.0
"""Runs cells in a kernel of this interpreter, and prints the outputs of each as one line of JSON."""

import json
import sys
import time
from typing import Any

from jupyter_client.manager import start_new_kernel

CELLS = [
    """
import time
from flash_plugins import Endpoint

@Endpoint(name="notebook", cpu="cpu5c-2-4", workers=(0, 2))
def nap(n):
    time.sleep(0.3)
    return n
print(sum(nap.map(range(10))))
""",
    """
import flash_joblib
from joblib import Parallel, delayed
print(sum(Parallel(n_jobs=2, backend="flash")(delayed(nap.undecorated)(n) for n in range(10))))
""",
    "time.sleep(3)",  # longer than a stretch of work goes on without calls
    "import flash_plugins; flash_plugins.close()",
]


def main() -> None:
    """Play all cells."""
    manager, client = start_new_kernel(kernel_name="python3")
    homes: dict[str, int] = {}  # cells of outputs that may be rewritten
    shown: list[dict[str, object]] = [{} for _ in CELLS]

    def take(number: int, message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream":
            shown[number][content["name"]] = str(shown[number].get(content["name"], "")) + content["text"]
        elif message["msg_type"] in ("display_data", "update_display_data"):
            display_id = content["transient"]["display_id"]
            if message["msg_type"] == "display_data":
                homes[display_id] = number
            shown[homes[display_id]][display_id] = content["data"]
        elif message["msg_type"] == "error":
            shown[number]["error"] = content["traceback"]

    try:
        for number, cell in enumerate(CELLS):
            client.execute_interactive(cell, output_hook=lambda message, at=number: take(at, message), timeout=120)
            time.sleep(0.1)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    json.dump(shown, sys.stdout)


main()
