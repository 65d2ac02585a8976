"""Islands and exchangeable classes: by hand, and against every swap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.topology import (
    Component,
    Device,
    Link,
    Topology,
    device_kind,
    exchangeable_classes,
    exchangeable_hosts,
    islands,
    load_topology,
    route_tables,
    symmetry,
    topology_from_dict,
)

KINDS = (device_kind("l4-24gb"), device_kind("t4-16gb"))
MESSAGES = (4.0, 16384.0, 1e8)


@st.composite
def machines(draw: st.DrawFn) -> Topology:
    """Draw up to 6 devices with few distinct links, so that symmetric and nearly symmetric ones are common."""
    count, relays = draw(st.integers(1, 6)), draw(st.integers(0, 2))
    devices = [
        Device(f"d{i}", "h", i, draw(st.sampled_from(KINDS)), draw(st.sampled_from([10**9, 2 * 10**9])))
        if draw(st.integers(0, 5)) == 0
        else Device(f"d{i}", "h", i, KINDS[0], 10**9)
        for i in range(count)
    ]
    names = [device.name for device in devices] + [f"s{i}" for i in range(relays)]
    speeds = [None, (25e9, 1e-6), (25e9, 1e-6), (5e9, 3e-6)]
    links = []
    for place, a in enumerate(names):
        for b in names[place + 1 :]:
            speed = draw(st.sampled_from(speeds))
            if speed is not None:
                links.append(Link(a, b, "pcie", *speed))
    parts = [Component(d.name, "device", "h") for d in devices]
    parts += [Component(f"s{i}", "pcie_switch", "h") for i in range(relays)]
    return Topology("drawn", tuple(devices), tuple(parts), tuple(links))


def swaps(topology: Topology, messages: tuple[float, ...]) -> np.ndarray:
    """Return for every two devices whether swapping them leaves kind, memory and all tables as they are."""
    tables = [route_tables(topology, size) for size in messages]
    matrices = [m for table in tables for m in (table.latency_s, table.s_per_byte)]
    count = topology.num_devices
    same = np.zeros((count, count), dtype=bool)
    for i, a in enumerate(topology.devices):
        for j, b in enumerate(topology.devices):
            order = np.arange(count)
            order[[i, j]] = j, i
            same[i, j] = (a.kind, a.available_bytes) == (b.kind, b.available_bytes) and all(
                np.array_equal(m, m[np.ix_(order, order)]) for m in matrices
            )
    return same


@settings(max_examples=150, deadline=None)
@given(machines())
def test_classes_are_exactly_the_swaps_that_change_nothing(topology: Topology) -> None:
    """Two devices share a class if and only if brute force finds their swap unchanged in every table."""
    same = swaps(topology, MESSAGES)
    names = [device.name for device in topology.devices]
    classes = exchangeable_classes(topology, MESSAGES)
    assert sorted(name for group in classes for name in group) == sorted(names)
    home = {name: number for number, group in enumerate(classes) for name in group}
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            assert (home[a] == home[b]) == same[i, j]


@settings(max_examples=60, deadline=None)
@given(machines())
def test_classes_for_every_message_hold_for_each(topology: Topology) -> None:
    """Without message sizes a class holds for whatever size: never coarser than for three of them."""
    same = swaps(topology, MESSAGES)
    names = [device.name for device in topology.devices]
    for group in exchangeable_classes(topology):
        for a in group:
            assert all(same[names.index(a), names.index(b)] for b in group)


def test_memory_power_and_price_part_devices() -> None:
    """A device of a full symmetric host stands alone once one of its own numbers differs."""
    topology = load_topology("dgx-a100")
    assert [len(group) for group in exchangeable_classes(topology)] == [8]
    for change in ({"available_bytes": 10**10}, {"power_cap_w": 300.0}, {"price_per_hour": 1.0}):
        devices = (replace(topology.devices[0], **change), *topology.devices[1:])
        assert [len(group) for group in exchangeable_classes(replace(topology, devices=devices))] == [1, 7]


def test_a_cap_at_the_boards_own_power_changes_nothing() -> None:
    """400 W on a 400 W board is no cap."""
    topology = load_topology("dgx-a100")
    devices = (replace(topology.devices[0], power_cap_w=400.0), *topology.devices[1:])
    assert [len(group) for group in exchangeable_classes(replace(topology, devices=devices))] == [8]


def test_power_caps_of_the_uellm_host_part_all_its_devices() -> None:
    """Four caps, four classes."""
    assert [len(group) for group in exchangeable_classes(load_topology("4x3090-uellm"))] == [1, 1, 1, 1]


def test_devices_of_two_hosts_are_exchangeable_within_and_hosts_with_each_other() -> None:
    """Two DGX H100: two classes of eight, one class of two hosts."""
    topology = load_topology("2x-dgx-h100")
    assert [len(group) for group in exchangeable_classes(topology)] == [8, 8]
    assert exchangeable_hosts(topology) == (("host0", "host1"),)


def test_a_host_with_less_memory_stands_alone() -> None:
    """One changed device parts its host from the other."""
    topology = load_topology("2x-dgx-h100")
    devices = (replace(topology.devices[0], available_bytes=10**10), *topology.devices[1:])
    assert exchangeable_hosts(replace(topology, devices=devices)) == (("host0",), ("host1",))


# ------------------------------------------------------------------------------------------------------------ islands


def test_a_dgx_is_one_island_and_so_is_a_hybrid_cube_mesh() -> None:
    """NVSwitch and a partial mesh both make one NVLink island of eight."""
    for name in ("dgx-h100", "dgx-1-v100"):
        assert [(island.kind, len(island.devices)) for island in islands(load_topology(name))] == [("nvlink", 8)]


def test_rack_scale_nvlink_makes_one_island_across_hosts() -> None:
    """GB200 NVL72: 72 devices of 18 hosts."""
    (island,) = islands(load_topology("gb200-nvl72"))
    assert (island.name, island.kind, len(island.devices)) == ("nvlink0", "nvlink", 72)


def test_an_ordinary_fabric_does_not_join_islands() -> None:
    """Two DGX A100 over InfiniBand are two islands."""
    assert [island.name for island in islands(load_topology("2x-dgx-a100"))] == ["host0/nvlink0", "host1/nvlink0"]


def test_gpus_without_nvlink_form_the_pcie_island_of_their_host() -> None:
    """One bridged pair and two PCIe-only GPUs are two islands, which partition the four."""
    topology = topology_from_dict(
        {
            "schema": "gpuplan/topology/1",
            "devices": [{"kind": "a6000-48gb", "count": 4}],
            "default_link": "PHB",
            "links": [{"between": ["gpu1", "gpu2"], "kind": "NV4"}],
        }
    )
    found = [(island.name, island.kind, island.devices) for island in islands(topology)]
    assert found == [
        ("host0/pcie0", "pcie", ("host0/gpu0", "host0/gpu3")),
        ("host0/nvlink0", "nvlink", ("host0/gpu1", "host0/gpu2")),
    ]


def test_a_cut_off_gpu_is_an_island_of_its_own() -> None:
    """Devices that cannot reach each other share no island."""
    topology = topology_from_dict(
        {"schema": "gpuplan/topology/1", "devices": [{"kind": "l4-24gb", "count": 2}], "default_link": "none"}
    )
    assert [len(island.devices) for island in islands(topology)] == [1, 1]


# ----------------------------------------------------------------------------------------------- without D×D matrices


@st.composite
def fleets(draw: st.DrawFn) -> Topology:
    """Draw up to 5 hosts of few designs under up to 2 hubs, so that equal hosts and equal devices are common."""
    speeds = [None, (25e9, 1e-6), (5e9, 3e-6)]
    designs = []
    for _ in range(draw(st.integers(1, 2))):
        count = draw(st.integers(1, 3))
        inner = [(i, j, draw(st.sampled_from(speeds))) for i in range(count) for j in range(i)]
        outer = [(i, hub, draw(st.sampled_from(speeds))) for i in range(count) for hub in range(2)]
        memory = [draw(st.sampled_from([10**9, 10**9, 2 * 10**9])) for _ in range(count)]
        designs.append((count, inner, outer, memory))
    devices, links = [], []
    for number in range(draw(st.integers(1, 5))):
        count, inner, outer, memory = draw(st.sampled_from(designs))
        host = f"h{number}"
        devices += [Device(f"{host}/gpu{i}", host, i, KINDS[0], memory[i]) for i in range(count)]
        links += [Link(f"{host}/gpu{i}", f"{host}/gpu{j}", "pcie", *speed) for i, j, speed in inner if speed]
        links += [Link(f"{host}/gpu{i}", f"hub{hub}", "fabric", *speed) for i, hub, speed in outer if speed]
    if draw(st.booleans()):
        links.append(Link("hub0", "hub1", "fabric", 25e9, 1e-6))
    parts = [Component(d.name, "device", d.host) for d in devices]
    parts += [Component(f"hub{hub}", "network_switch") for hub in range(2)]
    return Topology("fleet", tuple(devices), tuple(parts), tuple(links))


@settings(max_examples=300, deadline=None)
@given(st.one_of(fleets(), machines()), st.sampled_from([None, MESSAGES]))
def test_compact_classes_are_the_dense_ones_up_to_crosswise_swaps(
    topology: Topology, sizes: tuple[float, ...] | None
) -> None:
    """Without D×D no class is wrong, and none is split but where two hosts can only trade devices crosswise."""
    dense = exchangeable_classes(topology, sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(symmetry, "MOST_DENSE", 0)
        compact = exchangeable_classes(topology, sizes)
    home = {name: number for number, group in enumerate(dense) for name in group}
    assert sorted(name for group in compact for name in group) == sorted(home)
    assert all(len({home[name] for name in group}) == 1 for group in compact)
    for group in dense:
        parts = [part for part in compact if home[part[0]] == home[group[0]]]
        # A split class has one member of each of two hosts: gpu i of one, gpu j of the other.
        assert len(parts) == 1 or len(group) == 2


@settings(max_examples=200, deadline=None)
@given(fleets())
def test_compact_host_classes_are_the_dense_ones(topology: Topology) -> None:
    """Hosts that can be swapped whole are the same with and without D×D."""
    dense = exchangeable_hosts(topology)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(symmetry, "MOST_DENSE", 0)
        assert exchangeable_hosts(topology) == dense
