# SPDX-License-Identifier: Apache-2.0
"""What workers in a stock image are told to install so that they can start."""

from __future__ import annotations

import flash_plugins
from flash_plugins import EndpointConfig
from flash_plugins.platforms.packages import worker_packages

VERSION = flash_plugins.__version__


def config(**parameters: object) -> EndpointConfig:
    return EndpointConfig.from_parameters("e", parameters)


def test_workers_of_a_queue_get_the_official_loop() -> None:
    assert worker_packages(config()) == f"flash-plugins[worker]=={VERSION}"


def test_workers_that_serve_routes_get_a_server_too() -> None:
    assert worker_packages(config(), is_balanced=True) == f"flash-plugins[worker,http]=={VERSION}"


def test_dependencies_are_installed_by_uv_unless_downloads_are_not_to_be_accelerated() -> None:
    assert worker_packages(config(dependencies=["idna"])).split()[1:] == ["uv"]
    assert worker_packages(config(dependencies=["idna"], accelerate_downloads=False)).split()[1:] == []


def test_adapters_in_use_come_along() -> None:
    found = worker_packages(config().with_packages(["flash_joblib"])).split()
    assert f"flash-plugins-joblib=={VERSION}" in found
