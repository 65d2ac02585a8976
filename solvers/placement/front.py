"""All non-dominated (latency, bottleneck, devices): ε-constraint on the bottleneck, every device count in step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from gpuplan.plans.placement_solution import FrontPoint
from gpuplan.solvers.placement.core import Query
from gpuplan.solvers.placement.effort import Effort
from gpuplan.solvers.placement.evaluate import evaluate
from gpuplan.solvers.placement.query import Answer, Session, improves
from gpuplan.solvers.placement.tables import ClassPath

#: Effort for each query of a front but the first: its multipliers start from those of the query before. A beam gives a
#: plan to beat, the next proves four queries of five; rungs between them and after cost more than they save (measured).
FRONT_STEPS = 25
FRONT_LADDER = (
    Effort(15, 0),
    Effort(0, 100),
    Effort(60, 1_000),
    Effort(250, 30_000),
    Effort(0, None),
)
#: A point is dropped when another is at most this much worse, relative, in every component.
TIE = 1e-9


def front_points(session: Session) -> tuple[tuple[FrontPoint, ...], bool, bool]:
    """Return the points, whether they are proven complete, and whether the problem is proven infeasible."""
    first = session.ask(Query())
    if first.path is None:
        return (), False, first.infeasible
    if session.settings.ladder is None and session.engine != "beam":
        session.settings = replace(session.settings, ladder=FRONT_LADDER, joint_steps=FRONT_STEPS)
    front = _Front(session, [_point(session, first.path)])
    most = session.tables.max_stages
    front.solve(most, first)
    if most > 1:
        front.solve(1, None)
        front.solve_between(1, most)
    return non_dominated(front.found), front.proven, False


class _Front:
    """Least latency as a function of device limit and cap on the bottleneck: falling steps in both.

    Limits are solved by bisection. Under a cap, the least latency for K devices lies between that for a larger limit
    solved before and the best point on K devices or fewer: where the two agree, nothing needs to be searched.
    """

    def __init__(self, session: Session, found: list[FrontPoint]) -> None:
        self.session, self.found = session, found
        self.proven = True
        self.solved: list[int] = []  # device limits whose points are proven complete

    def solve_between(self, low: int, high: int) -> None:
        """Solve the limits between two that are solved."""
        if high - low < 2 or self.session.budget.exhausted():
            self.proven &= high - low < 2
            return
        middle = (low + high) // 2
        self.solve(middle, None)
        self.solve_between(low, middle)
        self.solve_between(middle, high)

    def solve(self, devices: int, first: Answer | None) -> None:
        """Add the points of at most `devices` devices by falling bottleneck."""
        complete = self._staircase(devices, first)
        self.proven &= complete
        if complete:
            self.solved.append(devices)

    def _staircase(self, devices: int, first: Answer | None) -> bool:
        """Add the points of a limit; return whether all of them are proven.

        Known points give the latency to beat under each cap. Where they cannot be beaten, the same holds for every cap
        down to the bottleneck of the one that sets that latency: the next cap is below it.
        """
        fewer = sorted((p for p in self.found if p.devices <= devices), key=lambda point: point.latency_s)
        more = self._points_of_more(devices)
        cap_s = math.inf
        while True:
            rival = _best_within(fewer, cap_s)
            least = None if more is None else _best_within(more, cap_s)
            if more is not None and least is None:
                return True
            if rival is not None and least is not None and not improves(least.latency_s, rival.latency_s):
                cap_s = rival.bottleneck_s * (1.0 - TIE)
                continue
            answer = first or self._ask(devices, cap_s, rival)
            first = None
            if answer.path is None:
                if not answer.proven or rival is None:
                    return answer.proven
                cap_s = rival.bottleneck_s * (1.0 - TIE)
                continue
            point = _point(self.session, answer.path)
            self.found.append(point)
            self.session.budget.report("front", point.latency_s, None)
            if not answer.proven:
                return False
            cap_s = point.bottleneck_s * (1.0 - TIE)

    def _ask(self, devices: int, cap_s: float, rival: FrontPoint | None) -> Answer:
        upper = math.inf if rival is None else rival.latency_s
        return self.session.ask(Query(cap_s=cap_s).limited_to(devices), upper)

    def _points_of_more(self, devices: int) -> list[FrontPoint] | None:
        """Return the points, by latency, of the next larger limit that is solved; None without one."""
        limit = min((other for other in self.solved if other > devices), default=None)
        if limit is None:
            return None
        return sorted((p for p in self.found if p.devices <= limit), key=lambda point: point.latency_s)


def _best_within(points: list[FrontPoint], cap_s: float) -> FrontPoint | None:
    """Return the first of some points, in order of latency, that keeps within a cap."""
    return next((point for point in points if point.bottleneck_s <= cap_s), None)


def _point(session: Session, path: ClassPath) -> FrontPoint:
    stages = session.tables.to_stages(path)
    worth = evaluate(session.tables.problem, stages)
    return FrontPoint(worth.latency_s, worth.bottleneck_s, worth.devices, stages)


def non_dominated(points: Iterable[FrontPoint]) -> tuple[FrontPoint, ...]:
    """Keep one of every group of points that drop each other, by rising latency."""
    ordered = sorted(points, key=_figures)
    figures = np.array([_figures(point) for point in ordered], dtype=np.float64)
    kept: list[int] = []
    for k in range(len(ordered)):
        if (figures[kept] <= figures[k] * (1.0 + TIE)).all(axis=1).any():
            continue
        # Its latency may be larger by a hair and it still drops one found before.
        dropped = (figures[k] <= figures[kept] * (1.0 + TIE)).all(axis=1)
        kept = [other for other, drop in zip(kept, dropped, strict=True) if not drop] + [k]
    return tuple(ordered[k] for k in kept)


def _figures(point: FrontPoint) -> tuple[float, float, int]:
    return (point.latency_s, point.bottleneck_s, point.devices)
