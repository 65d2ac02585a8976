"""``gpuplan pareto``: every trade between latency, bottleneck and devices that is worth making."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpuplan.cli.errors import ExitCode
from gpuplan.cli.options import (
    ModelOptions,
    ProblemOptions,
    SearchOptions,
    TopologyOptions,
    format_option,
    model_options,
    output_option,
    problem_options,
    search_options,
    topology_options,
)
from gpuplan.cli.output import Output, check_writable, to_json, write_text
from gpuplan.errors import UsageError


@click.command("pareto")
@click.argument("model")
@click.argument("cluster")
@output_option("Write the front here.")
@click.option("--plot", metavar="FILE.svg", help="Also draw the front.")
@problem_options
@model_options
@topology_options
@search_options
@format_option
def pareto_command(
    model: str,
    cluster: str,
    output_path: Path | None,
    plot: str | None,
    ask: ProblemOptions,
    shape: ModelOptions,
    where: TopologyOptions,
    search: SearchOptions,
    form: str,
) -> int:
    """Find the non-dominated plans for MODEL on CLUSTER over latency, bottleneck and devices used."""
    from gpuplan.cli.inputs import check_solver, read_problem
    from gpuplan.cli.problem_files import write_any_problem
    from gpuplan.cli.solving import run_search, show_notes, write_stats
    from gpuplan.plans import solution_to_dict
    from gpuplan.solvers import pareto

    output = Output(data=form == "json")
    _check_meaning(ask, search)
    for path in (output_path, plot, search.stats, search.write_model):
        check_writable(path)
    check_solver(search)
    problem = read_problem(model, cluster, where, shape, ask, output).replace(front=True)
    if search.write_model is not None:
        write_any_problem(problem, search.write_model, search.solver)
    run = run_search(pareto, problem, search, "latency")
    show_notes(run, output)
    write_stats(search.stats, run, "pareto")
    if run.result.plan is None:
        output.document(solution_to_dict(run.result, problem.dense()))
        return run.exit_code()
    _write(problem, run.result, output_path, plot, output)
    _show(problem, run, output)
    return ExitCode.DONE


def _check_meaning(ask: ProblemOptions, search: SearchOptions) -> None:
    if ask.objective != "latency":
        raise UsageError("pareto weighs latency, bottleneck and devices together: leave --objective out, or use map")
    if search.warm_start is not None:
        raise UsageError("pareto cannot start from a plan: leave --warm-start out, or use map")


def _write(problem: Any, result: Any, output_path: Path | None, plot: str | None, output: Output) -> None:
    from gpuplan.cli.front_view import front_svg
    from gpuplan.plans import solution_to_dict

    if output_path is not None or output.data:
        document = solution_to_dict(result, problem.dense())
        if output_path is not None:
            write_text(output_path, to_json(document))
        output.document(document)
    if plot is not None:
        write_text(plot, front_svg(result.plan, f"{problem.model.name} on {problem.topology.name}"))


def _show(problem: Any, run: Any, output: Output) -> None:
    from gpuplan.cli.certificate import certificate
    from gpuplan.cli.front_view import front_table

    output.show(
        front_table(run.result.plan, problem.dense().device_names),
        "",
        certificate(run.result, "latency", what="front", stopped=run.stopped),
    )
