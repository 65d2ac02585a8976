"""Every batching solver and policy on one instance, each answer recomputed by the verifier."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from gpuplan.errors import SolverUnavailableError, UnsupportedError, UsageError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.plans.batch_solution_io import batching_solution_to_dict
from gpuplan.plans.verify.batching import verify_batching_solution
from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.batching.registry import ENTRIES, find_batching
from gpuplan.solvers.batching.solve import solve_batching
from gpuplan.solvers.external.worker import kept_workers
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.result import Result, relative_gap


@dataclasses.dataclass(frozen=True, slots=True)
class BatchingRow:
    """One method's answer.

    status
        As in the result, or ``refused`` when the method does not take this problem, ``missing`` when what it needs
        is not installed (`note` says why).
    bound
        The best bound that any method of the comparison has proven: it holds for all of them.
    verified
        What the independent verifier says of the plan; None without one.
    """

    name: str
    kind: str
    status: str
    objective: float | None = None
    bound: float | None = None
    gap: float | None = None
    wall_time_s: float = 0.0
    verified: bool | None = None
    note: str = ""
    result: Result[BatchSolution] | None = None


def compare_batching(
    problem: BatchingProblem,
    solvers: Sequence[str] | None = None,
    *,
    limits: Limits | None = None,
    seed: int = 0,
    on_row: Callable[[BatchingRow], None] | None = None,
) -> list[BatchingRow]:
    """Run `solvers` (default: all of the registry) on `problem`, `limits` for each; UsageError for an unknown name."""
    limits = limits or Limits()
    names = [entry.name for entry in ENTRIES] if solvers is None else list(solvers)
    for name in names:
        find_batching(name)
    if not names:
        raise UsageError("expected at least one solver to compare, got none")
    rows: list[BatchingRow] = []
    with kept_workers():
        for name in names:
            if limits.cancel is not None and limits.cancel():
                break
            rows.append(_row(problem, name, limits, seed))
            if on_row is not None:
                on_row(rows[-1])
    return _with_best_bound(rows)


def _row(problem: BatchingProblem, name: str, limits: Limits, seed: int) -> BatchingRow:
    kind = find_batching(name).kind
    started = time.perf_counter()
    try:
        result = solve_batching(problem, solver=name, limits=limits, seed=seed)
    except UnsupportedError as error:
        return BatchingRow(name, kind, "refused", note=str(error))
    except SolverUnavailableError as error:
        return BatchingRow(name, kind, "missing", note=str(error))
    wall = time.perf_counter() - started
    note = "; ".join(result.reasons or result.report.notes)
    objective, bound = _number(result.objective), _number(result.bound)
    if result.plan is None:
        return BatchingRow(name, kind, result.status, None, bound, None, wall, None, note, result)
    verdict = verify_batching_solution(batching_solution_to_dict(result, problem), problem)
    note = note if verdict.ok else f"the verifier refuses it: {verdict.problems[0]}"
    return BatchingRow(name, kind, result.status, objective, bound, result.gap, wall, verdict.ok, note, result)


def _with_best_bound(rows: list[BatchingRow]) -> list[BatchingRow]:
    best = max((row.bound for row in rows if row.bound is not None), default=None)
    if best is None:
        return rows
    return [_bounded(row, best) for row in rows]


def _bounded(row: BatchingRow, best: float) -> BatchingRow:
    if row.objective is None:
        return row
    bound = min(best, row.objective)
    return dataclasses.replace(row, bound=bound, gap=relative_gap(row.objective, bound))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
