"""Bounds on flows over many small cases: no search, however short, claims less than the optimum."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest

from gpuplan.solvers.flow import solve_flow
from gpuplan.solvers.limits import Limits

#: Instances of the long test, every one of them under each of these work limits.
BLOCK = 100
WORK = (1, 5, 25, 125, None)


def check_bounds(flows: ModuleType, first: int, count: int) -> int:
    """Hold every bound to brute force; return how many searches ended without a proof."""
    unproven = 0
    for bind in (False, True):
        instances = itertools.islice(flows.random_problems(first + count, bind=bind, nodes=(2, 4)), first, None)
        for seed, problem in enumerate(instances):
            best = flows.optimum(problem)
            for work in WORK:
                result = solve_flow(problem, limits=Limits(time_limit_s=None, work_limit=work))
                place = (first + seed, bind, work, result.status, result.bound, best)
                unproven += result.status in ("feasible", "no_solution")
                assert result.status != "infeasible" or best == 0.0, place
                assert (result.objective or 0.0) <= best * (1 + 1e-9), place
                if result.bound is not None:
                    assert result.bound >= best * (1 - 1e-12), place
                    assert result.report.bound_kind, place
                    assert result.report.proof, place
                if result.status == "optimal":
                    assert result.objective == pytest.approx(best, rel=1e-9), place
                if result.gap is not None and result.objective:
                    assert result.gap >= best / result.objective - 1.0 - 1e-9, place
    return unproven


def test_no_short_search_claims_too_little(flows: ModuleType) -> None:
    """Six instances, links binding or not, five work limits: 60 runs."""
    assert check_bounds(flows, 400, 6) >= 0


@pytest.mark.slow
def test_no_short_search_claims_too_little_on_a_thousand(flows: ModuleType) -> None:
    """A thousand runs, some of them cut off before their proof."""
    assert check_bounds(flows, 500, BLOCK) > 10
