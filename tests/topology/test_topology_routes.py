"""Routes and their tables: against hand-made graphs and against every path of small random ones."""

from __future__ import annotations

import math
import time
from itertools import pairwise, permutations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.errors import UsageError
from gpuplan.topology import (
    Component,
    Device,
    Link,
    Router,
    Topology,
    device_kind,
    load_topology,
    route,
    route_tables,
    shortest,
)
from gpuplan.topology.paths import adjacency, shortest_between, shortest_from

KIND = device_kind("l4-24gb")


def make(devices: int, relays: int, links: list[Link], homes: list[str | None] | None = None) -> Topology:
    """Return a graph of devices d0, d1, … and switches s0, s1, …; `homes` are their hosts (None: a hub of no host)."""
    names = [f"d{number}" for number in range(devices)] + [f"s{number}" for number in range(relays)]
    hosts = homes or ["h"] * len(names)
    parts = [
        Component(name, "device" if name[0] == "d" else "pcie_switch", host)
        for name, host in zip(names, hosts, strict=True)
    ]
    return Topology(
        "random",
        tuple(Device(names[number], hosts[number] or "h", number, KIND, 10**9) for number in range(devices)),
        tuple(parts),
        tuple(links),
    )


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Draw up to 5 devices on up to 3 hosts and 4 switches, some of no host, with arbitrary links."""
    devices, relays = draw(st.integers(1, 5)), draw(st.integers(0, 4))
    names = [f"d{number}" for number in range(devices)] + [f"s{number}" for number in range(relays)]
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    links = [
        Link(
            *(pair if draw(st.booleans()) else pair[::-1]),
            "pcie",
            draw(st.sampled_from([1e9, 2e9, 5e9, 25e9])),
            draw(st.sampled_from([0.0, 1e-6, 3e-6, 1e-5, 0.25])),
        )
        for pair in chosen
    ]
    some = st.sampled_from(["h", "i", "j"])
    homes = [draw(some) for _ in range(devices)] + [draw(st.none() | some) for _ in range(relays)]
    return make(devices, relays, links, homes)


def best_by_enumeration(topology: Topology, a: str, b: str, size: float) -> float:
    """Return the least transfer time over every simple path from a to b that crosses no other device."""
    others = {device.name for device in topology.devices} - {a, b}
    graph = nx.Graph()
    graph.add_nodes_from(part.name for part in topology.components if part.name not in others)
    for link in topology.links:
        if link.a not in others and link.b not in others:
            graph.add_edge(link.a, link.b, latency=link.latency_s, bandwidth=link.bandwidth_bytes_per_s)
    times = [math.inf]
    for path in nx.all_simple_paths(graph, a, b):
        edges = [graph.edges[pair] for pair in pairwise(path)]
        times.append(sum(e["latency"] for e in edges) + size / min(e["bandwidth"] for e in edges))
    return min(times)


@settings(max_examples=150, deadline=None)
@given(topologies(), st.sampled_from([0.0, 4.0, 16384.0, 1e8]))
def test_tables_equal_the_best_of_all_paths(topology: Topology, size: float) -> None:
    """α + m·β is the least time over every path, for every pair; inf exactly where there is none."""
    table = route_tables(topology, size)
    for i, a in enumerate(table.devices):
        for j, b in enumerate(table.devices):
            expected = 0.0 if i == j else best_by_enumeration(topology, a, b, size)
            alpha, beta = table.latency_s[i, j], table.s_per_byte[i, j]
            assert math.isinf(alpha) == math.isinf(beta) == math.isinf(expected)
            if math.isfinite(expected):
                assert alpha + size * beta == pytest.approx(expected, rel=1e-12, abs=1e-15)


@settings(max_examples=100, deadline=None)
@given(topologies(), st.sampled_from([0.0, 4.0, 16384.0, 1e8]))
def test_single_routes_agree_with_the_tables(topology: Topology, size: float) -> None:
    """Every route found has the table's latency and bandwidth, walks along links, and crosses no device."""
    table, router = route_tables(topology, size), Router(topology)
    devices = set(table.devices)
    for i, a in enumerate(table.devices):
        found = router.routes_from(a, size)
        assert set(found) == {b for j, b in enumerate(table.devices) if i != j and np.isfinite(table.latency_s[i, j])}
        for b, way in found.items():
            j = table.devices.index(b)
            assert way.latency_s == table.latency_s[i, j]
            assert 1.0 / way.bandwidth_bytes_per_s == table.s_per_byte[i, j]
            within = router.route_within(a, b, way.bandwidth_bytes_per_s)
            assert within is not None
            assert (within.latency_s, within.bandwidth_bytes_per_s) == (way.latency_s, way.bandwidth_bytes_per_s)
            assert (way.components[0], way.components[-1]) == (a, b)
            assert not devices & set(way.components[1:-1])
            for link, step in zip(way.links, pairwise(way.components), strict=True):
                assert {link.a, link.b} == set(step)


@settings(max_examples=150, deadline=None)
@given(topologies())
def test_searches_from_both_ends_and_from_one_agree(topology: Topology) -> None:
    """At every bandwidth: a way from one or from both, of the same latency; no longer than the other."""
    graph = adjacency(topology)
    names = [device.name for device in topology.devices]
    for bandwidth in graph.bandwidths:
        for a, b in permutations(names, 2):
            one = shortest_from(graph, a, bandwidth, {b}).get(b)
            both = shortest_between(graph, a, bandwidth, b)
            assert (one is None) == (both is None)
            if one is not None and both is not None:
                latencies = [math.fsum(link.latency_s for link in links) for links in (one, both)]
                assert latencies[0] == pytest.approx(latencies[1], abs=2e-15)
                assert len(both) <= len(one)
                ends = {both[0].a, both[0].b, both[-1].a, both[-1].b}
                assert {a, b} <= ends


@settings(max_examples=100, deadline=None)
@given(topologies(), st.sampled_from([0.0, 16384.0, 1e8]))
def test_compact_tables_have_the_numbers_of_the_dense_ones(topology: Topology, size: float) -> None:
    """Single numbers and whole rows, read from tables within hosts and between groups, are those of the matrices."""
    router = Router(topology)
    dense, compact = router.table(size), router.compact_table(size)
    for i in range(len(dense.devices)):
        latency, slowness = compact.row(i)
        assert np.array_equal(latency, dense.latency_s[i])
        assert np.array_equal(slowness, dense.s_per_byte[i])
        for j in range(len(dense.devices)):
            assert compact.numbers(i, j) == (dense.latency_s[i, j], dense.s_per_byte[i, j])


@settings(max_examples=60, deadline=None)
@given(topologies(), st.sampled_from([4.0, 1e8]))
def test_both_ways_over_relays_agree(topology: Topology, size: float) -> None:
    """The sparse search for many relays gives the tables of the dense one, to the last bit."""
    dense = route_tables(topology, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortest, "_MANY", -1)
        sparse = route_tables(topology, size)
    assert np.array_equal(dense.latency_s, sparse.latency_s)
    assert np.array_equal(dense.s_per_byte, sparse.s_per_byte)


@settings(max_examples=60, deadline=None)
@given(topologies(), st.sampled_from([0.0, 16384.0]))
def test_tables_are_symmetric(topology: Topology, size: float) -> None:
    """Links are undirected, so the tables equal their transposes exactly."""
    table = route_tables(topology, size)
    assert np.array_equal(table.latency_s, table.latency_s.T)
    assert np.array_equal(table.s_per_byte, table.s_per_byte.T)


def test_the_fastest_route_depends_on_the_message() -> None:
    """A slow direct link wins for 4 bytes, two fast hops over a switch for 100 MB."""
    # Direct 1 us + m/1e9; over the switch 2 · 5 us + m/25e9. They meet at m = 9e-6 / (1e-9 - 4e-11) = 9375 bytes.
    topology = make(
        2, 1, [Link("d0", "d1", "x", 1e9, 1e-6), Link("d0", "s0", "y", 25e9, 5e-6), Link("d1", "s0", "y", 25e9, 5e-6)]
    )
    assert route(topology, "d0", "d1", 9374.0).components == ("d0", "d1")
    assert route(topology, "d0", "d1", 9376.0).components == ("d0", "s0", "d1")
    table = route_tables(topology, 1e8)
    assert (table.latency_s[0, 1], table.s_per_byte[0, 1]) == (1e-5, 1 / 25e9)


def test_no_route_passes_through_another_device() -> None:
    """d0-d1 and d1-d2 are joined; d0 and d2 have no route."""
    topology = make(3, 0, [Link("d0", "d1", "x", 1e9, 1e-6), Link("d1", "d2", "x", 1e9, 1e-6)])
    table = route_tables(topology, 4.0)
    assert math.isinf(table.latency_s[0, 2])
    with pytest.raises(UsageError, match="no route joins d0 and d2"):
        route(topology, "d0", "d2", 4.0)


def test_a_device_left_out_still_does_not_relay() -> None:
    """Tables of d0 and d2 alone do not route over d1; their rows follow the order asked for."""
    topology = make(3, 0, [Link("d0", "d1", "x", 1e9, 1e-6), Link("d1", "d2", "x", 1e9, 1e-6)])
    assert math.isinf(route_tables(topology, 4.0, devices=["d2", "d0"]).latency_s[0, 1])
    assert route_tables(topology, 4.0, devices=["d2", "d1"]).devices == ("d2", "d1")


def test_a_device_reaches_itself_at_once() -> None:
    """The diagonal is zero, and so is the route from a device to itself."""
    topology = make(1, 0, [])
    table = route_tables(topology, 1e9)
    assert (table.latency_s[0, 0], table.s_per_byte[0, 0]) == (0.0, 0.0)
    assert route(topology, "d0", "d0", 1e9).transfer_s(1e9) == 0.0


@pytest.mark.parametrize("size", [-1.0, math.nan, math.inf])
def test_an_impossible_message_is_refused(size: float) -> None:
    """Sizes below zero, NaN and infinity are usage errors."""
    with pytest.raises(UsageError, match="message"):
        route_tables(make(2, 0, []), size)


def test_an_unknown_or_double_device_is_refused() -> None:
    """Names must be devices of the topology, each once."""
    topology = make(2, 0, [])
    with pytest.raises(UsageError, match="unknown device 'd9'"):
        route_tables(topology, 4.0, devices=["d9"])
    with pytest.raises(UsageError, match="distinct"):
        route_tables(topology, 4.0, devices=["d0", "d0"])


def test_a_faster_link_never_slows_a_transfer() -> None:
    """Doubling one link's bandwidth lowers or keeps every transfer time."""
    topology = load_topology("dgx-1-v100")
    before = route_tables(topology, 1e6)
    links = list(topology.links)
    first = links[0]
    links[0] = Link(first.a, first.b, first.kind, 2 * first.bandwidth_bytes_per_s, first.latency_s)
    faster = Topology(topology.name, topology.devices, topology.components, tuple(links))
    after = route_tables(faster, 1e6)
    time_before = before.latency_s + 1e6 * before.s_per_byte
    assert np.all(after.latency_s + 1e6 * after.s_per_byte <= time_before)


def test_sixty_four_devices_are_fast() -> None:
    """Eight hosts of eight GPUs take well under 50 ms (best of five, so that a busy machine does not matter)."""
    topology = load_topology("dgx-h100", hosts=8, fabric="infiniband-ndr")
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        route_tables(topology, 16384.0)
        best = min(best, time.perf_counter() - start)
    assert best < 0.05
