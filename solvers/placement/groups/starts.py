"""Plans to start from where stages are groups of devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuplan.errors import UsageError
from gpuplan.plans.placement_solution import GroupStage
from gpuplan.profiles.problems.groups import GroupModes, group_modes
from gpuplan.solvers.placement.groups.members import Members, members_of
from gpuplan.solvers.placement.groups.search import Found, closer, goal_of, path_of
from gpuplan.solvers.placement.groups.tables import mode_tables, shared_segments
from gpuplan.solvers.placement.groups.worth import group_terms, group_worth
from gpuplan.solvers.placement.holders import Stages

if TYPE_CHECKING:
    from gpuplan.solvers.placement.groups.asked import Asked


def check_group_start(asked: Asked) -> None:
    """Refuse a plan to start from that is none of this problem (UsageError)."""
    if asked.start is not None:
        fault = _fault(asked, asked.start)
        if fault is not None:
            raise UsageError(f"the warm start is not a plan for this problem: {fault}; give one that is, or none")


def _fault(asked: Asked, stages: Sequence[GroupStage]) -> str | None:
    used = [device for stage in stages for device in stage.devices]
    sizes = sorted({len(stage.devices) for stage in stages})
    if len(set(used)) != len(used):
        return "a device is used twice"
    strange = [size for size in sizes if size not in asked.degrees]
    if strange:
        return f"a stage has {strange[0]} devices, and {', '.join(map(str, asked.degrees))} were asked for"
    if len(sizes) > 1 and not asked.uneven:
        return f"its stages have {' and '.join(map(str, sizes))} devices, and one size for all is asked for"
    modes = _modes_of(asked, stages)
    path = path_of(stages, asked.segments, modes)
    if path is None:
        return "a stage has devices of several islands, or without a route between them"
    members = members_of(asked.problem, modes, merged=True)
    return members.holders.fault(members.stages(path))


def _modes_of(asked: Asked, stages: Sequence[GroupStage]) -> GroupModes:
    """Return the modes of the groups of a plan alone."""
    part_of = {device: s for s, devices in enumerate(asked.segments.devices) for device in devices}
    words = [tuple(sorted(part_of[device] for device in stage.devices)) for stage in stages]
    whole = {s: k for k, parts in enumerate(asked.segments.islands) for s in parts}
    inside = [word for word in words if len({whole[s] for s in word}) == 1]
    return group_modes(asked.problem, asked.segments, list(dict.fromkeys(inside)))


def kept(asked: Asked, found: Found) -> Found:
    """Return what was found, or the plan it started from where that is better."""
    if asked.start is None or found.status == "infeasible":
        return found
    modes = _modes_of(asked, asked.start)
    path = path_of(asked.start, asked.segments, modes)
    assert path is not None
    tables = mode_tables(asked.problem, modes, shared_segments(asked.segments, modes))
    goal, worth = goal_of(asked.problem), group_worth(tables, path)
    stars = {key: value for key, value in (found.terms or {}).items() if key.endswith(("_star_s", "_star"))}
    if goal.name == "balanced" and not stars:
        stars = {"latency_star_s": worth.latency_s, "devices_star": float(worth.devices)}
    terms = {**group_terms(tables, path), **stars}
    if goal.name == "balanced":
        terms |= goal.balanced(worth, stars)
    start = Found("feasible", tuple(asked.start), goal.value(worth, stars), None, terms, found.how, found.bound_kind)
    if found.value is None:
        return Found("feasible", start.stages, start.value, found.bound, terms, found.how, found.bound_kind)
    return found if found.status == "optimal" else closer(found, start)


def on_members(asked: Asked, modes: GroupModes, members: Members) -> Stages | None:
    """Return the plan to start from on holders; None without one or where a group is none of the modes."""
    path = None if asked.start is None else path_of(asked.start, asked.segments, modes)
    return None if path is None else members.stages(path)
