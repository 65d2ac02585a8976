"""Exact methods for more than one key, against brute force within the conditions of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gpuplan.errors import UnsupportedError
from gpuplan.profiles.problems.batching import BatchingProblem, BatchObjective, BatchTime, Executor, Requests
from gpuplan.solvers.batching.exact import colgen, cp_sat, ilp, subset_dp
from gpuplan.solvers.batching.exact.additive import additive
from gpuplan.solvers.batching.exact.master import Pricer, exchanges, relax
from gpuplan.solvers.batching.proofs import PROOFS
from gpuplan.solvers.batching.solve import solve_batching
from gpuplan.solvers.external.worker import kept_workers
from gpuplan.solvers.limits import Budget, Limits

LIMITS = Limits(time_limit_s=20.0)


@pytest.fixture(scope="module", autouse=True)
def _shared_processes() -> Iterator[None]:
    """Let all tests here share one process for each library: starting one takes half a second."""
    with kept_workers():
        yield


def families(oracle: ModuleType, largest: int = 4) -> list[Any]:
    """Every goal, every kind of deadline, with and without arrivals and weights, one to three executors."""
    return [
        oracle.Family(requests=(1, largest), executors=(1, 3), goal=goal, due=due, arrivals=arrivals, weights=weights)
        for goal in ("makespan", "latency", "mixed")
        for due in ("none", "soft", "hard")
        for arrivals in (False, True)
        for weights in (False, True)
    ]


def compare(oracle: ModuleType, problem: BatchingProblem, solver: str, tolerance: float, **options: Any) -> str:
    """Hold one answer to the oracle; return its status."""
    best = oracle.brute_force(problem)
    result = solve_batching(problem, solver=solver, limits=LIMITS, **options)
    if best == math.inf:
        assert result.status == "infeasible", problem.name
        assert result.reasons
        return result.status
    assert isinstance(result.objective, float), problem.name
    assert result.bound is None or result.bound <= best * (1 + 1e-9) + 1e-9, problem.name
    assert result.bound is None or set((result.report.bound_kind or "").split(" + ")) <= set(PROOFS), problem.name
    assert result.bound is None or result.report.proof, problem.name
    assert result.objective >= best - 1e-9 * max(best, 1e-3), problem.name
    if result.status == "optimal":
        assert result.objective == pytest.approx(best, rel=tolerance, abs=tolerance * 1e-3), problem.name
    return result.status


def sweep(oracle: ModuleType, solver: str, seeds: range, tolerance: float, kinds: list[Any], **options: Any) -> float:
    """Compare on many instances; return the share of proven answers."""
    told = [compare(oracle, oracle.draw(kinds[s % len(kinds)], s), solver, tolerance, **options) for s in seeds]
    return sum(status in ("optimal", "infeasible") for status in told) / len(told)


def test_subset_dp(batching_oracle: ModuleType) -> None:
    """Any objective, arrivals, deadlines, executors: always proven."""
    assert sweep(batching_oracle, "subset-dp", range(360), 1e-9, families(batching_oracle)) == 1.0


def test_colgen(batching_oracle: ModuleType) -> None:
    """One executor, makespan and padding: always closed on small instances."""
    kinds = [batching_oracle.Family(requests=(1, 6))]
    assert sweep(batching_oracle, "colgen", range(150), 1e-9, kinds) == 1.0


def test_ilp(batching_oracle: ModuleType) -> None:
    """Several executors, makespan and padding, on HiGHS."""
    kinds = [batching_oracle.Family(requests=(1, 4), executors=(1, 3))]
    assert sweep(batching_oracle, "ilp", range(80), 1e-6, kinds) == 1.0


def test_ilp_on_cbc(batching_oracle: ModuleType) -> None:
    """The same model through PuLP on CBC."""
    kinds = [batching_oracle.Family(requests=(1, 4), executors=(1, 2))]
    assert sweep(batching_oracle, "ilp", range(8), 1e-6, kinds, engine="cbc") == 1.0


def test_cp_sat(batching_oracle: ModuleType) -> None:
    """Any objective, arrivals, deadlines, executors; rounding may leave a gap of about a millionth."""
    assert sweep(batching_oracle, "cp-sat", range(72), 2e-6, families(batching_oracle, 3)) > 0.9


@pytest.mark.slow
def test_subset_dp_on_two_thousand(batching_oracle: ModuleType) -> None:
    """2,000 instances of 36 kinds."""
    assert sweep(batching_oracle, "subset-dp", range(1_000, 3_000), 1e-9, families(batching_oracle)) == 1.0


@pytest.mark.slow
def test_colgen_on_two_thousand(batching_oracle: ModuleType) -> None:
    """2,000 instances with one executor."""
    kinds = [batching_oracle.Family(requests=(1, 4))]
    assert sweep(batching_oracle, "colgen", range(1_000, 3_000), 1e-9, kinds) == 1.0


@pytest.mark.slow
def test_ilp_on_two_thousand(batching_oracle: ModuleType) -> None:
    """2,000 instances with one to three executors."""
    kinds = [batching_oracle.Family(requests=(1, 3), executors=(1, 3))]
    assert sweep(batching_oracle, "ilp", range(1_000, 3_000), 1e-6, kinds) > 0.99


@pytest.mark.slow
def test_cp_sat_on_two_thousand(batching_oracle: ModuleType) -> None:
    """2,000 instances of 36 kinds."""
    assert sweep(batching_oracle, "cp-sat", range(1_000, 3_000), 2e-6, families(batching_oracle, 3)) > 0.9


def two_keys(n: int, seed: int = 0, limit: int = 8, padding: float = 0.0) -> BatchingProblem:
    """Lognormal prompts and outputs on one executor, makespan."""
    rng = np.random.default_rng(seed)
    prompt = np.clip(rng.lognormal(5.5, 1.0, n), 8, 4096).astype(np.int64)
    output = np.clip(rng.lognormal(4.8, 0.9, n), 4, 2048).astype(np.int64)
    time = BatchTime(0.02, 2e-5, 0.01, 2e-4, 0.0)
    return BatchingProblem(
        Requests.of(prompt, output), (Executor("e0", 12_000, limit),), time, BatchObjective(0, 1, padding)
    )


def test_methods_agree_on_twelve_requests(batching_oracle: ModuleType) -> None:
    """Sets, columns and leaders give the optimum that the oracle's subsets give."""
    problem = two_keys(12, limit=4, padding=1e-3)
    best = batching_oracle.subset_dp(problem)
    for solver, tolerance in (("subset-dp", 1e-9), ("colgen", 1e-9), ("ilp", 1e-6)):
        result = solve_batching(problem, solver=solver, limits=LIMITS)
        assert result.status == "optimal"
        assert result.objective == pytest.approx(best, rel=tolerance)


def test_feasible_duals_hold_for_every_box() -> None:
    """No batch costs less than the duals of its requests: the certificate itself, after a search cut short."""
    problem = two_keys(40)
    form = additive(problem)
    for seconds in (0.0, 20.0):
        relaxed = relax(form, [], Budget(Limits(time_limit_s=seconds)))
        pricer = Pricer(form)
        assert pricer.price(relaxed.dual, 0.0) == 1.0
        assert pricer.reduced.min() >= -1e-9
        assert relaxed.bound == pytest.approx(float(relaxed.dual.sum()))


def test_exchanges_are_neighbours_in_dominance() -> None:
    """(2,2) dominates (1,2) and (2,1); both dominate (1,1), which is no neighbour of (2,2)."""
    larger, smaller = exchanges(np.array([1, 2, 1, 2]), np.array([1, 1, 2, 2]))
    assert set(zip(larger.tolist(), smaller.tolist(), strict=True)) == {(3, 2), (3, 1), (2, 0), (1, 0)}


def test_relaxing_says_who_is_late() -> None:
    """Jobs of 3 s, one by one, due at 5 s both: one of them is late by 1 s."""
    requests = Requests.of([1, 1], [3, 3], id=["a", "b"], deadline_s=[5.0, 5.0])
    problem = BatchingProblem(
        requests, (Executor("e0", 100, 1),), BatchTime(1.0, 0, 1.0, 0, 0), BatchObjective(0, 1, deadlines="hard")
    )
    result = subset_dp.solve(problem, Limits())
    assert result.status == "infeasible"
    assert "by 1 s" in result.reasons[0]


@pytest.mark.parametrize(
    ("module", "words"), [(colgen, "up to 600"), (ilp, "up to 120"), (cp_sat, "up to 60"), (subset_dp, "up to 18")]
)
def test_large_problems_are_refused_with_the_mend(module: Any, words: str) -> None:
    """Each method says how many requests it takes and what takes more."""
    with pytest.raises(UnsupportedError, match=words) as caught:
        module.solve(two_keys(700), Limits())
    assert "use auto" in str(caught.value)
