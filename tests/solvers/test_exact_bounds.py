"""Bounds and proofs of truncated runs: never above the optimum, never a false proof."""

from __future__ import annotations

from collections import Counter
from types import ModuleType

import pytest

from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.placement.effort import LADDER, Effort

#: From a bare bound to the whole ladder; widths of a few labels cut even small searches.
LADDERS = (
    (Effort(50, 0),),
    (Effort(5, 1),),
    (Effort(0, 2), Effort(0, None)),
    (Effort(30, 1), Effort(10, 3), Effort(0, None)),
    LADDER,
)


def _check(exact_checks: ModuleType, brute_force: ModuleType, problem: DensePlacement) -> Counter[str]:
    plans = brute_force.enumerate_plans(problem)
    statuses: Counter[str] = Counter()
    for name in exact_checks.objectives(problem):
        asked = exact_checks.under(problem, name)
        optimum = brute_force.optimum(asked, name, plans)
        for ladder in LADDERS:
            statuses[exact_checks.check_bound(asked, optimum, ladder)] += 1
        for key_bits in (2, 3):
            statuses[exact_checks.check_bound(asked, optimum, None, key_bits)] += 1
    return statuses


def test_bounds_stay_below_the_optimum(
    exact_checks: ModuleType, brute_force: ModuleType, instances: ModuleType
) -> None:
    """About 2,000 truncated runs on 50 problems, narrow beams and keys too narrow for all classes among them."""
    statuses: Counter[str] = Counter()
    for seed in range(25):
        statuses += _check(exact_checks, brute_force, exact_checks.twin_hosts(seed))
        statuses += _check(exact_checks, brute_force, instances.random_problem(seed + 5000))
    # The runs are truncated often enough for the test to say something.
    assert statuses["feasible"] > 50
    assert statuses["optimal"] > 500


@pytest.mark.slow
@pytest.mark.parametrize("block", range(5))
def test_more_bounds_stay_below_the_optimum(
    exact_checks: ModuleType, brute_force: ModuleType, instances: ModuleType, block: int
) -> None:
    """The same on 50 problems a block, about 10,000 runs in all."""
    statuses: Counter[str] = Counter()
    for seed in range(25 * (block + 1), 25 * (block + 2)):
        statuses += _check(exact_checks, brute_force, exact_checks.twin_hosts(seed))
        statuses += _check(exact_checks, brute_force, instances.random_problem(seed + 5000))
    assert statuses["optimal"] > 500
