"""Plans by memory alone: every plan holds, every proof of none is true, hard packings are decided."""

from __future__ import annotations

import itertools
import math
from types import ModuleType

import numpy as np
import pytest

from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Timing
from gpuplan.solvers import solve
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement import small
from gpuplan.solvers.placement.core import Core, Query, make_core
from gpuplan.solvers.placement.infeasible import _never_filled, shortages
from gpuplan.solvers.placement.packing import Packing
from gpuplan.solvers.placement.tables import class_tables
from gpuplan.solvers.placement.unlike.fill import EFFORTS, Rest, fill, make_sorts


def _tight(seed: int, devices: int, layers: int, share: float) -> DensePlacement:
    """Layers of uneven size that take `share` of all memory; every third problem lacks routes."""
    rng = np.random.default_rng(seed)
    sizes = rng.uniform(0.5, 1.5, layers)
    room = rng.choice([2.0, 3.0, 4.5], devices) * rng.uniform(0.9, 1.1, devices)
    sizes *= share * room.sum() / sizes.sum()
    hops = rng.uniform(0.1, 1.0, (devices, devices))
    if seed % 3 == 0:
        hops[rng.random(hops.shape) < 0.3] = np.inf
    compute = np.outer(rng.uniform(1.0, 2.0, devices), np.ones(layers))
    back = HopTable(hops, np.zeros_like(hops)) if seed % 5 == 0 else None
    timing = Timing(compute, HopTable(hops, np.zeros_like(hops)), np.ones(layers), back)
    return DensePlacement(
        tuple(f"d{k}" for k in range(devices)),
        tuple(f"l{k}" for k in range(layers)),
        room,
        np.ones(devices),
        sizes,
        np.zeros(layers),
        timing,
        timing,
    )


def _core(problem: DensePlacement, query: Query | None = None) -> Core:
    return make_core(class_tables(problem), query or Query(), 1)


def _possible(core: Core) -> bool:
    """Whether any order of distinct devices and any cuts hold, by brute force."""
    n = core.num_layers
    devices = [c for c in range(core.num_classes) for _ in range(int(core.counts[c]))]
    for count in range(2, min(core.max_stages, len(devices), n) + 1):
        for order in set(itertools.permutations(devices, count)):
            for cuts in itertools.combinations(range(1, n), count - 1):
                ends = (0, *cuts, n)
                if core.holds(tuple((order[k], ends[k], ends[k + 1]) for k in range(count))):
                    return True
    return False


def test_tight_packings_agree_with_brute_force() -> None:
    """Four devices at 80-100 % of memory: plans where brute force has one, proofs where it has none."""
    plans = proofs = 0
    for seed in range(400):
        core = _core(_tight(seed, 4, 7, 0.8 + 0.2 * (seed % 7) / 6))
        filled = fill(core, Budget(Limits(None)))
        possible = _possible(core)
        assert filled.path is None or core.holds(filled.path)
        assert filled.path is None or possible
        assert not (filled.impossible and possible)
        # Only a missing return route may leave a question open: it is not searched for.
        assert filled.path is not None or filled.impossible or core.back is not None
        plans += filled.path is not None
        proofs += filled.impossible
    assert plans > 80
    assert proofs > 80


@pytest.mark.parametrize("efforts", [EFFORTS, ((3, 2, 2),), ((40, 5, 3), (400, 1000, 1))])
def test_no_effort_claims_too_much(instances: ModuleType, efforts: tuple[tuple[int, int, int], ...]) -> None:
    """On random problems with marked layers, budgets, stage limits and alike devices all claims are true."""
    decided = 0
    for seed in range(500):
        problem: DensePlacement = instances.random_problem(seed)
        if problem.micro_batches == "stages":
            continue
        tables = class_tables(problem)
        rng = np.random.default_rng(seed)
        budget = (tuple(rng.uniform(1.0, 5.0, tables.num_classes)), float(rng.uniform(3.0, 12.0)))
        query = Query(budget=budget if seed % 2 else None, capacity_tokens=5.0 if seed % 7 == 0 else None)
        core = make_core(tables, query, problem.micro_batches)
        if core.max_stages < 2:
            continue
        filled = fill(core, Budget(Limits(None)), efforts)
        optimum = small.minimise(core, math.inf, Budget(Limits(None)))
        assert filled.path is None or core.holds(filled.path), seed
        assert not (filled.impossible and optimum.path is not None), seed
        decided += filled.path is not None or filled.impossible
    assert decided > 250


def test_merged_sorts_never_need_more_room() -> None:
    """What merged devices may reach from the end is never behind what the devices themselves reach."""
    for seed in range(1, 200):
        core = _core(_tight(seed, 5, 12, 0.9))
        sorts = make_sorts(core)
        exact, merged = Rest(sorts, core, 10**6), Rest(sorts, core, 6)
        for used in itertools.product(*(range(int(count) + 1) for count in sorts.counts)):
            rows = np.array([used])
            assert merged.least(merged.left(rows)) <= exact.least(exact.left(rows))


def test_a_hard_packing_gets_a_plan_with_a_bound_or_a_proof() -> None:
    """Thirty devices at 85-97 % of memory, no key of bits to spare: never an answer without a plan or a proof."""
    plans = proofs = 0
    for seed in range(1, 6):
        problem = _tight(3 * seed + 1, 30, 70, 0.85 + 0.02 * (seed % 7))
        result = solve(problem, time_limit_s=60.0, work_limit=20_000)
        assert result.status in ("feasible", "optimal", "infeasible")
        if result.plan is not None:
            assert result.gap is not None
            assert result.gap < 0.2
        plans += result.plan is not None
        proofs += result.status == "infeasible"
    assert plans >= 2
    assert proofs >= 1


def test_return_routes_missing_inside_a_class_prove_nothing() -> None:
    """Two alike devices without a way back between them: a third one makes the plan, so none is no proof.

    Two of three alike devices hold all six layers; 0 and 1 reach each other but not back, 2 closes the circle.
    """
    hops = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    ways_back = np.array([[0.0, np.inf, 1.0], [np.inf, 0.0, 1.0], [1.0, 1.0, 0.0]])
    none = np.zeros_like(hops)
    compute = np.vstack([np.ones((2, 6)), np.full((1, 6), 2.0)])
    timing = Timing(compute, HopTable(hops, none), np.ones(6), HopTable(ways_back, none), 1.0)
    names = ("d0", "d1", "d2")
    layers = tuple(f"l{k}" for k in range(6))
    problem = DensePlacement(names, layers, np.full(3, 3.0), np.ones(3), np.ones(6), np.zeros(6), timing, timing)
    core = _core(problem, Query(any_plan=True))
    assert not fill(core, Budget(Limits())).impossible
    assert solve(problem, solver="labels").status == "optimal"


def test_reasons_use_the_proof_by_memory_alone() -> None:
    """64 unlike devices, 126 uneven layers, 99 % full: too many sizes to count out, yet the reason is a packing.

    Each device would have to be filled to 99 % on average with whole layers of half its size and more.
    """
    problem = _tight(2, 64, 126, 0.99)
    assert Packing(problem).fits() is None
    (reason,) = [shortage for shortage in shortages(problem) if shortage.kind in ("packing", "proof")]
    assert reason.kind == "packing"
    assert "no order of the devices, each filled as far as it goes, holds all layers" in reason.sentence


def test_reasons_of_small_packings_stay_exact() -> None:
    """The proof by memory alone never says that nothing fits where something does."""
    proofs = 0
    for seed in range(150):
        problem = _tight(seed, 5, 11, (0.75, 0.85, 0.93)[seed % 3])
        if _never_filled(problem):
            assert small.minimise(_core(problem), math.inf, Budget(Limits(None))).value == math.inf
            proofs += 1
    assert proofs > 10
