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

#: Most candidate values listed at once; beyond, caps are bisected as numbers.
MOST_CANDIDATES = 3e7
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
    start = session.ask(Query(), hint=hint)
    if start.path is None:
        return start
    search = _CapSearch(session, start.path)
    search.run()
    proven = search.lower >= search.best * (1.0 - 1e-10)
    return Answer(search.best, search.path, search.lower, proven)


class _CapSearch:
    """Bisection on the cap: `best` has a plan (`path`), nothing below `lower` is possible."""

    def __init__(self, session: Session, path: ClassPath) -> None:
        self.session = session
        self.tables = session.tables
        self.path = path
        self.best = path_bottleneck(session.tables, path)
        self.surrogate = _Surrogate(session.tables)
        self.lower = self.surrogate.bound(self.best)

    def run(self) -> None:
        """Narrow lower..best until no candidate is left between them, or a limit is reached."""
        candidates = self._candidates()
        low, high = 0, len(candidates)  # candidates below index low are impossible, at high and above not needed
        unproven = False
        while low < high and not self.session.budget.exhausted():
            middle = (low + high) // 2
            verdict = self._probe(float(candidates[middle]))
            if verdict:
                high = min(middle, int(np.searchsorted(candidates, self.best * (1.0 - 1e-12))))
            else:
                low = middle + 1
                unproven = unproven or verdict is None
                if not unproven:
                    self.lower = float(candidates[low]) if low < len(candidates) else self.best
            self.session.budget.report("bottleneck", self.best, self.lower)
        if low >= high and not unproven:
            self.lower = self.best

    def _probe(self, cap_s: float) -> bool | None:
        """Whether a plan within the cap exists; None when a limit hides it."""
        if not self.surrogate.possible(cap_s):
            return False
        answer = self.session.ask(Query(time_weight=0.0, cap_s=cap_s, any_plan=True), hint=self.path)
        if answer.path is not None:
            self.path = answer.path
            self.best = path_bottleneck(self.tables, answer.path)
            return True
        return False if answer.infeasible else None

    def _candidates(self) -> FloatArray:
        """Values of single stages with an outgoing hop between the bounds, ascending."""
        low, high = self.lower * (1.0 - 1e-12), self.best * (1.0 - 1e-12)
        if self.tables.num_classes**2 * self.tables.num_layers**2 / 2 > MOST_CANDIDATES:
            steps = np.linspace(math.log(max(low, 1e-9 * high, 1e-300)), math.log(max(high, 1e-300)), 1 << 20)
            return np.asarray(np.exp(steps))
        return _stage_values(self.tables, low, high)


def _stage_values(tables: ClassTables, low: float, high: float) -> FloatArray:
    """All stage compute + outgoing hop values in [low, high), ascending, each once."""
    cycle, n = tables.cycle, tables.num_layers
    start, stop = np.triu_indices(n + 1, k=1)
    found = []
    for c in range(tables.num_classes):
        compute = cycle.prefix[c, stop] - cycle.prefix[c, start]
        near = compute < high
        near_compute, near_stop = compute[near], stop[near]
        whole = near_stop == n
        ends = [np.zeros(1)] if cycle.back is None else [np.zeros(1), cycle.back[c][np.isfinite(cycle.back[c])]]
        for hop in np.unique(np.concatenate(ends)):
            found.append(near_compute[whole] + hop)
        inner = ~whole
        for e in np.flatnonzero(np.isfinite(cycle.hop_s[c])):
            hops = cycle.hop_s[c, e] + cycle.boundary * cycle.hop_s_per_byte[c, e]
            found.append(near_compute[inner] + hops[near_stop[inner]])
    values = np.concatenate(found)
    return np.unique(values[(values >= low) & (values < high)])


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
