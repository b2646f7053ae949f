# SPDX-License-Identifier: Apache-2.0
"""What workers of an endpoint cost: a range in USD an hour, with its source and date. It starts nothing."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..config import EndpointConfig
from ..errors import ApiError
from ..hardware import CPU_FLAVOR_MIN_VCPU, PRICE_DATE, PRICE_SOURCE, GpuGroup, GpuType, gpu_pools
from .models import CpuInfo, GpuInfo
from .rest import RestClient

__all__ = ["PriceRange", "price_range", "published_prices"]


@dataclass(frozen=True, slots=True)
class PriceRange:
    """What one running worker costs, by the cheapest and the dearest hardware that it may get.

    Attributes:
        low_usd_per_hour: One worker on the cheapest; None where no price is known.
        high_usd_per_hour: One worker on the dearest; None likewise.
        workers_max: Most workers of the endpoint.
        source: Where the prices come from.
        date: When they were read, `2026-08` or `2026-08-20`.
        without_price: Hardware among the choice that has no published price.
    """

    low_usd_per_hour: float | None
    high_usd_per_hour: float | None
    workers_max: int
    source: str
    date: str
    without_price: tuple[str, ...] = ()

    @property
    def high_usd_per_hour_in_all(self) -> float | None:
        """All workers on the dearest hardware; None where no price is known."""
        return None if self.high_usd_per_hour is None else self.high_usd_per_hour * self.workers_max

    def __str__(self) -> str:
        """`$0.68 to $1.10 per worker and hour, at most $3.30 for 3 workers (SOURCE, 2026-08)`."""
        if self.low_usd_per_hour is None or self.high_usd_per_hour is None:
            return f"no price is published for {', '.join(self.without_price)} ({self.source}, {self.date})"
        low, high = f"${self.low_usd_per_hour:.2f}", f"${self.high_usd_per_hour:.2f}"
        each = low if low == high else f"{low} to {high}"
        workers = "1 worker" if self.workers_max == 1 else f"{self.workers_max} workers"
        unknown = f"; no price for {', '.join(self.without_price)}" if self.without_price else ""
        most = self.high_usd_per_hour * self.workers_max
        return f"{each} per worker and hour, at most ${most:.2f} for {workers}{unknown} ({self.source}, {self.date})"


async def price_range(rest: RestClient, config: EndpointConfig) -> PriceRange:
    """Return what workers of an endpoint cost: by the platform's catalog where it has one, else by our table.

    Raises:
        PlatformUnavailable: The platform does not answer.
        AuthenticationError: The key is refused.
    """
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    source, date = f"{rest.base}/v2/catalog", today
    try:
        prices = _cpu_prices(config, await rest.cpus()) if config.cpu else _gpu_prices(config, await rest.gpus())
    except ApiError:  # no catalog there
        prices = {}
    if not any(price is not None for price in prices.values()):
        return published_prices(config)
    return _range(config, prices, source, date)


def published_prices(config: EndpointConfig) -> PriceRange:
    """Return what workers of an endpoint cost on Runpod by our own table, without asking any platform."""
    prices = _cpu_prices(config, ()) if config.cpu else _gpu_prices(config, ())
    return _range(config, prices, PRICE_SOURCE, PRICE_DATE)


def _range(config: EndpointConfig, prices: Mapping[str, float | None], source: str, date: str) -> PriceRange:
    known = [price for price in prices.values() if price is not None]
    return PriceRange(
        low_usd_per_hour=min(known, default=None),
        high_usd_per_hour=max(known, default=None),
        workers_max=config.workers[1],
        source=source,
        date=date,
        without_price=tuple(name for name, price in prices.items() if price is None),
    )


def _gpu_prices(config: EndpointConfig, catalog: Sequence[GpuInfo]) -> dict[str, float | None]:
    """Price of one worker by GPU type of the choice; by pool for those that our table does not price."""
    listed = {gpu.id: gpu.usd_per_hour for gpu in catalog}
    prices: dict[str, float | None] = {}
    for gpu in _types(config):
        each = listed.get(gpu.value) if catalog else gpu.usd_per_hour
        prices[gpu.display if catalog else gpu.pool.value] = None if each is None else each * config.gpu_count
    return prices


def _types(config: EndpointConfig) -> Iterable[GpuType]:
    pools, excluded = gpu_pools(config.gpu)
    return [gpu for pool in pools for gpu in GpuGroup(pool).types if gpu.value not in excluded]


def _cpu_prices(config: EndpointConfig, catalog: Sequence[CpuInfo]) -> dict[str, float | None]:
    listed = {cpu.id: cpu.usd_per_vcpu_hour for cpu in catalog}
    prices: dict[str, float | None] = {}
    for cpu in config.cpu:
        each = listed.get(cpu.flavor)
        prices[cpu.value] = None if each is None else each * max(cpu.vcpu, CPU_FLAVOR_MIN_VCPU)
    return prices
