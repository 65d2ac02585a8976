"""The balanced objective at a limit: a bound that holds although the values it is measured by are not proven."""

from __future__ import annotations

import dataclasses
from collections import Counter
from types import ModuleType

import numpy as np
import pytest

from gpuplan.profiles.problems.placement import DensePlacement, Objective
from gpuplan.solvers import solve
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement.dense import objective_value
from gpuplan.solvers.placement.effort import Effort, Settings
from gpuplan.solvers.placement.evaluate import evaluate
from gpuplan.solvers.placement.objectives import minimise_balanced
from gpuplan.solvers.placement.query import Session
from gpuplan.solvers.placement.tables import class_tables

#: From a bound alone to beams of a few labels; None climbs the whole ladder on a key too narrow for all classes.
LADDERS = ((Effort(2, 0),), (Effort(5, 1),), (Effort(0, 2),), (Effort(30, 1), Effort(10, 3)), None)
#: Relative difference that rounding makes.
ROUNDING = 1e-9


def _weighed(problem: DensePlacement, seed: int) -> DensePlacement:
    """Return a problem with the balanced objective at weights between 0.1 and 10."""
    latency, devices = 10.0 ** np.random.default_rng([88, seed]).uniform(-1.0, 1.0, 2)
    return dataclasses.replace(problem, objective=Objective("balanced", latency, devices))


def _stopped(brute_force: ModuleType, problem: DensePlacement) -> Counter[str]:
    """Stop searches in several ways, check what each claims against all plans, count statuses."""
    plans, told = brute_force.enumerate_plans(problem), Counter[str]()
    if not len(plans):
        return told
    goal, tables = problem.objective, class_tables(problem)
    ways = [(Limits(), Settings(1, ladder, 2 if ladder is None else 62)) for ladder in LADDERS]
    ways += [(Limits(work_limit=most), Settings(1)) for most in (1, 3, 10, 30)]
    for limits, settings in ways:
        outcome = minimise_balanced(Session(tables, "labels", Budget(limits), settings), None)
        told[outcome.status] += 1
        if outcome.path is None or outcome.status == "optimal":
            continue
        stages, stars = tables.to_stages(outcome.path), outcome.extra
        least_s, fewest = stars["latency_star_s"], stars["devices_star"]
        worth, value = evaluate(problem, stages), objective_value(problem, stages, stars)
        bound = outcome.bound
        assert isinstance(bound, float), problem.name  # never without a gap
        assert isinstance(value, float), problem.name
        assert least_s <= worth.latency_s * (1 + ROUNDING), problem.name
        assert fewest <= worth.devices, problem.name
        # Measured by the values found, no plan is below the bound.
        as_found = goal.latency_weight * plans.latency_s / least_s + goal.devices_weight * plans.devices / fewest
        assert bound <= as_found.min() * (1 + ROUNDING), (problem.name, bound, as_found.min())
        # Measured by the true optima, the plan is no further from the best one than the gap says.
        true_s, true_devices = plans.latency_s.min(), plans.devices.min()
        optimum = (
            goal.latency_weight * plans.latency_s / true_s + goal.devices_weight * plans.devices / true_devices
        ).min()
        own = goal.latency_weight * worth.latency_s / true_s + goal.devices_weight * worth.devices / true_devices
        assert bound / value <= optimum / own * (1 + ROUNDING), (problem.name, bound / value, optimum / own)
        told["with a gap below 100 %"] += bound > 0.0
    return told


def _all(brute_force: ModuleType, exact_checks: ModuleType, instances: ModuleType, seeds: range) -> Counter[str]:
    told = Counter[str]()
    for seed in seeds:
        told += _stopped(brute_force, _weighed(exact_checks.twin_hosts(seed), seed))
        told += _stopped(brute_force, _weighed(instances.random_problem(seed + 7000), seed))
    return told


def test_balanced_bounds_hold_for_stopped_searches(
    brute_force: ModuleType, exact_checks: ModuleType, instances: ModuleType
) -> None:
    """About 500 stopped searches on 60 problems."""
    told = _all(brute_force, exact_checks, instances, range(30))
    assert told["with a gap below 100 %"] > 50  # searches are stopped often enough for the test to say something


@pytest.mark.slow
@pytest.mark.parametrize("block", range(2))
def test_more_balanced_bounds_hold(
    brute_force: ModuleType, exact_checks: ModuleType, instances: ModuleType, block: int
) -> None:
    """The same on 120 problems a block, about 2,000 searches in all."""
    told = _all(brute_force, exact_checks, instances, range(60 * block + 30, 60 * block + 90))
    assert told["with a gap below 100 %"] > 100


@pytest.mark.parametrize("objective", ["latency", "bottleneck", "efficiency", "balanced", "cost", "kv-capacity"])
def test_a_plan_at_a_limit_comes_with_a_gap(instances: ModuleType, objective: str) -> None:
    """Stopped at once, every objective states a plan and how far it may be from the best."""
    told = Counter[str]()
    for seed in range(20):
        problem = instances.random_problem(seed, devices=(5, 6), layers=(9, 12), objective=objective)
        if objective == "kv-capacity" and not problem.kv_bytes_per_token.any():
            continue
        result = solve(problem, solver="labels", work_limit=1)
        assert (result.gap is None) == (result.plan is None), problem.name
        told[result.status] += 1
    assert told["feasible"] > 0
