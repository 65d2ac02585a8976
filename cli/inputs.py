"""From option values to topologies, models and problems."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.cli.options import ModelOptions, ProblemOptions, SearchOptions, TopologyOptions
from gpuplan.cli.output import Output
from gpuplan.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpuplan.plans import DeviceMap, PlacementSolution
    from gpuplan.profiles import DensePlacement, ModelProfile, PlacementProblem
    from gpuplan.topology import Topology


def read_topology(source: str, options: TopologyOptions, output: Output) -> Topology:
    """Read a CLUSTER; what its reader assumed is told on stderr."""
    from gpuplan.topology import load_topology

    topology = load_topology(
        source,
        gpu=options.gpu,
        gpu_info=options.gpu_info,
        memory_fraction=options.memory_fraction,
        exclude=options.exclude,
        catalog=options.catalog,
    )
    for note in topology.notes:
        output.note(note)
    return topology


def read_model(source: str, options: ModelOptions, catalog: str | None) -> ModelProfile:
    """Read a MODEL."""
    from gpuplan.profiles import load_model

    return load_model(source, dtype=options.dtype, kv_dtype=options.kv_dtype, catalog=catalog)


def read_problem(
    model: str,
    cluster: str,
    where: TopologyOptions,
    shape: ModelOptions,
    ask: ProblemOptions,
    output: Output,
) -> PlacementProblem:
    """Read MODEL and CLUSTER and return what is asked of them."""
    check_runtime(ask.runtime)
    problem = build_problem(read_model(model, shape, where.catalog), read_topology(cluster, where, output), ask)
    remarks = getattr(problem.costs, "notes", ())
    if remarks:
        output.note(
            f"{remarks[0]}"
            if len(remarks) == 1
            else f"{remarks[0]} (and {len(remarks) - 1} more remarks on the costs: gpuplan profile show)"
        )
    return problem


def build_problem(model: ModelProfile, topology: Topology, ask: ProblemOptions) -> PlacementProblem:
    """Return the placement problem the options describe."""
    from gpuplan.profiles import PlacementProblem, Workload
    from gpuplan.profiles.cost_sources import load_costs
    from gpuplan.profiles.problems.placement import Objective

    from_stages = ask.micro_batches == "stages"
    workload = Workload(
        batch=ask.batch,
        prompt_tokens=ask.prompt,
        output_tokens=ask.output,
        micro_batches=1 if ask.micro_batches == "stages" else ask.micro_batches,
    )
    objective: str | Objective = ask.objective
    if ask.objective == "balanced":
        objective = Objective("balanced", latency_weight=ask.balance[0], devices_weight=ask.balance[1])
    return PlacementProblem(
        model=model,
        topology=topology,
        costs=load_costs(
            ask.costs,
            kinds=[device.kind.name for device in topology.devices],
            fallback=ask.costs_fallback,
            extrapolate=ask.extrapolate,
        ),
        workload=workload,
        objective=objective,
        return_hop=ask.return_hop,
        reserve_bytes=ask.reserve,
        max_devices=ask.max_devices,
        runtime=ask.runtime,
        micro_batches_from_stages=from_stages,
        tensor_parallel=ask.tensor_parallel,
        uneven_tensor_parallel=ask.uneven_tensor_parallel,
    )


def check_runtime(name: str | None) -> None:
    """Refuse a runtime that no exporter knows."""
    if name is not None:
        from gpuplan.profiles.problems.degrees import RUNTIMES

        check_name(name, RUNTIMES, "runtime")


def check_solver(options: SearchOptions) -> None:
    """Refuse a solver that is not registered."""
    if options.solver != "auto":
        from gpuplan.solvers.registry import list_solvers

        check_name(options.solver, [entry.name for entry in list_solvers()], "solver")


def check_name(name: str, known: Iterable[str], what: str) -> None:
    """Raise UsageError with the closest of `known` names when `name` is none of them."""
    names = list(known)
    if name in names:
        return
    closest = difflib.get_close_matches(name, names, n=1)
    mend = f"did you mean {closest[0]!r}?" if closest else f"known are {', '.join(names)}"
    raise UsageError(f"there is no {what} {name!r}; {mend}")


def read_warm_start(path: str | None) -> DeviceMap | None:
    """Read the plan a search starts from."""
    if path is None:
        return None
    from gpuplan.plans import load_plan

    return load_plan(path)


def read_warm_start_stages(path: str, problem: DensePlacement) -> PlacementSolution:
    """Read the solution a search on plain numbers starts from."""
    from gpuplan.plans import load_solution
    from gpuplan.plans.placement_solution import PlacementSolution

    plan = load_solution(path, problem).plan
    if not isinstance(plan, PlacementSolution):
        raise InputError("expected a solution with stages to start from, got none", source=path, place="$.stages")
    return plan


def is_problem_file(source: str) -> bool:
    """Return whether one word names a problem file rather than a MODEL: it ends in .json and is no folder."""
    return source.lower().endswith((".json", ".yaml", ".yml")) and not Path(source).is_dir()
