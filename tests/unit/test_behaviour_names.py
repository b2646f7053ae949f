# SPDX-License-Identifier: Apache-2.0
"""Names that a program written for `runpod_flash` 1.21 imports, and what those that are not here say."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flash_plugins

#: Everything that a program may import from both packages.
SHARED = (
    "Endpoint", "EndpointJob", "GpuGroup", "GpuType", "CpuInstanceType", "DataCenter", "NetworkVolume", "PodTemplate",
    "CudaVersion", "ServerlessScalerType", "ServerlessType", "CPU_DATACENTERS",
)  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_section_5_a_shared_name_is_public(name: str) -> None:
    assert getattr(flash_plugins, name) is not None
    assert name in flash_plugins.__all__


def test_section_5_what_has_no_counterpart_says_what_does_its_work() -> None:
    with pytest.raises(ImportError, match=r"no FlashApp: .*flash-plugins deploy"):
        exec("from flash_plugins import FlashApp", {})
    with pytest.raises(ImportError, match="FlashApp"):
        _ = flash_plugins.FlashApp
    with pytest.raises(AttributeError, match="LiveServerless"):
        _ = importlib.import_module("flash_plugins").LiveServerless


def test_section_5_importing_reads_no_env_file_and_sets_up_no_logging(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RUNPOD_API_KEY=rpa_from_a_file\n")
    program = (
        "import logging, os, warnings; warnings.simplefilter('error');"
        "import flash_plugins; flash_plugins.Endpoint; flash_plugins.EndpointJob;"
        "assert 'RUNPOD_API_KEY' not in os.environ; assert not logging.getLogger().handlers"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RUNPOD_API_KEY"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
