# SPDX-License-Identifier: Apache-2.0
"""Who may import whom. The table is the architecture; docs/architecture.md explains it."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.policy.source import ADAPTERS, CORE, Import, Source, relative

#: Layers from the bottom up. A module imports its own layer (without cycles) and those below.
#: The longest matching name counts: `platforms.api` holds facts only and sits at the bottom.
LAYERS: list[set[str]] = [
    {"errors", "platforms.api"},
    {
        "hardware",
        "clock",
        "config",
        "cork",
        "options",
        "settings",
        "resources",
        "requirements",
        "job",
        "payload",
        "batches",
        "binary",
        "exchange",
        "objects",
        "failure",
        "code",
        "replay",
        "routes",
        "steps",
        "images",
        "work",
    },
    {"hooks"},
    {"platforms"},
    {"builtin"},
    {"dispatcher"},
    {
        "endpoint",
        "attributes",
        "deployment",
        "client",
        "pending",
        "remote",
        "references",
        "inplace",
        "mapping",
        "process",
    },
    {"cli", "testing"},
]

#: The worker stands beside the layers: it is another process, so it knows what travels and nothing else.
WORKER_LAYERS = 3

#: Modules of the core that adapters may import from, besides the package itself.
PUBLIC_MODULES = {"flash_plugins.errors", "flash_plugins.hooks", "flash_plugins.job", "flash_plugins.testing"}

MODULES = {source.module: source for source in CORE}


def _layer(module: str) -> int | None:
    """Number of a module's layer; None for the worker, and for the package itself, which is lazy."""
    name = module.removeprefix("flash_plugins").lstrip(".")
    while name:
        for number, layer in enumerate(LAYERS):
            if name in layer:
                return number
        name = name.rpartition(".")[0]
    return None


def _targets(source: Source) -> Iterator[tuple[Import, str]]:
    """Imports of our own modules, each with the module that it loads."""
    for imported in source.imports:
        if imported.module.partition(".")[0] != "flash_plugins":
            continue
        whole = f"{imported.module}.{imported.name}"
        yield imported, whole if whole in MODULES else imported.module


def _is_part(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def test_every_module_has_its_place() -> None:
    lost = [
        source.module
        for source in CORE
        if _layer(source.module) is None
        and not _is_part(source.module, "flash_plugins.worker")
        and source.module not in ("flash_plugins", "flash_plugins.__main__", "flash_plugins._version")
    ]
    assert not lost, f"put {lost} into LAYERS, and into the layout of docs/architecture.md"


@pytest.mark.parametrize("source", CORE, ids=lambda source: source.module)
def test_imports_go_down(source: Source) -> None:
    own = _layer(source.module)
    wrong = []
    for imported, target in _targets(source):
        if own is None or source.module == "flash_plugins":
            continue
        layer = _layer(target)
        is_worker = _is_part(target, "flash_plugins.worker")
        is_root = target == "flash_plugins" and f"flash_plugins.{imported.name}" not in MODULES
        if is_root and own < len(LAYERS) - 1:
            wrong.append(f"line {imported.line} imports the package itself, which stands above")
        if is_worker and own < len(LAYERS) - 1:
            wrong.append(f"line {imported.line} imports {target}: workers are processes, not a library")
        if layer is not None and layer > own:
            wrong.append(f"line {imported.line} imports {target}, which stands above")
    assert not wrong, f"{relative(source.path)}: {'; '.join(wrong)}"


@pytest.mark.parametrize(
    "source",
    [s for s in CORE if _is_part(s.module, "flash_plugins.worker")],
    ids=lambda source: source.module,
)
def test_the_worker_knows_only_what_travels(source: Source) -> None:
    wrong = [
        f"line {imported.line} imports {target}"
        for imported, target in _targets(source)
        if (layer := _layer(target)) is not None and layer >= WORKER_LAYERS
    ]
    assert not wrong, f"{relative(source.path)}: {'; '.join(wrong)}"


def test_imports_have_no_cycles() -> None:
    graph = {
        source.module: {
            target
            for imported, target in _targets(source)
            if not imported.is_deferred
            and target in MODULES
            and target != source.module
            # `from .spec import X` in a package's __init__ and `from . import spec` beside it are no cycle.
            and not (source.is_package and _is_part(target, source.module))
        }
        for source in CORE
        if source.module != "flash_plugins"
    }
    for imported in graph.values():
        imported.discard("flash_plugins")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import one another: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_use_public_names_only(adapter: str) -> None:
    public = MODULES["flash_plugins"].exported or []
    wrong = []
    for source in ADAPTERS[adapter]:
        for imported in source.imports:
            where = f"{relative(source.path)}:{imported.line}"
            package = imported.module.partition(".")[0]
            if package in ADAPTERS and package != adapter:
                wrong.append(f"{where} imports the adapter {package}")
            if package != "flash_plugins":
                continue
            if imported.module == "flash_plugins":
                is_public = imported.name in (None, *public) or f"flash_plugins.{imported.name}" in PUBLIC_MODULES
            else:
                exported = MODULES[imported.module].exported or []
                is_public = imported.module in PUBLIC_MODULES and imported.name in (None, *exported)
            if not is_public:
                wrong.append(f"{where} imports {imported.module}.{imported.name}, which is not public")
    assert not wrong, "; ".join(wrong)
