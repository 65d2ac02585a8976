"""The baselines: each rule on numbers worked out by hand, and every plan checked by the oracle."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest

from gpuplan.errors import InputError, UnsupportedError, UsageError
from gpuplan.plans.placement_solution import PlacementSolution
from gpuplan.profiles.problems.placement import DensePlacement, Objective
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.placement.baselines import BASELINES, baseline
from gpuplan.solvers.result import Result


def run(name: str, problem: DensePlacement, seed: int = 0) -> Result[PlacementSolution]:
    """Run a baseline without limits."""
    return baseline(name)(problem, Limits(time_limit_s=None), seed)


def counts(result: Result[PlacementSolution]) -> list[tuple[int, int]]:
    """(device, number of layers) of each stage."""
    return [(stage.device, stage.stop - stage.start) for stage in result.require_plan().stages]


@pytest.mark.parametrize("name", BASELINES)
def test_every_plan_is_feasible_and_priced_right(name: str, brute_force: ModuleType, instances: ModuleType) -> None:
    """On random problems: a plan the oracle accepts, at its latency, never below the optimum; or a reason."""
    found = 0
    for problem in instances.random_problems(120, devices=(2, 5), layers=(4, 9)):
        result = run(name, problem)
        assert result.bound is None
        assert result.gap is None
        if result.plan is None:
            assert result.status == "no_solution"
            assert result.reasons
            assert name in result.reasons[0]
            continue
        found += 1
        assert result.status == "feasible"
        stages = [(s.device, s.start, s.stop) for s in result.plan.stages]
        worth = brute_force.evaluate(problem, stages)
        assert worth.problems == (), (problem.name, stages)
        assert result.objective == pytest.approx(worth.latency_s, rel=1e-12)
        best = brute_force.optimum(problem)
        assert isinstance(best, float)
        assert worth.latency_s >= best * (1 - 1e-12)
    assert found >= 10


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("objective", ["bottleneck", "efficiency", "cost", "kv-capacity"])
def test_objectives_have_the_values_of_the_oracle(
    name: str, objective: str, brute_force: ModuleType, instances: ModuleType
) -> None:
    """Each objective is reported as the file format defines it, never better than the optimum."""
    checked = 0
    for problem in instances.random_problems(25, devices=(2, 4), layers=(4, 7), objective=objective):
        if objective == "kv-capacity" and not problem.kv_bytes_per_token.any():
            continue
        result = run(name, problem)
        if result.plan is None:
            continue
        worth = brute_force.evaluate(problem, [(s.device, s.start, s.stop) for s in result.plan.stages])
        expected = {
            "bottleneck": worth.bottleneck_s,
            "efficiency": (worth.devices, worth.latency_s),
            "cost": (worth.price, worth.latency_s),
            "kv-capacity": (-worth.kv_tokens, worth.latency_s),
        }[objective]
        assert result.objective == pytest.approx(expected, rel=1e-12)
        best = brute_force.optimum(problem)
        first, least = (result.objective, best) if objective == "bottleneck" else (result.objective[0], best[0])  # type: ignore[index]
        assert first >= least - 1e-9 * abs(least)
        checked += 1
    assert checked >= 3


def test_even_gives_equal_counts_to_all_devices(instances: ModuleType) -> None:
    """Eight layers on three devices: 3, 3 and 2."""
    problem = instances.make_problem(np.ones((3, 8)), 1, 10)
    assert counts(run("even", problem)) == [(0, 3), (1, 3), (2, 2)]
    assert counts(run("even", dataclasses.replace(problem, max_devices=2))) == [(0, 4), (1, 4)]


def test_even_says_when_a_device_is_too_small(instances: ModuleType) -> None:
    """Four layers each where the second device holds three: no plan, and the reason names it."""
    result = run("even", instances.make_problem(np.ones((2, 8)), 10, [100, 30]))
    assert result.status == "no_solution"
    assert result.reasons == ("even: the rule's plan breaks a limit: layers 4..7 do not fit g1",)


def test_memory_follows_the_split_points_of_llama_cpp(instances: ModuleType) -> None:
    """Memory 4:4:8 of 12 layers: split points 0.25, 0.5, 1, so layers 0-2, 3-5 and 6-11."""
    problem = instances.make_problem(np.ones((3, 12)), 1, [4, 4, 8])
    assert counts(run("memory", problem)) == [(0, 3), (1, 3), (2, 6)]
    # 10:1 of four layers: points 0.909 and 1; the last layer starts at 0.75, so nothing is left for the second.
    assert counts(run("memory", instances.make_problem(np.ones((2, 4)), 1, [10, 1]))) == [(0, 4)]


def test_sequential_fills_in_order_and_keeps_room_on_the_first_device(instances: ModuleType) -> None:
    """Layers of 10 bytes, devices of 45, 25 and 100: device 0 keeps 10 free for the largest to come."""
    # Device 0: 45 − 10 kept = 35, three layers (a fourth would need 40); device 1: 25, two; device 2: the last three.
    problem = instances.make_problem(np.ones((3, 8)), 10, [45, 25, 100])
    assert counts(run("accelerate-sequential", problem)) == [(0, 3), (1, 2), (2, 3)]
    # All on device 0: at the last layer nothing is to come, at the one before it 10 + 10 are needed.
    assert counts(run("accelerate-sequential", instances.make_problem(np.ones((2, 3)), 10, 30))) == [(0, 3)]


def test_sequential_says_when_it_would_offload(instances: ModuleType) -> None:
    """Four layers of 10, two devices of 20: the kept room leaves layer 3 without a device, though 2 + 2 would fit."""
    # Device 0: 20 − 10 = 10, one layer; device 1: two; layer 3 goes to the CPU.
    result = run("accelerate-sequential", instances.make_problem(np.ones((2, 4)), 10, 20))
    assert result.status == "no_solution"
    assert "layer 3 (layer3) would be offloaded" in result.reasons[0]


def test_balanced_caps_every_device_but_the_last(instances: ModuleType) -> None:
    """Eight layers of 8 on four roomy devices: share 64/4 + 1.25·8 = 26, so three each and two on the third."""
    # Device 0 keeps 8 for the largest to come: 26 − 8 = 18, two layers. Device 1: 26, three. Device 2: the last three.
    problem = instances.make_problem(np.ones((4, 8)), 8, 1000)
    assert counts(run("accelerate-balanced", problem)) == [(0, 2), (1, 3), (2, 3)]


def test_bgs_takes_the_fastest_devices_late(instances: ModuleType) -> None:
    """The estimate looks at what is to come: the first step keeps the fast device for the rest."""
    # Four equal layers; g0 fast (1 s, room for 2), g1 slow (10 s, room for 2). Starting on g0 leaves 2 layers at
    # 10 s, starting on g1 leaves 2 at 1 s: g1 is expanded first, and completes with g0.
    problem = instances.make_problem([[1.0] * 4, [10.0] * 4], 10, 20)
    assert counts(run("bgs", problem)) == [(1, 2), (0, 2)]


def test_bgs_backs_out_of_dead_ends(instances: ModuleType) -> None:
    """Only g0 → g1 has a route: the search that starts with g1 has to come back."""
    blocked = np.full((2, 2), np.inf)
    blocked[0, 1] = 0.0
    problem = instances.make_problem([[1.0] * 4, [10.0] * 4], 10, 20, hop_latency_s=blocked)
    assert counts(run("bgs", problem)) == [(0, 2), (1, 2)]


def test_published_fills_by_speed_and_finds_the_best_order(instances: ModuleType) -> None:
    """Counts come from speed, the order from the links."""
    # Four layers; g1 fastest, then g0: g1 is filled with 3, g0 gets 1. The link g0 → g1 costs 1 s, g1 → g0 5 s.
    hops = np.array([[0.0, 1.0], [5.0, 0.0]])
    problem = instances.make_problem([[2.0] * 4, [1.0] * 4], 10, 30, hop_latency_s=hops)
    result = run("published", problem)
    assert counts(result) == [(0, 1), (1, 3)]
    assert result.objective == pytest.approx(2.0 + 1.0 + 3.0)


def test_published_is_suboptimal_at_times_but_not_by_much(brute_force: ModuleType, instances: ModuleType) -> None:
    """It misses the optimum on some problems (its counts are fixed too early) and reaches it on most."""
    ratios = []
    for problem in instances.random_problems(100, devices=(2, 5), layers=(4, 8), plain=True):
        result = run("published", problem)
        best = brute_force.optimum(problem)
        if result.plan is not None and best:
            ratios.append(result.objective / best)
    worse = sum(ratio > 1 + 1e-9 for ratio in ratios)
    assert 0 < worse < len(ratios) / 2


def test_published_refuses_more_devices_than_it_can_enumerate(instances: ModuleType) -> None:
    """Eleven devices are refused with the mend."""
    with pytest.raises(UnsupportedError, match="10 devices at most, this problem has 11; use bgs"):
        run("published", instances.make_problem(np.ones((11, 12)), 1, 10))


def test_random_is_repeatable_and_depends_on_its_seed(instances: ModuleType) -> None:
    """The same seed gives the same plan; some other seed another value."""
    problem = instances.random_problem(3, devices=(6, 6), layers=(12, 12), plain=True)
    problem = dataclasses.replace(problem, available_bytes=problem.available_bytes * 2)
    few = Limits(time_limit_s=None, work_limit=3)
    solve = baseline("random")
    assert solve(problem, few, 1).plan == solve(problem, few, 1).plan
    assert len({solve(problem, few, seed).objective for seed in range(10)}) > 1


def test_no_baseline_gives_a_front(instances: ModuleType) -> None:
    """A front is refused with the mend."""
    problem = instances.make_problem(np.ones((2, 4)), 1, 10, front=True)
    for name in BASELINES:
        with pytest.raises(UnsupportedError, match="front"):
            run(name, problem)


def test_missing_prices_and_missing_kv_are_errors(instances: ModuleType) -> None:
    """Cost without prices and kv-capacity without KV are input errors, not values."""
    problem = instances.make_problem(np.ones((2, 4)), 1, 10)
    for name in ("cost", "kv-capacity"):
        with pytest.raises(InputError):
            run("even", dataclasses.replace(problem, objective=Objective(name)))  # type: ignore[arg-type]


def test_unknown_baseline_is_a_usage_error() -> None:
    """The message lists the names."""
    with pytest.raises(UsageError, match="accelerate-sequential"):
        baseline("evenly")


def test_terms_hold_the_figures_of_the_plan(instances: ModuleType) -> None:
    """Latency and its parts, bottleneck, devices and price of the plan, by name."""
    result = run("even", instances.make_problem([[1.0, 2.0], [3.0, 4.0]], 1, 10, price_per_hour=1.5))
    # Layer 0 on g0 (1 s), layer 1 on g1 (4 s), hops free.
    terms = {"compute_s": 5.0, "latency_s": 5.0, "bottleneck_s": 4.0, "devices": 2.0, "price_per_hour": 3.0}
    assert {**terms, **result.terms} == dict(result.terms)
    assert math.isclose(result.objective, 5.0)  # type: ignore[arg-type]


def test_balanced_is_measured_by_the_proven_optima(instances: ModuleType) -> None:
    """Even split of two layers against one device: latency 5 s to 3 s, two devices to one."""
    problem = instances.make_problem([[1.0, 2.0], [3.0, 4.0]], 1, 10, objective=Objective("balanced"))
    result = run("even", problem)
    # 10·5/3 + 1·2/1
    assert result.objective == pytest.approx(50 / 3 + 2)
    assert (result.terms["latency_star_s"], result.terms["devices_star"]) == (3.0, 1.0)


def _stage_sizes(result: Result[PlacementSolution]) -> Sequence[int]:
    return [stage.stop - stage.start for stage in result.require_plan().stages]


def test_rules_know_that_memory_grows_with_the_number_of_stages(instances: ModuleType) -> None:
    """With as many micro-batches as stages the assumed and the found number agree."""
    # Four layers of 10 + 5·M bytes, devices of 45: M = 2 gives 2 + 2 (40 each); the kept room of the sequential rule
    # (one layer of 20 on device 0) leaves it without a plan.
    problem = instances.make_problem(
        np.ones((3, 4)), 10, 45, kv_bytes_per_token=1, tokens_per_micro_batch=5.0, micro_batches="stages"
    )
    assert _stage_sizes(run("bgs", problem)) == [2, 2]
    assert _stage_sizes(run("published", problem)) == [2, 2]
    assert _stage_sizes(run("random", problem)) == [2, 2]
    assert run("accelerate-sequential", problem).status == "no_solution"
