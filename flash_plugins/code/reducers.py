# SPDX-License-Identifier: Apache-2.0
"""By-value reductions for objects that pickle, and cloudpickle, only look up by name or cannot pickle at all.

`@lru_cache` functions, `NewType`s and their like say in `__reduce__` merely what they are called in their
module. Of a script or notebook that gives a pickle which no worker can load.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import typing
import weakref
from collections.abc import Callable
from typing import Any

from cloudpickle import cloudpickle as _cloudpickle

__all__ = ["ALWAYS", "BY_VALUE"]

# Reduce tuples are pickle's own, and so untyped.
_Reducer = Callable[[Any], tuple[Any, ...]]


def _reduce_lru_cache(cached: Any) -> tuple[Any, ...]:
    parameters = cached.cache_parameters()
    return _make_lru_cache, (cached.__wrapped__, parameters["maxsize"], parameters["typed"])


def _make_lru_cache(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_type_variable(variable: Any) -> tuple[Any, ...]:
    return _cloudpickle._make_typevar, _cloudpickle._decompose_typevar(variable)


def _reduce_new_type(new_type: Any) -> tuple[Any, ...]:
    return typing.NewType, (new_type.__name__, new_type.__supertype__), {"__module__": new_type.__module__}


def _reduce_named(variable: Any) -> tuple[Any, ...]:
    return type(variable), (variable.__name__,)


def _reduce_type_alias(alias: Any) -> tuple[Any, ...]:
    return _make_type_alias, (alias.__name__, alias.__value__, alias.__type_params__)


def _make_type_alias(name: str, value: object, parameters: tuple[Any, ...]) -> Any:
    make: Any = vars(typing)["TypeAliasType"]
    return make(name, value, type_params=parameters)


#: Type -> how its instances go by value; used for those that a worker cannot look up by name.
BY_VALUE: dict[type, _Reducer] = {
    functools._lru_cache_wrapper: _reduce_lru_cache,
    typing.TypeVar: _reduce_type_variable,
    typing.NewType: _reduce_new_type,
    typing.ParamSpec: _reduce_named,
    typing.TypeVarTuple: _reduce_named,
}
if sys.version_info >= (3, 12):
    BY_VALUE[typing.TypeAliasType] = _reduce_type_alias


def _reduce_cached_property(prop: functools.cached_property[Any]) -> tuple[Any, ...]:
    return _make_cached_property, (prop.func, prop.attrname)  # without the lock that it has before Python 3.12


def _make_cached_property(function: Callable[[Any], Any], name: str | None) -> functools.cached_property[Any]:
    prop = functools.cached_property(function)
    prop.attrname = name
    return prop


def _reduce_weak_keys(weak: weakref.WeakKeyDictionary[Any, Any]) -> tuple[Any, ...]:
    return weakref.WeakKeyDictionary, (), None, None, iter(list(weak.items()))


def _reduce_missing(_missing: Any) -> tuple[Any, ...]:
    return getattr, (dataclasses, "MISSING")


def _reduce_keyword_only(_mark: Any) -> tuple[Any, ...]:
    return getattr, (dataclasses, "KW_ONLY")


#: Type -> how its instances go, wherever they are defined: parts of classes and functions of the script that
#: neither pickle nor cloudpickle can take. Every @singledispatch function holds a WeakKeyDictionary. The marks of
#: dataclasses are told by their identity: a copy of one would be a default value.
ALWAYS: dict[type, _Reducer] = {
    functools.cached_property: _reduce_cached_property,
    weakref.WeakKeyDictionary: _reduce_weak_keys,
    type(dataclasses.MISSING): _reduce_missing,
    type(dataclasses.KW_ONLY): _reduce_keyword_only,
}
