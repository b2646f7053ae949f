# SPDX-License-Identifier: Apache-2.0
"""Run the tests of `make test` in two processes: most of them wait for processes, and rarely need both cores.

    python .ci/suite.py [ARGUMENT OF PYTEST]...

Tests with real processes on one side, everything else on the other. The first prints as it goes, the other when it
has ended. Ctrl-C ends both. The exit status is 0 if both passed.
"""

import subprocess
import sys
import tempfile

#: What waits for processes most of the time.
FIRST = ["tests/integration"]
#: Seconds that a side gets to clean up after Ctrl-C.
GRACE_S = 30


def main() -> int:
    """Run both sides; returns the exit status."""
    pytest = [sys.executable, "-m", "pytest", "-m", "not conformance", *sys.argv[1:]]
    rest = [f"--ignore={path}" for path in FIRST]  # of all that pyproject.toml names
    with tempfile.TemporaryFile() as log:
        other = subprocess.Popen([*pytest, *rest], stdout=log, stderr=subprocess.STDOUT)
        first = subprocess.Popen([*pytest, *FIRST])
        try:
            codes = [first.wait(), other.wait()]
        except KeyboardInterrupt:  # which both sides get, too
            codes = [side.wait(GRACE_S) for side in (first, other)]
        finally:
            for side in (first, other):
                side.kill()
            log.seek(0)
            sys.stdout.flush()
            sys.stdout.buffer.write(log.read())
            sys.stdout.flush()
    if any(codes):
        sys.stdout.write(f"FAILED: exit status {codes[0]} (real processes), {codes[1]} (everything else)\n")
    return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())
