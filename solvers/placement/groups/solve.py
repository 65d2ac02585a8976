"""Solving a problem whose stages are groups of devices: the degrees to try, the method that suits, what is proven."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuplan.errors import GpuplanError, UnsupportedError
from gpuplan.plans.placement_solution import GroupStage, PlacementFront, PlacementSolution
from gpuplan.profiles.problems.build import PlacementProblem, times_on
from gpuplan.profiles.problems.degrees import degrees_within
from gpuplan.profiles.problems.groups import count_modes
from gpuplan.profiles.problems.segments import Segments, find_segments
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement.core import bits_of
from gpuplan.solvers.placement.effort import KEY_BITS
from gpuplan.solvers.placement.groups.asked import Asked
from gpuplan.solvers.placement.groups.each_degree import best_degree
from gpuplan.solvers.placement.groups.front import GroupFront
from gpuplan.solvers.placement.groups.generic import by_generic_model, write_group_model
from gpuplan.solvers.placement.groups.proofs import ISLANDS, kind_of, sentence
from gpuplan.solvers.placement.groups.quotient_search import search_quotient
from gpuplan.solvers.placement.groups.relaxed import bound_by_best_cases
from gpuplan.solvers.placement.groups.restate import restated
from gpuplan.solvers.placement.groups.search import Found, closer, goal_of, search_modes, with_bound
from gpuplan.solvers.placement.groups.starts import check_group_start, kept
from gpuplan.solvers.placement.groups.units import unit_problem
from gpuplan.solvers.result import Report, Result

if TYPE_CHECKING:
    from gpuplan.solvers.registry import SolverEntry
    from gpuplan.topology.graph import Device

_TOO_MANY = "there are too many different groups of devices in this cluster to search them; ask for fewer degrees"
#: Clusters of so many islands are searched as they are, and of so many kinds of islands by kind.
FEW_ISLANDS = 2
MOST_KINDS = 4
MOST_QUOTIENT_MODES = 1_600
#: Most modes whose numbers of every pair are made.
MOST_MODES = 320


def solve_groups(
    problem: PlacementProblem,
    entry: SolverEntry,
    limits: Limits,
    seed: int = 0,
    *,
    start: tuple[GroupStage, ...] | None = None,
) -> Result[PlacementSolution]:
    """Find the best plan whose stages are groups of the degrees asked for.

    Parameters
    ----------
    problem
        With other tensor-parallel degrees than 1 alone.
    entry
        The solver by name: exact engines and generic models take any groups, rules one degree at a time on islands of
        alike devices.
    limits, seed
        As for single devices.
    start
        Stages of a plan to start from; never left for a worse one.

    Returns
    -------
    Result
        Its plan holds `GroupStage`; status, bound and gap cover all degrees asked for.
    """
    asked, notes = _asked(problem, entry, limits, seed)
    asked = dataclasses.replace(asked, start=start)
    check_group_start(asked)
    if not asked.degrees:
        found = Found("infeasible")
    else:
        found = _by_other_solver(asked) if entry.engine is None else _by_engine(asked)
    result = _result(asked, restated(problem, kept(asked, found)))
    return dataclasses.replace(result, report=dataclasses.replace(result.report, notes=(*notes, *result.report.notes)))


def _asked(
    problem: PlacementProblem, entry: SolverEntry, limits: Limits, seed: int
) -> tuple[Asked, tuple[str, ...]]:  # fmt: skip
    """Return the question in full, and what is left out of it; its clock starts here."""
    budget = Budget(limits)
    segments = find_segments(problem)
    degrees, notes = _degrees(problem, segments)
    return Asked(problem, segments, degrees, entry, budget, seed), notes


def _degrees(problem: PlacementProblem, segments: Segments) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the degrees to try, and what is left out: with ``auto`` those that the costs have no times for.

    Degrees asked for by number stay, so that the lack is an error; so they do where no degree has times.
    """
    degrees = degrees_within(problem.model, problem.tensor_parallel, problem.runtime, segments.largest)
    if problem.tensor_parallel != "auto":
        return degrees, ()
    kinds = {(device.kind.name, device.power_cap_w): device for device in problem.topology.devices}
    priced = tuple(t for t in degrees if all(_has_times(problem, device, t) for device in kinds.values()))
    left = [str(t) for t in degrees if t not in priced]
    if not priced or not left:
        return degrees, ()
    return priced, (f"{', '.join(left)} devices a stage are left out: the measured costs have no times for them",)


def _has_times(problem: PlacementProblem, device: Device, degree: int) -> bool:
    try:
        times_on(problem, device, degree)
    except GpuplanError:
        return False
    return True


def _by_other_solver(asked: Asked) -> Found:
    alone = asked.one_size and asked.segments.all_alike  # every degree is a problem of its own
    if len(asked.degrees) > 1 and goal_of(asked.problem).name == "balanced":
        alone = False  # measured against the best plans of all degrees
    if asked.entry.cross_check() is not None and not alone:
        return by_generic_model(asked)
    if asked.entry.kind == "baseline":  # a rule proves nothing, so it may choose its groups
        return best_degree(asked, chosen=not asked.segments.all_alike)
    if not asked.one_size:
        raise UnsupportedError(
            f"solver {asked.entry.name} plans stages of one size; leave uneven tensor parallelism out,"
            " or use auto, dp, labels or milp-blocks"
        )
    return best_degree(asked)


def _by_engine(asked: Asked) -> Found:
    """Pick the method by the structure of the problem alone."""
    segments, degrees = asked.segments, asked.degrees
    if fits_quotient(segments, degrees):
        found = search_quotient(asked)
        if found.status in ("optimal", "infeasible") or not fits_modes(segments, degrees) or asked.budget.exhausted():
            return found
        # Runs that were not packed leave a gap that the search island by island may close.
        return closer(found, search_modes(asked))
    if fits_modes(segments, degrees):
        return search_modes(asked)
    if asked.one_size and segments.all_alike:
        return best_degree(asked)
    return _by_neighbours(asked)


def _by_neighbours(asked: Asked) -> Found:
    """Plan over groups of neighbours; bound by all modes where islands are of alike devices, else by best cases."""
    segments, degrees = asked.segments, asked.degrees
    if goal_of(asked.problem).name == "balanced" and len(degrees) > 1:
        raise UnsupportedError(_TOO_MANY)
    bound = Found("no_solution")
    if not segments.all_alike:
        bound = bound_by_best_cases(asked)
        if bound.status == "infeasible":
            return bound
    found = best_degree(asked, chosen=True)
    if segments.all_alike and count_modes(segments, degrees) <= MOST_QUOTIENT_MODES:
        # Sizes may differ: the bound is that of all modes together.
        return closer(found, search_modes(asked))
    return with_bound(found, bound)


def front_of_groups(
    problem: PlacementProblem, entry: SolverEntry, limits: Limits, seed: int = 0
) -> Result[PlacementFront]:
    """Return all non-dominated (latency, bottleneck, devices); its points hold `GroupStage`."""
    if not entry.front:
        raise UnsupportedError(f"solver {entry.name} gives one plan, not a front; use auto, dp or labels")
    asked, notes = _asked(problem, entry, limits, seed)
    segments, degrees, budget = asked.segments, asked.degrees, asked.budget
    infeasible, kind = not degrees, None
    front, proven = PlacementFront(()), False
    if degrees:
        if not fits_modes(segments, degrees):
            raise UnsupportedError(_TOO_MANY)
        search = GroupFront(problem, segments, degrees, budget, asked.engine)
        front, proven, infeasible = search.run()
        kind = kind_of(search.session.engines)
    proof = "" if kind is None else sentence(kind, budget.work)
    report = Report(entry.name, seed, budget.elapsed_s, budget.work, kind, notes=notes, proof=proof)
    if front.points:
        return Result("optimal" if proven else "feasible", front, None, None, 0.0 if proven else None, report)
    if infeasible:
        return Result("infeasible", None, None, None, None, report, reasons=reasons(problem, segments, degrees))
    return Result("no_solution", None, None, None, None, report)


def write_model_of_groups(problem: PlacementProblem, entry: SolverEntry, path: str | Path) -> None:
    """Write one model of all groups of the degrees asked for, as `entry` would solve it.

    Raises
    ------
    UsageError
        Another suffix, or a place that cannot be written.
    UnsupportedError
        A solver without a model, a model that would be too large, micro-batches that follow the stages.
    """
    if entry.cross_check() is None:
        raise UnsupportedError(f"solver {entry.name} has no model to write; use milp-blocks, milp-layers or cp-sat")
    asked, _ = _asked(problem, entry, Limits(), 0)
    if not asked.degrees:
        raise UnsupportedError("no island has as many devices as a stage is to have; there is no model to write")
    write_group_model(asked, path)


def fits_quotient(segments: Segments, degrees: Sequence[int]) -> bool:
    """Whether islands of alike devices repeat, more of them than a plain search takes."""
    kinds = len(set(segments.leaders.tolist()))
    many = len(segments.islands) > FEW_ISLANDS and kinds < len(segments.islands)
    return segments.all_alike and many and kinds <= MOST_KINDS and count_modes(segments, degrees) <= MOST_QUOTIENT_MODES


def fits_modes(segments: Segments, degrees: Sequence[int]) -> bool:
    """Whether all compositions can be searched with one key."""
    return count_modes(segments, degrees) <= MOST_MODES and sum(bits_of(segments.counts)) <= KEY_BITS


def _result(asked: Asked, found: Found) -> Result[PlacementSolution]:
    entry, budget, limits = asked.entry, asked.budget, asked.budget.limits
    options: dict[str, Any] = {
        "time_limit_s": limits.time_limit_s,
        "work_limit": limits.work_limit,
        "threads": limits.threads,
    }
    notes = (_note(asked, found),) if asked.degrees else ()
    kind = found.bound_kind if found.bound is not None or found.status == "infeasible" else None
    if kind is None and entry.engine is not None and (found.bound is not None or found.status == "infeasible"):
        kind = kind_of(found.how.removesuffix(f" over {ISLANDS}").split(" and "))
    proof = "" if kind is None else found.proof or sentence(kind, budget.work, found.how)
    report = Report(
        entry.name,
        asked.seed,
        budget.elapsed_s,
        budget.work,
        kind,
        options,
        notes,
        proof,
        found.failure or None,
    )  # fmt: skip
    if found.stages is None:
        why = reasons(asked.problem, asked.segments, asked.degrees) if found.status == "infeasible" else found.reasons
        return Result(found.status, None, None, None, None, report, reasons=why)
    plan = PlacementSolution(found.stages)  # type: ignore[arg-type]
    return Result(found.status, plan, found.value, found.bound, found.gap, report, dict(found.terms or {}))


def _note(asked: Asked, found: Found) -> str:
    segments, degrees = asked.segments, asked.degrees
    shape = "stages of any of these sizes" if asked.uneven else "one size for all stages of a plan"
    several = f"{', '.join(map(str, degrees))} devices a stage, {shape}"
    islands, kinds = len(segments.islands), len(segments.devices)
    place = "1 island" if islands == 1 else f"{islands} islands"
    parts = "" if kinds == islands else f" with {kinds} kinds of devices"
    return f"groups of {several}: {found.how} over {place}{parts}"


def reasons(problem: PlacementProblem, segments: Segments, degrees: Sequence[int]) -> tuple[str, ...]:
    """Say why no plan exists: degrees no island has devices for, and the shortage at the best degree."""
    asked = () if problem.tensor_parallel == "auto" else problem.tensor_parallel
    missing = [degree for degree in asked if degree > segments.largest]
    said = []
    if missing:
        place = max(range(len(segments.islands)), key=segments.island_size)
        said.append(
            f"no island has {missing[0]} devices; the largest, {segments.island_names[place]}, has {segments.largest}"
        )
    if degrees:
        said += _shortage(problem, segments, degrees)
    return tuple(said)


def _shortage(problem: PlacementProblem, segments: Segments, degrees: Sequence[int]) -> list[str]:
    """Return the reasons at the degree whose groups hold most together."""
    from gpuplan.solvers.placement.infeasible import explain_infeasible

    if not segments.all_alike:
        return [f"no groups of {', '.join(map(str, degrees))} devices hold the model"]
    best: tuple[float, int, Any] | None = None
    for degree in degrees:
        units = unit_problem(problem, segments, degree)
        if units is None:
            continue
        dense = dataclasses.replace(units.dense, front=False)
        room = float(np.maximum(dense.available_bytes - dense.fixed_bytes, 0.0).sum()) / max(
            float(dense.memory_bytes.sum()), 1.0
        )
        if best is None or room > best[0]:
            best = (room, degree, dense)
    if best is None:
        return [f"at most {problem.max_devices} devices are allowed, fewer than one group has"]
    found = explain_infeasible(best[2])
    if best[1] == 1:
        return list(found)
    return [f"with {best[1]} devices a stage (each group counted as one device): {reason}" for reason in found]
