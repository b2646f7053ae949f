# SPDX-License-Identifier: Apache-2.0
"""How an endpoint that exists differs from what is wanted: the smallest PATCH, and what it means for its workers.

What only the platform adds, or writes in another way, is no difference: variables that it sets itself, the order of
lists, `4` for `4.0`, null for a constraint that is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from . import api
from .body import managed_names

__all__ = ["Change", "Difference", "difference_of", "refuse_impossible_change"]

#: JSON as it came or goes.
_Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs.

    Attributes:
        setting: Its name in REST v2, such as `workers.max`.
        old: What it is; None where that is not shown (environment, start command).
        new: What it becomes; None likewise.
        replaces_workers: Whether running workers are replaced for it, as they become idle.
    """

    setting: str
    old: str | None
    new: str | None
    replaces_workers: bool

    def __str__(self) -> str:
        return self.setting if self.new is None else f"{self.setting} {self.old} → {self.new}"


@dataclass(frozen=True, slots=True)
class Difference:
    """The PATCH that makes an endpoint what is wanted, empty for none, and what it changes. No secret in `repr`."""

    patch: dict[str, Any] = field(repr=False)
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        """`workers.max 3 → 5; env (A) and image replace its workers`: never a value of the environment."""
        gentle = [str(change) for change in self.changes if not change.replaces_workers]
        harsh = [str(change) for change in self.changes if change.replaces_workers]
        if harsh:
            last = harsh[-1] if len(harsh) == 1 else f"{', '.join(harsh[:-1])} and {harsh[-1]}"
            gentle.append(f"{last} {'replaces' if len(harsh) == 1 else 'replace'} its workers")
        return "; ".join(gentle)


def difference_of(found: _Json, wanted: _Json, *, keeps_cargo: bool = True) -> Difference:
    """Return how an endpoint, as REST v2 shows it (`found`), differs from a body that would create it (`wanted`).

    Args:
        found: The endpoint.
        wanted: The body.
        keeps_cargo: Whether deployed code that it has stays: the body has none of its own.
    """
    patch: dict[str, Any] = {}
    changes: list[Change] = []
    for name, value in wanted.items():
        differ = _DIFFER.get(name, _differ)
        differs = differ(name, found.get(name), value)
        if differs is None:
            continue
        patch[name], texts = differs
        changes += [Change(what, old, new, name in api.RELEASE_FIELDS) for what, old, new in texts]
    present = {str(key): str(value) for key, value in (found.get("env") or {}).items()}
    _, template = managed_names(present)
    if template != wanted.get("templateId") and "templateId" in wanted and api.MANAGED_ENV in present:
        cargo = {name: value for name, value in present.items() if name.startswith(api.CARGO_ENV_PREFIX)}
        env = {**(cargo if keeps_cargo else {}), **wanted["env"]}  # the platform merges the template's own
        patch |= {"templateId": wanted["templateId"], "env": env}
        changes.append(Change("template", str(template), str(wanted["templateId"]), True))
        return Difference(patch, tuple(changes))
    env = _wanted_env(present, wanted["env"], keeps_cargo=keeps_cargo)
    if _without_list(env) != _without_list(present):
        patch["env"] = env
        changes.append(Change(f"env ({', '.join(_names_that_differ(present, env))})", None, None, True))
    return Difference(patch, tuple(changes))


def refuse_impossible_change(found: _Json, wanted: _Json) -> None:
    """Refuse what no PATCH can do.

    Raises:
        ConfigError: The endpoint is of another type or on another kind of hardware.
    """
    for what, present, asked in (
        ("type", found.get("type") or wanted["type"], wanted["type"]),
        ("kind of hardware", "CPU" if found.get("cpu") else "GPU", "CPU" if "cpu" in wanted else "GPU"),
    ):
        if present != asked:
            raise ConfigError(
                f"an endpoint named {wanted['name']!r} exists with {what} {present}, and {asked} is asked for, which "
                "the platform cannot change; use another name, or delete that endpoint first"
            )


#: What is to be sent of a field, and each setting in it that differs (name, old and new); None for no difference.
_Found = tuple[Any, list[tuple[str, str | None, str | None]]] | None


def _differ(name: str, present: Any, value: Any) -> _Found:
    """Compare a plain value, or a list whose order means nothing."""
    if (present or None) == (value or None):  # nothing is null, an empty text or list, or not there
        return None
    if isinstance(value, list) and isinstance(present, list) and sorted(present) == sorted(value):
        return None
    return value, [(name, _text(present), _text(value))]


def _differ_in_args(name: str, present: Any, value: Any) -> _Found:
    """Compare start commands, which are long and may hold what nobody else is to see."""
    return None if (present or "") == (value or "") else (value, [(name, None, None)])


def _no_difference(name: str, present: Any, value: Any) -> _Found:
    return None


def _differ_by_key(name: str, present: Any, value: _Json) -> _Found:
    present = present if isinstance(present, Mapping) else {}
    texts = [
        (f"{name}.{key}", _text(present.get(key)), _text(entry))
        for key, entry in value.items()
        if present.get(key) != entry
    ]
    return (dict(value), list(texts)) if texts else None


def _differ_in_flashboot(name: str, present: Any, value: Any) -> _Found:
    is_on = present not in (None, "OFF")
    # PRIORITY_FLASHBOOT, which only the console offers, is more of the same: no reason to take it away.
    return None if is_on == (value != "OFF") else (value, [(name, _text(present), _text(value))])


def _differ_in_cpu(name: str, present: Any, value: list[_Json]) -> _Found:
    old = sorted((str(entry.get("id")), entry.get("vcpuCount", 0)) for entry in present or ())
    new = sorted((str(entry["id"]), entry["vcpuCount"]) for entry in value)
    if old == new:
        return None
    return value, [(name, _flavors(old), _flavors(new))]


def _differ_in_gpu(name: str, present: Any, value: _Json) -> _Found:
    """Compare a choice of GPUs; pools and exclusions are one selection, which is sent whole."""
    present = present if isinstance(present, Mapping) else {}
    patch: dict[str, Any] = {}
    texts: list[tuple[str, str | None, str | None]] = []
    if _selection(present) != _selection(value):
        patch |= {key: value[key] for key in ("pools", "excludedTypes") if key in value}
        texts.append((f"{name}.pools", _selected(present), _selected(value)))
    for key, default in (("count", 1), ("minCudaVersion", None)):
        if (present.get(key) or default) != value[key]:
            patch[key] = value[key]
            texts.append((f"{name}.{key}", _text(present.get(key)), _text(value[key])))
    if "minCudaVersion" in patch and present.get("allowedCudaVersions"):
        patch["allowedCudaVersions"] = []  # a set and a floor exclude one another
    return (patch, texts) if patch else None


#: Fields that are compared in a way of their own. `env` and `templateId` belong together: see `difference_of`.
_DIFFER = {
    "name": _no_difference,
    "type": _no_difference,
    "env": _no_difference,
    "templateId": _no_difference,
    "args": _differ_in_args,
    "workers": _differ_by_key,
    "scaling": _differ_by_key,
    "flashboot": _differ_in_flashboot,
    "cpu": _differ_in_cpu,
    "gpu": _differ_in_gpu,
}


def _flavors(choice: Iterable[tuple[str, int]]) -> str:
    return _listed(f"{flavor} with {count} vCPU" for flavor, count in choice)


def _selection(gpu: _Json) -> tuple[frozenset[str], frozenset[str]]:
    excluded = frozenset(str(entry).strip() for entry in gpu.get("excludedTypes") or ())
    return frozenset(gpu.get("pools") or ()), excluded


def _selected(gpu: _Json) -> str:
    pools, excluded = _selection(gpu)
    return _listed(sorted(pools)) + (f" without {_listed(sorted(excluded))}" if excluded else "")


def _wanted_env(present: Mapping[str, str], wanted: Mapping[str, str], *, keeps_cargo: bool) -> dict[str, str]:
    """Return what is wanted with what was not ours: variables of the platform, of the console, of a template."""
    ours, _ = managed_names(present)
    left_alone = {
        name: value
        for name, value in present.items()
        if name not in ours and (keeps_cargo or not name.startswith(api.CARGO_ENV_PREFIX))
    }
    return {**left_alone, **wanted}


def _without_list(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name != api.MANAGED_ENV}


def _names_that_differ(present: Mapping[str, str], env: Mapping[str, str]) -> list[str]:
    names = {name for name in {*present, *env} if present.get(name) != env.get(name)} - {api.MANAGED_ENV}
    shown = sorted(name for name in names if not name.startswith(api.CARGO_ENV_PREFIX))
    return shown + ["deployed code"] * (len(shown) < len(names))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return _listed(map(str, value))
    return "none" if value in (None, "") else str(value)


def _listed(entries: Iterable[str]) -> str:
    return ", ".join(entries) or "none"
