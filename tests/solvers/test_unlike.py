"""The engine for unlike devices: kernels, parts of plans, memory, fixing, and bounds against the optimum."""

from __future__ import annotations

import dataclasses
import itertools
import math
from types import ModuleType

import numpy as np
import pytest

from gpuplan.profiles.problems.placement import DensePlacement, FloatArray, HopTable, Timing
from gpuplan.solvers import solve
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement import kernels as plain_kernels
from gpuplan.solvers.placement import small
from gpuplan.solvers.placement.core import Core, CoreOutcome, Query, make_core
from gpuplan.solvers.placement.effort import Effort, Settings
from gpuplan.solvers.placement.tables import ClassPath, class_tables
from gpuplan.solvers.placement.unlike import closing, links
from gpuplan.solvers.placement.unlike import kernels as wide_kernels
from gpuplan.solvers.placement.unlike.closing import close
from gpuplan.solvers.placement.unlike.dive import plan_from
from gpuplan.solvers.placement.unlike.fixing import finish, fix
from gpuplan.solvers.placement.unlike.links import make_wide
from gpuplan.solvers.placement.unlike.memory import Memory
from gpuplan.solvers.placement.unlike.relaxation import WideRelaxation
from gpuplan.solvers.placement.unlike.segment import make_segment
from gpuplan.solvers.placement.unlike.solve import minimise_unlike


def _no_limit() -> Budget:
    return Budget(Limits(None))


def _query(rng: np.random.Generator, classes: int) -> Query:
    """Latency, entry costs, bare counts or a budget."""
    kind = rng.integers(4)
    if kind == 0:
        return Query(entry=tuple(rng.uniform(0.0, 0.02, classes)))
    if kind == 1:
        return Query(time_weight=0.0, entry=(1.0,) * classes)
    if kind == 2:
        return Query(budget=(tuple(rng.uniform(1.0, 5.0, classes)), float(rng.uniform(3.0, 12.0))))
    return Query()


def _cores(instances: ModuleType, seeds: range) -> list[Core]:
    """Cores of random problems, with return hops, marked layers, stage limits as the problems have them."""
    cores = []
    for seed in seeds:
        problem: DensePlacement = instances.random_problem(seed)
        if problem.micro_batches == "stages":
            continue
        tables = class_tables(problem)
        core = make_core(tables, _query(np.random.default_rng(seed), tables.num_classes), problem.micro_batches)
        if core.max_stages >= 2:
            cores.append(core)
    return cores


def _optimum(core: Core) -> CoreOutcome:
    return small.minimise(core, math.inf, _no_limit())


def _every_path(core: Core) -> list[ClassPath]:
    """List all class paths that hold, by brute force over orders and cuts."""
    n = core.num_layers
    devices = [c for c in range(core.num_classes) for _ in range(int(core.counts[c]))]
    found: set[ClassPath] = set()
    for count in range(2, min(core.max_stages, len(devices), n) + 1):
        for order in set(itertools.permutations(devices, count)):
            for cuts in itertools.combinations(range(1, n), count - 1):
                ends = (0, *cuts, n)
                found.add(tuple((order[k], ends[k], ends[k + 1]) for k in range(count)))
    return [path for path in found if core.holds(path)]


@pytest.mark.parametrize("near", [1, 2, 12])
def test_filtered_kernels_agree_with_the_plain_ones(
    instances: ModuleType, monkeypatch: pytest.MonkeyPatch, near: int
) -> None:
    """Completions and arrivals equal those of the kernels that look at every link, whatever is near."""
    monkeypatch.setattr(links, "NEAR", near)
    for core in _cores(instances, range(60)):
        wide = make_wide(core)
        weight = core.entry + np.random.default_rng(1).uniform(0.0, 0.01, core.num_classes)
        after, rest, arrive, ended = np.empty((4, core.num_layers + 1, core.num_classes))
        wide_kernels.backward(wide.frame, wide.links, weight, after, rest)
        wide_kernels.forward(wide.frame, wide.turned, wide.gates, wide.owner, weight, arrive, ended)
        shape = (core.num_classes, core.num_layers + 1)
        expected_after, expected_rest = np.empty(shape), np.empty(shape)
        none = np.zeros((1, 1, 1), dtype=np.int64)
        stage = (core.prefix, core.hop_s, core.hop_s_per_byte, core.boundary, wide.frame.term, core.entry)
        ending = np.ascontiguousarray(core.low[:, -1])
        tables = plain_kernels.Tables(*stage, core.low, core.top, False, none, ending)
        plain_kernels.backward(tables, weight, expected_after, expected_rest)
        np.testing.assert_allclose(rest[:-1], expected_rest.T[:-1], rtol=1e-12)
        np.testing.assert_allclose(after[1:], expected_after.T[1:], rtol=1e-12)
        expected = _arrivals(core, weight)
        np.testing.assert_allclose(arrive[:-1], expected[:-1], rtol=1e-12)


def _arrivals(core: Core, weight: FloatArray) -> FloatArray:
    """Least cost to reach each boundary with each class open there, by the definition, shape (n+1, C)."""
    n = core.num_layers
    arrive = np.full((n + 1, core.num_classes), np.inf)
    arrive[0] = weight
    for j in range(1, n):
        for d, i in itertools.product(range(core.num_classes), range(j)):
            if core.low[d, j] <= i <= core.top[j]:
                closed = arrive[i, d] + core.prefix[d, j] - core.prefix[d, i]
                hops = core.hop_s[d] + core.boundary[j] * core.hop_s_per_byte[d]
                arrive[j] = np.minimum(arrive[j], closed + hops + weight)
    return arrive


def test_memory_bounds_lie_between_the_plain_bound_and_the_optimum(instances: ModuleType) -> None:
    """At any multipliers more memory never lowers the bound, and no bound passes the optimum."""
    raised = 0
    for seed, core in enumerate(_cores(instances, range(200))):
        optimum = _optimum(core).value
        rng = np.random.default_rng(seed)
        plain = make_wide(core)
        multipliers = rng.uniform(0.0, 0.3, len(core.counts) + len(plain.limits)) * plain.trivial / core.num_layers
        bounds = []
        for size in (0, 1, 2):
            sets = {
                e: sorted(rng.choice(core.num_classes, min(size, core.num_classes), replace=False).tolist())
                for e in range(core.num_classes)
                if size
            }
            sets = {e: [d for d in known if core.counts[d] == 1 and d != e] for e, known in sets.items()}
            relaxation = WideRelaxation(Memory(core, sets).wide(plain), multipliers)
            relaxation.raise_bound(1, math.inf, _no_limit(), math.inf)
            bounds.append(relaxation.lower)
        assert min(bounds[1:]) >= bounds[0] - 1e-9 * plain.trivial or bounds[0] == math.inf
        assert max(bounds) <= optimum * (1 + 1e-9) or math.isinf(optimum)
        raised += bounds[2] > bounds[0] * (1 + 1e-6)
    assert raised > 5


def test_reduced_costs_never_exceed_the_best_plan_through_a_class(instances: ModuleType) -> None:
    """What `through` says of a class, and what `fix` leaves out, is below or beside every plan that uses it."""
    checked = 0
    for core in _cores(instances, range(250)):
        if core.num_classes > 4 or core.num_layers > 6:
            continue
        paths = _every_path(core)
        memory = Memory(core)
        relaxation = WideRelaxation(make_wide(core))
        relaxation.watch = memory.watch
        relaxation.raise_bound(20, math.inf, _no_limit(), math.inf)
        memory.grow()
        relaxation = WideRelaxation(memory.wide(make_wide(core)), relaxation.best)
        relaxation.raise_bound(5, math.inf, _no_limit(), math.inf)
        if not paths or not math.isfinite(relaxation.lower):
            continue
        costs = relaxation.through()
        upper = float(np.median([core.value(path) for path in paths]))
        left = fix(relaxation, upper)
        assert left is not None
        blocks = set(map(tuple, left.blocks.tolist()))
        hops = set(map(tuple, left.links.tolist()))
        for path in paths:
            value = core.value(path)
            assert all(costs[c] <= value * (1 + 1e-9) + 1e-12 for c, _, _ in path)
            if value <= upper:
                assert blocks.issuperset(path)
                assert hops.issuperset((a[0], b[0], a[2]) for a, b in itertools.pairwise(path))
                checked += 1
    assert checked > 100


def test_a_part_of_a_plan_is_worth_as_much_as_its_whole(instances: ModuleType) -> None:
    """Exchanging the stages of a part changes the whole plan's value by the same amount, return hop and limits kept."""
    compared = 0
    for seed, core in enumerate(_cores(instances, range(400))):
        rng = np.random.default_rng(seed)
        best = _optimum(core).path
        if best is None or len(best) < 3:
            continue
        first = int(rng.integers(0, len(best) - 1))
        last = int(rng.integers(first + 1, len(best) + 1))
        if core.back is not None and first == 0 and last == len(best):
            last -= 1
        segment = make_segment(core, best, first, last, np.arange(core.num_classes))
        assert segment.core.holds(segment.path) or len(segment.path) < 2
        found = small.minimise(segment.core, math.inf, _no_limit())
        for value, path in found.by_count:
            whole = segment.whole(path)
            assert core.holds(whole)
            difference = core.value(whole) - core.value(best)
            assert difference == pytest.approx(value - segment.core.value(segment.path), abs=1e-9 * core.value(whole))
            compared += 1
        # The whole was the best plan, so no part can be bettered.
        if found.path is not None:
            assert found.value >= segment.core.value(segment.path) * (1 - 1e-9) - 1e-15
    assert compared > 100


def test_dives_make_plans_that_hold(instances: ModuleType) -> None:
    """Every plan of a dive keeps all limits and is worth what is said; most problems get one."""
    found = possible = 0
    for core in _cores(instances, range(120)):
        optimum = _optimum(core)
        wide = make_wide(core)
        relaxation = WideRelaxation(wide)
        relaxation.raise_bound(10, math.inf, _no_limit(), math.inf)
        plan = plan_from(wide, relaxation, math.inf, _no_limit())
        possible += optimum.path is not None
        if plan is None:
            continue
        found += 1
        assert core.holds(plan[1])
        assert plan[0] == core.value(plan[1])
        assert plan[0] >= optimum.value * (1 - 1e-12)
    assert found > 0.6 * possible


def _check(core: Core, outcome: CoreOutcome, optimum: CoreOutcome, place: object) -> None:
    slack = 2e-9 * abs(optimum.value) if math.isfinite(optimum.value) else 0.0
    if outcome.path is not None:
        assert core.holds(outcome.path), place
        assert outcome.value == pytest.approx(core.value(outcome.path), rel=1e-12), place
        assert outcome.value >= optimum.value - slack, place
    assert outcome.bound <= optimum.value + slack, place
    if outcome.proven:
        assert outcome.value <= optimum.value + slack, place


def _forced(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Draw tiny beams, few steps and few near links, and now and then no exhaustive search at the end."""
    monkeypatch.setattr(links, "NEAR", int(rng.integers(1, 8)))
    monkeypatch.setattr(closing, "STEPS", int(rng.integers(1, 20)))
    monkeypatch.setattr(closing, "ROUNDS", int(rng.integers(1, 8)))
    monkeypatch.setattr(closing, "BEFORE", (Effort(0, 0), Effort(0, int(rng.integers(1, 4)))))
    last = (Effort(0, None),) if rng.random() < 0.5 else ()
    monkeypatch.setattr(closing, "AFTER", (Effort(0, 0), Effort(0, 2), *last))


def test_closing_never_claims_too_much(instances: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """With forced tiny efforts every bound is at most the optimum and every proof true (MILP and labels among them)."""
    proven = 0
    for seed, core in enumerate(_cores(instances, range(400))):
        rng = np.random.default_rng(seed)
        _forced(monkeypatch, rng)
        optimum = _optimum(core)
        outcome = close(core, math.inf, None, _no_limit(), Settings(), None)
        _check(core, outcome, optimum, seed)
        proven += outcome.proven
    assert proven > 150


def test_the_wide_engine_never_claims_too_much(instances: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for keys of a few bits and small work limits: neighbourhoods, memory and fixing are all at work."""
    proven = 0
    for seed, core in enumerate(_cores(instances, range(400, 800))):
        rng = np.random.default_rng(seed)
        _forced(monkeypatch, rng)
        budget = Budget(Limits(None, work_limit=int(rng.integers(5, 400))))
        outcome = minimise_unlike(core, math.inf, budget, Settings(key_bits=int(rng.integers(2, 9))))
        _check(core, outcome, _optimum(core), seed)
        proven += outcome.proven
    assert 150 < proven < 400


def test_the_finish_agrees_with_the_optimum(instances: ModuleType) -> None:
    """Given the value of some plan, the MILP of what is left finds the optimum."""
    solved = 0
    for core in _cores(instances, range(150)):
        optimum = _optimum(core)
        if optimum.path is None or core.step > 0.0 or optimum.value <= 0.0:
            continue
        wide = make_wide(core)
        relaxation = WideRelaxation(wide)
        relaxation.raise_bound(15, math.inf, _no_limit(), math.inf)
        worst_value, worst = max(optimum.by_count)
        answer = finish(relaxation, worst_value, worst, _no_limit())
        assert answer is not None
        assert answer.bound == pytest.approx(optimum.value, rel=1e-6)
        assert answer.bound <= optimum.value * (1 + 2e-9)
        solved += 1
    assert solved > 40


def test_work_limits_repeat(instances: ModuleType) -> None:
    """The same work gives the same plan and bound, with one thread or two."""
    problem = instances.random_problem(7)
    core = make_core(class_tables(problem), Query(), 1)
    answers = [
        minimise_unlike(
            core, math.inf, Budget(Limits(None, work_limit=60, threads=threads)), Settings(threads, key_bits=3)
        )
        for threads in (1, 1, 2)
    ]
    assert answers[0] == answers[1] == answers[2]


def _unlike_problem(devices: int) -> DensePlacement:
    """Devices that all differ a little, links too; eight layers a device at most."""
    rng = np.random.default_rng(devices)
    n = 40
    compute = np.outer(rng.uniform(0.9, 1.1, devices), rng.uniform(0.9, 1.1, n)) * 1e-3
    hops = rng.uniform(1e-4, 3e-4, (devices, devices))
    timing = Timing(compute, HopTable(hops, np.full((devices, devices), 1e-9)), np.full(n, 1e3))
    return DensePlacement(
        tuple(f"d{k}" for k in range(devices)),
        tuple(f"l{k}" for k in range(n)),
        rng.uniform(7.0, 9.0, devices),
        np.ones(devices),
        np.ones(n),
        np.zeros(n),
        timing,
        timing,
    )


def test_a_hundred_unlike_devices_get_a_plan_a_bound_and_words() -> None:
    """Over 64 classes: a plan within 5 % of its bound, words on how, and the same again under a work limit."""
    problem = _unlike_problem(100)
    result = solve(problem, time_limit_s=60.0, work_limit=3000)
    assert result.plan is not None
    assert result.gap is not None
    assert result.gap <= 0.05
    assert any("unlike classes" in note for note in result.report.notes)
    again = solve(dataclasses.replace(problem), time_limit_s=60.0, work_limit=3000)
    assert (again.objective, again.bound, again.plan) == (result.objective, result.bound, result.plan)
