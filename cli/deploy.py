"""``gpuplan deploy``: replicas of a model over a whole cluster."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpuplan.cli.deploy_options import DeployOptions, deploy_options
from gpuplan.cli.errors import ExitCode
from gpuplan.cli.options import (
    ModelOptions,
    SearchOptions,
    TopologyOptions,
    format_option,
    limit_options,
    model_options,
    output_option,
    topology_options,
)
from gpuplan.cli.output import Output, check_writable

if TYPE_CHECKING:
    from gpuplan.cli.solving import Search
    from gpuplan.plans.deployment import Deployment
    from gpuplan.profiles.problems.deployment import DeploymentProblem


@click.command("deploy")
@click.argument("model")
@click.argument("cluster")
@output_option("Write the deployment here.")
@deploy_options
@model_options
@topology_options
@limit_options
@click.option("--stats", metavar="FILE", help="Also write times and work as JSON.")
@format_option
@click.pass_obj
def deploy_command(
    typed: list[str],
    model: str,
    cluster: str,
    output_path: Path | None,
    ask: DeployOptions,
    shape: ModelOptions,
    where: TopologyOptions,
    search: SearchOptions,
    form: str,
) -> int:
    """Plan replicas of MODEL over CLUSTER: how many, on which devices, tensor- and pipeline-parallel.

    Without a demand the replicas serve most requests/s (or tokens/s); with --demand-rps they serve it with the fewest
    devices or at the lowest price. Queueing is not counted.
    """
    from gpuplan.cli.deploy_inputs import deployment_problem, read_current
    from gpuplan.cli.inputs import read_model, read_topology
    from gpuplan.cli.solving import write_stats

    output = Output(data=form == "json")
    for path in (output_path, search.stats):
        check_writable(path)
    current = read_current(ask.current)
    problem = deployment_problem(
        read_model(model, shape, where.catalog), read_topology(cluster, where, output), ask, output
    )
    if ask.method == "flow":
        from gpuplan.cli.deploy_flow import deploy_by_flow

        return deploy_by_flow(problem, ask, search, output_path, output)
    run = _run(problem, ask, search, current)
    write_stats(search.stats, run, "deploy")
    if run.result.plan is None:
        from gpuplan.cli.solving import failure_document

        output.document(failure_document(run.result))
        return run.exit_code()
    plan: Deployment = run.result.require_plan()
    if output_path is not None:
        from gpuplan.plans.deployment_io import save_deployment

        save_deployment(plan, output_path)
    _print(problem, plan, run, output)
    if not output.data:
        output.lines("", *_next_lines(typed, plan, output_path))
    return ExitCode.DONE


def _run(problem: DeploymentProblem, ask: DeployOptions, search: SearchOptions, current: Deployment | None) -> Search:
    from gpuplan.cli.interrupt import Interrupt
    from gpuplan.cli.progress import SearchProgress
    from gpuplan.cli.solving import Search
    from gpuplan.solvers import deploy

    keeping = "the best deployment so far"
    with native_output_aside(), Interrupt(keeping) as interrupt, SearchProgress("deploying", seconds=False) as progress:
        result = deploy(
            problem,
            current=current,
            move_cost=ask.move_cost,
            hysteresis=ask.hysteresis,
            time_limit_s=search.time_limit,
            work_limit=search.work_limit,
            threads=search.threads,
            memory_limit_bytes=search.memory_limit,
            seed=search.seed,
            cancel=interrupt,
            on_progress=progress,
        )
    return Search(result, interrupted=interrupt.requested, options=search)


@contextmanager
def native_output_aside() -> Iterator[None]:
    """Send what native code prints on stdout to nowhere: HiGHS has lines of its own that no option silences."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _print(problem: DeploymentProblem, plan: Deployment, run: Search, output: Output) -> None:
    from gpuplan.cli.deploy_view import deployment_certificate, deployment_view
    from gpuplan.plans.deployment_io import deployment_to_dict

    if output.data:
        output.document(deployment_to_dict(plan))
        return
    output.show(*deployment_view(problem, plan), "", deployment_certificate(run, plan))


def _next_lines(typed: list[str], plan: Deployment, path: Path | None) -> list[str]:
    if path is None:
        return ["next, keep it:", f"  gpuplan {shlex.join(typed)} -o deployment.json"]
    file = shlex.quote(str(path))
    lines = [f"wrote {path}; next:", f"  gpuplan verify {file}"]
    runtime = _first_runtime(plan)
    return lines if runtime is None else [*lines, f"  gpuplan export {file} --to {runtime}"]


def _first_runtime(plan: Deployment) -> str | None:
    from gpuplan.errors import GpuplanError
    from gpuplan.plans.export.deployment import export_deployment

    for runtime in ("vllm", "sglang", "accelerate", "llama-cpp"):
        try:
            export_deployment(plan, runtime)
        except GpuplanError:  # this runtime cannot hold it
            continue
        return runtime
    return None


def export_file(path: str, runtime: str, output_path: Path | None, model: str | None, output: Output) -> int:
    """Export every replica of a deployment: to stdout one after the other, or one file each beside `output_path`."""
    from gpuplan.cli.output import write_text
    from gpuplan.plans.deployment_io import load_deployment
    from gpuplan.plans.export.deployment import export_deployment

    found = export_deployment(load_deployment(path), runtime, model=model)
    for note in dict.fromkeys(note for details in found.values() for note in details.notes):
        output.note(note)
    texts: dict[str, Any] = {name: details.text.rstrip("\n") + "\n" for name, details in found.items()}
    if output_path is None:
        click.echo(_together(texts), nl=False)
        return ExitCode.DONE
    for name, text in texts.items():
        target = output_path.with_name(f"{output_path.stem}-{name}{output_path.suffix}")
        write_text(target, text)
        output.show(f"wrote {target}")
    return ExitCode.DONE


def _together(texts: dict[str, str]) -> str:
    """Return the replicas' texts as one: a JSON object by name where they are JSON, else under headings."""
    import json

    from gpuplan.cli.output import to_json

    if all(text.startswith("{") for text in texts.values()):
        return to_json({name: json.loads(text) for name, text in texts.items()})
    return "\n".join(f"# {name}\n{text}" for name, text in texts.items())
