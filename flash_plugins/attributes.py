# SPDX-License-Identifier: Apache-2.0
"""What can be read off an `Endpoint`: its parameters as they were given, under the names that `runpod_flash` has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .config import EndpointConfig
from .hardware import CudaVersion, DataCenter, ServerlessScalerType
from .routes import RouteTable

if TYPE_CHECKING:
    from .resources import NetworkVolume, PodTemplate

__all__ = ["EndpointAttributes"]


class EndpointAttributes:
    """The part of `Endpoint` that only tells.

    Attributes:
        config: Every parameter, checked; what the platform is asked for.
        routes: The routes that were declared.
    """

    def __init__(self, config: EndpointConfig, given: Mapping[str, Any]) -> None:
        self.config = config
        self.routes = RouteTable()
        self._given = dict(given)

    def _as_given(self, name: str, default: Any = None) -> Any:
        """Return a parameter as the user wrote it."""
        given = self._given.get(name)
        return default if given is None else given

    @property
    def name(self) -> str | None:
        """Name of the endpoint; None until something is decorated, unless it was given."""
        return self.config.name

    @property
    def id(self) -> str | None:
        """Id of the existing endpoint that this is a client of, else None."""
        return self.config.id

    @property
    def image(self) -> str | None:
        """Container image that this is a client of, else None."""
        return self.config.image

    @property
    def is_client(self) -> bool:
        """Whether this is the client of an existing endpoint or of an image, rather than where code is sent."""
        return self.config.id is not None or self.config.image is not None

    @property
    def is_cpu(self) -> bool:
        """Whether CPU workers were asked for."""
        return bool(self.config.cpu)

    @property
    def is_load_balanced(self) -> bool:
        """Whether it has routes, or its functions are called by `transport="load_balanced"`."""
        return len(self.routes) > 0 or self.transport == "load_balanced"

    @property
    def workers_min(self) -> int:
        """Workers that are always kept."""
        return self.config.workers[0]

    @property
    def workers_max(self) -> int:
        """Most workers at a time."""
        return self.config.workers[1]

    @property
    def idle_timeout(self) -> int:
        """Seconds after which an idle worker stops."""
        return self.config.idle_timeout

    @property
    def scaler_type(self) -> ServerlessScalerType:
        """What the number of workers follows: as given, else REQUEST_COUNT with routes and QUEUE_DELAY without."""
        if self.config.has_default_scaler_type and self.is_load_balanced:
            return ServerlessScalerType.REQUEST_COUNT
        return self.config.scaler_type

    @property
    def scaler_value(self) -> float:
        """Seconds of waiting, or requests per worker, at which workers are added."""
        return self.config.scaler_value

    @property
    def max_concurrency(self) -> int:
        """Calls that one worker runs at once."""
        return self.config.max_concurrency

    @property
    def transport(self) -> str:
        """How calls of decorated functions get to workers: `queue` or `load_balanced`."""
        return self.config.transport

    @property
    def dependencies(self) -> Sequence[str] | str | None:
        """Packages that workers install, as given."""
        given: Sequence[str] | str | None = self._as_given("dependencies")
        return given

    @property
    def system_dependencies(self) -> Sequence[str] | None:
        """System packages that workers install, as given."""
        given: Sequence[str] | None = self._as_given("system_dependencies")
        return given

    @property
    def accelerate_downloads(self) -> bool:
        """Whether workers may use faster ways to download."""
        return self.config.accelerate_downloads

    @property
    def volume(self) -> list[NetworkVolume] | None:
        """Network volumes, None for none."""
        return list(self.config.volume) or None

    @property
    def datacenter(self) -> Any:
        """Data centers as given; all of them for GPU endpoints where none were, None for CPU and existing ones."""
        given = self._given.get("datacenter")
        if given or self.is_cpu or self.config.id is not None:
            return given
        return DataCenter.all()

    @property
    def env(self) -> Mapping[str, str] | None:
        """Environment of the workers, as given."""
        given: Mapping[str, str] | None = self._as_given("env")
        return given

    @property
    def gpu_count(self) -> int:
        """GPUs per worker."""
        return self.config.gpu_count

    @property
    def execution_timeout_ms(self) -> int:
        """Longest run of one call in milliseconds, 0 for no limit."""
        return self.config.execution_timeout_ms

    @property
    def flashboot(self) -> bool:
        """Whether Runpod may revive stopped workers."""
        return self.config.flashboot

    @property
    def template(self) -> PodTemplate | None:
        """Settings of the container, None for none."""
        template: PodTemplate | None = self._as_given("template")
        return template

    @property
    def min_cuda_version(self) -> CudaVersion | str:
        """Lowest CUDA version of the GPU machines, as given."""
        version: CudaVersion | str = self._as_given("min_cuda_version", CudaVersion.V12_8)
        return version

    @property
    def python_version(self) -> str | None:
        """Python of the workers, None for the caller's."""
        return self.config.python_version
