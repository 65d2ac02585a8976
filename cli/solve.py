"""``gpuplan solve``: plain numbers in, a certified solution out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpuplan.cli.options import SearchOptions, format_option, output_option, search_options
from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from gpuplan.plans.placement_solution import PlacementFront, PlacementSolution, StageRange
    from gpuplan.profiles.problems.placement import DensePlacement


@click.command("solve")
@click.argument("problem_file", metavar="PROBLEM")
@output_option("Write the solution here instead of to stdout.")
@click.option("--max-hops", type=click.IntRange(min=0), help="Flow: most links between nodes that a token may cross.")
@click.option(
    "--max-single-share",
    type=click.FloatRange(0.0, 1.0),
    help="Flow: largest share of the layers that one node alone may hold.",
)
@search_options
@format_option
def solve_command(
    problem_file: str,
    output_path: Path | None,
    max_hops: int | None,
    max_single_share: float | None,
    search: SearchOptions,
    form: str,
) -> int:
    """Solve a problem file and print the certified solution.

    Takes gpuplan/placement-problem/1, gpuplan/batching-problem/1 and gpuplan/flow-problem/1.
    """
    from gpuplan.cli import batch_files, flow_files
    from gpuplan.cli.inputs import check_solver
    from gpuplan.cli.problem_files import write_problem
    from gpuplan.cli.solved import open_output, print_solution
    from gpuplan.cli.solving import run_search
    from gpuplan.plans import solution_to_dict
    from gpuplan.profiles import load_problem
    from gpuplan.solvers import solve

    kind = batch_files.kind_of(problem_file)
    if kind == flow_files.PROBLEM:
        asked = flow_files.FlowLimits(max_hops, max_single_share)
        return flow_files.solve_file(problem_file, output_path, search, form, asked)
    if (max_hops, max_single_share) != (None, None):
        raise UsageError("--max-hops and --max-single-share are for flow problems (gpuplan/flow-problem/1)")
    if kind == batch_files.PROBLEM:
        return batch_files.solve_file(problem_file, output_path, search, form)
    output = open_output(output_path, search, form)
    check_solver(search)
    problem = load_problem(problem_file)
    if search.write_model is not None:
        write_problem(problem, search.write_model, search.solver)
    run = run_search(solve, problem, search, problem.objective.name, **_warm_start(search, problem))
    return print_solution(
        run,
        solution_to_dict(run.result, problem),
        output_path,
        output,
        search.stats,
        lambda: [_table(problem, run.result.require_plan())],
        objective="latency" if problem.front else problem.objective.name,
        what="front" if problem.front else "solution",
    )


def _warm_start(search: SearchOptions, problem: DensePlacement) -> dict[str, Any]:
    from gpuplan.cli.inputs import read_warm_start_stages

    return {} if search.warm_start is None else {"warm_start": read_warm_start_stages(search.warm_start, problem)}


def _table(problem: DensePlacement, plan: PlacementSolution | PlacementFront) -> Table:
    from gpuplan.cli.front_view import front_table
    from gpuplan.plans.placement_solution import PlacementFront

    if isinstance(plan, PlacementFront):
        return front_table(plan, problem.device_names)
    return dense_table(problem, plan.stages)


def dense_table(problem: DensePlacement, stages: tuple[StageRange, ...]) -> Table:
    """Return the stages of a solution with their memory, compute and hop times."""
    from gpuplan.cli.style import layer_range, memory_bar, plain_table, plural
    from gpuplan.solvers.placement.evaluate import stage_computes, stage_hops, used_bytes
    from gpuplan.units import format_seconds

    table = plain_table("#", "device", "layers", "memory", "compute", "hop", right=("compute", "hop"))
    times = zip(stage_computes(problem.latency, stages), stage_hops(problem.latency, stages), strict=True)
    for number, (stage, (compute_s, hop_s)) in enumerate(zip(stages, times, strict=True)):
        used = used_bytes(problem, stage, len(stages))
        table.add_row(
            str(number),
            problem.device_names[stage.device],
            f"{layer_range(stage.start, stage.stop)}\n{plural(stage.stop - stage.start, 'layer')}",
            memory_bar(used, float(problem.available_bytes[stage.device])),
            format_seconds(compute_s),
            format_seconds(hop_s),
        )
    return table
