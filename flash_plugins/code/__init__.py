# SPDX-License-Identifier: Apache-2.0
"""How functions, classes and the user's own modules travel. Never submits, runs or stores anything.

    caller                                            worker
    dumps(fn)  ── Pickled.data ─────────────────────▶ loads(data)
       │ Pickled.modules                                 ▲ imports from sys.path[0]
       ▼                                                 │
    bundle_modules(names) ── SourceBundle ──▶ install_bundle ─▶ activate_bundle

A function of `__main__`, of a notebook or of a test module goes **by value**. One of a module that has a
source file here goes **by reference** and the source goes along in a bundle, so that it is imported on the
worker as it is here: one module object, one class, real file names in tracebacks. Everything else is
installed there too, and goes by reference alone.

Module by module: `modules` says which of the three a module is, `imports` what a source file imports,
`distributions` what an installed module was installed by, `pickling` holds the pickler, `culprit` finds what
cannot be pickled, `bundle` packs sources, `activation` unpacks them on the worker. What is deployed with an
endpoint, rather than sent with each call, is `cargo`, whose bytes are the same in every process by `canonical`.
"""

from __future__ import annotations

from flash_plugins.code.activation import activate_bundle, install_bundle
from flash_plugins.code.bundle import SourceBundle, bundle_modules
from flash_plugins.code.distributions import stated
from flash_plugins.code.modules import is_local_module
from flash_plugins.code.pickling import Pickled, dumps, gives_again, has_handles, loads, plain_dumps

__all__ = [
    "Pickled",
    "SourceBundle",
    "activate_bundle",
    "bundle_modules",
    "dumps",
    "gives_again",
    "has_handles",
    "install_bundle",
    "is_local_module",
    "loads",
    "plain_dumps",
    "stated",
]
