"""``gpuplan map``: the main job, a device map."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from gpuplan.cli.output import Output, check_writable

if TYPE_CHECKING:
    from gpuplan.cli.solving import Search
    from gpuplan.plans import DeviceMap
    from gpuplan.profiles import PlacementProblem
    from gpuplan.solvers.placement.explain import Explanation


@click.command("map")
@click.argument("model")
@click.argument("cluster")
@output_option("Write the plan here.")
@problem_options
@model_options
@topology_options
@search_options
@click.option("--explain", is_flag=True, help="Say why the plan looks so, and what would help.")
@format_option
@click.pass_obj
def map_command(
    typed: list[str],
    model: str,
    cluster: str,
    output_path: Path | None,
    ask: ProblemOptions,
    shape: ModelOptions,
    where: TopologyOptions,
    search: SearchOptions,
    explain: bool,
    form: str,
) -> int:
    """Plan which layers of MODEL go on which device of CLUSTER, with a proof of how good the plan is.

    MODEL is a shipped name, a Hugging Face config.json or a folder with one; CLUSTER a shipped name or a file
    (gpuplan YAML or JSON, the text of nvidia-smi topo -m).
    """
    from gpuplan.cli.inputs import check_solver, read_problem, read_warm_start
    from gpuplan.cli.problem_files import write_any_problem
    from gpuplan.cli.solving import run_search, show_notes, write_stats

    output = Output(data=form == "json")
    for path in (output_path, search.stats, search.write_model):
        check_writable(path)
    check_solver(search)
    warm_start = read_warm_start(search.warm_start)
    problem = read_problem(model, cluster, where, shape, ask, output)
    if search.write_model is not None:
        write_any_problem(problem, search.write_model, search.solver)
    run = run_search(_solve, problem, search, ask.objective, warm_start=warm_start)
    show_notes(run, output)
    write_stats(search.stats, run, "map")
    if run.result.plan is None:
        return _without_plan(problem, run, output)
    explanation = _explained(problem, run) if explain else None
    _write(run.result.plan, output_path)
    _print(problem, run, output, explanation)
    if not output.data:
        output.lines("", *next_lines(typed, run.result.require_plan(), output_path, ask.runtime))
    return ExitCode.DONE


def _solve(problem: PlacementProblem, **limits: Any) -> Any:
    from gpuplan.solvers import solve

    return solve(problem, **limits)


def _without_plan(problem: PlacementProblem, run: Search, output: Output) -> int:
    from gpuplan.cli.solving import failure_document
    from gpuplan.solvers.placement.explain_fit import would_fit

    if run.result.status == "infeasible":
        run.add_reason(would_fit(problem, run.seconds_to_explain))
    output.document(failure_document(run.result))
    return run.exit_code()


def _explained(problem: PlacementProblem, run: Search) -> Explanation:
    from gpuplan.cli.interrupt import Interrupt
    from gpuplan.cli.progress import SearchProgress
    from gpuplan.solvers.placement.explain import explain

    with Interrupt() as interrupt, SearchProgress("explaining"):
        return explain(problem, run.result, cancel=interrupt)


def _write(plan: DeviceMap, path: Path | None) -> None:
    if path is not None:
        from gpuplan.plans import save_plan

        save_plan(plan, path)


def _print(problem: PlacementProblem, run: Search, output: Output, explanation: Explanation | None) -> None:
    from gpuplan.cli.certificate import certificate
    from gpuplan.cli.map_view import map_view, stage_limits_text
    from gpuplan.cli.style import bullets
    from gpuplan.plans.device_map_io import device_map_to_dict

    plan: DeviceMap = run.result.require_plan()
    if output.data:
        document = device_map_to_dict(plan)
        if explanation is not None:
            document["explanation"] = explanation.to_dict()
        output.document(document)
        return
    kinds = {device.name: device.kind.name for device in problem.topology.devices}
    output.show(
        *map_view(plan, kinds=kinds, limits=stage_limits_text(problem, plan)),
        "",
        certificate(run.result, problem.objective_name, stopped=run.stopped),
    )
    if explanation is not None:
        output.show("", bullets(explanation.sentences))


def next_lines(typed: list[str], plan: DeviceMap, path: Path | None, runtime: str | None) -> list[str]:
    """Return what to paste next, all of it ready for this plan: the runtime's lines, and the commands that follow."""
    found = _first_export(plan, runtime)
    paste = [] if found is None else [f"paste, to run it with {found[0]}:", *_indented(found[1]), ""]
    if path is None:
        return [*paste, "next, keep it:", f"  gpuplan {shlex.join(typed)} -o plan.json"]
    file = shlex.quote(str(path))
    lines = [*paste, f"wrote {path}; next:", f"  gpuplan verify {file}"]
    return lines if found is None else [*lines, f"  gpuplan export {file} --to {found[0]}"]


#: Above this many lines an export is a file rather than something to paste.
_PASTE_LINES = 12


def _indented(text: str) -> list[str]:
    lines = text.rstrip().splitlines()
    cut = [] if len(lines) <= _PASTE_LINES else [f"… {len(lines) - _PASTE_LINES} more lines in the export"]
    return [f"  {line}" for line in [*lines[:_PASTE_LINES], *cut]]


def _first_export(plan: DeviceMap, wanted: str | None) -> tuple[str, str] | None:
    """Return the first runtime that can hold the plan, and the plan in its words."""
    from gpuplan.errors import GpuplanError
    from gpuplan.plans import export_details

    for runtime in (wanted,) if wanted is not None else ("vllm", "accelerate", "llama-cpp", "sglang"):
        try:
            return runtime, export_details(plan, runtime).text
        except GpuplanError:  # this runtime cannot hold the plan
            continue
    return None
