# SPDX-License-Identifier: Apache-2.0
"""Large parts of arguments and results, stored once by their content and named by its hash."""

from .store import ObjectEntry, ObjectMissing, ObjectStore, Ref

__all__ = ["ObjectEntry", "ObjectMissing", "ObjectStore", "Ref"]
