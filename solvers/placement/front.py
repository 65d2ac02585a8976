"""All non-dominated (latency, bottleneck, devices): ε-constraint on the bottleneck, every device count in step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from gpuplan.plans.placement_solution import FrontPoint
from gpuplan.solvers.placement.core import Query
from gpuplan.solvers.placement.evaluate import evaluate
from gpuplan.solvers.placement.query import Session
from gpuplan.solvers.placement.tables import ClassPath

#: A point is dropped when another is at most this much worse, relative, in every component.
TIE = 1e-9


def front_points(session: Session) -> tuple[tuple[FrontPoint, ...], bool, bool]:
    """Return the points, whether they are proven complete, and whether the problem is proven infeasible."""
    first = session.ask(Query())
    if first.path is None:
        return (), False, first.infeasible
    found: list[FrontPoint] = []
    proven = True
    for devices in range(1, session.tables.max_stages + 1):
        proven &= _staircase(session, devices, found)
    return non_dominated(found), proven, False


def _staircase(session: Session, devices: int, found: list[FrontPoint]) -> bool:
    """Add the points of at most `devices` devices by falling bottleneck; return whether all of them are proven.

    Points on fewer devices, found before, give the latency to beat under each cap. Where they cannot be beaten, the
    same holds for every cap down to the bottleneck of the one that sets that latency: the next cap is below it.
    """
    fewer = sorted(found, key=lambda point: point.latency_s)
    cap_s = math.inf
    while True:
        rival = next((point for point in fewer if point.bottleneck_s <= cap_s), None)
        upper = math.inf if rival is None else rival.latency_s
        answer = session.ask(Query(cap_s=cap_s).limited_to(devices), upper)
        if answer.path is None:
            if not answer.proven or rival is None:
                return answer.proven
            cap_s = rival.bottleneck_s * (1.0 - TIE)
            continue
        point = _point(session, answer.path)
        found.append(point)
        session.budget.report("front", point.latency_s, None)
        if not answer.proven:
            return False
        cap_s = point.bottleneck_s * (1.0 - TIE)


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
