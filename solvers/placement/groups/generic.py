"""Groups of any size and of unlike devices by the generic models: one model in which groups share devices."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.solvers.placement.cross_checks import why_no_plan
from gpuplan.solvers.placement.goals import PROVEN, Answer
from gpuplan.solvers.placement.groups.members import members_of
from gpuplan.solvers.placement.groups.search import Found, goal_of, search_modes
from gpuplan.solvers.placement.groups.starts import on_members
from gpuplan.solvers.placement.groups.tables import all_modes, mode_tables, shared_segments
from gpuplan.solvers.placement.groups.worth import group_terms, group_worth, name_devices
from gpuplan.solvers.result import Status, relative_gap

if TYPE_CHECKING:
    from gpuplan.profiles.problems.groups import GroupModes
    from gpuplan.solvers.placement.groups.asked import Asked
    from gpuplan.solvers.placement.tables import ClassPath


def by_generic_model(asked: Asked) -> Found:
    """Return what a generic model finds over every group of the degrees asked for; proven to 1e-6."""
    method = asked.entry.cross_check()
    assert method is not None
    modes = all_modes(asked.problem, asked.segments, asked.degrees)
    if not len(modes.words):
        return Found("infeasible", how="no group")
    members = members_of(asked.problem, modes, merged=method.merges)
    limits = dataclasses.replace(asked.budget.limits, time_limit_s=asked.seconds_left())
    start = on_members(asked, modes, members)
    answer, run = method.answer(
        members.holders, limits, asked.seed, start, latency_second=True, **dict(asked.entry.options)
    )
    report = run.report()
    asked.budget.spend(report.work)
    found = Found("no_solution", how="one model of all groups", bound_kind=report.bound_kind, proof=report.proof)
    if answer.stages is not None:
        return _found(asked, modes, members.path(answer.stages), answer, found)
    if answer.infeasible:
        return _checked_infeasible(asked, found)
    sentence = why_no_plan(asked.entry.name, answer, run.budget.exhausted(), goal_of(asked.problem).name)
    return dataclasses.replace(found, bound=answer.bound, reasons=(sentence,), failure=answer.failure)


def _checked_infeasible(asked: Asked, found: Found) -> Found:
    """Return "infeasible" once the exact search says so, too: an engine's word alone is not taken."""
    exact = dataclasses.replace(asked, entry=dataclasses.replace(asked.entry, engine="auto"))
    if search_modes(exact).status == "infeasible":
        return dataclasses.replace(found, status="infeasible")
    sentence = f"{asked.entry.name}: the engine says infeasible, which the exact search does not confirm"
    return dataclasses.replace(found, reasons=(sentence,))


def _found(asked: Asked, modes: GroupModes, path: ClassPath, answer: Answer, found: Found) -> Found:
    """Name the devices of an answer and give it its canonical value."""
    tables = mode_tables(asked.problem, modes, shared_segments(asked.segments, modes))
    goal, worth = goal_of(asked.problem), group_worth(tables, path)
    terms = group_terms(tables, path)
    extra: dict[str, float] = {}
    if answer.stars is not None:
        extra = {"latency_star_s": answer.stars[0], "devices_star": answer.stars[1]}
        terms |= extra | goal.balanced(worth, extra)
    value, bound = goal.value(worth, extra), answer.bound
    gap = relative_gap(value, bound)
    status: Status = "optimal" if gap is not None and gap <= PROVEN else "feasible"
    return dataclasses.replace(
        found,
        status=status,
        stages=name_devices(asked.segments, modes, path),
        value=value,
        bound=value if status == "optimal" else bound,
        terms=terms,
        failure=answer.failure,
    )


def write_group_model(asked: Asked, path: str | Path) -> None:
    """Write one model of all groups of the degrees asked for; `UnsupportedError` where it would be too large."""
    method = asked.entry.cross_check()
    assert method is not None
    modes = all_modes(asked.problem, asked.segments, asked.degrees)
    method.write_holders(
        members_of(asked.problem, modes, merged=method.merges).holders, path, **dict(asked.entry.options)
    )
