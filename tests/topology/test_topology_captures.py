"""Real outputs of ``nvidia-smi topo -m``: each says what its matrix shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpuplan.topology import load_topology, topology_from_dict, topology_report, topology_to_dict

pytestmark = pytest.mark.shared_data


@dataclass(frozen=True)
class Capture:
    """What one capture shows: pairs of some codes, one pair by name, and sizes of islands and classes."""

    file: str
    kind: str
    codes: dict[str, int]
    pair: tuple[int, int, str, float]  # two GPUs, their code, bandwidth in bytes/s
    islands: tuple[int, ...]
    classes: tuple[int, ...]
    nics: int


CAPTURES = [
    # 8 GPUs: 28 pairs, 12 links of 25 GB/s; all alike, whatever NIC is near.
    Capture("dgx_a100_8gpu_12nic.txt", "a100-sxm4-80gb", {"NV12": 28}, (0, 7, "NV12", 300e9), (8,), (8,), 12),
    # 18 links of 25 GB/s; the rows of NIC6-NIC11 are cut.
    Capture("dgx_h100_8gpu_12nic.txt", "h100-sxm5-80gb", {"NV18": 28}, (2, 5, "NV18", 450e9), (8,), (8,), 12),
    Capture(
        "a100_pcie_6gpu_nvlink_bridge_pairs.txt",
        "a100-pcie-40gb",
        # Bridges 0-3, 1-2, 4-5; NODE 0-1, 0-2, 3-4, 3-5; the other 8 of 15 pairs SYS.
        {"NV12": 3, "NODE": 4, "SYS": 8},
        (0, 3, "NV12", 300e9),
        (2, 2, 2),
        (1, 2, 1, 2),  # 1 and 2 see the same, so do 4 and 5; 0 and 3 do not
        1,
    ),
    Capture("a100_sxm4_4gpu_1nic_2numa.txt", "a100-sxm4-40gb", {"NV4": 6}, (0, 3, "NV4", 100e9), (4,), (4,), 1),
    Capture("a100_sxm4_4gpu_polaris_2nic.txt", "a100-sxm4-40gb", {"NV4": 6}, (1, 2, "NV4", 100e9), (4,), (4,), 2),
    Capture(
        "dgx1_v100_8gpu_topo_mp_pcie_only_view.txt",
        "v100-sxm2-16gb",
        # Four PIX pairs, two quads with 4 PHB pairs each, 4·4 pairs across the sockets.
        {"PIX": 4, "PHB": 8, "SYS": 16},
        (0, 1, "PIX", 13e9),
        (8,),
        (2, 2, 2, 2),
        4,
    ),
    Capture(
        "v100_sxm2_8gpu_hybrid_mesh_4nic.txt",
        "v100-sxm2-16gb",
        # Each GPU has two NV2 and two NV1 neighbours: 8·2/2 of each; the other 12 pairs NODE.
        {"NV2": 8, "NV1": 8, "NODE": 12},
        (1, 5, "NV2", 50e9),
        (8,),
        (1,) * 8,
        4,
    ),
    Capture(
        "v100_4gpu_nv1_nv2_1nic.txt", "v100-sxm2-32gb", {"NV1": 3, "NV2": 3}, (0, 3, "NV2", 50e9), (4,), (1,) * 4, 1
    ),
    Capture("rtx5090_2gpu_pcie_phb.txt", "rtx-5090-32gb", {"PHB": 1}, (0, 1, "PHB", 44e9), (2,), (2,), 0),
    Capture("rtx_pro_6000_4gpu_pcie_phb.txt", "rtx-pro-6000-96gb", {"PHB": 6}, (1, 3, "PHB", 44e9), (4,), (4,), 0),
]


def test_every_capture_is_listed(captures: Path) -> None:
    """No capture is left out of this file."""
    assert {path.name for path in captures.glob("*.txt")} == {capture.file for capture in CAPTURES}


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda capture: capture.file)
def test_a_capture_says_what_its_matrix_shows(captures: Path, capture: Capture) -> None:
    """Devices, the codes of all pairs, one pair's bandwidth, islands and classes are those of the text."""
    topology = load_topology(captures / capture.file, gpu=[capture.kind])
    report = topology_report(topology)
    count = int((1 + (1 + 8 * sum(capture.codes.values())) ** 0.5) / 2)  # pairs = n(n-1)/2
    assert [device["name"] for device in report["devices"]] == [f"host0/gpu{index}" for index in range(count)]
    assert Counter(pair["kind"] for pair in report["pairs"]) == capture.codes
    a, b, code, bandwidth = capture.pair
    pair = next(p for p in report["pairs"] if (p["a"], p["b"]) == (f"host0/gpu{a}", f"host0/gpu{b}"))
    assert (pair["kind"], pair["bandwidth_bytes_per_s"]) == (code, bandwidth)
    assert tuple(len(island["devices"]) for island in report["islands"]) == capture.islands
    assert tuple(len(group) for group in report["classes"]) == capture.classes
    assert sum(part.role == "nic" for part in topology.components) == capture.nics


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda capture: capture.file)
def test_a_capture_survives_the_round_trip(captures: Path, capture: Capture) -> None:
    """The normalised document of a capture reads back to an equal topology."""
    topology = load_topology(captures / capture.file, gpu=[capture.kind])
    assert topology_from_dict(topology_to_dict(topology)) == topology


def test_links_between_gpus_and_nics_are_graph_edges(captures: Path) -> None:
    """A DGX A100's 8 GPUs and 12 NICs make 28 + 8·12 links, and the near NIC is PXB."""
    topology = load_topology(captures / "dgx_a100_8gpu_12nic.txt", gpu=["a100-sxm4-80gb"])
    assert len(topology.links) == 28 + 96
    near = next(link for link in topology.links if (link.a, link.b) == ("host0/gpu0", "host0/mlx5_0"))
    assert near.code == "PXB"


def test_nic_codes_come_from_gpu_rows_where_nic_rows_are_cut(captures: Path) -> None:
    """NIC6 of the DGX H100 has no row, yet GPU4 reaches it by PXB."""
    topology = load_topology(captures / "dgx_h100_8gpu_12nic.txt", gpu=["h100"])
    link = next(link for link in topology.links if (link.a, link.b) == ("host0/gpu4", "host0/NIC6"))
    assert link.code == "PXB"


def test_more_links_than_the_kind_has_is_a_warning(captures: Path) -> None:
    """NV18 on an A100 is taken as it is, with one note."""
    topology = load_topology(captures / "dgx_h100_8gpu_12nic.txt", gpu=["a100-sxm4-80gb"])
    assert [note for note in topology.notes if "NV18" in note and "12 NVLinks" in note]
    assert topology.links[0].bandwidth_bytes_per_s == 18 * 25e9


def test_a_matrix_without_nvlink_on_an_nvlink_kind_is_remarked(captures: Path) -> None:
    """``topo -mp`` hides NVLink; the note names the option that shows it."""
    topology = load_topology(captures / "dgx1_v100_8gpu_topo_mp_pcie_only_view.txt", gpu=["v100-sxm2-16gb"])
    assert any("topo -m`" in note for note in topology.notes)


def test_the_first_line_a_person_types_works(captures: Path) -> None:
    """A capture replicated over a fabric joins its hosts through the NICs it names."""
    topology = load_topology(
        captures / "dgx_a100_8gpu_12nic.txt", gpu="a100-sxm4-80gb", hosts=2, fabric="infiniband-hdr"
    )
    report = topology_report(topology)
    across = [pair for pair in report["pairs"] if pair["a"].split("/")[0] != pair["b"].split("/")[0]]
    assert len(across) == 64
    assert {pair["kind"] for pair in across} == {"infiniband-hdr"}
    # 8 us to the near NIC (PXB), 4 us HDR, 8 us back.
    assert across[0]["latency_s"] == pytest.approx(20e-6)
