"""Fixtures of the topology tests: captured matrices, and small texts and files made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def captures(shared_data: Path) -> Path:
    """Folder with real outputs of ``nvidia-smi topo -m``."""
    return shared_data / "topology" / "nvidia-smi-topo"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file of a name and content and return its path."""

    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.fixture
def two_gpus() -> str:
    """Return the smallest matrix: two GPUs joined by four NVLinks, one NIC."""
    return (
        "\tGPU0\tGPU1\tmlx5_0\tCPU Affinity\tNUMA Affinity\n"
        "GPU0\t X \tNV4\tPIX\t0-15\t0\n"
        "GPU1\tNV4\t X \tSYS\t16-31\t1\n"
        "mlx5_0\tPIX\tSYS\t X \n"
        "\nLegend:\n\n  X    = Self\n"
    )
