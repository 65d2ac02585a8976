"""Batching problems, solutions and plans in ``solve``, ``verify`` and ``compare``: which file is one, and what then."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuplan.cli.options import SearchOptions
from gpuplan.cli.output import Output, to_json, write_text
from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuplan.cli.batch_options import BatchOptions
    from gpuplan.solvers.batching.compare import BatchingRow

PROBLEM = "gpuplan/batching-problem"


def kind_of(path: str) -> str:
    """Return the kind a file says it is (``gpuplan/batch-plan``), "" when it does not say or cannot be read."""
    from gpuplan.plans.kinds import document_kind

    return document_kind(path)


def solve_file(path: str, output_path: Path | None, search: SearchOptions, form: str) -> int:
    """Solve a batching-problem file and print the solution with its certificate."""
    from gpuplan.cli.batch import run_batching
    from gpuplan.cli.batch_view import batches_table
    from gpuplan.cli.solved import open_output, print_solution
    from gpuplan.plans.batch_solution_io import batching_solution_to_dict
    from gpuplan.profiles.problems.batching_io import batching_to_dict, load_batching_problem
    from gpuplan.profiles.requests import time_warnings
    from gpuplan.solvers.batching.registry import find_batching

    output = open_output(output_path, search, form)
    if search.warm_start is not None:
        raise UsageError("--warm-start: batching problems take none")
    if search.solver != "auto":
        find_batching(search.solver)
    problem = load_batching_problem(path)
    for warning in time_warnings(problem.time):
        output.note(f"warning: {warning}")
    if search.write_model is not None:
        write_text(search.write_model, to_json(batching_to_dict(problem)))
    run = run_batching(problem, search.solver, search, {})
    return print_solution(
        run,
        batching_solution_to_dict(run.result, problem),
        output_path,
        output,
        search.stats,
        lambda: [batches_table(problem, run.result.require_plan())],
        objective="latency",
    )


def compare_requests(
    words: Sequence[str], batch: BatchOptions, names: Sequence[str] | None, search: SearchOptions, output: Output
) -> list[BatchingRow] | None:
    """Compare on REQUESTS or a batching-problem file; None when the words are neither."""
    from gpuplan.cli.batch_options import BatchOptions

    if len(words) != 1:
        if batch != BatchOptions():
            raise UsageError("--plan, --executors and the options on requests belong to one REQUESTS file")
        return None
    if batch != BatchOptions():
        from gpuplan.cli.batch_inputs import read_question

        problem = read_question(words[0], batch, output).problem
    elif kind_of(words[0]) == PROBLEM:
        from gpuplan.profiles.problems.batching_io import load_batching_problem

        problem = load_batching_problem(words[0])
    else:
        return None
    return _run(problem, names, search)


def _run(problem: Any, names: Sequence[str] | None, search: SearchOptions) -> list[BatchingRow]:
    from gpuplan.cli.interrupt import Interrupt
    from gpuplan.cli.progress import SearchProgress
    from gpuplan.cli.solving import search_limits
    from gpuplan.solvers.batching.compare import compare_batching
    from gpuplan.solvers.limits import Progress

    with Interrupt("the methods finished so far") as interrupt, SearchProgress("comparing", seconds=True) as progress:
        return compare_batching(
            problem,
            names,
            limits=search_limits(search, interrupt),
            seed=search.seed,
            on_row=lambda row: progress(Progress(f"{row.name} is done", None, None)),
        )
