# SPDX-License-Identifier: Apache-2.0
"""Which endpoint each name stands for in this process. It provisions nothing.

A platform has one endpoint per name, so two `Endpoint` objects of one name must agree: equal ones share it. One
that differs takes the name over once no call of the other is left, which is what redefining a cell of a notebook
does; before that it is an error.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from ..config import EndpointConfig
from ..errors import ConfigError

__all__ = ["Claims"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Claim:
    config: EndpointConfig
    streams: bool
    function_name: str | None  # whose call came last
    calls: int = 0  # that are not done
    given: EndpointConfig | None = None  # what `config` was made of: asking again need not compare anything


class Claims:
    """The endpoints of one process by name. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[str, _Claim] = {}

    def claim(
        self, config: EndpointConfig, *, streams: bool, function_name: str | None = None, is_call: bool = False
    ) -> None:
        """Take a name for this endpoint, or share it; a call holds it until `release`.

        Raises:
            ConfigError: Calls of another endpoint of that name are not done.
        """
        name = str(config.name)
        with self._lock:
            claim = self._claims.get(name)
            if claim is not None and claim.given is config and claim.streams >= streams:
                claim.function_name = function_name or claim.function_name
                claim.calls += is_call
                return
            if claim is None:
                claim = self._claims[name] = _Claim(config, streams, function_name)
            differences = config.differences(claim.config)
            if claim.calls:
                _refuse_two(claim, name, differences, streams=streams, function_name=function_name)
            if differences:
                logger.info("endpoint %r takes the place of an earlier one: %s", name, "; ".join(differences))
                claim.streams = streams
            claim.given, claim.config = config, config.with_packages(claim.config.packages)
            claim.streams = claim.streams or streams
            claim.function_name = function_name or claim.function_name
            claim.calls += is_call

    def release(self, name: str) -> None:
        """Note that a call is done."""
        with self._lock:
            self._claims[name].calls -= 1

    def current(self, name: str) -> tuple[EndpointConfig, bool]:
        """Return what a claimed name stands for now: the config, and whether its workers stream."""
        with self._lock:
            claim = self._claims[name]
            return claim.config, claim.streams


def _refuse_two(claim: _Claim, name: str, differences: list[str], *, streams: bool, function_name: str | None) -> None:
    if differences:
        raise ConfigError(
            f"two Endpoint objects of the name {name!r} differ, and calls of the other one are not done: "
            f"{'; '.join(differences)} (here and there); give one of them another name, or wait for these calls"
        )
    if streams and not claim.streams:
        raise ConfigError(
            f"endpoint {name!r} is busy with calls of {claim.function_name}(), which returns, and "
            f"{function_name or 'a function'}() needs workers that stream: decorate both with one Endpoint object "
            "before the first call, give one of the two another name, or wait for these calls"
        )
