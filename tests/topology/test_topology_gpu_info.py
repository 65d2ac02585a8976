"""The reader of ``nvidia-smi --query-gpu=… --format=csv``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gpuplan.errors import InputError, UsageError
from gpuplan.topology import load_topology
from gpuplan.topology.catalog import load_catalog
from gpuplan.topology.readers.gpu_info import parse_gpu_info
from gpuplan.units import MIB

CSV = """index, name, memory.total [MiB], memory.free [MiB], power.limit [W]
0, NVIDIA A100-SXM4-40GB, 40960 MiB, 40000 MiB, 400.00 W
1, NVIDIA GeForce RTX 3090, 24576 MiB, 10000 MiB, 250.00 W
"""


def test_kinds_memory_and_caps_come_from_the_file(two_gpus: str, write: Callable[[str, str], Path]) -> None:
    """GPU0 gets 0.9 of its total, GPU1 what is free and its cap; a limit at the board's power is no cap."""
    topology = load_topology(write("topo.txt", two_gpus), gpu_info=write("gpus.csv", CSV))
    first, second = topology.devices
    assert (first.kind.name, first.available_bytes, first.power_cap_w) == ("a100-sxm4-40gb", 36864 * MIB, None)
    assert (second.kind.name, second.available_bytes, second.power_cap_w) == ("rtx-3090-24gb", 10000 * MIB, 250.0)


def test_a_file_without_units_and_with_na_is_read() -> None:
    """``nounits`` output and boards without a power reading are taken as they come."""
    text = "index, name, memory.total [MiB], memory.free [MiB], power.limit [W]\n0, Tesla T4, 15360, 15000, [N/A]\n"
    info = parse_gpu_info(text, load_catalog(), "gpus.csv")[0]
    assert (info.kind.name, info.total_bytes, info.power_limit_w) == ("t4-16gb", 15360 * MIB, None)


def test_every_driver_name_resolves_to_its_kind() -> None:
    """Each name the driver prints for a shipped kind is found, whatever its case."""
    catalog = load_catalog()
    for driver_name, kind in catalog.driver_names.items():
        assert catalog.kind(driver_name.upper()).name == kind


DEFECTS = {
    "column missing": (CSV.replace("name, ", "", 1), "column 'name'", "line 1"),
    "unknown name": (CSV.replace("RTX 3090", "RTX 9999"), "unknown GPU kind", "line 3"),
    "no index": (CSV.replace("0, NVIDIA A100", "x, NVIDIA A100"), "GPU index", "line 2"),
    "index twice": (CSV.replace("1, NVIDIA", "0, NVIDIA"), "appears twice", "line 3"),
    "memory no number": (CSV.replace("40960 MiB", "lots"), "memory.total in MiB", "line 2"),
    "memory zero": (CSV.replace("40960 MiB", "0 MiB"), "above 0", "line 2"),
    "memory negative": (CSV.replace("40960 MiB", "-1 MiB"), "memory.total in MiB", "line 2"),
    "memory not finite": (CSV.replace("40960 MiB", "nan"), "memory.total in MiB", "line 2"),
    "power in MiB": (CSV.replace("250.00 W", "250 MiB"), "power.limit in W", "line 3"),
    "nothing free": (CSV.replace("10000 MiB", "0 MiB"), "memory.free is 0", "line 3"),
    "value missing": (CSV.replace(", 250.00 W", ""), "expected 5 values", "line 3"),
}


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_a_defect_names_its_line(defect: str) -> None:
    """Each malformed table is refused with the line of the defect."""
    text, message, place = DEFECTS[defect]
    with pytest.raises(InputError, match=message) as caught:
        parse_gpu_info(text, load_catalog(), "gpus.csv")
    assert (caught.value.source, caught.value.place) == ("gpus.csv", place)


def test_a_header_alone_is_refused() -> None:
    """A table without GPUs says nothing."""
    with pytest.raises(InputError, match="only a header"):
        parse_gpu_info(CSV.splitlines()[0], load_catalog(), "gpus.csv")


def test_a_gpu_that_the_matrix_lacks_is_refused(two_gpus: str, write: Callable[[str, str], Path]) -> None:
    """The two files must speak of the same GPUs; a GPU the table lacks must be named by --gpu."""
    more = CSV + "2, Tesla T4, 15360 MiB, 15000 MiB, 70.00 W\n"
    with pytest.raises(UsageError, match="GPU 2"):
        load_topology(write("topo.txt", two_gpus), gpu_info=write("gpus.csv", more))
    fewer = "\n".join(CSV.splitlines()[:2])
    with pytest.raises(UsageError, match="GPU1"):
        load_topology(write("topo.txt", two_gpus), gpu_info=write("gpus.csv", fewer))
    both = load_topology(write("topo.txt", two_gpus), gpu_info=write("gpus.csv", fewer), gpu=["1=l4"])
    assert both.devices[1].kind.name == "l4-24gb"


def test_kinds_that_disagree_are_remarked(two_gpus: str, write: Callable[[str, str], Path]) -> None:
    """--gpu wins over the table, and a note says so."""
    topology = load_topology(write("topo.txt", two_gpus), gpu_info=write("gpus.csv", CSV), gpu=["0=a100-sxm4-80gb"])
    assert topology.devices[0].kind.name == "a100-sxm4-80gb"
    assert any("although --gpu-info calls it a100-sxm4-40gb" in note for note in topology.notes)
