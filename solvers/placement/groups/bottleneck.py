"""Least bottleneck of modes: one pass where the small engine runs, else a search over caps.

The optimum is the value of some stage with some outgoing hop. Caps are halved while the interval between bound and plan
is wide, then the values that a stage can have inside it are tried by bisection.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.placement.bottleneck import TIE, path_bottleneck
from gpuplan.solvers.placement.core import Query
from gpuplan.solvers.placement.outcome import Outcome, status_of
from gpuplan.solvers.placement.query import Answer
from gpuplan.solvers.placement.tables import ClassPath, ClassTables

if TYPE_CHECKING:
    from gpuplan.solvers.placement.groups.search import GroupSession

#: Relative width of the interval in which single values are tried.
NARROW = 0.02


def minimise_group_bottleneck(session: GroupSession, hint: ClassPath | None) -> Outcome:
    """Least bottleneck, then latency at that bottleneck (1e-9 relative)."""
    least = session.ask(Query(bottleneck=True)) if session.runs_small() else _by_caps(session, hint)
    if least.path is None:
        return Outcome(status_of(least), None, None)
    if not least.proven:
        return Outcome("feasible", least.path, (max(least.bound, 0.0), 0.0))
    answer = session.ask(Query(cap_s=least.value * (1.0 + TIE)), hint=least.path)
    path = answer.path if answer.path is not None else least.path
    latency = answer.bound if math.isfinite(answer.bound) else 0.0
    proven = answer.proven and answer.path is not None
    return Outcome("optimal" if proven else "feasible", path, (least.value, latency))


def _by_caps(session: GroupSession, hint: ClassPath | None) -> Answer:
    start = session.ask(Query(time_weight=0.0, any_plan=True), hint=hint)
    if start.path is None:
        return start
    search = _Caps(session, start.path)
    search.run()
    return Answer(search.best, search.path, search.lower, search.lower >= search.best * (1.0 - 1e-12))


class _Caps:
    """Caps between `lower` (proven: nothing below is possible) and `best` (a plan's, `path`)."""

    def __init__(self, session: GroupSession, path: ClassPath) -> None:
        self.session, self.path = session, path
        self.best = path_bottleneck(session.tables, path)
        self.lower = self.floor = 0.0  # the floor counts caps at which a limit hid the answer, too
        self.hidden = False

    def run(self) -> None:
        """Halve the interval while it is wide, then search the values inside it."""
        budget = self.session.budget
        while self.floor < self.best * (1.0 - NARROW) and not budget.exhausted():
            middle = 0.5 * (self.floor + self.best)
            if not self._probe(middle):
                self._rule_out(middle, middle)
        if budget.exhausted():
            return
        values = cycle_values(self.session.tables, self.floor * (1.0 - 1e-12), self.best * (1.0 - 1e-12))
        while len(values) and not budget.exhausted():
            middle_at = len(values) // 2
            if self._probe(float(values[middle_at])):
                values = values[values < self.best * (1.0 - 1e-12)]
            else:
                after = float(values[middle_at + 1]) if middle_at + 1 < len(values) else self.best
                self._rule_out(float(values[middle_at]), after)
                values = values[middle_at + 1 :]
        if not len(values) and not self.hidden:
            self.lower = self.best

    def _rule_out(self, cap_s: float, next_s: float) -> None:
        self.floor = max(self.floor, cap_s)
        if not self.hidden:
            self.lower = max(self.lower, next_s)
        self.session.budget.report("bottleneck", self.best, self.lower)

    def _probe(self, cap_s: float) -> bool:
        """Whether a plan within the cap is found; `hidden` is set when a limit hides whether there is one."""
        answer = self.session.within(cap_s, self.path)
        if answer.path is None:
            self.hidden = self.hidden or not answer.proven
            return False
        self.path = answer.path
        self.best = min(self.best, path_bottleneck(self.session.tables, answer.path))
        self.session.budget.report("bottleneck", self.best, self.lower)
        return True


def cycle_values(tables: ClassTables, low: float, high: float) -> FloatArray:
    """Return all values in [low, high) of a stage with some outgoing hop, ascending."""
    cycle, n = tables.cycle, tables.num_layers
    start, stop = np.triu_indices(n + 1, k=1)
    found = [np.zeros(0)]
    rows, row_of = np.unique(cycle.prefix, axis=0, return_inverse=True)
    for number, prefix in enumerate(rows):
        classes = np.flatnonzero(row_of.ravel() == number)
        compute = prefix[stop] - prefix[start]
        near, ends = compute[compute < high], stop[compute < high]
        whole = near[ends == n]
        back = np.zeros(0) if cycle.back is None else np.unique(cycle.back[classes])
        found += [whole + hop for hop in [0.0, *back[np.isfinite(back)]]]
        near, ends = near[ends < n], ends[ends < n]
        pairs = np.stack([cycle.hop_s[classes].ravel(), cycle.hop_s_per_byte[classes].ravel()], axis=1)
        for latency, per_byte in np.unique(pairs[np.isfinite(pairs[:, 0])], axis=0):
            values = near + (latency + cycle.boundary[ends] * per_byte)
            found.append(values[(values >= low) & (values < high)])
    values = np.concatenate(found)
    return np.unique(values[(values >= low) & (values < high)])
