"""Fronts over (latency, bottleneck, devices) where stages are groups of devices.

Where cuts hand over messages of unequal size, points get their own seconds (see `restate`), and plans that these leave
dominated go. Such a front is proven complete where no point changed.
"""

from __future__ import annotations

import math

from gpuplan.plans.placement_solution import FrontPoint, PlacementFront
from gpuplan.profiles.problems.build import PlacementProblem
from gpuplan.profiles.problems.groups import GroupModes, group_modes, of_one_degree, words_of
from gpuplan.profiles.problems.segments import Segments
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.core import Query
from gpuplan.solvers.placement.effort import Settings
from gpuplan.solvers.placement.front import TIE, non_dominated
from gpuplan.solvers.placement.groups.restate import own_point
from gpuplan.solvers.placement.groups.search import GroupSession
from gpuplan.solvers.placement.groups.tables import mode_tables, shared_segments
from gpuplan.solvers.placement.groups.worth import group_worth, name_devices
from gpuplan.solvers.placement.query import EngineName
from gpuplan.solvers.placement.tables import ClassPath


class GroupFront:
    """The front over all modes of some degrees."""

    def __init__(
        self,
        problem: PlacementProblem,
        segments: Segments,
        degrees: tuple[int, ...],
        budget: Budget,
        engine: EngineName,
    ) -> None:
        modes = group_modes(problem, segments, words_of(segments, degrees))
        self.modes: GroupModes = modes if problem.uneven_tensor_parallel else of_one_degree(modes)
        self.problem, self.segments = problem, segments
        self.tables = mode_tables(problem, self.modes, shared_segments(segments, self.modes))
        self.session = GroupSession(self.tables, engine, budget, Settings(budget.limits.threads))

    def run(self) -> tuple[PlacementFront, bool, bool]:
        """Return the front, whether it is proven complete, and whether the problem is proven infeasible."""
        first = self.session.ask(Query())
        if first.path is None:
            return PlacementFront(()), False, first.infeasible
        found: list[FrontPoint] = []
        proven = True
        limit = self.tables.problem.max_devices
        most = int(self.segments.counts.sum()) if limit is None else limit
        for devices in range(1, most + 1):
            proven &= self._staircase(devices, found)
        if not proven:
            found.append(self._point(first.path))
        searched = non_dominated(found)
        # What is searched is at most a plan's own seconds: a front is complete where its points are what they seem.
        proven &= all(own_point(self.problem, point) is point for point in searched)
        return PlacementFront(non_dominated(own_point(self.problem, point) for point in found)), proven, False

    def _staircase(self, devices: int, found: list[FrontPoint]) -> bool:
        """Add the points of at most `devices` devices by falling bottleneck; return whether all are proven.

        Points on fewer devices, found before, give the latency to beat under each cap.
        """
        fewer = sorted(found, key=lambda point: point.latency_s)
        budget = (self.tables.devices_each, float(devices))
        cap_s = math.inf
        while not self.session.budget.exhausted():
            rival = next((point for point in fewer if point.bottleneck_s <= cap_s), None)
            upper = math.inf if rival is None else rival.latency_s
            answer = self.session.ask(Query(cap_s=cap_s, budget=budget), upper)
            if answer.path is None:
                if not answer.proven or rival is None:
                    return answer.proven
                cap_s = rival.bottleneck_s * (1.0 - TIE)
                continue
            point = self._point(answer.path)
            found.append(point)
            self.session.budget.report("front", point.latency_s, None)
            if not answer.proven:
                return False
            cap_s = point.bottleneck_s * (1.0 - TIE)
        return False

    def _point(self, path: ClassPath) -> FrontPoint:
        worth = group_worth(self.tables, path)
        stages = name_devices(self.segments, self.modes, path)
        return FrontPoint(worth.latency_s, worth.bottleneck_s, worth.devices, stages)  # type: ignore[arg-type]
