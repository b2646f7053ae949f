# SPDX-License-Identifier: Apache-2.0
"""Run tests in several processes: most tests wait for processes, and rarely need both cores.

    python .ci/suite.py (test | conformance) [ARGUMENT OF PYTEST]...

`test` is every test but those of conformance.

The first part prints as it goes, the others when all have ended. Ctrl-C ends all of them. The exit status is 0 if all
passed.
"""

import glob
import subprocess
import sys
import tempfile

#: Tests with real processes, in two parts that take about equally long; what is in neither is the third part.
INTEGRATION = sorted(glob.glob("tests/integration/test_*.py"))
DOCUMENTS = ["tests/policy/test_docs.py", "tests/policy/test_examples.py"]
TEST = (
    [path for path in INTEGRATION if path < "tests/integration/test_f"],
    [path for path in INTEGRATION if path >= "tests/integration/test_f"] + DOCUMENTS,
)
#: The same for conformance: official clients and workers, and scikit-learn's own tests; joblib's are in the third part.
CONFORMANCE = (["tests/conformance"], ["plugins/joblib/tests/test_joblib_shipped.py"])
#: Seconds that a part gets to clean up after Ctrl-C.
GRACE_S = 30


def main() -> int:
    """Run all parts; returns the exit status."""
    which, *arguments = sys.argv[1:]
    (first, second), marked = {"test": (TEST, "not conformance"), "conformance": (CONFORMANCE, "conformance")}[which]
    pytest = [sys.executable, "-m", "pytest", "-m", marked, *arguments]
    rest = [f"--ignore={path}" for path in (*first, *second)]  # of all that pyproject.toml names
    with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as other_log:
        running = [
            subprocess.Popen([*pytest, *first]),
            subprocess.Popen([*pytest, *second], stdout=log, stderr=subprocess.STDOUT),
            subprocess.Popen([*pytest, *rest], stdout=other_log, stderr=subprocess.STDOUT),
        ]
        try:
            codes = [part.wait() for part in running]
        except KeyboardInterrupt:  # which all parts get, too
            codes = [part.wait(GRACE_S) for part in running]
        finally:
            for part in running:
                part.kill()
            for written in (log, other_log):
                written.seek(0)
                sys.stdout.flush()
                sys.stdout.buffer.write(written.read())
            sys.stdout.flush()
    if any(codes):
        sys.stdout.write(f"FAILED: the three parts ended with exit status {', '.join(map(str, codes))}\n")
    return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())
