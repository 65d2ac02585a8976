"""``gpuplan batch``: which requests run together, on which executor, in which order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpuplan.cli.batch_options import BatchOptions, batch_options, parse_settings
from gpuplan.cli.errors import ExitCode
from gpuplan.cli.options import SearchOptions, format_option, limit_options, output_option
from gpuplan.cli.output import Output, check_writable, to_json, write_text

if TYPE_CHECKING:
    from gpuplan.cli.solving import Search
    from gpuplan.plans.batch_plan import BatchPlan
    from gpuplan.profiles.problems.batching import BatchingProblem


@click.command("batch")
@click.argument("requests", metavar="REQUESTS")
@click.option("--policy", default="auto", show_default=True, metavar="NAME", help="A policy or a solver.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An option of the policy; repeatable.")
@batch_options
@output_option("Write the batch plan here: .json, or .parquet for large ones.")
@click.option("--plot", metavar="FILE", help="Also draw the timeline (.svg).")
@click.option("--write-model", metavar="FILE", help="Also write the problem (gpuplan/batching-problem/1).")
@click.option("--stats", metavar="FILE", help="Also write times and work as JSON.")
@limit_options
@format_option
def batch_command(
    requests: str,
    policy: str,
    settings: tuple[str, ...],
    batch: BatchOptions,
    output_path: Path | None,
    plot: str | None,
    search: SearchOptions,
    form: str,
) -> int:
    """Plan the batches of REQUESTS: CSV, JSON Lines or Parquet, in gpuplan's columns or a public trace's.

    The requests run on the device map of --plan, or on the executors of --executors.
    """
    from gpuplan.cli.batch_inputs import read_question
    from gpuplan.cli.batch_view import batch_view, timeline_svg
    from gpuplan.cli.solving import failure_document, show_notes, write_stats
    from gpuplan.plans.batch_plan import batch_plan_to_dict, build_batch_plan, save_batch_plan
    from gpuplan.profiles.problems.batching_io import batching_to_dict
    from gpuplan.solvers.batching.registry import find_batching

    output = Output(data=form == "json")
    for path in (output_path, plot, search.write_model, search.stats):
        check_writable(path)
    options = parse_settings(settings)
    if policy != "auto":
        find_batching(policy).check_options(options)
    question = read_question(requests, batch, output)
    if search.write_model is not None:
        write_text(search.write_model, to_json(batching_to_dict(question.problem)))
    if batch.epsilon is None:
        run = run_batching(question.problem, policy, search, options)
    else:
        from gpuplan.cli.batch_uncertain import run_uncertain

        question, run = run_uncertain(question, policy, batch, search, options, output)
    show_notes(run, output)
    write_stats(search.stats, run, "batch")
    if run.result.plan is None:
        output.document(failure_document(run.result))
        return run.exit_code()
    plan = build_batch_plan(
        question.problem, run.result, provenance=question.provenance, levels=question.levels, name=Path(requests).name
    )
    if output_path is not None:
        save_batch_plan(plan, output_path)
    if plot is not None:
        write_text(plot, timeline_svg(plan, Path(requests).name))
    if output.data:
        output.document(batch_plan_to_dict(plan))
    output.show(*batch_view(plan), "", _certificate(run, plan))
    return ExitCode.DONE


def run_batching(problem: BatchingProblem, solver: str, search: SearchOptions, options: dict[str, Any]) -> Search:
    """Run a batching solver with the limits of the command line, Ctrl-C as its ``cancel``, progress on a terminal."""
    from gpuplan.cli.interrupt import Interrupt
    from gpuplan.cli.progress import SearchProgress
    from gpuplan.cli.solving import Search, search_limits
    from gpuplan.solvers.batching.solve import solve_batching

    with Interrupt() as interrupt, SearchProgress("batching", seconds=True) as progress:
        limits = search_limits(search, interrupt, progress)
        result = solve_batching(problem, solver=solver, limits=limits, seed=search.seed, **options)
    return Search(result, interrupted=interrupt.requested, options=search)


def _certificate(run: Search, plan: BatchPlan) -> Any:
    from gpuplan.cli.certificate import certificate

    return certificate(run.result, "latency", what="plan", stopped=run.stopped)
