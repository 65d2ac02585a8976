"""Clusters with a hierarchy: what detection finds and refuses; the quotient answers as the plain search does."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import numpy as np
import pytest

from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Timing
from gpuplan.solvers import solve
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement.core import Core, Query, make_core
from gpuplan.solvers.placement.dense import solve_dense
from gpuplan.solvers.placement.evaluate import broken_rule, evaluate
from gpuplan.solvers.placement.hierarchy import quotient
from gpuplan.solvers.placement.hierarchy.detect import Hierarchy, find_hierarchy
from gpuplan.solvers.placement.hierarchy.merged import Merged, merge_plenty
from gpuplan.solvers.placement.query import Session
from gpuplan.solvers.placement.tables import ClassTables, class_tables


def _racks(racks: list[list[int]], per_host: int = 2, *, far: float = 9.0, memory: float = 4.0) -> DensePlacement:
    """Racks of hosts by kind: 1 s inside a host, 3 s in the rack, `far` s across racks; kind k takes k+1 s a layer.

    Six layers of 2 bytes; a device holds `memory` bytes, which is two layers by default.
    """
    hosts = [(number, kind) for number, rack in enumerate(racks) for kind in rack]
    host = np.repeat(np.arange(len(hosts)), per_host)
    rack, kind = np.array(hosts)[host].T
    latency = np.where(host[:, None] == host, 1.0, np.where(rack[:, None] == rack, 3.0, far))
    np.fill_diagonal(latency, 0.0)
    timing = Timing(np.outer(kind + 1.0, np.ones(6)), HopTable(latency, np.zeros_like(latency)), np.zeros(6))
    devices = len(host)
    return DensePlacement(
        device_names=tuple(f"g{d}" for d in range(devices)),
        layer_names=tuple(f"layer{i}" for i in range(6)),
        available_bytes=np.full(devices, memory),
        price_per_hour=np.full(devices, np.nan),
        memory_bytes=np.full(6, 2.0),
        kv_bytes_per_token=np.zeros(6),
        latency=timing,
        cycle=timing,
    )


def _tables(problem: DensePlacement) -> ClassTables:
    return class_tables(problem, with_price=not np.isnan(problem.price_per_hour).any())


def _found(problem: DensePlacement) -> Hierarchy:
    found = find_hierarchy(_tables(problem))
    assert isinstance(found, Hierarchy), found
    return found


def test_alike_racks_of_mixed_hosts_are_two_kinds() -> None:
    """Three racks of a fast and a slow host: six classes of two kinds, three units, two levels."""
    found = _found(_racks([[0, 1], [0, 1], [0, 1]]))
    assert found.kind.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.levels == 2
    assert len(np.unique(found.unit[1])) == 3
    assert found.level[0].tolist() == [0, 1, 2, 2, 2, 2]


def test_a_rack_with_a_host_less_is_still_a_rack() -> None:
    """Racks need not be equal: what counts is that hops depend on kinds and level alone."""
    found = _found(_racks([[0, 0, 0], [0, 0]]))
    assert found.num_kinds == 1
    assert np.bincount(found.unit[1]).tolist() == [3, 0, 0, 2]


def test_pods_of_racks_are_a_third_level() -> None:
    """Racks 0, 1 and racks 2, 3 stand nearer to each other than the pairs do."""
    problem = _racks([[0, 0], [0, 0], [0, 0], [0, 0]])
    latency = problem.latency.hop.latency_s.copy()
    half = np.arange(16) // 8
    latency[half[:, None] != half] = 20.0
    found = _found(_with_latency(problem, latency))
    assert found.levels == 3
    assert sorted(np.unique(found.level).tolist()) == [0, 1, 2, 3]


def _with_latency(problem: DensePlacement, latency: np.ndarray) -> DensePlacement:
    timing = dataclasses.replace(problem.latency, hop=HopTable(latency, problem.latency.hop.s_per_byte))
    return dataclasses.replace(problem, latency=timing, cycle=timing)


def test_a_ring_of_hosts_is_refused() -> None:
    """Every host is 3 s from two neighbours and 9 s from the rest: alike, but no unit holds what is near."""
    problem = _racks([[0]] * 6)
    host = np.arange(12) // 2
    step = np.abs(host[:, None] - host)
    latency = np.where(step == 0, 1.0, np.where(np.minimum(step, 6 - step) == 1, 3.0, 9.0))
    np.fill_diagonal(latency, 0.0)
    assert find_hierarchy(_tables(_with_latency(problem, latency))) == "hops inside a unit follow no hierarchy"
    result = solve(_with_latency(problem, latency), solver="quotient")
    # Three stages of two layers: 6 s; a hop inside the host and one to a neighbour: 1 + 3 s.
    assert (result.status, result.objective) == ("optimal", 10.0)
    assert any("refused" in note for note in result.report.notes)


def test_a_plan_that_fits_the_racks_is_optimal_by_that() -> None:
    """Six layers on devices of two: three stages, two hops; 6 s + 1 s in the host + 3 s in the rack."""
    result = solve(_racks([[0, 0], [0, 0]]), solver="quotient")
    assert (result.status, result.objective, result.bound) == ("optimal", 10.0, 10.0)
    assert result.report.bound_kind == "host and rack quotient"


def test_scarce_hosts_are_counted() -> None:
    """One fast host in all, of two devices: the third stage has to run on a slow one, 2·2 s, and one hop is far.

    The relaxation would take a second fast host. 4 s on the fast, 4 s on the slow, hops 1 s and 9 s: 18 s; all slow
    would be 12 s + 1 s + 3 s = 16 s, the optimum.
    """
    problem = _racks([[0], [1, 1], [1, 1]])
    assert solve(problem, solver="quotient").objective == 16.0
    # With racks only 4 s apart the mix wins: 4 + 4 + 1 + 4 = 13 s.
    assert solve(_racks([[0], [1, 1], [1, 1]], far=4.0), solver="quotient").objective == 13.0


def _queries(tables: ClassTables) -> list[Query]:
    return [
        Query(),
        Query(time_weight=0.7, entry=tuple(tables.price.tolist())),
        Query(time_weight=0.0, entry=(1.0,) * tables.num_classes),
        Query(max_stages=3),
        Query(capacity_tokens=3.0),
        Query(time_weight=0.0, any_plan=True),
    ]


def _compare(problem: DensePlacement, alone: bool) -> int:
    """Compare the quotient with the plain search on every query it takes; return how many that were."""
    tables = class_tables(problem, with_price=True)
    compared = 0
    for query in _queries(tables):
        session = Session(tables, "quotient", Budget(Limits()))
        found = session.hierarchy()
        core = make_core(tables, query, 1)
        if found is None or quotient.refusal(core, found) is not None or core.max_stages < 2:
            continue
        expected = Session(tables, "dp", Budget(Limits())).ask(query)
        answer = session.ask(query)
        compared += 1
        slack = 1e-9 * max(1.0, abs(expected.value)) if expected.path is not None else 0.0
        if expected.path is None:
            assert answer.path is None
            continue
        assert answer.bound <= expected.value + slack
        if query.any_plan:
            assert alone or answer.path is not None
            continue
        assert answer.proven or alone
        if answer.path is not None:
            assert answer.value >= expected.value - slack
            assert broken_rule(problem, tables.to_stages(answer.path)) is None
        if answer.proven:
            assert answer.value == pytest.approx(expected.value, abs=slack)
    return compared


def test_the_quotient_answers_as_the_plain_search_does(hierarchies: ModuleType) -> None:
    """150 random hierarchies, racks alike and mixed, return hops: six queries each."""
    assert sum(_compare(hierarchies.random_hierarchy(seed), False) for seed in range(150)) > 400


def test_bounds_of_the_quotient_alone_are_valid(hierarchies: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the general engine behind it: bounds stay below the optimum, and what it calls proven is."""
    monkeypatch.setattr(quotient._Quotient, "_search_all", lambda self, budget, anew=False: None)
    monkeypatch.setattr(quotient._Quotient, "_search_suggested", lambda self: None)
    assert sum(_compare(hierarchies.random_hierarchy(seed), True) for seed in range(150, 400)) > 700


@pytest.mark.parametrize("bits", [7, 10])
def test_bounds_of_merged_kinds_are_valid(hierarchies: ModuleType, monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """Scarce kinds host by host, the others merged, and nothing behind: bounds below the optimum, proofs that hold."""
    made = []

    def merge(core: Core, tree: Hierarchy, _: int) -> Merged | None:
        made.append(merge_plenty(core, tree, bits))
        return made[-1]

    monkeypatch.setattr(quotient, "merge_plenty", merge)
    monkeypatch.setattr(quotient._Quotient, "_refine", lambda self: self._search_merged() or quotient._Tried())
    monkeypatch.setattr(quotient._Quotient, "_search_all", lambda self, budget, anew=False: None)
    assert sum(_compare(hierarchies.random_hierarchy(seed), True) for seed in range(400, 520)) > 300
    assert sum(merged is not None for merged in made) > 20


def test_scarce_kinds_are_searched_host_by_host(racks_benchmark: ModuleType) -> None:
    """Five of six kinds have a single host and 40 devices are filled: proven, where prices left a gap of 3 %."""
    problem = racks_benchmark.racks(1024, 80, 1, kinds=6, rare=True, hosts_per_rack=1, stages=30.0)
    assert solve(problem).status == "optimal"


def test_one_number_off_is_refused_or_answered_right(hierarchies: ModuleType) -> None:
    """One hop in one direction longer: whatever detection still finds, the answer is that of the plain search."""
    problems = (hierarchies.one_number_off(hierarchies.random_hierarchy(seed), seed) for seed in range(150))
    assert sum(_compare(problem, False) for problem in problems) > 0


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_many_more_hierarchies(hierarchies: ModuleType, block: int) -> None:
    """2,000 further random hierarchies."""
    seeds = range(1000 + 200 * block, 1200 + 200 * block)
    assert sum(_compare(hierarchies.random_hierarchy(seed), False) for seed in seeds) > 400


def test_objectives_agree_with_the_plain_engine(hierarchies: ModuleType) -> None:
    """Whole objectives, lexicographic ones too: the quotient's result equals the small engine's."""
    for seed in range(40):
        for name in ("latency", "efficiency", "balanced", "cost"):
            problem = hierarchies.random_hierarchy(seed)
            problem = dataclasses.replace(problem, objective=dataclasses.replace(problem.objective, name=name))
            plain = solve_dense(problem, Limits(), engine="dp")
            result = solve_dense(problem, Limits(), engine="quotient")
            assert result.status == plain.status
            if plain.objective is not None:
                assert np.atleast_1d(result.objective) == pytest.approx(np.atleast_1d(plain.objective), rel=1e-9)


def test_auto_takes_the_quotient_on_a_large_cluster_and_says_why(racks_benchmark: ModuleType) -> None:
    """256 devices in racks of one kind: proven optimal, at once, with a note."""
    problem = racks_benchmark.racks(256, 40, 1, kinds=3)
    result = solve(problem)
    assert result.status == "optimal"
    assert "auto picked quotient: 256 devices in 32 classes of 3 kinds in 8 units" in result.report.notes[-1]
    assert result.plan is not None
    assert evaluate(problem, result.plan.stages).latency_s == pytest.approx(result.objective, rel=1e-12)


def test_mixed_racks_of_4096_devices_keep_a_small_gap(racks_benchmark: ModuleType) -> None:
    """Racks that mix four kinds, D×D nowhere: a gap of at most 1 %, the same answer twice."""
    problem = racks_benchmark.racks(4096, 40, 2, kinds=4, mixed=True)
    first, again = (solve(problem, time_limit_s=30.0) for _ in range(2))
    assert first.gap is not None
    assert first.gap <= 0.01
    assert first.plan == again.plan


def test_a_cancelled_quotient_claims_nothing(racks_benchmark: ModuleType) -> None:
    """Stopped before the first programme ends: a rule's plan, and nothing proven of it."""
    problem = racks_benchmark.racks(256, 40, 1, kinds=3)
    result = solve(problem, solver="quotient", cancel=lambda: True)
    assert result.status == "feasible"
    assert result.plan is not None
    assert broken_rule(problem, result.plan.stages) is None
    best = solve(problem).objective
    assert isinstance(best, float)
    assert result.bound is None or np.all(np.asarray(result.bound) <= best * (1.0 + 1e-9))
