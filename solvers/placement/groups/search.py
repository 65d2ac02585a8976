"""Searching over modes: every objective as the same sequence of queries as for single devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpuplan.plans.placement_solution import GroupStage
from gpuplan.profiles.problems.build import PlacementProblem
from gpuplan.profiles.problems.groups import GroupModes
from gpuplan.profiles.problems.objectives import dense_objective
from gpuplan.profiles.problems.segments import Segments
from gpuplan.solvers.placement import small, small_bottleneck
from gpuplan.solvers.placement.core import Core, CoreOutcome, Query
from gpuplan.solvers.placement.effort import BEAM_LADDER, Settings
from gpuplan.solvers.placement.groups.asked import Asked
from gpuplan.solvers.placement.groups.bottleneck import minimise_group_bottleneck
from gpuplan.solvers.placement.groups.tables import all_modes, mode_tables, shared_segments
from gpuplan.solvers.placement.groups.worth import Goal, group_terms, group_worth, name_devices
from gpuplan.solvers.placement.objectives import METHODS
from gpuplan.solvers.placement.outcome import Outcome
from gpuplan.solvers.placement.query import Answer, Session
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.result import Status, Value, relative_gap

#: Largest labels·(n+1) that the small engine takes: modes are many and share few devices, which suits it.
SMALL_CELLS = 1.2e6


class GroupSession(Session):
    """A session over modes."""

    def runs_small(self) -> bool:
        """Whether the small engine answers the next query; decided by problem size alone."""
        if self._cells is None:
            self._cells = self._small_engine_cells()
        return self._cells <= SMALL_CELLS

    def _minimise(self, query: Query, core: Core, upper: float, hint: ClassPath | None) -> CoreOutcome:
        if self.runs_small():
            self.engines.add("dp")
            one_pass = small_bottleneck.minimise_bottleneck if query.bottleneck else small.minimise
            return one_pass(core, upper, self.budget)
        from gpuplan.solvers.placement.groups.wide import minimise_modes  # compiles or loads kernels

        self.engines.add("labels")
        settings = self.settings
        if self.engine == "beam" and settings.ladder is None:
            settings = replace(settings, ladder=BEAM_LADDER)
        return minimise_modes(core, upper, self.budget, settings, hint, self.multipliers)

    def within(self, cap_s: float, hint: ClassPath | None) -> Answer:
        """Return any plan within a cap on the cycle; proven without a path when there is none."""
        return self.ask(Query(time_weight=0.0, cap_s=cap_s, any_plan=True), hint=hint)


@dataclass(frozen=True, slots=True)
class Found:
    """Answer of one search over groups: as `Result` and its report, stages named by device."""

    status: Status
    stages: tuple[GroupStage, ...] | None = None
    value: Value | None = None
    bound: Value | None = None
    terms: Mapping[str, float] | None = None
    how: str = ""
    bound_kind: str | None = None
    reasons: tuple[str, ...] = ()
    proof: str = ""
    failure: str = ""

    @property
    def gap(self) -> float | None:
        """Relative distance of value and bound."""
        return None if self.value is None else relative_gap(self.value, self.bound)


def closer(first: Found, second: Found) -> Found:
    """Return what two searches of the same plans know together: the better plan, the higher bound."""
    if second.status in ("optimal", "infeasible") or first.value is None or first.stages is None:
        return second
    if second.value is None:
        return first
    best = min(first, second, key=lambda found: as_pair(found.value))
    bounds = [as_pair(found.bound) for found in (first, second) if found.bound is not None]
    if not bounds:
        return best
    high = max(bounds)
    return replace(best, bound=min(high if isinstance(best.value, tuple) else high[0], best.value))  # type: ignore[type-var]


def with_bound(found: Found, known: Found) -> Found:
    """Return a plan with a bound proven elsewhere; optimal where the two meet to 1e-9."""
    if found.value is None or known.bound is None:
        return found
    bound = clipped(found.value, known.bound)
    pairs = zip(as_pair(bound), as_pair(found.value), strict=True)
    met = all(low >= high - 1e-9 * abs(high) for low, high in pairs)
    status: Status = "optimal" if met else "feasible"
    return replace(
        found, status=status, bound=found.value if met else bound, bound_kind=known.bound_kind, proof=known.proof
    )


def as_pair(value: Value | None) -> tuple[float, float]:
    """Return a value as a pair to compare."""
    assert value is not None
    return value if isinstance(value, tuple) else (value, 0.0)


def goal_of(problem: PlacementProblem) -> Goal:
    """Return what a problem minimises."""
    objective = dense_objective(problem.objective)
    return Goal(objective.name, objective.latency_weight, objective.devices_weight)


def search_modes(asked: Asked) -> Found:
    """Search over all groups of every composition; exact where the engine is."""
    modes = all_modes(asked.problem, asked.segments, asked.degrees)
    if not len(modes.words):
        return Found("infeasible", how="no group")
    tables = mode_tables(asked.problem, modes, shared_segments(asked.segments, modes))
    return answered(
        asked, modes, GroupSession(tables, asked.engine, asked.budget, Settings(asked.budget.limits.threads))
    )


def answered(asked: Asked, modes: GroupModes, session: Session) -> Found:
    """Return what a session over modes finds for the problem's objective."""
    hint = None if asked.start is None else path_of(asked.start, asked.segments, modes)
    outcome = run_method(session, goal_of(asked.problem).name, hint)
    return state(asked.problem, asked.segments, modes, session, outcome)


def path_of(stages: Sequence[GroupStage], segments: Segments, modes: GroupModes) -> ClassPath | None:
    """Return stages as a path over modes, None where a group is none of them."""
    part_of = {device: s for s, devices in enumerate(segments.devices) for device in devices}
    place = {word: c for c, word in enumerate(modes.words)}
    words = [tuple(sorted(part_of[device] for device in stage.devices)) for stage in stages]
    if not all(word in place for word in words):
        return None
    return tuple((place[word], stage.start, stage.stop) for word, stage in zip(words, stages, strict=True))


def run_method(session: Session, name: str, hint: ClassPath | None = None) -> Outcome:
    """Minimise one objective over modes, from a path where one is given."""
    method: Any = minimise_group_bottleneck if name == "bottleneck" else METHODS[name]  # type: ignore[index]
    outcome: Outcome = method(session, hint)
    return outcome


def state(
    problem: PlacementProblem, segments: Segments, modes: GroupModes, session: Session, outcome: Outcome
) -> Found:
    """Name the devices of an outcome and give it its canonical value."""
    how = " and ".join(sorted(session.engines)) or "one-stage plans"
    path = outcome.path
    if path is None:
        return Found("infeasible" if outcome.status == "infeasible" else "no_solution", how=how)
    goal, tables = goal_of(problem), session.tables
    worth = group_worth(tables, path)
    value = goal.value(worth, outcome.extra)
    breakdown = {**group_terms(tables, path), **outcome.extra}
    if goal.name == "balanced":
        breakdown |= goal.balanced(worth, outcome.extra)
    stages = name_devices(segments, modes, path)
    if outcome.status == "optimal":
        return Found("optimal", stages, value, value, breakdown, how)
    return Found("feasible", stages, value, clipped(value, outcome.bound), breakdown, how)


def clipped(value: Value, bound: Value | None) -> Value | None:
    """Drop the second key where the objective has none, and rounding that lifts a bound above its plan."""
    if bound is None:
        return None
    if isinstance(value, tuple):
        pair = bound if isinstance(bound, tuple) else (bound, 0.0)
        return min(pair, value)
    return min(bound[0] if isinstance(bound, tuple) else bound, value)
