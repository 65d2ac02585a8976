"""Slurm's switches, and cluster descriptions that put host files, racks and fabrics together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from gpuplan.errors import InputError, UsageError
from gpuplan.topology import (
    exchangeable_classes,
    exchangeable_hosts,
    failure_domains,
    islands,
    load_topology,
    route,
    topology_from_dict,
    topology_report,
    topology_to_dict,
)
from gpuplan.topology.readers.slurm import expand_names, read_slurm

Write = Callable[[str, str | bytes], Path]
TREE = "SwitchName=leaf0 Nodes=a[0-1]\nSwitchName=leaf1 Nodes=b0,b1\nSwitchName=top Switches=leaf[0-1]\n"


# --------------------------------------------------------------------------------------------------------------- Slurm


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("n[08-10,12],x", ["n08", "n09", "n10", "n12", "x"]),
        ("r[0-1]n[0-1]", ["r0n0", "r0n1", "r1n0", "r1n1"]),
        ("[1101-1102]", ["1101", "1102"]),
        ("", []),
    ],
)
def test_host_lists(text: str, names: list[str]) -> None:
    """Ranges keep their zeros; brackets multiply; commas separate outside brackets only."""
    assert expand_names(text) == names


@pytest.mark.shared_data
def test_the_tree_file(shared_data: Path) -> None:
    """12 leaves of 8 hosts, 6 spines over two leaves each, one core; 768 devices of which 8 a host are alike."""
    path = shared_data / "topology" / "cluster" / "topograph-expected.slinky-oci-sim-tree.conf"
    topology = load_topology(path, gpu="0-7=h100", fabric="infiniband-ndr")
    assert (topology.num_devices, len(topology.hosts)) == (768, 96)
    roles = Counter(part.role for part in topology.components if part.role != "device")
    assert roles == {"network_switch": 12 + 6 + 1, "nic": 96}
    assert len(topology.links) == 768 + 96 + 12 + 6
    assert len(failure_domains(topology, "rack")) == 12
    # To the NIC 9 µs, to the leaf 1.5, and back; one switch more each way under another leaf, two under another spine.
    for other, latency in (("srv1101", 18.0), ("srv1102", 21.0), ("srv1201", 21.5), ("srv2101", 22.0)):
        way = route(topology, "srv1101/gpu0", f"{other}/gpu1", 16384.0)
        assert way.latency_s == pytest.approx(latency * 1e-6)
        assert way.bandwidth_bytes_per_s == (44e9)  # the host bridge, below 48 GB/s of NDR
    assert [len(island.devices) for island in islands(topology)] == [8] * 96
    assert [len(group) for group in exchangeable_classes(topology)] == [8] * 96
    # Hosts under one leaf can be swapped.
    assert [len(group) for group in exchangeable_hosts(topology)] == [8] * 12


@pytest.mark.shared_data
def test_the_block_file(shared_data: Path) -> None:
    """12 blocks of 8 hosts below one core; a block is a failure domain."""
    path = shared_data / "topology" / "cluster" / "topograph-expected.slinky-dra-block.conf"
    topology = load_topology(path, gpu=["0-3=gb200"], fabric="infiniband-xdr")
    assert (topology.num_devices, len(topology.hosts)) == (384, 96)
    assert sum(part.role == "network_switch" for part in topology.components) == 13
    racks = failure_domains(topology, "rack")
    assert (len(racks), {len(devices) for devices in racks.values()}) == (12, {32})
    assert "srv6208/gpu3" in racks["rack62"]
    assert [len(group) for group in exchangeable_hosts(topology)] == [8] * 12


def test_a_slurm_file_alone_needs_devices_and_wires(write: Write) -> None:
    """It says how hosts are joined; the sentence tells how to say the rest."""
    path = write("topology.conf", TREE)
    for options in ({}, {"gpu": "0-7=h100"}, {"gpu": "h100", "fabric": "roce-100"}):
        with pytest.raises(UsageError, match=r"cluster description.*--gpu 0-7=KIND"):
            load_topology(path, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="from 0 on"):
        load_topology(path, gpu="1-3=h100", fabric="roce-100")
    with pytest.raises(UsageError, match="names its hosts"):
        load_topology(path, gpu="0=h100", fabric="roce-100", hosts=2)


SLURM_DEFECTS = {
    "loop": ("SwitchName=a Switches=b\nSwitchName=b Switches=a\nSwitchName=c Nodes=n\n", "loop"),
    "itself": ("SwitchName=a Switches=a\nSwitchName=c Nodes=n\n", "the switch a is under a"),
    "two parents": (f"{TREE}SwitchName=other Switches=leaf0\n", "under top and other"),
    "missing switch": ("SwitchName=a Switches=b\nSwitchName=c Nodes=n\n", "names the switch b, which is not there"),
    "host twice": ("SwitchName=a Nodes=n1\nSwitchName=b Nodes=n[0-1]\n", "n1 is under a and b"),
    "switch twice": ("SwitchName=a Nodes=n\nSwitchName=a Nodes=m\n", "a appears twice"),
    "nothing below": ("SwitchName=a\n", "neither Nodes nor Switches"),
    "no hosts": ("SwitchName=a Switches=b\nSwitchName=b Switches=a\n", "at least one host"),
    "switches and blocks": ("SwitchName=a Nodes=n\nBlockName=b Nodes=m\n", "switches or blocks, got both"),
    "unknown key": ("SwitchName=a Nodes=n Color=red\n", "unknown key 'color'"),
    "key twice": ("SwitchName=a Nodes=n Nodes=m\n", "Nodes appears twice"),
    "prose": ("SwitchName=a Nodes=n\nthe rest is on page 2\n", "expected SwitchName="),
    "open bracket": ("SwitchName=a Nodes=n[0-3\n", "brackets in pairs"),
    "bad range": ("SwitchName=a Nodes=n[3-1]\n", "a range such as"),
    "empty range": ("SwitchName=a Nodes=n[]\n", "a range such as"),
    "vast range": ("SwitchName=a Nodes=n[0-999999999]\n", "at most 16384 names"),
    "vast product": ("SwitchName=a Nodes=n[0-999][0-999][0-999]\n", "at most 16384 names"),
    "odd name": ("SwitchName=a Nodes=n/1\n", "expected a name, got 'n/1'"),
    "two names": ("SwitchName=a,b Nodes=n\n", "expected one name, got 2"),
}


@pytest.mark.parametrize("defect", SLURM_DEFECTS)
def test_a_broken_slurm_file_ends_in_one_sentence(defect: str, write: Write) -> None:
    """The line is named where there is one."""
    content, message = SLURM_DEFECTS[defect]
    with pytest.raises(InputError, match=message) as caught:
        load_topology(write("topology.conf", content), gpu="0=l4", fabric="roce-100")
    assert "\n" not in str(caught.value)


def test_slurm_comments_continuations_and_case() -> None:
    """As slurm.conf is written: any case, comments, lines that go on."""
    tree = read_slurm("# fabric\nswitchname=A nodes=n[1-2] LinkSpeed=100 # leaf\nSwitchName=B \\\n Nodes=n3\n")
    assert (tree.nodes, dict(tree.leaf_of)) == (("n1", "n2", "n3"), {"n1": "A", "n2": "A", "n3": "B"})


# ------------------------------------------------------------------------------------------------- cluster descriptions

HEAD = "schema: gpuplan/topology/1\n"
BOX = "\tGPU0\tGPU1\tmlx5_0\nGPU0\t X \tNV4\tPIX\nGPU1\tNV4\t X \tSYS\nmlx5_0\tPIX\tSYS\t X \n"


def test_a_host_file_times_sixteen_in_two_racks(write: Write) -> None:
    """The host × 16, in 2 racks, NDR InfiniBand, 1 NIC per GPU: 32 devices whose NICs are all alike."""
    write("box.txt", BOX)
    path = write(
        "cluster.yaml",
        f"{HEAD}file: box.txt\ngpu: a100-sxm4-80gb\nhosts: 16\nracks: 2\nnics: per_device\nfabric: infiniband-ndr\n",
    )
    topology = load_topology(path)
    assert (topology.num_devices, len(topology.hosts)) == (32, 16)
    assert sum(part.role == "nic" for part in topology.components) == 32
    assert [len(devices) for devices in failure_domains(topology, "rack").values()] == [16, 16]
    assert topology.device("host7/gpu1").rack == "rack0"
    assert topology.device("host8/gpu0").rack == "rack1"
    codes = Counter(pair["kind"] for pair in topology_report(topology)["pairs"])
    # 16 pairs inside; across, 25 GB/s of the GPU's own PCIe bound the 48 of NDR.
    assert codes == {"NV4": 16, "PXB": 32 * 31 // 2 - 16}
    assert any("NICs of the host's file are replaced" in note for note in topology.notes)
    assert topology_from_dict(topology_to_dict(topology)) == topology


@pytest.mark.shared_data
def test_a_vendor_file_gets_the_nvlinks_it_lacks(shared_data: Path, write: Write) -> None:
    """AWS's file of a p4d shows PCIe alone; the description adds the NVSwitch and keeps the rest."""
    file = shared_data / "topology" / "nccl-xml" / "aws-p4d-24xl-topo.xml"
    path = write("c.yaml", f"{HEAD}file: {file}\ngpu: a100-sxm4-40gb\nnvswitch: 12\nhosts: 2\nfabric: efa-100\n")
    topology = load_topology(path)
    codes = Counter(pair["kind"] for pair in topology_report(topology)["pairs"])
    assert codes["NV12"] == 2 * 28
    assert sum(codes.values()) == 120
    assert [island.kind for island in islands(topology)] == ["nvlink", "nvlink"]
    assert sum(part.role == "socket" for part in topology.components) == 4


def test_hosts_of_several_files_and_a_slurm_fabric(write: Write) -> None:
    """Hosts take the names and racks of the Slurm file, in its order."""
    write("box.txt", BOX)
    write("topology.conf", TREE)
    path = write(
        "c.yaml",
        f"{HEAD}hosts:\n  - {{file: box.txt, gpu: [0=a100-sxm4-40gb, 1=a100-sxm4-80gb], count: 3}}\n"
        "  - {file: 8xl4}\nfabric: {kind: infiniband-hdr, file: topology.conf}\n",
    )
    topology = load_topology(path)
    assert topology.hosts == ("a0", "a1", "b0", "b1")
    assert [topology.device(f"{host}/gpu0").rack for host in topology.hosts] == ["leaf0", "leaf0", "leaf1", "leaf1"]
    assert topology.device("b1/gpu7").kind.name == "l4-24gb"
    near = route(topology, "a0/gpu0", "a1/gpu0", 1e6).latency_s
    assert route(topology, "a0/gpu0", "b0/gpu0", 1e6).latency_s == pytest.approx(near + 2 * 0.25e-6)


def test_hosts_may_be_left_to_the_slurm_file(write: Write) -> None:
    """One host described, as many as the file names."""
    write("topology.conf", TREE)
    path = write(
        "c.yaml",
        f"{HEAD}devices: [{{kind: l4, count: 2}}]\ndefault_link: PHB\n"
        "fabric: {kind: roce-100, file: topology.conf}\n",
    )
    assert load_topology(path).num_devices == 8


def test_a_gb200_tray_times_eighteen_is_one_domain(write: Write) -> None:
    """NV18 within a tray, SYS to its NICs; over NVLink all 72 are one island and one class."""
    rows = "".join(
        f"GPU{i}\t" + "\t".join(" X " if i == j else "NV18" for j in range(4)) + "\tSYS\tSYS\t0-71\t0,2-17\t\tN/A\n"
        for i in range(4)
    )
    text = "\tGPU0\tGPU1\tGPU2\tGPU3\tNIC0\tNIC1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n" + rows
    text += "NIC0\tSYS\tSYS\tSYS\tSYS\t X \tSYS\nNIC1\tSYS\tSYS\tSYS\tSYS\tSYS\t X \n\nNIC Legend:\n\n  NIC0: mlx5_0\n"
    tray = load_topology(write("tray.txt", text), gpu="gb200", hosts=18, fabric="nvlink5")
    assert [(island.kind, len(island.devices)) for island in islands(tray)] == [("nvlink", 72)]
    assert {pair["kind"] for pair in topology_report(tray)["pairs"]} == {"NV18"}
    assert [len(group) for group in exchangeable_classes(tray)] == [72]


def test_two_nvl72_racks() -> None:
    """NVLink within each rack and InfiniBand between: two islands, two classes of 72, two failure domains."""
    topology = load_topology("2x-gb200-nvl72")
    assert [len(island.devices) for island in islands(topology)] == [72, 72]
    assert [len(group) for group in exchangeable_classes(topology)] == [72, 72]
    assert [len(devices) for devices in failure_domains(topology, "rack").values()] == [72, 72]
    assert route(topology, "host0/gpu0", "host17/gpu3", 1e6).bandwidth_bytes_per_s == 900e9
    assert route(topology, "host0/gpu0", "host18/gpu0", 1e6).bandwidth_bytes_per_s == 48e9  # NDR
    assert len(failure_domains(topology, "host")) == 36
    assert len(failure_domains(topology, "device")) == 144
    with pytest.raises(UsageError, match="expected one of device, host, rack"):
        failure_domains(topology, "row")  # type: ignore[arg-type]


DESCRIPTION_DEFECTS = {
    "file and devices": ("file: box.txt\ngpu: l4\ndevices: [{kind: l4}]\n", "give one of 'file' and 'devices'"),
    "gpu without file": ("devices: [{kind: l4}]\ngpu: l4\n", "of a 'file' are"),
    "missing file": ("file: none.txt\n", "no such file"),
    "kind not told": ("file: box.txt\n", "--gpu KIND"),
    "itself": ("file: c.yaml\n", "in memory has no folder"),
    "unknown cluster": ("file: dgx-x100\n", "unknown cluster 'dgx-x100'"),
    "cluster of hosts": ("file: 2x-dgx-h100\n", "a file of one host, got 2 hosts"),
    "NVSwitch twice": ("file: dgx-h100\nnvswitch: 18\n", "has an NVSwitch already"),
    "kind told twice": ("file: dgx-h100\ngpu: h100\n", "leave it out"),
    "racks and rack": ("devices: [{kind: l4}]\nhosts: 2\nracks: 2\nrack: r\nfabric: none\n", "give one of 'rack'"),
    "too many racks": ("devices: [{kind: l4}]\nhosts: 2\nracks: 3\nfabric: none\n", "from 1 to 2, got 3"),
    "rack fabric without racks": ("devices: [{kind: gb200}]\nhosts: 2\nrack_fabric: nvlink5\n", "no rack"),
    "rack fabric of wires": (
        "devices: [{kind: gb200}]\nhosts: 2\nracks: 2\nrack_fabric: roce-100\n", "expected a kind of NVLink"),
    "Slurm file of another size": (
        "devices: [{kind: l4}]\nhosts: 3\nfabric: {kind: roce-100, file: t.conf}\n", "has 4 hosts, the description 3"),
    "Slurm file that is none": (
        "devices: [{kind: l4}]\nfabric: {kind: roce-100, file: box.txt}\n", "expected a Slurm topology.conf"),
    "fabric file without a kind": ("devices: [{kind: l4}]\nfabric: {file: t.conf}\n", "needs a 'kind'"),
    "number for a file": ("file: 3\n", "expected non-empty text"),
    "number for gpu": ("file: box.txt\ngpu: 3\n", "expected a list, got 3"),
}  # fmt: skip


@pytest.mark.parametrize("defect", DESCRIPTION_DEFECTS)
def test_a_broken_description_ends_in_one_sentence(defect: str, write: Write) -> None:
    """Every key says what it expects."""
    content, message = DESCRIPTION_DEFECTS[defect]
    write("box.txt", BOX)
    write("t.conf", TREE)
    with pytest.raises(InputError, match=message) as caught:
        load_topology(write("c.yaml", HEAD + content))
    assert "\n" not in str(caught.value)


def test_a_document_in_memory_names_no_files() -> None:
    """It has no folder to start from."""
    for part in ({"file": "box.txt"}, {"devices": [{"kind": "l4"}], "fabric": {"kind": "roce-100", "file": "t"}}):
        with pytest.raises(InputError, match="in memory has no folder"):
            topology_from_dict({"schema": "gpuplan/topology/1", **part})


# ----------------------------------------------------------------------------------------------------------- nvidia-smi


def test_a_missing_gpu_keeps_the_indices_of_the_others(write: Write) -> None:
    """GPU1 fell off the bus: GPU0 and GPU2 keep their names, and kinds are told by index."""
    text = "\tGPU0\tGPU2\tCPU Affinity\nGPU0\t X \tNV4\t0-3\nGPU2\tNV4\t X \t0-3\n"
    topology = load_topology(write("t.txt", text), gpu=["0=a40", "2=a6000"])
    assert [device.name for device in topology.devices] == ["host0/gpu0", "host0/gpu2"]
    with pytest.raises(UsageError, match="not there"):
        load_topology(write("t.txt", text), gpu=["0-1=a40", "2=a6000"])


def test_a_mig_slice_is_no_gpu(write: Write) -> None:
    """A slice's name in --gpu-info is refused with the way to describe it."""
    write("t.txt", "\tGPU0\nGPU0\t X \n")
    info = "index, name, memory.total [MiB]\n0, NVIDIA A100-SXM4-80GB MIG 3g.40gb, 40192 MiB\n"
    with pytest.raises(InputError, match=r"a slice of a GPU.*'kinds'"):
        load_topology(write("t.txt", "\tGPU0\nGPU0\t X \n"), gpu_info=write("i.csv", info))
