"""Flow problems in ``solve``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.cli.options import SearchOptions
from gpuplan.cli.output import to_json, write_text
from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from gpuplan.cli.solving import Search
    from gpuplan.plans.flow_solution import FlowSolution
    from gpuplan.profiles.problems.flow import FlowProblem

PROBLEM = "gpuplan/flow-problem"


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """Limits on top of the problem's: most hops of a token, largest share of layers that one node alone may hold."""

    max_hops: int | None = None
    max_single_share: float | None = None

    def applied(self, problem: FlowProblem) -> FlowProblem:
        """Return the problem with the limit on hops; a wider one than the problem's own is refused."""
        if self.max_hops is None:
            return problem
        if problem.max_hops is not None and self.max_hops > problem.max_hops:
            raise UsageError(f"--max-hops {self.max_hops}: the problem itself allows no more than {problem.max_hops}")
        return replace(problem, max_hops=self.max_hops)


def solve_file(
    path: str, output_path: Path | None, search: SearchOptions, form: str, asked: FlowLimits = FlowLimits()
) -> int:
    """Solve a flow-problem file and print the solution with its certificate."""
    from gpuplan.cli.solved import open_output, print_solution
    from gpuplan.plans.flow_solution import flow_solution_to_dict
    from gpuplan.profiles.problems.flow_io import load_flow_problem

    output = open_output(output_path, search, form)
    if search.warm_start is not None:
        raise UsageError("--warm-start: flow problems take none")
    problem = asked.applied(load_flow_problem(path))
    if search.write_model is not None:
        _write_model(problem, search.write_model)
    run = _run(problem, search, asked)
    return print_solution(
        run,
        flow_solution_to_dict(run.result, problem),
        output_path,
        output,
        search.stats,
        lambda: [placement_table(problem, run.result.require_plan())],
        objective="flow",
        what="placement",
    )


def _write_model(problem: FlowProblem, path: str) -> None:
    """Write a problem as `gpuplan/flow-problem/1` (.json) or as the published mixed-integer model (.lp, .mps)."""
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        from gpuplan.profiles.problems.flow_io import flow_to_dict

        write_text(path, to_json(flow_to_dict(problem)))
    elif suffix in (".lp", ".mps"):
        from gpuplan.solvers.flow.milp import write_model

        write_model(problem, path)
    else:
        raise UsageError(f"--write-model: expected a file ending in .json, .lp or .mps, got {path!r}")


def _run(problem: FlowProblem, search: SearchOptions, asked: FlowLimits) -> Search:
    from gpuplan.cli.interrupt import Interrupt
    from gpuplan.cli.progress import SearchProgress
    from gpuplan.cli.solving import Search, search_limits
    from gpuplan.solvers.flow import solve_flow

    with Interrupt() as interrupt, SearchProgress("placing") as progress:
        result = solve_flow(
            problem,
            solver=search.solver,
            limits=search_limits(search, interrupt, progress),
            seed=search.seed,
            max_single_share=asked.max_single_share,
        )
    return Search(result, interrupted=interrupt.requested, options=search)


def placement_table(problem: FlowProblem, plan: FlowSolution) -> Table:
    """Return the layer range of every node in use, in the order of the layers, with the flow through it."""
    from gpuplan.cli.style import layer_range, plain_table

    through: dict[int, float] = {}
    for flow in plan.flows:
        through[flow.receiver] = through.get(flow.receiver, 0.0) + flow.tokens_per_s
    table = plain_table("node", "kind", "layers", "tokens/s", right=("tokens/s",))
    for held in sorted(plan.placement, key=lambda held: (held.start, held.stop, held.node)):
        kind = problem.kind_names[int(problem.node_kinds[held.node])]
        tokens_per_s = f"{through.get(held.node, 0.0):.2f}"
        table.add_row(problem.node_names[held.node], kind, layer_range(held.start, held.stop), tokens_per_s)
    return table
