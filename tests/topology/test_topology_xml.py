"""Real NCCL, RCCL and hwloc files: each says what its elements say; broken ones end in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpuplan.errors import InputError, UsageError
from gpuplan.topology import load_topology, topology_from_dict, topology_report, topology_to_dict

Write = Callable[[str, str | bytes], Path]


@dataclass(frozen=True)
class Dump:
    """What one file says: relays by role, codes (or kinds) of all pairs, one pair's numbers, islands, classes."""

    file: str
    kind: str | None
    relays: dict[str, int]
    codes: dict[str, int]
    pair: tuple[int, int, str, float, float]  # two GPUs, code or kind, GB/s, µs
    islands: tuple[tuple[str, int], ...]
    classes: tuple[int, ...]
    note: str = ""


P4D = {"socket": 2, "pcie_switch": 4, "nic": 4}
#: Two pairs under a switch at each of two sockets: 4 PIX, 2·4 PHB, 4·4 SYS.
P4D_CODES = {"PIX": 4, "PHB": 8, "SYS": 16}
DUMPS = [
    # The file says 8 GT/s x16 although an A100 can do 16: taken as said, 13 GB/s under a switch of generation 3.
    Dump("nccl-xml/aws-p4d-24xl-topo.xml", "a100-sxm4-40gb", P4D, P4D_CODES, (0, 1, "PIX", 13, 7),
         (("pcie", 8),), (2, 2, 2, 2), "15.8 GB/s"),
    Dump("nccl-xml/aws-p4de-24xl-topo.xml", "a100-sxm4-80gb", P4D, P4D_CODES, (2, 4, "SYS", 8, 12),
         (("pcie", 8),), (2, 2, 2, 2), "no NVLink or XGMI"),
    # Eight switches with one GPU and four NICs each at one socket; a switch's uplink is generation 4: 22 GB/s.
    Dump("nccl-xml/aws-p5.48xl-topo.xml", "h100-sxm5-80gb", {"socket": 1, "pcie_switch": 8, "nic": 32}, {"PHB": 28},
         (0, 7, "PHB", 22, 9), (("pcie", 8),), (8,)),
    # One GPU at each of four NUMA nodes, no link speed said (16 GB/s: generation 4 between sockets), eth0 at node 0.
    Dump("nccl-xml/azure-ncv4-topo.xml", "a100-pcie-80gb", {"socket": 4, "nic": 1}, {"SYS": 6},
         (0, 3, "SYS", 16, 12), (("pcie", 4),), (4,), "lead back to themselves"),
    # Four GPUs at each of two sockets; the file says 16 GT/s, a V100 does 8.
    Dump("nccl-xml/azure-ndv2-topo.xml", "v100-sxm2-32gb", {"socket": 2, "nic": 1}, {"PHB": 12, "SYS": 16},
         (0, 1, "PHB", 11, 9), (("pcie", 8),), (4, 4)),
    Dump("nccl-xml/azure-ndv4-topo.xml", "a100-sxm4-40gb", {"socket": 4, "pcie_switch": 4, "nic": 8},
         {"PIX": 4, "SYS": 24}, (0, 1, "PIX", 26, 7), (("pcie", 8),), (2, 2, 2, 2)),
    # Dies of one board: 4 links of 50 GB/s; 28 of 120 pairs have XGMI; two switches below one under each socket.
    Dump("nccl-xml/rccl-topo_16p1h.xml", "mi250-gcd-64gb", {"socket": 4, "pcie_switch": 12, "nic": 8},
         {"xgmi3": 28, "PXB": 10, "SYS": 82}, (0, 1, "xgmi3", 200, 6), (("xgmi", 16),), (1,) * 16, "dev 0, 1, … are"),
    Dump("nccl-xml/rccl-topo_3p_pcie.xml", "mi210-64gb", {"socket": 2, "nic": 1}, {"PHB": 1, "SYS": 2},
         (1, 2, "PHB", 22, 9), (("pcie", 3),), (1, 2)),
    Dump("nccl-xml/rccl-topo_4p3l.xml", "mi100-32gb", {"socket": 1, "pcie_switch": 1, "nic": 2}, {"xgmi2": 6},
         (0, 3, "xgmi2", 46, 6), (("xgmi", 4),), (4,)),
    Dump("nccl-xml/rccl-topo_4p_940.xml", "mi300a-128gb", {"socket": 4, "nic": 4}, {"xgmi4": 6},
         (0, 3, "xgmi4", 64, 6), (("xgmi", 4),), (4,), "speed of 200000000 Mb/s"),
    # Six links a GPU: 8·6/2 pairs; the other four cross the sockets.
    Dump("nccl-xml/rccl-topo_8p6l.xml", "mi100-32gb", {"socket": 2, "nic": 1}, {"xgmi2": 24, "SYS": 4},
         (0, 1, "xgmi2", 46, 6), (("xgmi", 8),), (2, 2, 2, 2)),
    # Three links a GPU: 8·3/2 pairs; the other 16 meet at the one socket.
    Dump("nccl-xml/rccl-topo_8p_90a.xml", "mi210-64gb", {"socket": 1, "nic": 1}, {"xgmi3": 12, "PHB": 16},
         (0, 1, "xgmi3", 50, 6), (("xgmi", 8),), (1,) * 8),
    Dump("nccl-xml/rccl-topo_8p_940.xml", "mi300x-192gb", {"socket": 2, "pcie_switch": 8, "nic": 8}, {"xgmi4": 28},
         (0, 7, "xgmi4", 64, 6), (("xgmi", 8),), (8,)),
    # Two switches with four GPUs each at one socket: 2·6 PIX, 4·4 PHB.
    Dump("nccl-xml/rccl-topo_8p_pcie.xml", "mi60-32gb", {"socket": 1, "pcie_switch": 2, "nic": 1},
         {"PIX": 12, "PHB": 16}, (0, 7, "PHB", 11, 9), (("pcie", 8),), (4, 4)),
    # Two rings of four: 2·4 pairs; three GPUs of a ring share a socket, so one pair each is PHB.
    Dump("nccl-xml/rccl-topo_8p_ts1.xml", "mi60-32gb", {"socket": 4, "nic": 2}, {"xgmi1": 8, "PHB": 2, "SYS": 18},
         (0, 2, "xgmi1", 46, 6), (("xgmi", 4), ("xgmi", 4)), (2, 2, 2, 2)),
    # No PCI device in the capture; the firmware's product name tells the one GPU.
    Dump("hwloc/nvidia-dgx-gb10.xml", None, {"socket": 1}, {}, (0, 0, "", 0, 0), (("pcie", 1),), (1,), "DGX Spark"),
    # Six NVSwitches of 25 GB/s for each board of eight; the matrix has no link between the boards.
    Dump("hwloc/nvidiaDGX2.xml", None, {"socket": 2, "pcie_switch": 16, "nvswitch": 2}, {"NV6": 56, "SYS": 64},
         (0, 7, "NV6", 150, 6), (("nvlink", 8), ("nvlink", 8)), (8, 8), "2 groups of NVSwitches"),
]  # fmt: skip


@pytest.mark.shared_data
def test_every_file_is_listed(shared_data: Path) -> None:
    """No capture is left out, but for the graph file."""
    folder = shared_data / "topology"
    files = {f"{kind}/{path.name}" for kind in ("nccl-xml", "hwloc") for path in (folder / kind).glob("*.xml")}
    assert files == {dump.file for dump in DUMPS} | {"nccl-xml/azure-ncv4-graph.xml"}


@pytest.mark.shared_data
@pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: dump.file)
def test_a_dump_says_what_its_elements_say(shared_data: Path, dump: Dump) -> None:
    """Devices, relays, codes of all pairs, one pair's numbers, islands, classes, remarks, and the way back."""
    topology = load_topology(shared_data / "topology" / dump.file, gpu=[dump.kind] if dump.kind else [])
    report = topology_report(topology)
    count = topology.num_devices
    assert count * (count - 1) // 2 == sum(dump.codes.values())
    assert [device["name"] for device in report["devices"]] == [f"host0/gpu{index}" for index in range(count)]
    assert {device["kind"] for device in report["devices"]} == {dump.kind or report["devices"][0]["kind"]}
    assert Counter(part.role for part in topology.components if part.role != "device") == dump.relays
    assert Counter(pair["kind"] for pair in report["pairs"]) == dump.codes
    a, b, code, rate, latency = dump.pair
    for pair in report["pairs"]:
        if (pair["a"], pair["b"]) == (f"host0/gpu{a}", f"host0/gpu{b}"):
            assert (pair["kind"], pair["bandwidth_bytes_per_s"]) == (code, pytest.approx(rate * 1e9))
            assert pair["latency_s"] == pytest.approx(latency * 1e-6)
    assert tuple((island["kind"], len(island["devices"])) for island in report["islands"]) == dump.islands
    assert tuple(len(group) for group in report["classes"]) == dump.classes
    assert dump.note in " ".join(topology.notes)
    assert topology_from_dict(topology_to_dict(topology)) == topology


@pytest.mark.shared_data
def test_the_kinds_of_hwloc_files_come_from_the_files(shared_data: Path) -> None:
    """The model name of NVML, and the product of a machine without PCI."""
    folder = shared_data / "topology" / "hwloc"
    assert load_topology(folder / "nvidiaDGX2.xml").devices[0].kind.name == "v100-sxm3-32gb"
    assert load_topology(folder / "nvidia-dgx-gb10.xml").devices[0].kind.name == "gb10-128gb"
    told = load_topology(folder / "nvidiaDGX2.xml", gpu=["3=v100-sxm2-32gb"])
    assert told.devices[3].kind.name == "v100-sxm2-32gb"
    assert any("GPU3 is taken as v100-sxm2-32gb" in note for note in told.notes)


@pytest.mark.shared_data
def test_a_graph_file_is_refused(shared_data: Path) -> None:
    """What NCCL chose is no topology; the sentence names the file that is."""
    with pytest.raises(InputError, match="NCCL_TOPO_DUMP_FILE"):
        load_topology(shared_data / "topology" / "nccl-xml" / "azure-ncv4-graph.xml", gpu="a100-pcie-80gb")


@pytest.mark.shared_data
def test_a_kind_that_is_not_told_or_does_not_fit(shared_data: Path) -> None:
    """Without --gpu the hint of the file names likely kinds; with one of another architecture a note warns."""
    p5 = shared_data / "topology" / "nccl-xml" / "aws-p5.48xl-topo.xml"
    with pytest.raises(UsageError, match=r"sm 90: h100-sxm5-80gb.*--gpu KIND"):
        load_topology(p5)
    assert any("sm 90" in note and "ampere" in note for note in load_topology(p5, gpu="a100-sxm4-80gb").notes)
    assert not any("sm 90" in note for note in load_topology(p5, gpu="h100").notes)


# ------------------------------------------------------------------------------------------------- small hand-made ones


def nccl(inner: str, version: str = "1") -> str:
    """Return a topology of one socket."""
    return f'<system version="{version}"><cpu numaid="0">{inner}</cpu></system>'


def gpu(bus: str, inner: str = "", **more: str) -> str:
    """Return a GPU at PCI bus `bus`."""
    extra = "".join(f' {key}="{value}"' for key, value in more.items())
    return f'<pci busid="0000:{bus}:00.0" class="0x030200" link_speed="16 GT/s" link_width="16"{extra}>{inner}</pci>'


NVSWITCH = '<gpu dev="{}" sm="90"><nvlink target="fffffff:ffff:ff" count="6" tclass="0x068000"/></gpu>'


def test_nvswitch_links_become_one_switch(write: Write) -> None:
    """Counts of several NVSwitches add up: 6 + 12 links of 25 GB/s, 5 µs through the switch."""
    second = NVSWITCH.format(1).replace(
        "</gpu>", '<nvlink target="0" count="12" tclass="0x068000"/></gpu>'
    )  # fmt: skip
    first = NVSWITCH.format(0).replace('count="6"', 'count="18"')
    topology = load_topology(write("t.xml", nccl(gpu("01", first) + gpu("02", second))), gpu="h100")
    (pair,) = topology_report(topology)["pairs"]
    assert (pair["kind"], pair["bandwidth_bytes_per_s"], pair["latency_s"]) == ("NV18", 450e9, pytest.approx(5e-6))


def test_gpus_are_numbered_in_pci_order(write: Write) -> None:
    """The driver counts by PCI address, whatever the order in the file and its dev attributes."""
    topology = load_topology(
        write("t.xml", nccl(gpu("81", '<gpu dev="0"/>') + gpu("01", '<gpu dev="1"/>'))), gpu=["0=t4", "1=l4"]
    )
    assert [device.kind.name for device in topology.devices] == ["t4-16gb", "l4-24gb"]
    assert any("GPU 1, 0 here" in note for note in topology.notes)


def test_a_rack_scale_file_has_several_hosts(write: Write) -> None:
    """Sockets of two host hashes are two hosts; their NVSwitch belongs to neither."""
    cpu = '<cpu host_hash="{}" numaid="0">{}</cpu>'
    content = f'<system version="1">{cpu.format("0xa", gpu("01", NVSWITCH.format(0)))}'
    content += f"{cpu.format('0xb', gpu('01', NVSWITCH.format(0)))}</system>"
    topology = load_topology(write("t.xml", content), gpu="gb200")
    assert topology.hosts == ("host0", "host1")
    assert [part.host for part in topology.components if part.role == "nvswitch"] == [None]
    (pair,) = topology_report(topology)["pairs"]
    assert (pair["kind"], pair["bandwidth_bytes_per_s"]) == ("NV6", 300e9)


def test_chip_to_chip_links_reach_the_socket_and_make_no_island(write: Write) -> None:
    """NVLink-C2C of two GH200 joins each GPU to the CPU at 450 GB/s; the GPUs are no NVLink island."""
    c2c = '<gpu dev="{}" sm="90"><c2c bw="450000" count="1"/></gpu>'
    topology = load_topology(write("t.xml", nccl(gpu("01", c2c.format(0)) + gpu("02", c2c.format(1)))), gpu="gh200")
    report = topology_report(topology)
    assert report["pairs"][0]["bandwidth_bytes_per_s"] == 450e9
    assert [island["kind"] for island in report["islands"]] == ["pcie"]


def test_a_narrow_link_has_its_share(write: Write) -> None:
    """x4 of generation 4 is a quarter of x16: half of generation 3, 0.5 · 13 GB/s under a switch."""
    pair = gpu("02") + gpu("03").replace('link_width="16"', 'link_width="4"')
    content = nccl(f'<pci busid="0000:01:00.0" class="0x060400" link_speed="16 GT/s" link_width="16">{pair}</pci>')
    (found,) = topology_report(load_topology(write("t.xml", content), gpu="l4"))["pairs"]
    assert found["bandwidth_bytes_per_s"] == pytest.approx(6.5e9, rel=1e-3)


def hwloc(inner: str, matrix: str = "") -> str:
    """Return an hwloc document of one package."""
    return (
        '<?xml version="1.0"?>\n<!DOCTYPE topology SYSTEM "hwloc2.dtd">\n<topology version="2.0">'
        f'<object type="Machine"><object type="Package" os_index="0" gp_index="3">{inner}'
        f"</object></object>{matrix}</topology>"
    )


def pci(number: int, model: str = "NVIDIA L4") -> str:
    """Return a GPU that NVML describes, below a host bridge of its own."""
    return (
        f'<object type="Bridge" bridge_type="0-1"><object type="PCIDev" gp_index="{10 + number}"'
        f' pci_busid="0000:0{number}:00.0" pci_type="0302 [10de:27b8] [0000:0000] a1" pci_link_speed="31.507692">'
        f'<object type="OSDev" gp_index="{20 + number}" name="nvml{number}">'
        f'<info name="GPUModel" value="{model}"/></object></object></object>'
    )


MATRIX = (
    '<distances2 type="OSDev" nbobjs="2" kind="9" name="NVLinkBandwidth" indexing="gp"><indexes length="5">20 21'
    '</indexes><u64values length="20">0 {} {} 0</u64values></distances2>'
)


def test_gpus_at_host_bridges_of_one_package_are_node(write: Write) -> None:
    """19 GB/s and 10 µs, as the code NODE of generation 4 says."""
    (pair,) = topology_report(load_topology(write("t.xml", hwloc(pci(0) + pci(1)))))["pairs"]
    assert (pair["kind"], pair["bandwidth_bytes_per_s"], pair["latency_s"]) == ("NODE", 19e9, pytest.approx(10e-6))


def test_a_matrix_of_gpus_alone_is_direct_links(write: Write) -> None:
    """56,250 MB/s between two A40 are four NVLinks of 14.0625 GB/s."""
    content = hwloc(pci(0, "NVIDIA A40") + pci(1, "NVIDIA A40"), MATRIX.format(56250, 56250))
    (pair,) = topology_report(load_topology(write("t.xml", content)))["pairs"]
    assert (pair["kind"], pair["bandwidth_bytes_per_s"]) == ("NV4", 56.25e9)


def test_a_model_the_catalogue_lacks_must_be_told(write: Write) -> None:
    """Without --gpu the sentence names the model; with it the file loads."""
    path = write("t.xml", hwloc(pci(0, "ACME Turbo 9")))
    with pytest.raises(UsageError, match=r"'ACME Turbo 9'.*--gpu 0=KIND"):
        load_topology(path)
    assert load_topology(path, gpu="l4").num_devices == 1


# ------------------------------------------------------------------------------------------------------ broken variants

TWO = gpu("01", '<gpu dev="0"><nvlink target="0000:02:00.0" count="4" tclass="0x030200"/></gpu>') + gpu("02")
BOMB = (
    '<!DOCTYPE system [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><system version="1"><cpu>&c;</cpu></system>'
)
BROKEN = {
    "cut": (nccl(TWO)[:200], "not valid XML"),
    "two roots": (nccl(TWO) + nccl(TWO), "not valid XML: junk after document element"),
    "no root": ('<?xml version="1.0"?><!-- nothing -->', "without a root element"),
    "other root": ("<machine/>", "root <machine>"),
    "entity bomb": (BOMB, "declares an entity"),
    "external entity": (
        '<!DOCTYPE system [<!ENTITY x SYSTEM "file:///etc/passwd">]><system version="1"><cpu>&x;</cpu></system>',
        "declares an entity",
    ),
    "undefined entity": ("<system><cpu>&nothing;</cpu></system>", "undefined entity"),
    "external DTD with entities": (
        '<!DOCTYPE system SYSTEM "http://example.org/x.dtd" [<!ENTITY % p "x">%p;]><system/>', "declares an entity"),
    "deep nesting": (nccl("<pci>" * 200 + "</pci>" * 200), "at most 100 levels"),
    "very deep nesting": ("<system>" + "<cpu>" * 100_000, "at most 100 levels"),
    "many elements": ("<system>" + "<cpu/>" * 200_001 + "</system>", "at most 200000 elements"),
    "8 MiB": ("<system>" + " " * (8 << 20) + "</system>", "at most 8 MiB"),
    "no GPU": (nccl('<pci busid="0000:01:00.0" class="0x020000"/>'), "at least one GPU"),
    "no cpu": ('<system version="1"/>', "at least one GPU"),
    "version": (nccl(TWO, "one"), "version of <system> as a whole number"),
    "numaid": (f'<system><cpu numaid="x">{TWO}</cpu></system>', "numaid of <cpu>"),
    "socket twice": (f'<system><cpu numaid="0">{TWO}</cpu><cpu numaid="0"/></system>', "NUMA node 0 appears twice"),
    "busid": (nccl(gpu("01").replace("0000:01:00.0", "here")), "expected a PCI address, got 'here'"),
    "no busid": (nccl('<pci class="0x030200"/>'), "expected a PCI address, got ''"),
    "GPU twice": (nccl(gpu("01") + gpu("01")), "GPU 0000:01:00.0 appears twice"),
    "class": (nccl(gpu("01").replace("0x030200", "GPU")), "PCI class such as"),
    "link speed": (nccl(gpu("01").replace("16 GT/s", "fast")), "link_speed such as"),
    "link width": (nccl(gpu("01").replace('link_width="16"', 'link_width="-4"')), "link_width of <pci>"),
    "huge width": (nccl(gpu("01").replace('link_width="16"', f'link_width="{"9" * 5000}"')), "link_width of <pci>"),
    "count": (nccl(TWO.replace('count="4"', 'count="0"')), "count of <nvlink>"),
    "unlike counts": (
        nccl(gpu("01", '<gpu dev="0"><nvlink target="0000:02:00.0" count="4" tclass="0x030200"/></gpu>')
             + gpu("02", '<gpu dev="1"><nvlink target="0000:01:00.0" count="3" tclass="0x030200"/></gpu>')),
        "count their links differently, 4 and 3"),
    "dev": (nccl(gpu("01", '<gpu dev="zero"/>')), "dev of <gpu>"),
    "net speed": (
        nccl(TWO + '<nic><net name="a" speed="1e5"/></nic>'), "speed of <net>"),
    "hwloc without objects": (hwloc("").replace("object", "thing"), "type Machine"),
    "hwloc without a GPU": (hwloc(""), "at least one GPU"),
    "hwloc GPU twice": (hwloc(pci(0) + pci(0)), "0000:00:00.0 appears twice"),
    "hwloc link speed": (hwloc(pci(0).replace("31.507692", "nan")), "pci_link_speed in GB/s"),
    "hwloc os_index": (hwloc(pci(0)).replace('os_index="0"', 'os_index="a"'), "os_index of <object>"),
    "matrix not symmetric": (hwloc(pci(0) + pci(1), MATRIX.format(100, 200)), "says 100, the way back 200"),
    "matrix too short": (
        hwloc(pci(0) + pci(1), MATRIX.format(1, 1).replace("0 1 1 0", "0 1 1")), "2 names and 4 values, got 2 and 3"),
    "matrix with text": (hwloc(pci(0) + pci(1), MATRIX.format("fast", 1)), "MB/s, got 'fast'"),
    "matrix of strangers": (hwloc(pci(0) + pci(1), MATRIX.format(1, 1).replace("20 21", "20 99")), "OSDev:99"),
    "matrix without numbers": (
        hwloc(pci(0) + pci(1), MATRIX.format(1, 1).replace("20 21", "20 nvml1")), "such as OSDev:802"),
}  # fmt: skip


@pytest.mark.parametrize("defect", BROKEN)
def test_a_broken_file_ends_in_one_sentence(defect: str, write: Write) -> None:
    """The file is named, and what is wrong with it."""
    content, message = BROKEN[defect]
    path = write("t.xml", content)
    with pytest.raises(InputError, match=message) as caught:
        load_topology(path, gpu="h100")
    assert caught.value.source == str(path)
    assert "\n" not in str(caught.value)


def test_a_file_of_100_mb_is_refused_at_once(tmp_path: Path) -> None:
    """It is not even read to its end."""
    path = tmp_path / "t.xml"
    with path.open("wb") as file:
        file.write(b"<system>")
        file.truncate(100 << 20)
    with pytest.raises(InputError, match="at most 64 MiB"):
        load_topology(path, gpu="h100")


def test_nothing_outside_the_file_is_opened(tmp_path: Path) -> None:
    """An external DTD is neither an error (hwloc writes one) nor ever read."""
    secret = tmp_path / "x.dtd"
    secret.write_text("<!ENTITY leaked 'yes'>")
    path = tmp_path / "t.xml"
    path.write_text(f'<!DOCTYPE system SYSTEM "{secret}">' + nccl(TWO))
    assert load_topology(path, gpu="a100-sxm4-40gb").num_devices == 2
