# SPDX-License-Identifier: Apache-2.0
"""Build the environment of this checkout: `python3 .ci/environment.py demo|dev STAMP`.

Needs only python3 with venv, and package registries reached the way pip is configured on this machine.
Installs uv into the environment for speed; without it, or where uv cannot reach a registry that pip can, pip
does the same work. Several runs at once wait for one another. Written for any python3, to be able to say
that it is too old.
"""

import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
UV = os.path.join(VENV, "bin", "uv")
CACHE = os.path.join(ROOT, ".cache")
CONSTRAINTS = "constraints.txt"
OLDEST = (3, 11)

#: What each purpose installs: extras of the root distribution, and dependency groups of pyproject.toml.
PURPOSES = {"demo": ("local,cli", ["demo"]), "dev": ("local,cli", ["demo", "dev"])}


def main():
    purpose, stamp = sys.argv[1], os.path.join(ROOT, sys.argv[2])
    if sys.version_info < OLDEST:
        fail(
            f"flash-plugins needs Python {OLDEST[0]}.{OLDEST[1]} or newer; {sys.executable} is older: "
            f"{sys.version.split()[0]}.\nName a newer one: make PYTHON=/path/to/python3.12 ..."
        )
    import fcntl

    os.makedirs(CACHE, exist_ok=True)
    os.chdir(ROOT)
    with open(os.path.join(CACHE, "environment.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(stamp):  # another run has just done it
            return
        say(f"preparing .venv ({purpose})")
        make_venv()
        install(purpose)
        run([PYTHON, "-m", "compileall", "-q", "flash_plugins", *package_folders()])
        leave_stamps(purpose, stamp)


def make_venv():
    """A virtual environment with a python that works and is new enough; an unusable one is replaced."""
    probe = f"import sys, pip; sys.exit(sys.version_info < {OLDEST!r})"
    if os.path.exists(PYTHON) and quiet([PYTHON, "-c", probe]):
        return
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, text=True)
    if made.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        fail(
            f"{sys.executable} cannot make a virtual environment:\n{(made.stdout + made.stderr).strip()}\n"
            "Python's venv module is missing or broken; on Debian and Ubuntu: apt-get install python3-venv"
        )


def install(purpose):
    import tomllib

    with open("pyproject.toml", "rb") as file:
        groups = tomllib.load(file)["dependency-groups"]
    extras, names = PURPOSES[purpose]
    what = ["-e", f".[{extras}]"]
    for folder in package_folders():
        what += ["-e", os.path.dirname(folder)]
    for name in names:
        what += groups[name]
    env = environment()
    pip = [PYTHON, "-m", "pip", "install", "-qq", "-c", CONSTRAINTS]
    if not quiet([UV, "--version"], env):
        got_uv = subprocess.run([*pip, "uv"], env=env, capture_output=True, text=True)
        if got_uv.returncode:
            say("uv cannot be installed here; going on with pip, which is slower")
    if quiet([UV, "--version"], env):
        uv = [UV, "pip", "install", "--quiet", "--python", PYTHON, "--compile-bytecode"]
        if not subprocess.run([*uv, "-c", CONSTRAINTS, "-b", CONSTRAINTS, *what], env=env).returncode:
            return
        say("uv did not succeed; trying once more with pip")
    # pip has no separate constraints for what builds a package, only this variable.
    run([*pip, *what], {**env, "PIP_CONSTRAINT": os.path.join(ROOT, CONSTRAINTS)})


def environment():
    """This process's environment, in which uv uses the index and the certificates of pip's configuration."""
    env = dict(os.environ)
    if not any(env.get(name) for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX")):
        index = env.get("PIP_INDEX_URL") or pip_setting("index-url")
        if index:
            env["UV_DEFAULT_INDEX"] = index
    certificates = env.get("PIP_CERT") or pip_setting("cert")
    if certificates:
        env.setdefault("SSL_CERT_FILE", certificates)
    return env


def pip_setting(name):
    asked = subprocess.run([PYTHON, "-m", "pip", "config", "get", f"global.{name}"], capture_output=True, text=True)
    return asked.stdout.strip()


def package_folders():
    """Import packages of the plugins, such as `plugins/joblib/flash_joblib`."""
    found = []
    for plugin in sorted(os.listdir("plugins")):
        folder = os.path.join("plugins", plugin, "flash_" + plugin)
        if os.path.exists(os.path.join("plugins", plugin, "pyproject.toml")):
            found.append(folder)
    return found


def leave_stamps(purpose, stamp):
    """Mark what is installed; `dev` holds everything that `demo` needs. Stamps of older files go away."""
    key = stamp.rsplit("-", 1)[1]
    for name in os.listdir(VENV):
        if name.startswith(".installed-") and not name.endswith("-" + key):
            os.remove(os.path.join(VENV, name))
    for done in ("demo", "dev") if purpose == "dev" else ("demo",):
        with open(os.path.join(VENV, f".installed-{done}-{key}"), "w"):
            pass


def quiet(command, env=None):
    try:
        return subprocess.run(command, env=env, capture_output=True).returncode == 0
    except OSError:
        return False


def run(command, env=None):
    status = subprocess.run(command, env=env).returncode
    if status:
        fail(f"this command failed with exit status {status}: {' '.join(command)}")


def say(text):
    sys.stderr.write(f"make: {text}\n")
    sys.stderr.flush()


def fail(text):
    sys.stderr.write(f"error: {text}\n")
    sys.exit(1)


main()
