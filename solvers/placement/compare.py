"""Every solver and baseline on one placement problem, side by side, each plan recomputed by the verifier."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gpuplan.errors import SolverUnavailableError, UnsupportedError
from gpuplan.plans.placement_solution import PlacementFront
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.external.worker import kept_workers
from gpuplan.solvers.registry import Kind, SolverEntry, find_solver, list_solvers
from gpuplan.solvers.result import Result, Status, Value
from gpuplan.solvers.solving import solve

if TYPE_CHECKING:
    from gpuplan.profiles.problems.build import PlacementProblem

RowStatus = Status | Literal["refused", "missing", "failed"]


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """What one solver made of the problem.

    Parameters
    ----------
    name, kind
        The solver, and whether it is ``exact``, ``bounded`` or a ``baseline``.
    status
        As in `Result`; ``refused``: it does not take this problem; ``missing``: what it needs is not installed;
        ``failed``: an external solver crashed, printed garbage or broke in another way, and no plan is left.
    objective, bound, gap
        As in `Result`.
    wall_time_s
        Of this call alone; the first call of a process may hold the loading of a library.
    verified
        Whether the verifier of plans, with arithmetic of its own, accepts the answer; None where there is no plan.
    note
        Why it was refused or has no plan, what the verifier found, or an empty text.
    result
        The whole answer, or None when refused.
    """

    name: str
    kind: Kind
    status: RowStatus
    objective: Value | None = None
    bound: Value | None = None
    gap: float | None = None
    wall_time_s: float = 0.0
    verified: bool | None = None
    note: str = ""
    result: Result[Any] | None = dataclasses.field(default=None, repr=False)


def compare(
    problem: DensePlacement | PlacementProblem,
    solvers: Sequence[str] | None = None,
    *,
    time_limit_s: float | None = 60.0,
    work_limit: int | None = None,
    threads: int = 1,
    memory_limit_bytes: int | None = None,
    seed: int = 0,
    cancel: Callable[[], bool] | None = None,
    on_row: Callable[[ComparisonRow], None] | None = None,
) -> list[ComparisonRow]:
    """Run solvers one after the other on the same problem.

    Parameters
    ----------
    problem
        With its objective; one that asks for the front is answered by the methods that find fronts.
    solvers
        Names (see `gpuplan.solvers.list_solvers`), or None for all that ship.
    time_limit_s, work_limit, threads, memory_limit_bytes, seed
        For each of them, as in `solve`.
    cancel
        Stops the running solver; those after it are left out.
    on_row
        Called with each row as it is finished.

    Returns
    -------
    list of ComparisonRow
        In the order asked for. A refusal is a row, not an error.

    Raises
    ------
    UsageError
        An unknown name, before anything is run.
    InputError
        The problem itself lacks a number its objective needs, such as a price.
    """
    entries = list_solvers() if solvers is None else [find_solver(name) for name in solvers]
    rows: list[ComparisonRow] = []
    limits = {
        "time_limit_s": time_limit_s,
        "work_limit": work_limit,
        "threads": threads,
        "memory_limit_bytes": memory_limit_bytes,
        "cancel": cancel,
    }
    with kept_workers():
        for entry in entries:
            if cancel is not None and rows and cancel():
                break
            rows.append(_row(entry, problem, seed, limits))
            if on_row is not None:
                on_row(rows[-1])
    return rows


def _row(
    entry: SolverEntry, problem: DensePlacement | PlacementProblem, seed: int, limits: dict[str, Any]
) -> ComparisonRow:
    started = time.perf_counter()
    try:
        result: Result[Any] = solve(problem, solver=entry.name, seed=seed, **limits)
    except UnsupportedError as refusal:
        return ComparisonRow(entry.name, entry.kind, "refused", note=str(refusal))
    except SolverUnavailableError as lack:
        return ComparisonRow(entry.name, entry.kind, "missing", note=str(lack))
    wall_time_s = time.perf_counter() - started
    verified, note = _verify(problem, result)
    return ComparisonRow(
        entry.name,
        entry.kind,
        "failed" if result.report.failure and result.plan is None else result.status,
        result.objective,
        result.bound,
        result.gap,
        wall_time_s,
        verified,
        note or _note(result),
        result,
    )


def _note(result: Result[Any]) -> str:
    if isinstance(result.plan, PlacementFront):
        return f"{len(result.plan.points)} points"
    return result.report.failure or "" if result.plan is not None else "; ".join(result.reasons)


def _verify(problem: DensePlacement | PlacementProblem, result: Result[Any]) -> tuple[bool | None, str]:
    """Return the verifier's verdict on an answer and its first finding; (None, "") without a plan."""
    if result.plan is None:
        return None, ""
    from gpuplan.plans import solution_to_dict, verify, verify_solution

    if isinstance(problem, DensePlacement):
        verdict = verify_solution(solution_to_dict(result, problem), problem)
    elif isinstance(result.plan, PlacementFront):
        dense = dataclasses.replace(problem.dense(), front=True)
        verdict = verify_solution(solution_to_dict(result, dense), dense)
    else:
        verdict = verify(result.plan)
    if verdict.ok:
        return True, ""
    first = verdict.problems[0]
    return False, f"refused by the verifier: {first.place}: {first.message}"
