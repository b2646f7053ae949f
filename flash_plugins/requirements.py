# SPDX-License-Identifier: Apache-2.0
"""What workers shall install, as users write it: checked and normalised. It installs and downloads nothing.

The `packaging` library is loaded only where somebody gives requirements: it takes 30 ms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from .code.distributions import Distribution

__all__ = ["auto_dependencies", "parse_dependencies", "parse_system_dependencies"]

#: Schemes that a worker can download from.
_REMOTE = ("https://", "http://", "git+https://", "git+http://", "git+ssh://", "hg+https://", "svn+https://")
#: Where a network volume is on a worker; files there can be installed.
_VOLUME = "file:///runpod-volume/"
#: What looks like a file or folder of the caller's machine.
_LOCAL = re.compile(r"(\.{1,2}([/\\]|$)|[/\\~]|[A-Za-z]:[/\\]|file:|.*\.(whl|zip|tar\.(gz|bz2|xz))$)")
#: A Debian package, with an architecture or a version if one is asked for.
_DEBIAN = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?")


def parse_dependencies(value: object) -> tuple[str, ...]:
    """Return requirements in pip's syntax, normalised, in the given order and each once.

    Args:
        value: An iterable of texts: pins, ranges, extras, markers, `name @ https://…`, addresses of archives and
            repositories.

    Raises:
        ConfigError: An entry is none of these, names a file of this machine, or contradicts another one.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(
            f"Endpoint(dependencies={value!r}): give a list of requirements, such as [{str(value)!r}], or 'auto'"
        )
    found: dict[str, Requirement | None] = {}
    for entry in value:  # one by one: a mistake may be something that never ends
        if not isinstance(entry, str) or not entry.strip():
            raise ConfigError(f"Endpoint(dependencies=…): entry {entry!r} must be a text that is not blank")
        text, requirement = _parsed(entry.strip())
        for earlier in found.values():
            if requirement is not None and earlier is not None and text not in found:
                _refuse_contradiction(earlier, requirement)
        found.setdefault(text, requirement)
    return tuple(found)


def parse_system_dependencies(value: object) -> tuple[str, ...]:
    """Return names of Debian packages, in the given order and each once.

    Raises:
        ConfigError: An entry is no such name; options of `apt-get` are none.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(
            f"Endpoint(system_dependencies={value!r}): give a list of Debian packages, such as [{str(value)!r}]"
        )
    found: dict[str, None] = {}
    for entry in value:  # one by one, as above
        if not isinstance(entry, str) or not _DEBIAN.fullmatch(entry.strip()):
            raise ConfigError(
                f"Endpoint(system_dependencies=…): {entry!r} is no Debian package; give its name as `apt-get install` "
                "takes it, such as 'ffmpeg' or 'libgl1=1.6.0-1', without options"
            )
        found.setdefault(entry.strip())
    return tuple(found)


def auto_dependencies(targets: Iterable[Any]) -> tuple[str, ...]:  # Any: functions and classes of users
    """Return `name==version` for each distribution that functions or classes use, in the version installed here.

    Counted is what they refer to, what they import when they run, and what the user's own modules that travel with
    them import. What is not installed here is left out: it may be optional.

    Raises:
        ConfigError: One was installed from a folder or a repository, so that no worker could get the same.
        UnpicklableError: A target cannot be pickled.
    """
    from .code import bundle_modules, dumps  # here: a configuration is not to load the pickler
    from .code.distributions import MACHINERY, distributions_of

    modules: set[str] = set()
    for target in targets:
        pickled = dumps(target, what=f"{getattr(target, '__qualname__', target)!s}()")
        bundle = bundle_modules(pickled.modules) if pickled.modules else None
        modules |= pickled.installed | (frozenset() if bundle is None else bundle.installed)
    found = {one.name: one for one in distributions_of(sorted(modules)).values() if one.name not in MACHINERY}
    return tuple(_pinned(found[name]) for name in sorted(found))


def _parsed(entry: str) -> tuple[str, Requirement | None]:
    """Return a requirement as text and, unless it is an address without a name, taken apart."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    if entry.startswith("-"):
        raise ConfigError(
            f"Endpoint(dependencies=…): {entry!r} is an option of pip, and only requirements can be given; where "
            "workers install from is set by PIP_INDEX_URL or PIP_EXTRA_INDEX_URL in the endpoint's env"
        )
    if entry.startswith(_REMOTE):
        return entry, None
    if "@" not in entry and _LOCAL.match(entry):
        raise _local(entry)
    try:
        requirement = Requirement(entry)
    except InvalidRequirement as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"Endpoint(dependencies=…): {entry!r} is no requirement ({reason}); write it as pip takes it, such as "
            "'torch', 'torch==2.8.0', 'numpy>=2,<3' or 'name[extra] @ https://…'"
        ) from None
    if requirement.url is not None and not requirement.url.startswith((*_REMOTE, _VOLUME)):
        raise _local(entry)
    requirement.name = canonicalize_name(requirement.name)
    if requirement.name == "flash-plugins":
        raise ConfigError(
            f"Endpoint(dependencies=…): leave {entry!r} out: workers get flash-plugins by themselves, in the version "
            "of this process"
        )
    return str(requirement), requirement


def _local(entry: str) -> ConfigError:
    return ConfigError(
        f"Endpoint(dependencies=…): {entry!r} is on this machine, where workers cannot read it. Modules of your own "
        "travel by themselves, without being listed; of anything else build a wheel and give its address, as "
        "'name @ https://…', or 'name @ file:///runpod-volume/…' on a network volume of the endpoint"
    )


def _refuse_contradiction(earlier: Requirement, later: Requirement) -> None:
    if earlier.name != later.name or str(earlier.marker or "") != str(later.marker or ""):
        return
    is_other_place = earlier.url != later.url
    pins = [(one, other) for one, other in ((earlier, later), (later, earlier))]
    is_other_version = any(
        spec.operator == "==" and "*" not in spec.version and not other.specifier.contains(spec.version, True)
        for one, other in pins
        for spec in one.specifier
    )
    if is_other_place or is_other_version:
        raise ConfigError(
            f"Endpoint(dependencies=…): {str(earlier)!r} and {str(later)!r} contradict one another; keep one of them"
        )


def _pinned(distribution: Distribution) -> str:
    """Return the requirement of a distribution as it is installed here."""
    import json

    origin = json.loads(distribution.read("direct_url.json") or "{}")
    url = str(origin.get("url", ""))
    what = f"Endpoint(dependencies='auto'): {distribution.name} {distribution.version} is installed here from {url}"
    remedy = "list dependencies yourself, with what workers shall install in its place"
    if "vcs_info" in origin:
        commit = str(origin["vcs_info"].get("commit_id", ""))[:12]
        raise ConfigError(
            f"{what} (commit {commit}), which workers may not be able to reach; {remedy}, such as "
            f"'{distribution.name} @ {origin['vcs_info'].get('vcs', 'git')}+{url}@{commit}'"
        )
    if "dir_info" in origin:
        raise ConfigError(f"{what}, a folder of this machine, which workers cannot read; {remedy}")
    if "archive_info" in origin and url.startswith(_REMOTE):
        return f"{distribution.name} @ {url}"
    return distribution.pin
