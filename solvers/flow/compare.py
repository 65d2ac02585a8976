"""Every solver and rule on one flow problem, side by side, each answer recomputed by the verifier."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from gpuplan.errors import SolverUnavailableError, UnsupportedError, UsageError
from gpuplan.plans.flow_solution import FlowSolution, flow_solution_to_dict
from gpuplan.plans.verify.flow import verify_flow_solution
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.flow.registry import list_flow_solvers
from gpuplan.solvers.flow.search import solve_flow
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.placement.compare import ComparisonRow
from gpuplan.solvers.registry import SolverEntry
from gpuplan.solvers.result import Result


def compare_flow(
    problem: FlowProblem,
    limits: Limits | None = None,
    seed: int = 0,
    solvers: Sequence[str] | None = None,
    *,
    max_single_share: float | None = None,
    on_row: Callable[[ComparisonRow], None] | None = None,
) -> list[ComparisonRow]:
    """Run flow solvers one after the other on the same problem.

    Parameters
    ----------
    limits, seed, max_single_share
        For each of them, as in `solve_flow`; a cancellation ends the running one and leaves out those after it.
    solvers
        Names of `list_flow_solvers`, or None for all.
    on_row
        Called with each row as it is finished.

    Returns
    -------
    list of ComparisonRow
        In the order asked for; objective and bound are tokens/s. A refusal is a row, not an error.

    Raises
    ------
    UsageError
        For an unknown name, before anything is run.
    """
    limits = limits or Limits()
    rows: list[ComparisonRow] = []
    for entry in _entries(solvers):
        if limits.cancel is not None and rows and limits.cancel():
            break
        rows.append(_row(entry, problem, limits, seed, max_single_share))
        if on_row is not None:
            on_row(rows[-1])
    return rows


def _entries(names: Sequence[str] | None) -> list[SolverEntry]:
    known = {entry.name: entry for entry in list_flow_solvers()}
    for name in names or ():
        if name not in known:
            raise UsageError(f"expected flow solvers ({', '.join(known)}), got {name!r}")
    return list(known.values()) if names is None else [known[name] for name in names]


def _row(entry: SolverEntry, problem: FlowProblem, limits: Limits, seed: int, share: float | None) -> ComparisonRow:
    started = time.perf_counter()
    try:
        result = solve_flow(problem, solver=entry.name, limits=limits, seed=seed, max_single_share=share)
    except UnsupportedError as refusal:
        return ComparisonRow(entry.name, entry.kind, "refused", note=str(refusal))
    except SolverUnavailableError as lack:
        return ComparisonRow(entry.name, entry.kind, "missing", note=str(lack))
    seconds = time.perf_counter() - started
    verified, note = _verdict(problem, result)
    return ComparisonRow(
        entry.name,
        entry.kind,
        "failed" if result.report.failure and result.plan is None else result.status,
        objective=result.objective,
        bound=result.bound,
        gap=result.gap,
        wall_time_s=seconds,
        verified=verified,
        note=note,
        result=result,
    )


def _verdict(problem: FlowProblem, result: Result[FlowSolution]) -> tuple[bool | None, str]:
    """Return whether the verifier accepts the answer, and its first finding or why there is no answer."""
    if result.plan is None:
        return None, result.report.failure or "; ".join(result.reasons or result.report.notes)
    document: dict[str, Any] = flow_solution_to_dict(result, problem)
    verdict = verify_flow_solution(document, problem)
    if verdict.ok:
        return True, result.report.failure or ""
    first = verdict.problems[0]
    return False, f"refused by the verifier: {first.place}: {first.message}"
