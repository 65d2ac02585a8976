"""The oracle itself, against hand-solved instances and its own slow twin."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest


def test_oracle_finds_every_hand_solved_optimum(brute_force: ModuleType, instances: ModuleType) -> None:
    """Each optimum worked out on paper is the oracle's."""
    for case in instances.HAND_SOLVED:
        for name, expected in case.optima.items():
            found = brute_force.optimum(case.problem, name)
            assert (found is None) == (expected is None), (case.name, name)
            if expected is not None:
                assert found == pytest.approx(expected, rel=1e-12), (case.name, name)


def test_oracle_finds_every_hand_solved_front(brute_force: ModuleType, instances: ModuleType) -> None:
    """Each front worked out on paper is the oracle's."""
    for case in instances.HAND_SOLVED:
        if case.front is not None:
            found = brute_force.front(case.problem)
            assert np.array(found) == pytest.approx(np.array(case.front), rel=1e-12), case.name


def test_hand_solved_plans_reach_their_optimum(brute_force: ModuleType, instances: ModuleType) -> None:
    """A plan given with an instance is feasible, and the only one that reaches the latency optimum."""
    for case in instances.HAND_SOLVED:
        for name, stages in case.stages.items():
            worth = brute_force.evaluate(case.problem, stages)
            assert worth.problems == (), case.name
            if name == "latency":
                assert worth.latency_s == pytest.approx(case.optima[name])
                plans = brute_force.enumerate_plans(case.problem)
                best = [p for p in range(len(plans)) if plans.latency_s[p] <= worth.latency_s * (1 + 1e-9)]
                assert [plans.stages(p) for p in best] == [stages]


def test_enumeration_equals_pricing_each_plan_alone(brute_force: ModuleType, instances: ModuleType) -> None:
    """On small problems the arrays hold exactly the feasible plans of the plain loop, with the same figures."""
    for problem in instances.random_problems(60, devices=(2, 4), layers=(4, 6)):
        plans = brute_force.enumerate_plans(problem)
        listed = {plans.stages(p): p for p in range(len(plans))}
        feasible = 0
        for stages in brute_force.every_plan(problem):
            worth = brute_force.evaluate(problem, stages)
            assert (not worth.problems) == (stages in listed), (problem.name, stages)
            if not worth.problems:
                feasible += 1
                p = listed[stages]
                figures = (plans.latency_s[p], plans.bottleneck_s[p], plans.devices[p], plans.price[p])
                expected = (worth.latency_s, worth.bottleneck_s, worth.devices, worth.price)
                assert figures == pytest.approx(expected, rel=1e-12)
                assert plans.kv_tokens[p] == worth.kv_tokens
        assert feasible == len(plans)


def test_evaluate_names_what_a_plan_breaks(brute_force: ModuleType, instances: ModuleType) -> None:
    """Gaps, overlaps, a device used twice, empty stages and overfull devices are all found."""
    problem = instances.make_problem(np.ones((2, 4)), 10, 30)
    problems = {
        ((0, 0, 3),): "not every layer is placed",
        ((0, 0, 2), (1, 3, 4)): "stages do not join",
        ((0, 0, 2), (0, 2, 4)): "a device is used twice",
        ((0, 0, 0), (1, 0, 4)): "a stage is empty",
        ((0, 0, 4),): "layers 0..3 do not fit device 0",
    }
    for stages, message in problems.items():
        assert message in brute_force.evaluate(problem, stages).problems
    assert brute_force.evaluate(problem, ((0, 0, 2), (1, 2, 4))).problems == ()


def test_missing_price_is_an_error_of_the_cost_objective(brute_force: ModuleType, instances: ModuleType) -> None:
    """Cost needs the price of every device."""
    with pytest.raises(ValueError, match="price"):
        brute_force.optimum(instances.make_problem(np.ones((2, 2)), 1, 5), "cost")


def test_random_problems_cover_what_they_promise(brute_force: ModuleType, instances: ModuleType) -> None:
    """Shares over 300 seeds: infeasible ones, and optima with three stages or more."""
    infeasible = many_stages = returning = equal = 0
    for problem in instances.random_problems(300, devices=(2, 5), layers=(4, 9)):
        plans = brute_force.enumerate_plans(problem)
        returning += problem.latency.return_hop is not None
        equal += len(np.unique(problem.available_bytes)) < problem.num_devices
        if len(plans) == 0:
            infeasible += 1
        else:
            many_stages += int(plans.devices[int(np.argmin(plans.latency_s))]) >= 3
    assert 0.08 <= infeasible / 300 <= 0.4
    assert many_stages / (300 - infeasible) >= 1 / 3
    assert 100 <= returning <= 220
    assert 100 <= equal <= 280


def test_random_problem_depends_on_its_seed_alone(instances: ModuleType) -> None:
    """The same seed gives the same numbers."""
    first, again = instances.random_problem(7), instances.random_problem(7)
    assert np.array_equal(first.latency.compute_s, again.latency.compute_s)
    assert np.array_equal(first.available_bytes, again.available_bytes)


def test_relabelling_changes_no_optimum(brute_force: ModuleType, instances: ModuleType) -> None:
    """Devices in another order: same optima (the order of sums differs by rounding only)."""
    for problem in instances.random_problems(20, devices=(2, 4), layers=(4, 7)):
        order = np.random.default_rng(1).permutation(problem.num_devices)
        other = instances.relabel(problem, order)
        first, second = brute_force.optimum(problem), brute_force.optimum(other)
        assert (first is None) == (second is None)
        if first is not None:
            assert math.isclose(first, second, rel_tol=1e-12)
