# SPDX-License-Identifier: Apache-2.0
"""Hardware that Runpod Serverless rents out: names, sizes, prices, places. It never asks a platform.

The enums are the tables: each member carries its facts, and there is no second list of them anywhere.
Names and values are those of `runpod_flash` 1.21, so that programs written for it keep working, plus the
GPU types and data centers that it does not know yet.

Sources: the packages runpod-flash 1.21.0 and runpod 2.0.0rc2, Runpod's documentation and its public lists of
data centers, all as of 2026-08. Availability and prices change: the catalog of the platform is the authority.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, TypeVar

from .errors import ConfigError

__all__ = [
    "CPU_DATACENTERS",
    "CPU_FLAVOR_MIN_VCPU",
    "PRICE_DATE",
    "PRICE_SOURCE",
    "S3_DATACENTERS",
    "CpuInstanceType",
    "CudaVersion",
    "DataCenter",
    "GpuGroup",
    "GpuType",
    "ServerlessScalerType",
    "ServerlessType",
    "cpu_flavors",
    "gpu_pools",
    "parse_cpus",
    "parse_gpus",
]

#: Where the prices of `GpuGroup` come from, and when they were read.
PRICE_SOURCE: Final = "https://docs.runpod.io/serverless/pricing"
PRICE_DATE: Final = "2026-08"

#: Fewest vCPUs a worker can be asked for over REST v2, which wants a power of two from here on.
CPU_FLAVOR_MIN_VCPU: Final = 2


class GpuGroup(StrEnum):
    """A serverless GPU pool: workers run on whichever of its types is free.

    Unlike `runpod_flash`, a group means the whole pool as the platform defines it: `ADA_48_PRO` may be an
    L40 and `ADA_80_PRO` any H100. Name a `GpuType` for one specific card.

    Attributes:
        memory_gb: GPU memory of the pool's cards in GB, None for `ANY`.
        usd_per_second: Price of one GPU of a worker, None where no price is published. See `PRICE_DATE`.
    """

    memory_gb: int | None
    usd_per_second: float | None

    #           value           GB    USD/s
    ANY = "any", None, None
    ADA_24 = "ADA_24", 24, 0.00031
    ADA_32_PRO = "ADA_32_PRO", 32, None
    ADA_48_PRO = "ADA_48_PRO", 48, 0.00053
    ADA_80_PRO = "ADA_80_PRO", 80, 0.00116
    AMPERE_16 = "AMPERE_16", 16, 0.00016
    AMPERE_24 = "AMPERE_24", 24, 0.00019
    AMPERE_48 = "AMPERE_48", 48, 0.00034
    AMPERE_80 = "AMPERE_80", 80, 0.00076
    HOPPER_141 = "HOPPER_141", 141, 0.00155
    BLACKWELL_96 = "BLACKWELL_96", 96, 0.00111
    BLACKWELL_180 = "BLACKWELL_180", 180, 0.0024

    # The defaults are for type checkers, which read `GpuGroup("ADA_24")` as a call of this.
    def __new__(cls, value: str, memory_gb: int | None = None, usd_per_second: float | None = None) -> GpuGroup:
        member = str.__new__(cls, value)
        member._value_ = value
        member.memory_gb = memory_gb
        member.usd_per_second = usd_per_second
        return member

    @property
    def usd_per_hour(self) -> float | None:
        """Price of one GPU of a running worker in USD an hour; None where none is published."""
        return None if self.usd_per_second is None else round(self.usd_per_second * 3600, 6)

    @property
    def types(self) -> tuple[GpuType, ...]:
        """The GPU types in this pool; for `ANY` all of them."""
        return tuple(gpu for gpu in GpuType.all() if self is GpuGroup.ANY or gpu.pool is self)

    @classmethod
    def all(cls) -> list[GpuGroup]:
        """Every pool, without `ANY`."""
        return [group for group in cls if group is not cls.ANY]


class GpuType(StrEnum):
    """One GPU model that a serverless pool holds. The value is the platform's id of the type.

    Attributes:
        memory_gb: GPU memory in GB, None for `ANY`.
        pool: The pool that holds it; `GpuGroup.ANY` for `ANY`.
        display: The short name that Runpod's console shows.
    """

    memory_gb: int | None
    pool: GpuGroup
    display: str

    ANY = "any", None, "ANY", "any GPU"
    NVIDIA_GEFORCE_RTX_4090 = "NVIDIA GeForce RTX 4090", 24, "ADA_24", "RTX 4090"
    NVIDIA_GEFORCE_RTX_5090 = "NVIDIA GeForce RTX 5090", 32, "ADA_32_PRO", "RTX 5090"
    NVIDIA_RTX_6000_ADA_GENERATION = "NVIDIA RTX 6000 Ada Generation", 48, "ADA_48_PRO", "RTX 6000 Ada"
    NVIDIA_L40 = "NVIDIA L40", 48, "ADA_48_PRO", "L40"
    NVIDIA_L40S = "NVIDIA L40S", 48, "ADA_48_PRO", "L40S"
    NVIDIA_RTX_PRO_6000_BLACKWELL_SERVER_EDITION = (
        "NVIDIA RTX PRO 6000 Blackwell Server Edition", 96, "BLACKWELL_96", "RTX PRO 6000",
    )  # fmt: skip
    NVIDIA_RTX_PRO_6000_BLACKWELL_WORKSTATION_EDITION = (
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 96, "BLACKWELL_96", "RTX PRO 6000 WK",
    )  # fmt: skip
    NVIDIA_RTX_PRO_6000_BLACKWELL_MAX_Q_WORKSTATION_EDITION = (
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 96, "BLACKWELL_96", "RTX PRO 6000 MaxQ",
    )  # fmt: skip
    NVIDIA_H100_80GB_HBM3 = "NVIDIA H100 80GB HBM3", 80, "ADA_80_PRO", "H100 SXM"
    NVIDIA_H100_PCIe = "NVIDIA H100 PCIe", 80, "ADA_80_PRO", "H100 PCIe"
    NVIDIA_H100_NVL = "NVIDIA H100 NVL", 94, "ADA_80_PRO", "H100 NVL"
    NVIDIA_RTX_A4000 = "NVIDIA RTX A4000", 16, "AMPERE_16", "RTX A4000"
    NVIDIA_RTX_A4500 = "NVIDIA RTX A4500", 20, "AMPERE_16", "RTX A4500"
    NVIDIA_RTX_4000_ADA_GENERATION = "NVIDIA RTX 4000 Ada Generation", 20, "AMPERE_16", "RTX 4000 Ada"
    NVIDIA_RTX_2000_ADA_GENERATION = "NVIDIA RTX 2000 Ada Generation", 16, "AMPERE_16", "RTX 2000 Ada"
    NVIDIA_RTX_A5000 = "NVIDIA RTX A5000", 24, "AMPERE_24", "RTX A5000"
    NVIDIA_L4 = "NVIDIA L4", 24, "AMPERE_24", "L4"
    NVIDIA_GEFORCE_RTX_3090 = "NVIDIA GeForce RTX 3090", 24, "AMPERE_24", "RTX 3090"
    NVIDIA_A40 = "NVIDIA A40", 48, "AMPERE_48", "A40"
    NVIDIA_RTX_A6000 = "NVIDIA RTX A6000", 48, "AMPERE_48", "RTX A6000"
    NVIDIA_A100_80GB_PCIe = "NVIDIA A100 80GB PCIe", 80, "AMPERE_80", "A100 PCIe"
    NVIDIA_A100_SXM4_80GB = "NVIDIA A100-SXM4-80GB", 80, "AMPERE_80", "A100 SXM"
    NVIDIA_H200 = "NVIDIA H200", 141, "HOPPER_141", "H200 SXM"
    NVIDIA_B200 = "NVIDIA B200", 180, "BLACKWELL_180", "B200"

    def __new__(cls, value: str, memory_gb: int | None = None, pool: str = "ANY", display: str = "") -> GpuType:
        member = str.__new__(cls, value)
        member._value_ = value
        member.memory_gb = memory_gb
        member.pool = GpuGroup[pool]
        member.display = display
        return member

    @property
    def usd_per_hour(self) -> float | None:
        """Price of one GPU of a running worker in USD an hour (that of its pool); None if unpublished."""
        return self.pool.usd_per_hour

    @classmethod
    def all(cls) -> list[GpuType]:
        """Every type, without `ANY`."""
        return [gpu for gpu in cls if gpu is not cls.ANY]


class CpuInstanceType(StrEnum):
    """A CPU worker: flavor, vCPUs and memory in one name, such as `cpu5c-4-8`.

    `cpu3g` has 4 GB of memory a vCPU, `cpu3c` and `cpu5c` have 2. No table of prices is published; the
    platform's catalog tells them.

    Attributes:
        flavor: Flavor id of REST v2.
        vcpu: Virtual CPUs.
        memory_gb: Memory in GB.
        max_disk_gb: Largest container disk in GB.
    """

    flavor: str
    vcpu: int
    memory_gb: int
    max_disk_gb: int

    CPU3G_1_4 = "cpu3g-1-4", 10
    CPU3G_2_8 = "cpu3g-2-8", 20
    CPU3G_4_16 = "cpu3g-4-16", 40
    CPU3G_8_32 = "cpu3g-8-32", 80
    CPU3C_1_2 = "cpu3c-1-2", 10
    CPU3C_2_4 = "cpu3c-2-4", 20
    CPU3C_4_8 = "cpu3c-4-8", 40
    CPU3C_8_16 = "cpu3c-8-16", 80
    CPU5C_1_2 = "cpu5c-1-2", 15
    CPU5C_2_4 = "cpu5c-2-4", 30
    CPU5C_4_8 = "cpu5c-4-8", 60
    CPU5C_8_16 = "cpu5c-8-16", 120

    def __new__(cls, value: str, max_disk_gb: int = 0) -> CpuInstanceType:
        member = str.__new__(cls, value)
        member._value_ = value
        parts = value.split("-")
        member.flavor = parts[0]
        member.vcpu = int(parts[1])
        member.memory_gb = int(parts[2])
        member.max_disk_gb = max_disk_gb
        return member

    @classmethod
    def all(cls) -> list[CpuInstanceType]:
        """Every CPU instance type."""
        return list(cls)


class DataCenter(StrEnum):
    """A place where workers and network volumes can be; the value is the platform's id.

    The union of Runpod's public lists as of 2026-08. Not every place offers serverless workers or network
    volumes at every moment: the platform refuses those that it does not have.
    """

    AP_IN_1 = "AP-IN-1"
    AP_IN_2 = "AP-IN-2"
    AP_JP_1 = "AP-JP-1"
    CA_MTL_1 = "CA-MTL-1"
    CA_MTL_2 = "CA-MTL-2"
    CA_MTL_3 = "CA-MTL-3"
    CA_MTL_4 = "CA-MTL-4"
    EU_CZ_1 = "EU-CZ-1"
    EU_FR_1 = "EU-FR-1"
    EU_NL_1 = "EU-NL-1"
    EU_RO_1 = "EU-RO-1"
    EU_SE_1 = "EU-SE-1"
    EUR_IS_1 = "EUR-IS-1"
    EUR_IS_2 = "EUR-IS-2"
    EUR_IS_3 = "EUR-IS-3"
    EUR_IS_4 = "EUR-IS-4"
    EUR_NO_1 = "EUR-NO-1"
    EUR_NO_2 = "EUR-NO-2"
    OC_AU_1 = "OC-AU-1"
    US_CA_2 = "US-CA-2"
    US_CO_1 = "US-CO-1"
    US_DE_1 = "US-DE-1"
    US_GA_1 = "US-GA-1"
    US_GA_2 = "US-GA-2"
    US_IL_1 = "US-IL-1"
    US_KS_2 = "US-KS-2"
    US_KS_3 = "US-KS-3"
    US_MD_1 = "US-MD-1"
    US_MO_1 = "US-MO-1"
    US_MO_2 = "US-MO-2"
    US_NC_1 = "US-NC-1"
    US_NC_2 = "US-NC-2"
    US_NE_1 = "US-NE-1"
    US_TX_1 = "US-TX-1"
    US_TX_3 = "US-TX-3"
    US_TX_4 = "US-TX-4"
    US_WA_1 = "US-WA-1"
    US_WA_2 = "US-WA-2"

    @classmethod
    def from_string(cls, value: str) -> DataCenter:
        """Return the data center that a text names, in any case, with `-` or `_`.

        Raises:
            ConfigError: No data center has that name; the message suggests close ones.
        """
        if isinstance(value, str):
            wanted = value.strip().upper().replace("_", "-")
            for center in cls:
                if center.value == wanted:
                    return center
        raise ConfigError(_unknown("datacenter", value, {center: [center.value] for center in cls}))

    @classmethod
    def all(cls) -> list[DataCenter]:
        """Every data center."""
        return list(cls)


#: Data centers where every CPU flavor is offered (runpod-flash 1.21; cpu3 flavors exist in more places).
CPU_DATACENTERS: Final[frozenset[DataCenter]] = frozenset({DataCenter.EU_RO_1})


#: Data centers whose network volumes have an S3 API (Runpod's documentation, 2026-08).
S3_DATACENTERS: Final[frozenset[DataCenter]] = frozenset(
    {
        DataCenter.EU_CZ_1,
        DataCenter.EU_RO_1,
        DataCenter.EUR_IS_1,
        DataCenter.EUR_NO_1,
        DataCenter.US_CA_2,
        DataCenter.US_GA_2,
        DataCenter.US_IL_1,
        DataCenter.US_KS_2,
        DataCenter.US_MD_1,
        DataCenter.US_MO_1,
        DataCenter.US_MO_2,
        DataCenter.US_NC_1,
        DataCenter.US_NC_2,
        DataCenter.US_NE_1,
        DataCenter.US_WA_1,
    }
)


class CudaVersion(StrEnum):
    """Lowest CUDA version that the driver of a worker's machine must support."""

    V11_8 = "11.8"
    V12_0 = "12.0"
    V12_1 = "12.1"
    V12_2 = "12.2"
    V12_3 = "12.3"
    V12_4 = "12.4"
    V12_5 = "12.5"
    V12_6 = "12.6"
    V12_7 = "12.7"
    V12_8 = "12.8"
    V12_9 = "12.9"
    V13_0 = "13.0"


class ServerlessScalerType(StrEnum):
    """What the number of workers follows."""

    #: Add workers when a job has waited longer than `scaler_value` seconds.
    QUEUE_DELAY = "QUEUE_DELAY"
    #: Keep one worker for each `scaler_value` jobs queued or running.
    REQUEST_COUNT = "REQUEST_COUNT"


class ServerlessType(StrEnum):
    """The two kinds of endpoint: a queue of jobs, or HTTP requests passed straight to a worker."""

    QB = "QB"
    LB = "LB"


def parse_gpus(value: object) -> tuple[GpuType | GpuGroup, ...]:
    """Return the GPUs that a value names, in the order given, each once.

    Args:
        value: A `GpuType` or `GpuGroup`; a text that is a value, a member name, or a fragment that fits only
            one of them, in any case (`"4090"`, `"ada_24"`, `"H100 SXM"`); or a sequence of these.

    Raises:
        ConfigError: A text fits none or several, the sequence is empty, or something else was given.
    """
    allowed = "a GpuType, a GpuGroup, the name of one, or a list of these"
    names: dict[GpuType | GpuGroup, list[str]] = {group: [group.value] for group in GpuGroup}
    names.update({gpu: [gpu.value, gpu.display] for gpu in GpuType.all()})
    return tuple(dict.fromkeys(_find("gpu", item, names) for item in _items("gpu", value, allowed)))


def parse_cpus(value: object) -> tuple[CpuInstanceType, ...]:
    """Return the CPU instance types that a value names, in the order given, each once.

    Args:
        value: A `CpuInstanceType`; a text that is a value, a member name, or a fragment that fits only one
            (`"cpu5c-4-8"`, `"CPU5C_4_8"`, `"5c-4"`); or a sequence of these.

    Raises:
        ConfigError: A text fits none or several, the sequence is empty, or something else was given.
    """
    allowed = "a CpuInstanceType, its value such as 'cpu5c-4-8', or a list of these"
    names = {cpu: [cpu.value] for cpu in CpuInstanceType}
    return tuple(dict.fromkeys(_find("cpu", item, names) for item in _items("cpu", value, allowed)))


def gpu_pools(gpus: Iterable[GpuType | GpuGroup]) -> tuple[list[str], list[str]]:
    """Return what REST v2 wants for a choice of GPUs: `pools` and `excludedTypes`.

    REST v2 selects by pool and subtracts types. A group keeps its pool whole; types leave out the rest of
    their pool; `ANY` means every pool. Pools come in the order in which the choice first names them.

    Raises:
        ConfigError: The choice is empty.
    """
    chosen = tuple(gpus)
    if not chosen:
        raise ConfigError("gpu=() names no GPU: name at least one, or GpuGroup.ANY for all of them")
    if any(gpu in (GpuGroup.ANY, GpuType.ANY) for gpu in chosen):
        return [group.value for group in GpuGroup.all()], []
    wanted: dict[GpuGroup, set[GpuType]] = {}
    for gpu in chosen:
        if isinstance(gpu, GpuGroup):
            wanted.setdefault(gpu, set()).update(gpu.types)
        else:
            wanted.setdefault(gpu.pool, set()).add(gpu)
    excluded = [gpu.value for pool, types in wanted.items() for gpu in pool.types if gpu not in types]
    return [pool.value for pool in wanted], excluded


def cpu_flavors(cpus: Iterable[CpuInstanceType]) -> list[dict[str, str | int]]:
    """Return what REST v2 wants for a choice of CPUs: `[{"id": flavor, "vcpuCount": n}]`, each once.

    REST v2 has no workers below `CPU_FLAVOR_MIN_VCPU`; smaller types ask for that many instead.

    Raises:
        ConfigError: The choice is empty.
    """
    chosen = tuple(cpus)
    if not chosen:
        raise ConfigError("cpu=() names no CPU instance type: name at least one, such as 'cpu5c-2-4'")
    counts: dict[tuple[str, int], None] = {}
    for cpu in chosen:
        counts[(cpu.flavor, max(cpu.vcpu, CPU_FLAVOR_MIN_VCPU))] = None
    return [{"id": flavor, "vcpuCount": vcpu} for flavor, vcpu in counts]


Member = TypeVar("Member", bound=StrEnum)


def _items(parameter: str, value: object, allowed: str) -> Sequence[str]:
    """One value or a sequence of them, as a sequence of texts (the members are texts) that is not empty."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{parameter}={value!r} is a {type(value).__name__}: give {allowed}")
    if not value:
        raise ConfigError(f"{parameter}={value!r} is empty: give {allowed}")
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise ConfigError(f"{parameter}[{index}]={item!r} is a {type(item).__name__}: give {allowed}")
    return value


def _find(parameter: str, text: str, names: Mapping[Member, Sequence[str]]) -> Member:
    """The one member that a text names: itself, its whole name, whole words of it, or a part of it."""
    for member in names:
        # `DataCenter.EU_RO_1` is a text too: a member of an enum stands for itself only.
        if type(member) is type(text) and member == text:
            return member
    wanted = _plain(text)
    plain = {member: [_plain(name) for name in (*known, member.name)] for member, known in names.items()}
    for fits in (_is_whole, _has_words, _has_part):
        found = [m for m, known in plain.items() if wanted and any(fits(wanted, name) for name in known)]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(repr(member.value) for member in found)
            raise ConfigError(f"{parameter}={text!r} fits {len(found)} names ({several}): write one in full")
    raise ConfigError(_unknown(parameter, text, names))


def _is_whole(wanted: str, name: str) -> bool:
    return name == wanted


def _has_words(wanted: str, name: str) -> bool:
    return f" {wanted} " in f" {name} "


def _has_part(wanted: str, name: str) -> bool:
    return wanted in name


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _unknown(parameter: str, value: object, names: Mapping[Member, Sequence[str]]) -> str:
    """The message for a value that names nothing: the closest names, else all of them."""
    import difflib  # only on the way to an error

    known: dict[str, str] = {}
    for member, spellings in names.items():
        for spelling in map(_plain, (*spellings, member.name)):
            # Single words as well, so that "H1000" finds the H100 although most of its name is missing.
            for part in (spelling, *(word for word in spelling.split() if not word.isalpha())):
                known.setdefault(part, member.value)
    text = _plain(value) if isinstance(value, str) else ""
    close = dict.fromkeys(known[name] for name in difflib.get_close_matches(text, known, n=3, cutoff=0.7))
    if close:
        hint = f"did you mean {' or '.join(map(repr, close))}?"
    else:
        hint = f"it may be one of {', '.join(member.value for member in names)}"
    return f"{parameter}={value!r} is unknown: {hint}"
