"""Least bottleneck: a search over caps on stage compute + outgoing hop, each probe a feasibility question.

The optimum is the value of some stage with some outgoing hop, so the caps tried are those values, between a surrogate
bound (all devices together must be able to hold all layers within the cap) and the bottleneck of the best plan known.
"""

from __future__ import annotations

import math

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.placement.core import Query
from gpuplan.solvers.placement.outcome import Outcome, status_of
from gpuplan.solvers.placement.query import Answer, Session
from gpuplan.solvers.placement.tables import ClassPath, ClassTables
from gpuplan.solvers.placement.windows import memory_windows

#: Relative width of the interval in which single values are tried.
NARROW = 0.02
#: Plans within this relative distance of the least bottleneck compete on latency.
TIE = 1e-9


def path_bottleneck(tables: ClassTables, path: ClassPath) -> float:
    """Largest stage compute + outgoing hop of a path, s."""
    cycle = tables.cycle
    worst = 0.0
    for k, (c, start, stop) in enumerate(path):
        hop = 0.0
        if k + 1 < len(path):
            hop = cycle.hop(c, path[k + 1][0], stop)
        elif len(path) > 1:
            hop = cycle.returns(c, path[0][0])
        worst = max(worst, float(cycle.prefix[c, stop] - cycle.prefix[c, start]) + hop)
    return worst


def minimise_bottleneck(session: Session, hint: ClassPath | None) -> Outcome:
    """Least bottleneck, then latency at that bottleneck (1e-9 relative)."""
    least = _in_one_pass(session) if session.runs_small() else _by_caps(session, hint)
    if least.path is None:
        return Outcome(status_of(least), None, None)
    if not least.proven:
        return Outcome("feasible", least.path, (max(least.bound, 0.0), 0.0))
    answer = session.ask(Query(cap_s=least.value * (1.0 + TIE)), hint=least.path)
    path = answer.path if answer.path is not None else least.path
    latency = answer.bound if math.isfinite(answer.bound) else 0.0
    proven = answer.proven and answer.path is not None
    return Outcome("optimal" if proven else "feasible", path, (least.value, latency))


def _in_one_pass(session: Session) -> Answer:
    """Least bottleneck by the level search on maxima."""
    return session.ask(Query(bottleneck=True))


def _by_caps(session: Session, hint: ClassPath | None) -> Answer:
    """Least bottleneck by feasibility questions."""
    start = session.ask(Query(time_weight=0.0, any_plan=True), hint=hint)
    if start.path is None:
        return start
    search = _CapSearch(session, start.path)
    search.run()
    proven = search.lower >= search.best * (1.0 - 1e-10)
    return Answer(search.best, search.path, search.lower, proven)


class _CapSearch:
    """Bisection on the cap: `best` has a plan (`path`), nothing below `lower` is possible (proven)."""

    def __init__(self, session: Session, path: ClassPath) -> None:
        self.session = session
        self.tables = session.tables
        self.path = path
        self.best = path_bottleneck(session.tables, path)
        self.surrogate = _Surrogate(session.tables)
        self.lower = self.surrogate.bound(self.best)
        self.floor = self.lower  # as `lower`, or a cap at which a limit hid the answer
        self.unproven = False

    def run(self) -> None:
        """Halve the interval while it is wide, then search the values that a stage can have inside it."""
        budget = self.session.budget
        while self.floor < self.best * (1.0 - NARROW) and not budget.exhausted():
            middle = 0.5 * (self.floor + self.best)
            if not self._probe(middle):
                self._rule_out(middle, middle)
        values = self._values() if not budget.exhausted() else None
        while values is not None and len(values) and not budget.exhausted():
            middle = len(values) // 2
            if self._probe(float(values[middle])):
                values = values[values < self.best * (1.0 - 1e-12)]
            else:
                after = float(values[middle + 1]) if middle + 1 < len(values) else self.best
                self._rule_out(float(values[middle]), after)
                values = values[middle + 1 :]
        if values is not None and len(values) == 0 and not self.unproven:
            self.lower = self.best

    def _rule_out(self, cap_s: float, next_s: float) -> None:
        """Take note that a cap has no plan (as far as is known): the next possible value is `next_s`."""
        self.floor = max(self.floor, cap_s)
        if not self.unproven:
            self.lower = max(self.lower, next_s)
        self.session.budget.report("bottleneck", self.best, self.lower)

    def _probe(self, cap_s: float) -> bool:
        """Whether a plan within the cap is found; `unproven` is set when a limit hides whether there is one."""
        if not self.surrogate.possible(cap_s):
            return False
        answer = self.session.ask(Query(time_weight=0.0, cap_s=cap_s, any_plan=True), hint=self.path)
        if answer.path is None:
            self.unproven = self.unproven or not answer.infeasible
            return False
        self.path = answer.path
        self.best = min(self.best, path_bottleneck(self.tables, answer.path))
        self.session.budget.report("bottleneck", self.best, self.lower)
        return True

    def _values(self) -> FloatArray | None:
        """Values of single stages with an outgoing hop between the bounds, ascending; None when time runs out."""
        low, high = self.floor * (1.0 - 1e-12), self.best * (1.0 - 1e-12)
        found = [np.zeros(0)]
        for c in range(self.tables.num_classes):
            if self.session.budget.exhausted():
                return None
            found += _stage_values(self.tables, c, low, high)
        return np.unique(np.concatenate(found))


def _stage_values(tables: ClassTables, c: int, low: float, high: float) -> list[FloatArray]:
    """All values in [low, high) of a stage on class c with some outgoing hop."""
    cycle, n = tables.cycle, tables.num_layers
    start, stop = np.triu_indices(n + 1, k=1)
    compute = cycle.prefix[c, stop] - cycle.prefix[c, start]
    compute, stop = compute[compute < high], stop[compute < high]
    whole = compute[stop == n]
    hops = [0.0] if cycle.back is None else [0.0, *np.unique(cycle.back[c][np.isfinite(cycle.back[c])])]
    found = [whole + hop for hop in hops]
    compute, stop = compute[stop < n], stop[stop < n]
    for e in np.flatnonzero(np.isfinite(cycle.hop_s[c])):
        found.append(compute + (cycle.hop_s[c, e] + cycle.boundary[stop] * cycle.hop_s_per_byte[c, e]))
    return [values[(values >= low) & (values < high)] for values in found]


class _Surrogate:
    """A necessary condition of a cap T: for several weights u, Σ over devices of the most u one can hold ≥ total u.

    Hops are taken as the least outgoing one (0 for the last stage where nothing returns), so it never refuses a
    possible cap.
    """

    def __init__(self, tables: ClassTables) -> None:
        self.tables = tables
        micro_batches = 1 if tables.problem.micro_batches == "stages" else tables.problem.micro_batches
        self.low = memory_windows(tables, micro_batches, None)
        n = tables.num_layers
        mean = tables.cycle.prefix.mean(axis=0)
        self.weights = [np.arange(n + 1) / n]
        for prefix in (mean, tables.memory):
            if prefix[-1] > 0.0:
                self.weights.append(prefix / prefix[-1])
        self.weights.append(sum(self.weights[1:], self.weights[0]) / len(self.weights))

    def possible(self, cap_s: float) -> bool:
        """Whether the condition leaves the cap possible."""
        prefix, n = self.tables.cycle.prefix, self.tables.num_layers
        limit = cap_s * (1.0 + 1e-12)
        start = np.stack([np.searchsorted(row, row - limit - 1e-12 * row[-1], side="left") for row in prefix])
        start = np.minimum(np.maximum(start, self.low), np.arange(n + 1))
        most = min(self.tables.max_stages, int(self.tables.counts.sum()))
        for weight in self.weights:
            held = (weight[None, :] - weight[start]).max(axis=1)
            if _most_held(held, self.tables.counts, most) < weight[-1] * (1.0 - 1e-9):
                return self._alone(cap_s)
        return True

    def _alone(self, cap_s: float) -> bool:
        """Whether one device might hold everything, by the saving that only such a plan has."""
        saves = self.tables.problem.single_stage_saving_bytes > 0.0
        return saves and bool((self.tables.cycle.prefix[:, -1] <= cap_s * (1.0 + 1e-12)).any())

    def bound(self, upper: float) -> float:
        """Largest cap, within 1e-6, that the condition refuses; at most `upper`."""
        low, high = 0.0, upper
        for _ in range(40):
            if high - low <= 1e-6 * upper:
                break
            middle = 0.5 * (low + high)
            if self.possible(middle):
                high = middle
            else:
                low = middle
        return low


def _most_held(held: FloatArray, counts: np.ndarray[tuple[int], np.dtype[np.int64]], stages: int) -> float:
    """Most that `stages` devices hold together."""
    order = np.argsort(-held, kind="stable")
    left, total = stages, 0.0
    for c in order:
        take = min(left, int(counts[c]))
        total += take * float(held[c])
        left -= take
        if left == 0:
            break
    return total
