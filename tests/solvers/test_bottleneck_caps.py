"""The least bottleneck by caps: no rule refutes a cap that has a plan, and every way through the search is exact."""

from __future__ import annotations

from collections import Counter
from types import ModuleType

import numpy as np
import pytest

from gpuplan.errors import UnsupportedError
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement import bottleneck_caps, bottleneck_kernels, bottleneck_part
from gpuplan.solvers.placement.bottleneck import minimise_bottleneck, path_bottleneck
from gpuplan.solvers.placement.bottleneck_bounds import CapBounds
from gpuplan.solvers.placement.bottleneck_core import by_least_hop, cap_core
from gpuplan.solvers.placement.bottleneck_kinds import kinds_core
from gpuplan.solvers.placement.bottleneck_search import CapSearch, most_labels, pack_keys
from gpuplan.solvers.placement.core import Core, Query, make_core
from gpuplan.solvers.placement.effort import Settings
from gpuplan.solvers.placement.evaluate import broken_rule, evaluate
from gpuplan.solvers.placement.outcome import Outcome
from gpuplan.solvers.placement.query import EngineName, Session
from gpuplan.solvers.placement.tables import ClassTables, class_tables

#: Caps tried, as multiples of the optimum: refutations below it must hold, and at it nothing may be refuted.
FACTORS = (0.3, 0.6, 0.8, 0.9, 0.97, 0.999, 1.0 - 1e-8, 1.0, 1.0 + 1e-8, 1.05, 1.5)


def _core(tables: ClassTables) -> Core:
    """Cycle numbers with memory for one micro-batch per stage at least: no tighter than any plan has it."""
    micro_batches = tables.problem.micro_batches
    return make_core(tables, Query(bottleneck=True), 1 if micro_batches == "stages" else micro_batches)


def _run(
    problem: DensePlacement, engine: EngineName = "labels", limits: Limits | None = None
) -> tuple[Outcome, ClassTables]:
    tables = class_tables(problem)
    session = Session(tables, engine, Budget(Limits() if limits is None else limits), Settings(1))
    return minimise_bottleneck(session, None), tables


def _checks(problem: DensePlacement, brute_force: ModuleType, rng: np.random.Generator) -> Counter[str]:
    """Hold every rule on one problem against all of its plans of two stages or more."""
    plans = brute_force.enumerate_plans(problem)
    several = plans.bottleneck_s[plans.devices >= 2]
    least = float(several.min()) if len(several) else np.inf
    tables = class_tables(problem)
    core = _core(tables)
    seen: Counter[str] = Counter()
    if core.max_stages < 2:
        return seen
    scale = least if np.isfinite(least) else float(core.prefix[:, -1].max())
    kinds, plain = kinds_core(core), cap_core(core)
    spaces = [("linked", plain, None), ("least hop", plain, by_least_hop(core))]
    spaces += [("kinds", kinds, None)] if kinds is not None else []
    for name, space, edges in spaces:
        bounds = CapBounds(space, Budget(Limits()), edges)
        for factor in FACTORS:
            cap = bounds.cap(factor * scale)
            prices = rng.exponential(size=len(space.stock.capacity) + 1) * (
                rng.random(len(space.stock.capacity) + 1) < 0.8
            )
            stage, exact = np.empty(space.num_classes), np.empty((core.num_layers, space.num_classes))
            bottleneck_kernels.stage_prices(bounds.stock, prices, stage)
            cost = np.empty_like(exact)
            bottleneck_kernels.completions(cap.reach, bounds.edges.ways, cap.ending, stage, exact, cost)
            # Any prices: a plan within the cap pays what the cheapest path costs, and at most all prices together.
            everything = prices[:-1] @ space.stock.capacity + prices[-1] * space.max_stages
            if exact[0, space.first].min(initial=np.inf) > everything * (1.0 + 1e-9):
                assert least > cap.cap_s, (problem.name, name, factor, "random prices")
                seen[f"{name}: random prices"] += 1
            priced = bounds.price(cap, 60)
            if priced.refuted:
                assert least > cap.cap_s, (problem.name, name, factor, "prices")
                seen[f"{name}: prices"] += 1
            if edges is None:
                for strict in (True, False):
                    said = _check_search(problem, tables, bounds, factor * scale, least, strict=strict)
                    seen[f"{name}: {said}"] += 1
    return seen


def _check_search(
    problem: DensePlacement, tables: ClassTables, bounds: CapBounds, cap_s: float, least: float, *, strict: bool
) -> str:
    cap = bounds.cap(cap_s)
    # Poor prices, after one step, leave the search more to do.
    space = bounds.core
    keys = pack_keys(space.stock.capacity, space.num_classes)
    search = CapSearch(bounds, keys, cap, bounds.price(cap, 1), strict=strict)
    found = search.run(None, cap_s, space.first)
    if found.path is not None and problem.micro_batches != "stages":
        assert path_bottleneck(tables, found.path) == pytest.approx(found.value, rel=1e-12)
        assert broken_rule(problem, tables.to_stages(found.path)) is None, problem.name
        assert found.value >= least * (1.0 - 1e-9), problem.name
    if found.impossible:
        assert least > cap_s, (problem.name, cap_s / least, strict)
        return "search"
    return "open"


def test_no_rule_refutes_a_cap_that_has_a_plan(
    brute_force: ModuleType, instances: ModuleType, exact_checks: ModuleType
) -> None:
    """About 3,000 caps on 80 small problems: random prices, raised prices, exhaustive searches, strict and not."""
    rng = np.random.default_rng(5)
    seen: Counter[str] = Counter()
    for seed in range(60):
        seen += _checks(instances.random_problem(seed + 9000), brute_force, rng)
    for seed in range(20):
        seen += _checks(exact_checks.twin_hosts(seed + 300), brute_force, rng)
    # Every rule must have said something for the test to mean anything.
    for name in ("linked", "least hop", "kinds"):
        assert seen[f"{name}: random prices"] > 50, seen
        assert seen[f"{name}: prices"] > 100, seen
    assert seen["linked: search"] > 500, seen
    assert seen["kinds: search"] > 200, seen


@pytest.mark.slow
def test_no_rule_refutes_a_cap_that_has_a_plan_on_many_more(
    brute_force: ModuleType, instances: ModuleType, exact_checks: ModuleType
) -> None:
    """The same on 600 more problems, some 20,000 caps."""
    rng = np.random.default_rng(6)
    seen: Counter[str] = Counter()
    for seed in range(400):
        seen += _checks(instances.random_problem(seed + 9100), brute_force, rng)
    for seed in range(200):
        seen += _checks(exact_checks.twin_hosts(seed + 400), brute_force, rng)
    assert sum(seen.values()) > 10_000, seen


@pytest.mark.parametrize("work_limit", [1, 4, 20, 60, 150])
def test_a_work_limit_leaves_a_valid_bound_and_the_same_answer_each_time(
    brute_force: ModuleType, instances: ModuleType, work_limit: int
) -> None:
    """Stopped anywhere: plan ≥ optimum ≥ bound, and twice the same."""
    for seed in range(15):
        problem = instances.random_problem(seed + 7000)
        optimum = brute_force.optimum(problem, "bottleneck", brute_force.enumerate_plans(problem))
        first, tables = _run(problem, limits=Limits(work_limit=work_limit))
        second, _ = _run(problem, limits=Limits(work_limit=work_limit))
        assert (first.status, first.path, first.bound) == (second.status, second.path, second.bound), seed
        if first.status == "infeasible":
            assert optimum is None, seed
        if first.path is not None:
            assert optimum is not None
            worth = evaluate(problem, tables.to_stages(first.path))
            assert worth.bottleneck_s >= optimum * (1.0 - 1e-9), seed
            if first.bound is not None:
                assert np.atleast_1d(first.bound)[0] <= optimum * (1.0 + 1e-9), seed


def test_few_chosen_devices_leave_the_bound_of_all(
    brute_force: ModuleType, instances: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for three classes only, plans are still plans and the bound stays below the optimum of all devices."""
    monkeypatch.setattr(bottleneck_part, "WIDE", 3)
    monkeypatch.setattr(bottleneck_caps, "CHOSEN", 3)
    plans_found = 0
    for seed in range(40):
        problem = instances.random_problem(seed + 6000)
        optimum = brute_force.optimum(problem, "bottleneck", brute_force.enumerate_plans(problem))
        outcome, tables = _run(problem)
        if outcome.path is None:
            assert optimum is None or outcome.status == "no_solution", seed
            continue
        assert optimum is not None
        plans_found += 1
        assert broken_rule(problem, tables.to_stages(outcome.path)) is None
        value = evaluate(problem, tables.to_stages(outcome.path)).bottleneck_s
        assert value >= optimum * (1.0 - 1e-9), seed
        assert outcome.bound is not None
        assert np.atleast_1d(outcome.bound)[0] <= optimum * (1.0 + 1e-9), seed
        if outcome.status == "optimal":
            assert value == pytest.approx(optimum, rel=1e-9)
    assert plans_found > 10


def test_what_the_search_leaves_open_is_settled_by_first_class_or_general_engine(
    brute_force: ModuleType, instances: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Return hops, marked layers and unequal boundaries: the ways out are taken, and every answer is the optimum."""
    taken: Counter[str] = Counter()
    for name in ("_by_first", "_ask_referee"):
        original = getattr(bottleneck_caps.CapSpace, name)

        def counted(self: object, *arguments: object, _call: object = original, _name: str = name) -> object:
            taken[_name] += 1
            return _call(self, *arguments)  # type: ignore[operator]

        monkeypatch.setattr(bottleneck_caps.CapSpace, name, counted)
    for seed in range(50):
        problem = instances.random_problem(seed)
        optimum = brute_force.optimum(problem, "bottleneck", brute_force.enumerate_plans(problem))
        outcome, tables = _run(problem)
        if optimum is None:
            assert outcome.status == "infeasible", seed
            continue
        assert outcome.status == "optimal", seed
        assert outcome.path is not None
        assert evaluate(problem, tables.to_stages(outcome.path)).bottleneck_s == pytest.approx(optimum, rel=1e-9)
    assert taken["_by_first"] > 0
    assert taken["_ask_referee"] > 0


def _unlike(instances: ModuleType, seed: int, *, return_hop: bool) -> DensePlacement:
    """Nine devices, no two alike, 24 layers: more than brute force can do."""
    rng = np.random.default_rng([31, seed])
    layer, speed = rng.uniform(0.5, 1.5, 24), rng.uniform(0.4, 2.0, 9)
    latency = rng.uniform(0.05, 0.6, (9, 9))
    problem: DensePlacement = instances.make_problem(
        np.outer(speed, layer),
        np.round(1000 * layer),
        rng.integers(2500, 9000, 9).astype(float),
        hop_latency_s=(latency + latency.T) / 2,
        hop_s_per_byte=rng.uniform(0.0, 0.02, (9, 9)),
        boundary_bytes=8.0,
        return_hop=return_hop,
    )
    return problem


@pytest.mark.parametrize("return_hop", [False, True])
def test_caps_agree_with_one_pass_over_maxima(instances: ModuleType, return_hop: bool) -> None:
    """Nine unlike devices: the search over caps finds what the plain level search on maxima finds."""
    for seed in range(6):
        problem = _unlike(instances, seed, return_hop=return_hop)
        caps, _ = _run(problem)
        plain, _ = _run(problem, engine="dp")
        assert caps.status == plain.status == "optimal"
        assert caps.bound == pytest.approx(plain.bound, rel=1e-9)


def test_caps_just_below_a_stage_leave_it_out_where_all_layers_take_a_thousand_times_as_long(
    instances: ModuleType,
) -> None:
    """Rounding of long times leaves no stage within a cap that is below it by what optima are told apart by."""
    core = _core(class_tables(_unlike(instances, 3, return_hop=False)))
    step = float(np.diff(core.prefix).max())
    core.prefix[:, 1:] += 1000.0 * step  # the first layer takes that long on every device
    bounds = CapBounds(cap_core(core), Budget(Limits()))
    source, earliest = bounds.edges.source, bounds.edges.earliest
    seen = 0
    for k, d in enumerate(source):
        for i in range(1, core.num_layers - 1):
            stage = float(earliest[k, i + 1] - core.prefix[d, i])  # layer i and the hop behind it, or a later end
            if bounds.furthest[d, i] <= i or not np.isfinite(stage):
                continue
            seen += 1
            assert bounds.cap(stage).reach[i, k] > i
            assert bounds.cap(stage * (1.0 - bottleneck_caps.EXACT)).reach[i, k] <= i
    assert seen > 20


def test_cancelling_keeps_the_incumbent(instances: ModuleType) -> None:
    """A search stopped after some looks at the caller hands back a plan with a bound not above it."""
    problem = _unlike(instances, 1, return_hop=True)
    for looks in (5, 20, 40):
        left = iter(range(looks))
        outcome, tables = _run(problem, limits=Limits(cancel=lambda left=left: next(left, None) is None))
        if outcome.path is not None and outcome.bound is not None:
            value = evaluate(problem, tables.to_stages(outcome.path)).bottleneck_s
            assert np.atleast_1d(outcome.bound)[0] <= value * (1.0 + 1e-12)
            assert broken_rule(problem, tables.to_stages(outcome.path)) is None


def test_a_memory_limit_leaves_a_valid_bound(instances: ModuleType) -> None:
    """With room for few labels the answer stays a plan with a bound; with room for all it is the same optimum."""
    problem = _unlike(instances, 2, return_hop=True)
    whole, _ = _run(problem)
    assert whole.bound is not None
    kept, tables = _run(problem, limits=Limits(memory_limit_bytes=20_000))
    assert kept.path is not None
    assert kept.bound is not None
    value = evaluate(problem, tables.to_stages(kept.path)).bottleneck_s
    assert np.atleast_1d(kept.bound)[0] <= np.atleast_1d(whole.bound)[0] * (1.0 + 1e-9) <= value * (1.0 + 2e-9)
    assert most_labels(Budget(Limits(memory_limit_bytes=20_000)), 1) == 125  # 20,000 / (2 · (72 + 8))
    roomy, _ = _run(problem, limits=Limits(memory_limit_bytes=1 << 30))
    assert roomy.bound == whole.bound


def test_a_search_too_large_for_the_memory_limit_is_refused(instances: ModuleType) -> None:
    """Nine devices with 72 edges over 24 layers take 3,456 bytes: refused in one sentence below that."""
    problem = _unlike(instances, 2, return_hop=False)
    with pytest.raises(UnsupportedError, match="search over caps"):
        _run(problem, limits=Limits(memory_limit_bytes=3_000))


def test_key_words_hold_every_counter_apart() -> None:
    """Counters never straddle words: 64 single devices fill one word, one of three more opens the next."""
    keys = pack_keys(np.array([1] * 63 + [3, 1]), 65)
    assert keys.width == 2
    assert keys.packed.word.tolist() == [0] * 63 + [1, 1]
    assert keys.packed.shift[-2:].tolist() == [0, 2]
