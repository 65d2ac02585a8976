"""The two calls everything goes through: `solve` for one objective, `pareto` for the whole front."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, overload

from gpuplan.errors import UnsupportedError, UsageError
from gpuplan.plans.placement_solution import GroupStage, PlacementFront, PlacementSolution, StageRange
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.limits import Budget, Limits, Progress, checked_limits
from gpuplan.solvers.placement.dense import solve_dense, solve_front
from gpuplan.solvers.registry import SolverEntry, find_solver
from gpuplan.solvers.result import Result

if TYPE_CHECKING:
    from gpuplan.plans import DeviceMap
    from gpuplan.profiles.problems.build import PlacementProblem

#: Time kept for stating a plan as a device map with all its inputs: about 0.4 s for 4,096 devices; where stages are
#: groups, collectives and routes in them come on top, 40-130 ms for 128 devices.
MAP_S_PER_DEVICE: Final = 1e-4
GROUPS_S_PER_DEVICE: Final = 5e-4


@overload
def solve(
    problem: DensePlacement,
    *,
    solver: str = ...,
    time_limit_s: float | None = ...,
    work_limit: int | None = ...,
    threads: int = ...,
    memory_limit_bytes: int | None = ...,
    seed: int = ...,
    warm_start: PlacementSolution | None = ...,
    cancel: Callable[[], bool] | None = ...,
    on_progress: Callable[[Progress], None] | None = ...,
) -> Result[PlacementSolution]: ...


@overload
def solve(
    problem: PlacementProblem,
    *,
    solver: str = ...,
    time_limit_s: float | None = ...,
    work_limit: int | None = ...,
    threads: int = ...,
    memory_limit_bytes: int | None = ...,
    seed: int = ...,
    warm_start: DeviceMap | PlacementSolution | None = ...,
    cancel: Callable[[], bool] | None = ...,
    on_progress: Callable[[Progress], None] | None = ...,
) -> Result[DeviceMap]: ...


def solve(
    problem: DensePlacement | PlacementProblem,
    *,
    solver: str = "auto",
    time_limit_s: float | None = 60.0,
    work_limit: int | None = None,
    threads: int = 1,
    memory_limit_bytes: int | None = None,
    seed: int = 0,
    warm_start: DeviceMap | PlacementSolution | None = None,
    cancel: Callable[[], bool] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result[Any]:
    """Find the best placement under the problem's objective.

    Parameters
    ----------
    problem
        A `PlacementProblem`, answered with a `DeviceMap`, or plain numbers (`DensePlacement`), answered with a
        `PlacementSolution`. One that asks for the front is answered as by `pareto`.
    solver
        A name of `gpuplan.solvers.registry.list_solvers`; ``auto`` picks the exact engine by the problem's size.
    time_limit_s, work_limit, threads, memory_limit_bytes, cancel, on_progress
        See `Limits`.
    seed
        For solvers that draw; kept in the report.
    warm_start
        A plan of this problem to start from.

    Returns
    -------
    Result
        ``optimal`` (plan and proof), ``feasible`` (plan, and a bound where one is known), ``infeasible`` (proven,
        with reasons) or ``no_solution`` (a limit was reached first).

    Raises
    ------
    UsageError
        An unknown solver, a limit out of range, or a warm start that is no plan of this problem.
    UnsupportedError, SolverUnavailableError
        The solver does not take this problem, or is not installed.
    InputError
        The objective lacks a number: a price, or KV.
    """
    limits = Limits(time_limit_s, work_limit, threads, cancel, on_progress, memory_limit_bytes)
    clock = Budget(checked_limits(limits))
    result = _on_the_clock(_solve(problem, find_solver(solver), clock, seed, warm_start), clock)
    if isinstance(problem, DensePlacement) or isinstance(result.plan, PlacementFront):
        return result
    return _device_map(problem, result)


def _solve(
    problem: DensePlacement | PlacementProblem,
    entry: SolverEntry,
    clock: Budget,
    seed: int,
    warm_start: DeviceMap | PlacementSolution | None,
) -> Result[Any]:
    """Bring the problem into the form that the solver reads; its answer is by the numbers of devices."""
    if not isinstance(problem, DensePlacement) and not problem.single_devices:
        kept_s = GROUPS_S_PER_DEVICE * problem.topology.num_devices
        result = _solve_groups(problem, entry, clock.rest(kept_s), seed, warm_start)
        return result if warm_start is None or entry.warm_start else _without_start(result)
    dense = _dense(problem)
    entry.check(dense)
    limits = clock.rest(0.0 if isinstance(problem, DensePlacement) else MAP_S_PER_DEVICE * dense.num_devices)
    if dense.front:
        return solve_front(dense, limits, seed, engine=_engine(entry))
    start = _start(problem, dense, entry, warm_start)
    throughput = not isinstance(problem, DensePlacement) and dense.objective.name == "bottleneck"
    if entry.engine is None:
        more: dict[str, Any] = {} if start is None else {"warm_start": start}
        if throughput and entry.kind == "exact":
            more["latency_second"] = True
        result = entry.solver()(dense, limits, seed, **more)
        result = _with_latency(result) if throughput else result
    else:
        result = solve_dense(dense, limits, seed, engine=_engine(entry), warm_start=start, latency_second=throughput)
    if warm_start is not None and not entry.warm_start:
        result = _without_start(result)
    return result


def _on_the_clock(result: Result[Any], clock: Budget) -> Result[Any]:
    """State the limit that was asked for and the time since the call: the problem's numbers are made within it."""
    report, limit_s = result.report, clock.limits.time_limit_s
    options = {**report.options, "time_limit_s": limit_s} if "time_limit_s" in report.options else report.options
    report = dataclasses.replace(report, options=options, wall_time_s=clock.elapsed_s)
    return dataclasses.replace(result, report=report)


def _solve_groups(
    problem: PlacementProblem,
    entry: SolverEntry,
    limits: Limits,
    seed: int,
    warm_start: DeviceMap | PlacementSolution | None = None,
) -> Result[Any]:
    """Solve a problem whose stages may be groups of devices."""
    from gpuplan.solvers.placement.groups.solve import front_of_groups, solve_groups

    if problem.front:
        return front_of_groups(problem, entry, limits, seed)
    start = None if warm_start is None or not entry.warm_start else _group_start(problem, warm_start)
    return solve_groups(problem, entry, limits, seed, start=start)


def _group_start(problem: PlacementProblem, warm_start: DeviceMap | PlacementSolution) -> tuple[GroupStage, ...]:
    """Return the stages of a plan to start from by device numbers."""
    if isinstance(warm_start, PlacementSolution):
        return tuple(
            stage if isinstance(stage, GroupStage) else GroupStage((stage.device,), stage.start, stage.stop)
            for stage in warm_start.stages
        )
    numbers = _numbers([device.name for device in problem.topology.devices], warm_start)
    return tuple(
        GroupStage(tuple(numbers[name] for name in stage.devices), stage.layers.start, stage.layers.stop)
        for stage in warm_start.stages
    )


def _numbers(names: Sequence[str], plan: DeviceMap) -> dict[str, int]:
    """Return the number of each device; UsageError where a plan uses another one."""
    numbers = {name: k for k, name in enumerate(names)}
    unknown = [name for name in plan.device_names if name not in numbers]
    if unknown:
        raise UsageError(f"the warm start uses {unknown[0]}, which is not a device of this cluster; give another plan")
    return numbers


def _without_start(result: Result[Any]) -> Result[Any]:
    note = f"the warm start was not used: {result.report.solver} starts from none"
    return dataclasses.replace(result, report=dataclasses.replace(result.report, notes=(*result.report.notes, note)))


def pareto(
    problem: DensePlacement | PlacementProblem,
    *,
    solver: str = "auto",
    time_limit_s: float | None = 60.0,
    work_limit: int | None = None,
    threads: int = 1,
    memory_limit_bytes: int | None = None,
    seed: int = 0,
    cancel: Callable[[], bool] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result[PlacementFront]:
    """Find all non-dominated (latency, bottleneck, devices); parameters as in `solve`.

    ``optimal``: the front is proven complete. ``feasible``: the points found before a limit.
    """
    limits = Limits(time_limit_s, work_limit, threads, cancel, on_progress, memory_limit_bytes)
    clock = Budget(checked_limits(limits))
    entry = find_solver(solver)
    if not isinstance(problem, DensePlacement) and not problem.single_devices:
        return _on_the_clock(_solve_groups(problem.replace(front=True), entry, clock.rest(), seed), clock)
    dense = dataclasses.replace(_dense(problem), front=True)
    entry.check(dense)
    return _on_the_clock(solve_front(dense, clock.rest(), seed, engine=_engine(entry)), clock)


def _dense(problem: DensePlacement | PlacementProblem) -> DensePlacement:
    return problem if isinstance(problem, DensePlacement) else problem.dense()


def _engine(entry: SolverEntry) -> Any:
    if entry.engine is None:
        raise UnsupportedError(f"solver {entry.name} gives one plan, not a front; use auto, dp or labels")
    return entry.engine


def _start(
    problem: DensePlacement | PlacementProblem,
    dense: DensePlacement,
    entry: SolverEntry,
    warm_start: DeviceMap | PlacementSolution | None,
) -> PlacementSolution | None:
    """Return a warm start by device numbers."""
    if warm_start is None or isinstance(warm_start, PlacementSolution):
        return warm_start if entry.warm_start else None
    numbers = _numbers(dense.device_names, warm_start)
    large = [stage for stage in warm_start.stages if len(stage.devices) > 1]
    if large:
        raise UsageError(
            f"the warm start has a stage of {len(large[0].devices)} devices, and single devices are asked for; "
            "give another plan, or ask for --tensor-parallel"
        )
    stages = tuple(
        StageRange(numbers[stage.devices[0]], stage.layers.start, stage.layers.stop) for stage in warm_start.stages
    )
    return PlacementSolution(stages) if entry.warm_start else None


def _with_latency(result: Result[PlacementSolution]) -> Result[PlacementSolution]:
    """Give a bottleneck its second key, the latency, which a rule does not prove anything about."""
    if result.plan is None or not isinstance(result.objective, float):
        return result
    value = (result.objective, result.terms["latency_s"])
    bound = result.bound if result.bound is None or isinstance(result.bound, tuple) else (result.bound, 0.0)
    status = "feasible" if result.status == "optimal" else result.status
    from gpuplan.solvers.result import relative_gap

    return dataclasses.replace(result, status=status, objective=value, bound=bound, gap=relative_gap(value, bound))


def _device_map(problem: PlacementProblem, result: Result[PlacementSolution]) -> Result[DeviceMap]:
    """Put the stages into a device map with all its figures."""
    from gpuplan.plans import Outcome, build_device_map

    plan = None
    if result.plan is not None:
        assert result.objective is not None
        assert result.status in ("optimal", "feasible")
        report = result.report
        outcome = Outcome(
            result.status,
            result.objective,
            result.terms,
            result.bound,
            result.gap,
            report.solver,
            report.options,
            report.seed,
        )
        plan = build_device_map(problem, result.plan.stages, outcome)
    return Result(
        result.status, plan, result.objective, result.bound, result.gap, result.report, result.terms, result.reasons
    )
