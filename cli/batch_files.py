"""Batching problems, solutions and plans in ``solve``, ``verify`` and ``compare``: which file is one, and what then."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuplan.cli.errors import ExitCode
from gpuplan.cli.options import SearchOptions
from gpuplan.cli.output import Output, check_writable, to_json, write_text
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
    from gpuplan.cli.certificate import certificate
    from gpuplan.cli.solving import show_notes, write_stats
    from gpuplan.plans.batch_solution_io import batching_solution_to_dict
    from gpuplan.profiles.problems.batching_io import batching_to_dict, load_batching_problem
    from gpuplan.profiles.requests import time_warnings
    from gpuplan.solvers.batching.registry import find_batching

    output = Output(data=output_path is None or form == "json")
    for target in (output_path, search.stats, search.write_model):
        check_writable(target)
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
    show_notes(run, output)
    write_stats(search.stats, run, "solve")
    document = batching_solution_to_dict(run.result, problem)
    if run.result.plan is None:
        output.document(document)
        return run.exit_code()
    if output_path is not None:
        write_text(output_path, to_json(document))
    output.document(document)
    line = certificate(run.result, "latency", what="solution", stopped=run.stopped)
    output.show(batches_table(problem, run.result.plan), "", line)
    return ExitCode.DONE


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
    from gpuplan.solvers.batching.compare import compare_batching
    from gpuplan.solvers.limits import Limits, Progress

    with Interrupt("the methods finished so far") as interrupt, SearchProgress("comparing", seconds=True) as progress:
        return compare_batching(
            problem,
            names,
            limits=Limits(
                search.time_limit,
                search.work_limit,
                search.threads,
                interrupt,
                memory_limit_bytes=search.memory_limit,
            ),
            seed=search.seed,
            on_row=lambda row: progress(Progress(f"{row.name} is done", None, None)),
        )
