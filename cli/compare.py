"""``gpuplan compare``: every solver and baseline on one instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from gpuplan.cli.batch_options import BatchOptions, batch_options
from gpuplan.cli.errors import ExitCode, say_error
from gpuplan.cli.options import (
    ModelOptions,
    ProblemOptions,
    SearchOptions,
    TopologyOptions,
    format_option,
    limit_options,
    model_options,
    problem_options,
    topology_options,
)
from gpuplan.cli.output import Output
from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from gpuplan.cli.compare_view import Row
    from gpuplan.profiles import DensePlacement, PlacementProblem
    from gpuplan.solvers.placement.compare import ComparisonRow


@click.command("compare")
@click.argument("words", nargs=-1, metavar="MODEL CLUSTER | PROBLEM | REQUESTS")
@click.option("--solvers", metavar="A,B,…", help="Only these; see gpuplan list solvers.")
@problem_options
@model_options
@topology_options
@batch_options
@limit_options
@format_option
def compare_command(
    words: tuple[str, ...],
    solvers: str | None,
    ask: ProblemOptions,
    shape: ModelOptions,
    where: TopologyOptions,
    batch: BatchOptions,
    search: SearchOptions,
    form: str,
) -> int:
    """Run every solver and baseline on one instance; each answer is recomputed by the verifier.

    The instance is MODEL on CLUSTER, a problem file (placement, batching or flow), or REQUESTS with --plan or
    --executors. The limits hold for each solver.
    """
    from gpuplan.cli.batch_files import compare_requests

    output = Output(data=form == "json")
    names = None if solvers is None else [name.strip() for name in solvers.split(",") if name.strip()]
    batching = compare_requests(words, batch, names, search, output)
    if batching is not None:
        _print(batching, "latency", output)
        return _verdict(batching)
    flow = _compare_flow(words, names, search)
    if flow is not None:
        _print(flow, "flow", output)
        return _verdict(flow)
    problem, objective = _instance(words, ask, shape, where, output)
    rows = _run(problem, names, search)
    _print(rows, objective, output)
    return _verdict(rows)


def _instance(
    words: tuple[str, ...], ask: ProblemOptions, shape: ModelOptions, where: TopologyOptions, output: Output
) -> tuple[DensePlacement | PlacementProblem, str]:
    """Return the problem and the name of its objective."""
    from gpuplan.cli.inputs import is_problem_file, read_problem

    if len(words) == 2:
        problem = read_problem(*words, where, shape, ask, output)
        return problem, problem.objective_name
    if len(words) != 1 or not is_problem_file(words[0]):
        got = "nothing" if not words else " ".join(words)
        raise UsageError(f"expected MODEL and CLUSTER, or one problem file ending in .json, got {got}")
    if (ask, shape, where) != (ProblemOptions(), ModelOptions(), TopologyOptions()):
        raise UsageError("a problem file has its numbers already: options on model, cluster or workload do not apply")
    from gpuplan.profiles import load_problem

    dense = load_problem(words[0])
    return dense, dense.objective.name


def _run(problem: Any, names: Sequence[str] | None, search: SearchOptions) -> list[ComparisonRow]:
    from gpuplan.cli.interrupt import Interrupt
    from gpuplan.cli.progress import SearchProgress
    from gpuplan.solvers import Progress, compare

    with Interrupt("the solvers finished so far") as interrupt, SearchProgress("comparing") as progress:
        return compare(
            problem,
            names,
            time_limit_s=search.time_limit,
            work_limit=search.work_limit,
            threads=search.threads,
            memory_limit_bytes=search.memory_limit,
            seed=search.seed,
            cancel=interrupt,
            on_row=lambda row: progress(Progress(f"{row.name} is done", None, None)),
        )


def _compare_flow(
    words: Sequence[str], names: Sequence[str] | None, search: SearchOptions
) -> list[ComparisonRow] | None:
    """Compare on a flow problem; None when the words name none."""
    from gpuplan.cli.batch_files import kind_of
    from gpuplan.cli.flow_files import PROBLEM

    if len(words) != 1 or kind_of(words[0]) != PROBLEM:
        return None
    from gpuplan.cli.interrupt import Interrupt
    from gpuplan.cli.progress import SearchProgress
    from gpuplan.cli.solving import search_limits
    from gpuplan.profiles.problems.flow_io import load_flow_problem
    from gpuplan.solvers.flow.compare import compare_flow
    from gpuplan.solvers.limits import Progress

    problem = load_flow_problem(words[0])
    with Interrupt("the solvers finished so far") as interrupt, SearchProgress("comparing") as progress:
        return compare_flow(
            problem,
            search_limits(search, interrupt),
            search.seed,
            names,
            on_row=lambda row: progress(Progress(f"{row.name} is done", None, None)),
        )


def _print(rows: Sequence[Row], objective: str, output: Output) -> None:
    from gpuplan.cli.compare_view import compare_report, compare_table, legend, notes, proofs
    from gpuplan.cli.style import bullets

    output.document({"objective": objective, "solvers": compare_report(rows)})
    output.show(compare_table(rows, objective))
    told = legend(rows)
    if told:
        output.show("", told)
    remarks = [*proofs(rows, objective), *notes(rows)]
    if remarks:
        output.show("", bullets(remarks))


def _verdict(rows: Sequence[Row]) -> int:
    """Return the exit code: a refused answer is worst, then no answer at all."""
    wrong = [row.name for row in rows if row.verified is False]
    if wrong:
        say_error(f"the verifier refuses the answer of {', '.join(wrong)}")
        return ExitCode.VERIFICATION
    if any(row.verified for row in rows):
        return ExitCode.DONE
    proofs = [row for row in rows if row.status == "infeasible"]
    if proofs:
        say_error(f"no plan exists (proven by {proofs[0].name}): {proofs[0].note}")
        return ExitCode.INFEASIBLE
    if rows and all(row.status in ("refused", "missing") for row in rows):
        say_error(f"no solver takes this problem: {rows[0].note}")
        return ExitCode.UNSUPPORTED
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        say_error(f"no solver found a plan: {failed[0].note}")
        return ExitCode.NO_SOLUTION
    say_error("no solver found a plan within its limits")
    return ExitCode.NO_SOLUTION
