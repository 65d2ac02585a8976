"""The picture: well-formed SVG that shows every device, names every kind of link, and stays readable in size."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.topology import Topology, draw, list_clusters, load_topology, topology_from_dict
from gpuplan.units import format_bandwidth

SVG = "{http://www.w3.org/2000/svg}"


def parts(topology: Topology) -> tuple[ElementTree.Element, list[str]]:
    """Return the root of the picture and its texts."""
    root = ElementTree.fromstring(draw(topology))
    return root, [element.text or "" for element in root.iter(f"{SVG}text")]


def check_inside(root: ElementTree.Element) -> None:
    """Assert that boxes and texts lie on the paper."""
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    for box in root.iter(f"{SVG}rect"):
        x, y = float(box.get("x", "0")), float(box.get("y", "0"))
        assert x >= 0.0
        assert y >= 0.0
        assert x + float(box.get("width", "0")) <= width + 1e-6
        assert y + float(box.get("height", "0")) <= height + 1e-6
    for text in root.iter(f"{SVG}text"):
        assert 0.0 <= float(text.get("x", "0")) <= width
        assert 0.0 <= float(text.get("y", "0")) <= height


@pytest.mark.parametrize("name", list_clusters())
def test_every_shipped_cluster_has_a_picture(name: str) -> None:
    """Its name, its devices, a legend entry for every bandwidth, nothing outside the paper."""
    topology = load_topology(name)
    root, texts = parts(topology)
    check_inside(root)
    assert topology.name in texts
    assert any(text.startswith(f"{topology.num_devices} device") for text in texts)
    legend = " ".join(texts)
    for link in topology.links:
        assert f"{link.code or link.kind} · {format_bandwidth(link.bandwidth_bytes_per_s)}" in legend
    assert float(root.get("width", "0")) < 2400
    assert draw(topology) == draw(load_topology(name))


def test_the_uellm_host_shows_caps_and_groups() -> None:
    """Power caps stand in the boxes; a bar of PIX for each pair and one of NODE for all."""
    _, texts = parts(load_topology("4x3090-uellm"))
    assert {"350 W", "300 W", "250 W", "150 W"} <= set(texts)
    assert texts.count("PIX") == 2
    assert "NODE · 19 GB/s" in texts


def test_the_dgx_1_has_an_arc_for_every_nvlink() -> None:
    """16 pairs with NVLink, drawn one by one; the other 12 share one bar."""
    root, texts = parts(load_topology("dgx-1-v100"))
    titles = [path.findtext(f"{SVG}title", "") for path in root.iter(f"{SVG}path")]
    assert sum(title.startswith(("NV1 ", "NV2 ")) for title in titles) == 16
    assert "other pairs: SYS · 8 GB/s" in texts


def test_sixty_four_devices_in_two_racks_are_all_there() -> None:
    """Eight host boxes with eight devices each, racks named, one network."""
    _, texts = parts(load_topology("8x-dgx-h100"))
    assert {f"host{number}" for number in range(8)} | {"rack0", "rack1", "network0"} <= set(texts)
    assert sum(text in "01234567" for text in texts if text) == 64


def test_many_hosts_are_drawn_once_for_each_design() -> None:
    """18 equal trays are one box with their number."""
    _, texts = parts(load_topology("gb200-nvl72"))
    assert "host0 × 18" in texts


def test_bandwidths_that_differ_look_different() -> None:
    """PIX and NODE of generation 4 (26 and 19 GB/s) have colours of their own."""
    root, _ = parts(load_topology("4x3090-uellm"))
    colours = {path.get("stroke") for path in root.iter(f"{SVG}path") if path.find(f"{SVG}title") is not None}
    assert len(colours) == 2


def test_names_are_escaped() -> None:
    """A name from a file cannot break the picture."""
    topology = topology_from_dict(
        {"schema": "gpuplan/topology/1", "name": "<b>&'\"", "devices": [{"kind": "l4", "name": "<gpu>&"}]}
    )
    _, texts = parts(topology)
    assert "<b>&'\"" in texts


@pytest.mark.shared_data
def test_captures_have_pictures(shared_data: Path) -> None:
    """PCIe trees with switches, sockets and 32 NICs; the four NICs at each switch are one box."""
    folder = shared_data / "topology"
    root, texts = parts(load_topology(folder / "nccl-xml" / "aws-p5.48xl-topo.xml", gpu="h100"))
    check_inside(root)
    assert texts.count("4 NICs") == 8
    for path in (folder / "nvidia-smi-topo").glob("*.txt"):
        if path.name != "SOURCES.md":
            check_inside(parts(load_topology(path, gpu="a100-sxm4-80gb"))[0])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_host_has_a_picture(data: st.DataObject) -> None:
    """Whatever links there are, the picture is well-formed and on its paper."""
    count = data.draw(st.integers(1, 20))
    kinds = ["none", "PIX", "PHB", "NODE", "SYS", "NV4", "xgmi4"]
    names = [f"gpu{number}" for number in range(count)]
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]][:30]
    links = [
        {"between": list(pair), "kind": kind}
        for pair in pairs
        if (kind := data.draw(st.sampled_from([*kinds, None]))) is not None
    ]
    document = {
        "schema": "gpuplan/topology/1",
        "hosts": data.draw(st.sampled_from([1, 2, 5, 20])),
        "fabric": data.draw(st.sampled_from(["none", "roce-100", "nvlink4"])),
        "devices": [{"kind": "a100-sxm4-80gb", "name": name} for name in names],
        "default_link": data.draw(st.sampled_from(kinds)),
        "nics": data.draw(st.sampled_from([0, 1, 3, 12, "per_device"])),
        "links": links,
    }
    check_inside(parts(topology_from_dict(document))[0])


def test_drawing_is_fast_for_many_devices(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    """512 hosts of 8 are one box; nothing is drawn 4,096 times."""
    path = write(
        "c.yaml",
        "schema: gpuplan/topology/1\nhosts: 512\ndevices: [{kind: l4, count: 8}]\ndefault_link: SYS\n"
        "fabric: roce-100\n",
    )
    picture = draw(load_topology(path))
    assert len(picture) < 100_000
    assert re.search(r"host0 × 512", picture)


def test_the_command_writes_the_picture(tmp_path: Path) -> None:
    """`gpuplan topology draw CLUSTER -o FILE.svg`; another ending is a usage error."""
    command = [sys.executable, "-m", "gpuplan", "topology", "draw", "dgx-h100", "-o"]
    done = subprocess.run([*command, str(tmp_path / "t.svg")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "t.svg").read_text(encoding="utf-8") == draw(load_topology("dgx-h100"))
    done = subprocess.run([*command, str(tmp_path / "t.png")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ends in .svg" in done.stderr
