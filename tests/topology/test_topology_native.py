"""gpuplan's own YAML and JSON: what it can say, the round trip, one malformed document a defect."""

from __future__ import annotations

import copy
import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpuplan.errors import InputError
from gpuplan.topology import load_topology, route, route_tables, topology_from_dict, topology_to_dict

BOX = """schema: gpuplan/topology/1
name: my-box
devices:
  - {kind: rtx-3090-24gb, count: 2, power_cap_w: 250}
  - {kind: rtx-4090-24gb, available_memory: 20GiB, price_per_hour: 0.4}
  - {kind: a6000-48gb, name: old, excluded: true}
default_link: NODE
links:
  - {between: [gpu0, gpu1], kind: NV4}
"""


def box(**changes: Any) -> dict[str, Any]:
    """Return a small valid document with some top-level keys changed."""
    return {
        "schema": "gpuplan/topology/1",
        "devices": [{"kind": "l4-24gb", "count": 2}],
        "default_link": "PHB",
    } | changes


def test_ten_lines_describe_a_box_of_unequal_gpus(write: Callable[[str, str], Path]) -> None:
    """Kinds, counts, caps, memory, prices, exclusion and one bridge, all in ten lines."""
    topology = load_topology(write("box.yaml", BOX))
    assert [device.name for device in topology.devices] == ["host0/gpu0", "host0/gpu1", "host0/gpu2"]
    assert [device.power_cap_w for device in topology.devices] == [250.0, 250.0, None]
    assert topology.devices[2].available_bytes == 20 * 2**30
    assert topology.devices[2].price_per_hour == 0.4
    assert topology.devices[0].available_bytes == int(25769803776 * 0.9)
    assert {(link.a, link.b): link.code for link in topology.links} == {
        ("host0/gpu0", "host0/gpu1"): "NV4",
        ("host0/gpu0", "host0/gpu2"): "NODE",
        ("host0/gpu1", "host0/gpu2"): "NODE",
    }
    assert topology.source == "box.yaml"


def test_the_slower_pcie_generation_counts() -> None:
    """An L4 (gen 4) and a T4 (gen 3) at one host bridge share the gen 3 link."""
    topology = topology_from_dict(box(devices=[{"kind": "l4"}, {"kind": "t4"}]))
    assert topology.links[0].kind == "pcie3-phb"


def test_links_not_given_are_assumed_and_said() -> None:
    """Without any link GPUs meet at the host bridge, and a note says so."""
    document = box()
    del document["default_link"]
    topology = topology_from_dict(document)
    assert [link.code for link in topology.links] == ["PHB"]
    assert "PHB" in topology.notes[0]
    document["links"] = [{"between": ["gpu0", "gpu1"], "kind": "PIX"}]
    assert not topology_from_dict(document).notes


@pytest.mark.parametrize(
    ("entry", "kind", "bandwidth", "latency"),
    [
        ({"kind": "nvlink3", "links": 2}, "nvlink3", 50e9, 5e-6),
        ({"kind": "pcie4-pix"}, "pcie4-pix", 26e9, 7e-6),
        ({"kind": "SYS", "bandwidth_bytes_per_s": 5e9}, "pcie4-sys", 5e9, 12e-6),
        ({"bandwidth_bytes_per_s": 3e9, "latency_s": 0}, "custom", 3e9, 0.0),
    ],
)
def test_explicit_links(entry: dict[str, Any], kind: str, bandwidth: float, latency: float) -> None:
    """A link is a kind, several of a kind, a code with a number of its own, or two numbers."""
    topology = topology_from_dict(box(links=[{"a": "gpu0", "b": "host0/gpu1", **entry}]))
    (link,) = topology.links
    assert (link.kind, link.bandwidth_bytes_per_s, link.latency_s) == (kind, bandwidth, latency)


def test_a_broken_link_leaves_its_pair_without_a_route() -> None:
    """``kind: none`` removes a default link; the pair is cut off, with inf in the tables, and that is no error."""
    topology = topology_from_dict(box(links=[{"between": ["gpu0", "gpu1"], "kind": "none"}]))
    table = route_tables(topology, 1.0)
    assert table.latency_s[0, 1] == table.s_per_byte[1, 0] == float("inf")


def test_hosts_are_replicated_over_a_fabric() -> None:
    """Two hosts of two GPUs; a message between them crosses NIC, network and NIC."""
    topology = topology_from_dict(box(hosts=2, fabric="infiniband-ndr", nics="per_device"))
    assert topology.hosts == ("host0", "host1")
    way = route(topology, "host0/gpu1", "host1/gpu0", 1e6)
    assert way.components == ("host0/gpu1", "host0/nic1", "network0", "host1/nic0", "host1/gpu0")
    # PXB on gen 4 is 25 GB/s and 8 us; NDR 48 GB/s and 3 us in all.
    assert (way.bandwidth_bytes_per_s, way.latency_s) == (25e9, pytest.approx(19e-6))


def test_unlike_hosts_share_a_fabric() -> None:
    """Hosts may differ, have names and racks, and be joined by a link of their own."""
    hosts = [
        {"name": "big", "devices": [{"kind": "a100-sxm4-80gb", "count": 2}], "nvswitch": 12, "rack": "r1"},
        {"name": "small", "count": 2, "devices": [{"kind": "t4"}]},
    ]
    document = {"schema": "gpuplan/topology/1", "hosts": hosts, "fabric": "ethernet-10"}
    topology = topology_from_dict(document)
    assert [device.name for device in topology.devices] == ["big/gpu0", "big/gpu1", "small0/gpu0", "small1/gpu0"]
    assert topology.devices[0].rack == "r1"
    assert route(topology, "big/gpu0", "small1/gpu0", 1e6).bandwidth_bytes_per_s == 1.1e9
    links = [{"a": "big/gpu0", "b": "small0/gpu0", "bandwidth_bytes_per_s": 9e9, "latency_s": 1e-6}]
    faster = topology_from_dict(document | {"links": links})
    assert route(faster, "big/gpu0", "small0/gpu0", 1e6).components == ("big/gpu0", "small0/gpu0")


def test_hosts_without_a_fabric_on_purpose_stay_apart() -> None:
    """``fabric: none`` makes a cluster whose hosts do not reach each other."""
    topology = topology_from_dict(box(hosts=2, fabric="none"))
    assert route_tables(topology, 1.0).latency_s[0, 2] == float("inf")


def test_a_kind_of_ones_own_is_written_inline() -> None:
    """A data sheet under ``kinds`` needs no catalogue."""
    kinds = {
        "m2": {
            "memory_bytes": "64GiB",
            "memory_bandwidth_bytes_per_s": 800e9,
            "flops_per_s": {"fp16": 27e12},
            "power_w": 90,
        }
    }
    topology = topology_from_dict(box(kinds=kinds, devices=[{"kind": "m2"}, {"kind": "l4"}]))
    assert topology.devices[0].kind.memory_bandwidth_bytes_per_s == 800e9
    assert topology_from_dict(topology_to_dict(topology)) == topology


def test_json_and_yaml_say_the_same(write: Callable[[str, str], Path]) -> None:
    """The same document in both notations is the same topology."""
    as_json = load_topology(write("box.json", json.dumps(box(name="x"))))
    as_yaml = load_topology(
        write(
            "box.yaml", "schema: gpuplan/topology/1\nname: x\ndevices: [{kind: l4-24gb, count: 2}]\ndefault_link: PHB\n"
        )
    )
    assert topology_to_dict(as_json) | {"source": ""} == topology_to_dict(as_yaml) | {"source": ""}


def test_the_normalised_form_is_json_and_reads_back(write: Callable[[str, str], Path]) -> None:
    """Written to a file and read again nothing changes, whatever the memory fraction."""
    topology = load_topology("2x-dgx-h100")
    path = write("normal.json", json.dumps(topology_to_dict(topology)))
    assert load_topology(path, memory_fraction=0.5) == topology


def test_numbers_with_an_exponent_are_numbers_in_yaml(write: Callable[[str, str], Path]) -> None:
    """``5e9`` means a number, although YAML 1.1 takes it for text."""
    text = BOX.replace("kind: NV4", "bandwidth_bytes_per_s: 5e9, latency_s: 1e-5")
    topology = load_topology(write("box.yaml", text))
    assert topology.links[0].bandwidth_bytes_per_s == 5e9 or topology.links[-1].bandwidth_bytes_per_s == 5e9


# ----------------------------------------------------------------------------------------------------- one defect each

NUMBERS = {
    "zero": 0,
    "negative": -1,
    "nan": float("nan"),
    "inf": float("inf"),
    "null": None,
    "text": "many",
    "true": True,
}
HAND_WRITTEN = {
    "not a mapping": ([], "$"),
    "no schema": ({"devices": []}, "$"),
    "unknown schema version": (box(schema="gpuplan/topology/2"), "$.schema"),
    "another schema": (box(schema="gpuplan/device-map/1"), "$.schema"),
    "unknown key": (box(color="red"), "$.color"),
    "no devices": (box(devices=[]), "$.devices"),
    "devices missing": ({"schema": "gpuplan/topology/1"}, "$"),
    "devices a mapping": (box(devices={}), "$.devices"),
    "device a text": (box(devices=["l4"]), "$.devices[0]"),
    "kind missing": (box(devices=[{"count": 2}]), "$.devices[0]"),
    "kind unknown": (box(devices=[{"kind": "h101"}]), "$.devices[0].kind"),
    "unknown device key": (box(devices=[{"kind": "l4", "speed": 1}]), "$.devices[0].speed"),
    "name and count": (box(devices=[{"kind": "l4", "name": "a", "count": 2}]), "$.devices[0].name"),
    "duplicate name": (box(devices=[{"kind": "l4", "name": "a"}, {"kind": "l4", "name": "a"}]), "$.devices[1].name"),
    "memory twice": (box(devices=[{"kind": "l4", "available_memory": 1e9, "available_bytes": 1e9}]), "$.devices[0]"),
    "too much memory": (box(devices=[{"kind": "l4", "available_memory": "25GiB"}]), "$.devices[0].available_memory"),
    "memory no size": (box(devices=[{"kind": "l4", "available_memory": "lots"}]), "$.devices[0].available_memory"),
    "excluded a text": (box(devices=[{"kind": "l4", "excluded": "yes"}]), "$.devices[0].excluded"),
    "all excluded": (box(devices=[{"kind": "l4", "excluded": True}]), "$.devices"),
    "default link unknown": (box(default_link="QPI"), "$.default_link"),
    "link unknown": (box(links=[{"a": "gpu0", "b": "gpu1", "kind": "nvlink33"}]), "$.links[0].kind"),
    "link to nowhere": (box(links=[{"a": "gpu0", "b": "gpu7", "kind": "PIX"}]), "$.links[0].b"),
    "link to itself": (box(links=[{"a": "gpu0", "b": "gpu0", "kind": "PIX"}]), "$.links[0].b"),
    "link with one end": (box(links=[{"a": "gpu0", "kind": "PIX"}]), "$.links[0]"),
    "between one": (box(links=[{"between": ["gpu0"], "kind": "PIX"}]), "$.links[0].between"),
    "between and a": (box(links=[{"between": ["gpu0", "gpu1"], "a": "gpu0", "kind": "PIX"}]), "$.links[0]"),
    "link twice": (box(links=[{"a": "gpu0", "b": "gpu1", "kind": "PIX"}] * 2), "$.links[1]"),
    "link without numbers": (box(links=[{"a": "gpu0", "b": "gpu1"}]), "$.links[0]"),
    "link with one number": (box(links=[{"a": "gpu0", "b": "gpu1", "latency_s": 1e-6}]), "$.links[0]"),
    "links of a code": (box(links=[{"a": "gpu0", "b": "gpu1", "kind": "NV4", "links": 2}]), "$.links[0]"),
    "broken with numbers": (box(links=[{"a": "gpu0", "b": "gpu1", "kind": "none", "latency_s": 1.0}]), "$.links[0]"),
    "hosts without fabric": (box(hosts=2), "$"),
    "unknown fabric": (box(hosts=2, fabric="infiniband"), "$.fabric"),
    "fabric that joins no hosts": (box(hosts=2, fabric="pcie4-sys"), "$.fabric"),
    "no hosts": ({"schema": "gpuplan/topology/1", "hosts": []}, "$.hosts"),
    "host name twice": (
        {"schema": "gpuplan/topology/1", "fabric": "none", "hosts": [{"name": "h", "devices": [{"kind": "l4"}]}] * 2},
        "$.hosts[0].name",
    ),
    "host name with slash": (
        {"schema": "gpuplan/topology/1", "hosts": [{"name": "a/b", "devices": []}]}, "$.hosts[0].name",
    ),
    "devices beside hosts": (box(hosts=[{"devices": [{"kind": "l4"}]}]), "$.devices"),
    "default link null": (box(default_link=None), "$.default_link"),
    "nvswitch null": (box(nvswitch=None), "$.nvswitch"),
    "a million devices": (box(devices=[{"kind": "l4", "count": 10**6}]), "$.devices[0].count"),
    "nics a word": (box(nics="many"), "$.nics"),
    "nic link no code": (box(nics=1, nic_link="NV4"), "$.nic_link"),
    "name empty": (box(name=""), "$.name"),
    "inline kind incomplete": (box(kinds={"x": {"power_w": 1}}), "$.kinds.x"),
} | {
    f"{key} {name}": (box(devices=[{"kind": "l4", key: value}]), f"$.devices[0].{key}")
    for key in ("count", "available_memory", "power_cap_w")
    for name, value in NUMBERS.items()
} | {
    f"bandwidth {name}": (
        box(links=[{"a": "gpu0", "b": "gpu1", "kind": "PIX", "bandwidth_bytes_per_s": value}]),
        "$.links[0].bandwidth_bytes_per_s",
    )
    for name, value in NUMBERS.items()
} | {
    f"hosts {name}": (box(hosts=value, fabric="none"), "$.hosts") for name, value in NUMBERS.items()
}  # fmt: skip


@pytest.mark.parametrize("defect", HAND_WRITTEN, ids=str)
def test_a_defect_of_a_hand_written_document_names_its_path(defect: str) -> None:
    """Each malformed document is refused in one sentence with the JSON path."""
    document, place = HAND_WRITTEN[defect]
    with pytest.raises(InputError) as caught:
        topology_from_dict(document, source="box.yaml")
    assert (caught.value.source, caught.value.place) == ("box.yaml", place)
    assert "\n" not in str(caught.value)


def changed(path: list[Any], value: Any) -> dict[str, Any]:
    """Return the normalised form of a small host with one value replaced, or removed when it is ``...``."""
    document = copy.deepcopy(topology_to_dict(topology_from_dict(box(nvswitch=1, nics=1))))
    here: Any = document
    for step in path[:-1]:
        here = here[step]
    if value is ...:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    return document


NORMALISED = {
    "unknown key": (["extra"], 1, "$.extra"),
    "unknown device key": (["devices", 0, "extra"], 1, "$.devices[0].extra"),
    "unknown link key": (["links", 0, "extra"], 1, "$.links[0].extra"),
    "duplicate device": (["devices", 1, "name"], "host0/gpu0", "$.devices[1].name"),
    "duplicate component": (["components", 1, "name"], "host0/gpu0", "$.components[1].name"),
    "kind not inline": (["devices", 0, "kind"], "t4-16gb", "$.devices[0].kind"),
    "link to nowhere": (["links", 0, "b"], "host0/gpu9", "$.links[0].b"),
    "role unknown": (["components", 0, "role"], "toaster", "$.components[0].role"),
    "role device": (["components", 0, "role"], "device", "$.components[0].role"),
    "memory missing": (["devices", 0, "available_bytes"], ..., "$.devices[0]"),
    "memory negative": (["devices", 0, "available_bytes"], -5, "$.devices[0].available_bytes"),
    "bandwidth inf": (["links", 0, "bandwidth_bytes_per_s"], float("inf"), "$.links[0].bandwidth_bytes_per_s"),
    "latency negative": (["links", 0, "latency_s"], -1e-6, "$.links[0].latency_s"),
    "no devices": (["devices"], [], "$.devices"),
    "schema version": (["schema"], "gpuplan/topology/7", "$.schema"),
}


@pytest.mark.parametrize("defect", NORMALISED, ids=str)
def test_a_defect_of_a_normalised_document_names_its_path(defect: str) -> None:
    """Each malformed normalised document is refused with the JSON path."""
    path, value, place = NORMALISED[defect]
    with pytest.raises(InputError) as caught:
        topology_from_dict(changed(path, value))
    assert caught.value.place == place


def test_a_second_link_between_a_pair_is_refused() -> None:
    """Two links of one pair would be ambiguous."""
    document = changed(["name"], "twice")
    document["links"].append({**document["links"][0], "a": document["links"][0]["b"], "b": document["links"][0]["a"]})
    with pytest.raises(InputError, match="a second link"):
        topology_from_dict(document)


# ---------------------------------------------------------------------------------------------------------------- docs


def test_the_documents_of_the_page_are_read(write: Callable[[str, str], Path]) -> None:
    """Every gpuplan YAML example of docs/topology.md loads as it stands there."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "topology.md").read_text()
    blocks = re.findall(r"(?:^    .*\n)+", page, re.MULTILINE)
    documents = [textwrap.dedent(block) for block in blocks if "schema:" in block]
    assert len(documents) == 5
    matrix = "\tGPU0\tGPU1\nGPU0\t X \tNV12\nGPU1\tNV12\t X \n"
    pci = '<pci busid="0000:0{}:00.0" class="0x030200"/>'
    write("topo.txt", matrix)
    write("p4d.xml", f'<system version="1"><cpu>{pci.format(1)}{pci.format(2)}</cpu></system>')
    write("topology.conf", "BlockName=b0 Nodes=n[0-7]\nBlockName=b1 Nodes=n[8-15]\n")
    counts = [load_topology(write("page.yaml", document)).num_devices for document in documents]
    # Sixteen hosts of the two GPUs above; twelve of two and four DGX H100; 36 trays of four; three of four devices in
    # the box; two hosts of eight and one of four.
    assert counts == [32, 12 * 2 + 4 * 8, 144, 3, 20]
