"""The one call for batching problems: any solver or policy by name, checked before and after."""

from __future__ import annotations

import time
from typing import Any

from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.batching.answer import infeasible, unmet_reasons
from gpuplan.solvers.batching.registry import batching_names, find_batching
from gpuplan.solvers.limits import Limits, refuse_memory
from gpuplan.solvers.result import Result

#: Bytes a search takes for each request.
REQUEST_BYTES = 1_000


def solve_batching(
    problem: BatchingProblem,
    *,
    solver: str = "auto",
    limits: Limits | None = None,
    seed: int = 0,
    **options: Any,
) -> Result[BatchSolution]:
    """Plan the batches of `problem`.

    Parameters
    ----------
    solver
        A name of `gpuplan.solvers.batching.registry`; ``auto`` chooses and says why in the report's notes.
    limits
        Time, work, threads and a way to stop; 60 s by default.
    options
        What the method lets a caller choose (see its registry entry).

    Returns
    -------
    Result
        ``optimal`` or ``feasible`` with a `BatchSolution`; ``infeasible`` with reasons when hard deadlines cannot all
        hold; ``no_solution`` when the method found no plan that keeps them, or a limit came first.

    Raises
    ------
    UsageError
        An unknown name or option.
    UnsupportedError, SolverUnavailableError
        The method cannot take this problem, or a library it needs is not installed.
    """
    started = time.perf_counter()
    entry = find_batching(_present(solver))
    entry.check_options(options)
    entry.check(problem)
    if problem.hard:
        reasons = unmet_reasons(problem)
        if reasons:
            return infeasible(problem, reasons, solver=solver, started=started, seed=seed)
    limits = limits or Limits()
    refuse_memory("planning batches", float(REQUEST_BYTES * problem.num_requests), limits)
    return entry.run(problem, limits, seed, **options)


def _present(solver: str) -> str:
    """Return ``best-policy`` for ``auto`` as long as no method of that name is registered."""
    return "best-policy" if solver == "auto" and "auto" not in batching_names() else solver
