"""Transfer times by unit: the same numbers as D×D, never D×D above 2,048 devices, refusals before memory runs out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpuplan.errors import InputError, UnsupportedError
from gpuplan.profiles import PlacementProblem, load_model
from gpuplan.profiles.problems import hops, routing
from gpuplan.profiles.problems.alike import alike, swappable
from gpuplan.profiles.problems.hops import HopTable, UnitHops, check_entries, unit_hops
from gpuplan.profiles.problems.placement import DensePlacement, Timing
from gpuplan.profiles.problems.placement_io import placement_from_dict
from gpuplan.solvers.placement.tables import class_tables
from gpuplan.topology import load_topology
from gpuplan.topology.replicate import replicate


def _units() -> UnitHops:
    """Devices 0, 1, 2 of unit 0 and device 3 of unit 1; nothing leads from 1 to 0."""
    latency, slowness = np.array([[1.0, 5.0], [np.inf, 7.0]]), np.array([[0.5, 2.0], [3.0, 9.0]])
    return unit_hops(np.array([0, 0, 0, 1]), latency, slowness)


def test_pairs_read_the_diagonal_for_two_devices_of_a_unit() -> None:
    """The pair (0, 1) is inside unit 0; a device costs nothing to itself; no route is inf + 0·bytes."""
    table = _units()
    assert table.pair(0, 1) == (1.0, 0.5)
    assert table.pair(0, 0) == (0.0, 0.0)
    assert table.pair(2, 3) == (5.0, 2.0)
    assert table.pair(3, 0) == (np.inf, 0.0)


def test_expanding_gives_the_same_pairs() -> None:
    """Every entry of the D×D form is what `pair` says."""
    table = _units()
    dense = table.dense()
    for d, e in itertools.product(range(4), repeat=2):
        assert (dense.latency_s[d, e], dense.s_per_byte[d, e]) == table.pair(d, e)
    assert table.latency_s is dense.latency_s


def test_no_table_of_all_pairs_above_2048_devices() -> None:
    """2,049 devices of one unit: pairs can be asked for, the D×D form is refused in one sentence."""
    table = unit_hops(np.zeros(2049, dtype=np.int64), np.array([[1.0]]), np.array([[0.0]]))
    assert table.pair(0, 2048) == (1.0, 0.0)
    with pytest.raises(UnsupportedError, match="at most 2,048 devices"):
        _ = table.latency_s


def test_units_are_checked_like_pairs() -> None:
    """A negative number and a home of the wrong length are refused; the diagonal of a unit of one is not read."""

    def problem(hop: UnitHops) -> DensePlacement:
        timing = Timing(np.ones((4, 1)), hop, np.zeros(1))
        ones = np.ones(1)
        names = tuple("abcd")
        return DensePlacement(names, ("l",), np.ones(4), np.full(4, np.nan), ones, np.zeros(1), timing, timing)

    assert problem(_units()).num_devices == 4
    with pytest.raises(InputError, match="at least 0"):
        problem(UnitHops(np.array([0, 0, 0, 1]), np.array([[-1.0, 0.0], [0.0, 0.0]]), np.zeros((2, 2))))
    with pytest.raises(InputError, match="home"):
        problem(UnitHops(np.array([0, 1]), np.zeros((2, 2)), np.zeros((2, 2))))


def test_routes_by_unit_equal_routes_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six DGX-1 (whose GPUs are not all alike): classes and every class-level number agree with the D×D form."""
    topology = replicate(load_topology("dgx-1-v100"), 6, "infiniband-edr")
    model = load_model("llama-3.1-8b")
    dense = PlacementProblem(model, topology).dense()
    monkeypatch.setattr(routing, "MOST_PAIRWISE", 0)
    compact = PlacementProblem(model, topology).dense()
    assert isinstance(dense.latency.hop, HopTable)
    assert isinstance(compact.latency.hop, UnitHops)
    for d, e in itertools.product(range(48), repeat=2):
        if d != e:
            assert compact.latency.hop.pair(d, e) == dense.latency.hop.pair(d, e)
    one, two = class_tables(dense), class_tables(compact)
    assert one.members == two.members
    assert np.array_equal(one.pred, two.pred)
    for name in ("hop_s", "hop_s_per_byte", "back"):
        assert np.array_equal(getattr(one.latency, name), getattr(two.latency, name))
        assert np.array_equal(getattr(one.cycle, name), getattr(two.cycle, name))


def test_thousands_of_devices_hold_no_table_of_all_pairs() -> None:
    """512 hosts of eight: tables of 512 units."""
    topology = replicate(load_topology("dgx-h100"), 512, "infiniband-ndr")
    problem = PlacementProblem(load_model("llama-3.1-8b"), topology).dense()
    assert problem.num_devices == 4096
    assert problem.latency.hop.unit_latency_s.shape == (512, 512)


def test_more_than_50_million_entries_are_refused() -> None:
    """7,071² entries are just below 50 million, 7,072² above."""
    check_entries(7071**2, "a test")
    with pytest.raises(UnsupportedError, match="at most 50 million matrix entries, got 50,013,184 for a test"):
        check_entries(7072**2, "a test")


def test_a_file_of_too_many_devices_is_refused_before_its_matrices() -> None:
    """8,000 devices: said at once, though the hop tables are missing."""
    document = {
        "schema": "gpuplan/placement-problem/1",
        "devices": [{"name": f"g{d}", "available_bytes": 1.0} for d in range(8000)],
        "layers": [{"name": "l", "memory_bytes": 1.0, "boundary_bytes": 0.0}],
    }
    with pytest.raises(UnsupportedError, match="64,000,000 for the hops of 8,000 devices"):
        placement_from_dict(document)


def _slow_alike(tables: list[np.ndarray], keys: list[bytes]) -> list[int]:
    """Compare every unit with the first of each set, as defined."""
    leader = list(range(len(keys)))
    for unit in range(len(keys)):
        for first in range(unit):
            if leader[first] == first and keys[first] == keys[unit] and swappable(tables, first, unit):
                leader[unit] = first
                break
    return leader


def test_alike_units_are_those_that_can_be_swapped() -> None:
    """300 random tables of few values, so that many units are alike: hashing finds what comparing finds."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        size, blocks = int(rng.integers(2, 9)), rng.integers(0, 3, 9)
        tables = [rng.integers(0, 2, (3, 3)).astype(float)[np.ix_(blocks[:size], blocks[:size])] for _ in range(2)]
        if rng.random() < 0.5:
            tables[0] = np.maximum(tables[0], tables[0].T)
        if rng.random() < 0.3:
            tables[1][rng.integers(size), rng.integers(size)] += 1.0
        keys = [bytes([int(k)]) for k in rng.integers(0, 2, size)]
        assert alike(tables, keys).tolist() == _slow_alike(tables, keys)


def test_a_file_of_thousands_of_devices_keeps_tables_by_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit at 3: two hosts of two devices become two units, and every pair costs what the file says."""
    table = [[0, 1, 5, 5], [1, 0, 5, 5], [6, 6, 0, 2], [6, 6, 2, 0]]
    document = {
        "schema": "gpuplan/placement-problem/1",
        "devices": [{"name": f"g{d}", "available_bytes": 1.0} for d in range(4)],
        "layers": [{"name": "l", "memory_bytes": 1.0, "boundary_bytes": 0.0}],
        "compute_s": [[1.0]] * 4,
        "hop_latency_s": table,
        "hop_s_per_byte": [[0.0] * 4] * 4,
        "objective": {"name": "latency"},
    }
    monkeypatch.setattr(hops, "MOST_DENSE", 3)
    hop = placement_from_dict(document).latency.hop
    assert isinstance(hop, UnitHops)
    assert hop.unit_latency_s.tolist() == [[1, 5], [6, 2]]
    assert [[hop.pair(d, e)[0] for e in range(4)] for d in range(4)] == table
