"""``gpuplan deploy --method flow``: overlapping layer ranges, most tokens/s through them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.cli.deploy_options import DeployOptions
from gpuplan.cli.errors import ExitCode
from gpuplan.cli.options import SearchOptions
from gpuplan.cli.output import Output, check_writable, to_json, write_text
from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from gpuplan.profiles.problems.deployment import DeploymentProblem


def problem_path(path: Path) -> Path:
    """Return where the flow problem goes that the solution at `path` answers.

    >>> problem_path(Path("flow.json")).name
    'flow.problem.json'
    """
    return path.with_name(f"{path.stem}.problem{path.suffix}")


def deploy_by_flow(
    problem: DeploymentProblem, ask: DeployOptions, search: SearchOptions, output_path: Path | None, output: Output
) -> int:
    """Solve the flow problem of a deployment; show the placement, write solution and problem."""
    from gpuplan.cli.certificate import certificate
    from gpuplan.cli.flow_files import placement_table
    from gpuplan.cli.interrupt import Interrupt
    from gpuplan.cli.progress import SearchProgress
    from gpuplan.cli.solving import Search, write_stats
    from gpuplan.plans.flow_solution import flow_solution_to_dict
    from gpuplan.profiles.problems.flow_io import flow_to_dict
    from gpuplan.solvers.deployment.flow import deploy_flow
    from gpuplan.solvers.limits import Limits

    if ask.objective not in (None, "throughput") or ask.demand_rps is not None or ask.current is not None:
        raise UsageError("--method flow maximises tokens/s: it takes no other objective, demand or current deployment")
    if output_path is not None:
        check_writable(problem_path(output_path))
    with Interrupt() as interrupt, SearchProgress("placing", seconds=False) as progress:
        limits = Limits(search.time_limit, search.work_limit, search.threads, interrupt, progress, search.memory_limit)
        plan = deploy_flow(problem.replace(objective="throughput"), limits=limits, seed=search.seed)
    run = Search(plan.result, interrupted=interrupt.requested, options=search)
    write_stats(search.stats, run, "deploy")
    document = flow_solution_to_dict(plan.result, plan.problem)
    output.document(document)
    if plan.result.plan is None:
        return run.exit_code()
    if output_path is not None:
        write_text(problem_path(output_path), to_json(flow_to_dict(plan.problem)))
        write_text(output_path, to_json(document))
    output.show(
        f"{plan.problem.name}, {plan.micro_batches} micro-batches in flight",
        "",
        placement_table(plan.problem, plan.result.plan),
        "",
        certificate(plan.result, "flow", what="placement", stopped=run.stopped),
    )
    if output_path is not None:
        output.lines("", f"wrote {output_path} and {problem_path(output_path)}; next:")
        output.lines(f"  gpuplan verify {output_path} --problem {problem_path(output_path)}")
    return ExitCode.DONE
