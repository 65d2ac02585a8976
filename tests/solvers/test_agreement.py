"""Every exact path on the same random problems: one optimum, and bounds of stopped searches on its valid side.

The problems have everything the format has: memory that does not pack, device limits, marked layers, missing routes,
return hops, a cycle of its own, KV of several micro-batches, tied copies. Brute force stands behind `auto` in
`test_exact_oracle`; here all other paths are held to it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers import solve
from gpuplan.solvers.external.worker import kept_workers
from gpuplan.solvers.registry import list_solvers
from gpuplan.solvers.result import Value

OBJECTIVES = ("latency", "bottleneck", "efficiency", "cost", "balanced")
#: Exact paths, and the relative tolerance of their proofs: generic solvers work with tolerances of their own.
PATHS = {
    entry.name: 1e-6 if entry.cross_check() is not None else 1e-9
    for entry in list_solvers()
    if entry.kind == "exact" and entry.name != "auto"
}
BLOCK = 125
#: Blocks of the thousand; brute force holds `dp` and `labels` to 2,000 problems in `test_exact_oracle` already.
BLOCKS = [(path, block) for path in PATHS for block in range(2 if path in ("dp", "labels") else 8)]


@pytest.fixture(scope="module", autouse=True)
def _shared_processes() -> Iterator[None]:
    """Let all tests here share one process for each library: starting one takes half a second."""
    with kept_workers():
        yield


def parts(value: Value) -> tuple[float, ...]:
    """Return an objective's value as a tuple."""
    return value if isinstance(value, tuple) else (value,)


def close(first: Value, second: Value, tolerance: float) -> bool:
    """Whether two values agree in every component."""
    pairs = zip(parts(first), parts(second), strict=True)
    return all(abs(a - b) <= tolerance * max(abs(a), abs(b)) for a, b in pairs)


def agrees(path: str, problem: DensePlacement) -> bool:
    """Hold a path to `auto`; return whether there is a plan."""
    exact, other = solve(problem), solve(problem, solver=path, time_limit_s=None)
    place = (problem.name, problem.objective.name, path)
    assert exact.status in ("optimal", "infeasible"), place
    assert other.status == exact.status, (*place, other.reasons)
    if exact.objective is None:
        assert other.reasons, place
        return False
    assert other.objective is not None, place
    assert close(other.objective, exact.objective, PATHS[path]), (*place, other.objective, exact.objective)
    assert other.report.bound_kind, place
    assert other.report.proof, place
    return True


def problems(instances: ModuleType, seeds: range) -> Iterator[DensePlacement]:
    """Yield small problems, objectives in turn."""
    for seed in seeds:
        objective = OBJECTIVES[seed % len(OBJECTIVES)]
        yield instances.random_problem(seed, devices=(2, 4), layers=(3, 6), objective=objective)


@pytest.mark.parametrize("path", PATHS)
def test_paths_agree(path: str, instances: ModuleType) -> None:
    """Each exact path on twenty problems; more than half have a plan."""
    assert sum(agrees(path, problem) for problem in problems(instances, range(20_000, 20_020))) > 10


@pytest.mark.slow
@pytest.mark.parametrize(("path", "block"), BLOCKS)
def test_paths_agree_on_a_thousand(path: str, block: int, instances: ModuleType) -> None:
    """Each exact path on the same thousand problems, in eight blocks."""
    first = 30_000 + BLOCK * block
    assert sum(agrees(path, problem) for problem in problems(instances, range(first, first + BLOCK))) > BLOCK / 2


# ----------------------------------------------------------------------------------------------- stopped searches


def below(bound: Value, optimum: Value) -> bool:
    """Whether a bound is on the valid side, the second key where the first is met."""
    for low, best in zip(parts(bound), parts(optimum), strict=True):
        if low > best + 1e-9 * abs(best) + 1e-12:
            return False
        if low < best - 1e-6 * abs(best):
            return True
    return True


def stopped(path: str, problem: DensePlacement, optimum: Value | None, seconds: float) -> str:
    """Stop a path early and check what it claims; return its status."""
    result = solve(problem, solver=path, time_limit_s=seconds)
    place = (problem.name, problem.objective.name, path, seconds, result)
    if optimum is None:
        assert result.plan is None, place
        return result.status
    assert result.status != "infeasible", place
    if result.status == "optimal":
        assert result.objective is not None
        assert close(result.objective, optimum, PATHS[path]), place
    if result.bound is not None:
        assert below(result.bound, optimum), place
        assert result.report.bound_kind, place
        assert result.report.proof, place
    if result.objective is not None and problem.objective.name != "balanced":
        assert below(optimum, result.objective), place
    if result.gap is not None and result.objective is not None:
        true_gap = (parts(result.objective)[0] - parts(optimum)[0]) / max(abs(parts(result.objective)[0]), 1e-300)
        assert result.gap >= true_gap - PATHS[path], place
    return result.status


def stop_all(path: str, instances: ModuleType, seeds: range) -> list[str]:
    """Stop a path after some milliseconds, longer and longer, on problems that take it longer than that."""
    told = []
    for seed in seeds:
        objective = OBJECTIVES[seed % len(OBJECTIVES)]
        problem = instances.random_problem(seed, devices=(4, 6), layers=(9, 14), objective=objective)
        optimum = solve(problem).objective
        told += [stopped(path, problem, optimum, seconds) for seconds in (0.005, 0.02, 0.06)]
    return told


STOPPED = [path for path in PATHS if path not in ("dp", "labels", "quotient")]


@pytest.mark.parametrize("path", STOPPED)
def test_stopped_engines_claim_no_more_than_is_true(path: str, instances: ModuleType) -> None:
    """A few milliseconds each: no bound above the optimum, no plan below it, no gap smaller than the true one."""
    assert len(stop_all(path, instances, range(40_000, 40_008))) == 24


@pytest.mark.slow
@pytest.mark.parametrize("path", STOPPED)
def test_stopped_engines_claim_no_more_than_is_true_on_many(path: str, instances: ModuleType) -> None:
    """The same on 100 problems: 300 runs of each path, over 2,000 in all, most of them cut off."""
    told = stop_all(path, instances, range(40_100, 40_200))
    assert len(told) == 300


@pytest.mark.slow
def test_work_limits_leave_valid_bounds(instances: ModuleType) -> None:
    """Every exact engine of gpuplan's own under work limits from one label on: 270 repeatable runs.

    Thousands more of the general engine, at every effort, are in `test_exact_bounds`.
    """
    feasible = 0
    for seed in range(50_000, 50_030):
        objective = (*OBJECTIVES, "kv-capacity")[seed % 6]
        problem = instances.random_problem(seed, devices=(4, 6), layers=(6, 12), objective=objective)
        if objective == "kv-capacity" and not problem.kv_bytes_per_token.any():
            problem = dataclasses.replace(problem, kv_bytes_per_token=np.ones(problem.num_layers))
        optimum = solve(problem).objective
        for path in ("dp", "labels", "quotient"):
            for work in (1, 30, 500):
                result = solve(problem, solver=path, work_limit=work, time_limit_s=None)
                feasible += result.status == "feasible"
                if optimum is None:
                    assert result.plan is None
                elif result.bound is not None and not math.isinf(parts(result.bound)[0]):
                    assert below(result.bound, optimum), (problem.name, objective, path, work, result, optimum)
    assert feasible > 5
