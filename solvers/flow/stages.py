"""Placements in aligned stages, for a limit on hops: every node of a stage holds the same layers.

Tokens pass each stage once, so a placement of S stages has chains of S−1 hops. For a target F, stages are put one after
the other: a length, and a minimal set of nodes that passes F with that many layers each. A label is how many layers are
done and which nodes are used; it goes when another one of as many layers and stages uses no more of any kind, and of
each number of layers the cheapest few stay (by the prices of the configuration LP). The largest F that at most S stages
reach is found by halving. Ranges that overlap in part may pass more, so the bound is that of the problem without the
limit, or the hop bound:

tokens that visit at most S nodes, each holding l of L layers, satisfy Σ f_i·(l_i − μ) ≥ F·(L − μ·S) for any
0 ≤ μ < L/S, hence F ≤ Σ_nodes max_l T(l)·(l − μ)⁺ / (L − μ·S); the least over μ is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, IntArray
from gpuplan.solvers.flow.instance import Instance
from gpuplan.solvers.flow.labels import Range
from gpuplan.solvers.flow.prices import PriceMaster
from gpuplan.solvers.limits import Budget

#: Labels kept at one number of layers.
MOST_LABELS = 12
#: Sets of nodes tried for a stage of one length, and in all.
MOST_SETS = 40
MOST_CHOICES = 240
#: Halvings of the target.
HALVINGS = 30


def hop_bound(instance: Instance, stages: int) -> float:
    """Return an upper bound on the ticks that flow when no token visits more than `stages` nodes; 0 if none can."""
    layers = np.arange(instance.longest + 1)
    limit = instance.num_layers / stages
    if instance.longest * stages < instance.num_layers:
        return 0.0
    best = np.inf
    for price in np.linspace(0.0, limit, 400, endpoint=False):
        worth = (instance.ticks * np.maximum(layers - price, 0.0)).max(axis=1) @ instance.counts
        best = min(best, float(worth) / (instance.num_layers - price * stages))
    return best * (1.0 + 1e-12)


def best_stages(master: PriceMaster, stages: int, top: int, budget: Budget) -> tuple[Range, ...]:
    """Return the best aligned placement found with at most `stages` stages, no target above `top`; empty if none."""
    low, high = 0, top
    best: tuple[Range, ...] = ()
    for _ in range(HALVINGS):
        if budget.exhausted() or high <= low or (best and high - low <= 1e-6 * high):
            break
        target = low + max((high - low) // 2, 1)
        found = _Stages(master, target, budget).fill(stages)
        if found:
            best, low = found, target
        else:
            high = target - 1
    return best


@dataclass(frozen=True, slots=True, eq=False)
class _Labels:
    """Labels after some stages: layers done (N,), nodes used (N, K), the label before and the choice made (N,)."""

    layers: IntArray
    used: IntArray
    parent: IntArray
    choice: IntArray

    def take(self, rows: IntArray) -> _Labels:
        return _Labels(self.layers[rows], self.used[rows], self.parent[rows], self.choice[rows])


class _Stages:
    """Stages for one target; the last column of what a choice uses is the layers it leaves to one node."""

    def __init__(self, master: PriceMaster, target: int, budget: Budget) -> None:
        instance = master.instance
        self.instance = instance
        self.target = target
        self.budget = budget
        prices = master.solve(target)
        single = [] if prices.single_price is None else [prices.single_price]
        self.price: FloatArray = np.append(prices.price, single or [0.0])
        self.limit = master.counts if master.limited else np.append(master.counts, instance.num_layers)
        self.lengths, self.sets = self._choices()

    def fill(self, stages: int) -> tuple[Range, ...]:
        """Return the ranges of at most `stages` stages that all pass the target, or nothing."""
        num_layers = self.instance.num_layers
        if not len(self.lengths):
            return ()
        longest = int(self.lengths.max())
        zero = np.zeros(1, dtype=np.int64)
        labels = _Labels(zero, np.zeros((1, self.sets.shape[1]), dtype=np.int64), zero, zero)
        history = []
        for stage in range(stages):
            labels = self._next(labels, num_layers - (stages - stage - 1) * longest)
            history.append(labels)
            if not len(labels.layers) or self.budget.exhausted():
                return ()
            done = np.flatnonzero(labels.layers >= num_layers)
            if len(done):
                return self._ranges(history, int(done[0]))
        return ()

    def _choices(self) -> tuple[IntArray, IntArray]:
        """Return stages worth trying: their lengths (M,) and nodes by kind with single layers (M, K+1)."""
        rows = []
        for length in range(1, self.instance.longest + 1):
            sets = [(*nodes, length if sum(nodes) == 1 else 0) for nodes in self._sets(length)]
            priced = sorted((float(np.dot(self.price, nodes)) / length, length, nodes) for nodes in sets)
            rows += priced[:MOST_SETS]
        rows = sorted(rows)[:MOST_CHOICES]
        lengths = np.array([length for _, length, _ in rows], dtype=np.int64)
        sets_of = np.array([nodes for _, _, nodes in rows], dtype=np.int64)
        return lengths, sets_of.reshape(len(rows), self.instance.num_kinds + 1)

    def _sets(self, length: int) -> list[tuple[int, ...]]:
        """Return minimal numbers of nodes of each kind that pass the target with `length` layers each."""
        values, counts = self.instance.ticks[:, length], self.instance.counts
        kinds = [k for k in np.argsort(-values, kind="stable").tolist() if values[k] > 0 and counts[k] > 0]
        found: list[tuple[int, ...]] = []
        chosen = [0] * self.instance.num_kinds

        def choose(at: int, lacking: int) -> None:
            if len(found) >= 10 * MOST_SETS or at == len(kinds):
                return
            kind = kinds[at]
            needed = min(-(-lacking // int(values[kind])), int(counts[kind]))
            for count in range(needed, -1, -1):
                chosen[kind] = count
                left = lacking - count * int(values[kind])
                if left <= 0:
                    found.append(tuple(chosen))
                else:
                    choose(at + 1, left)
            chosen[kind] = 0

        choose(0, self.target)
        return found

    def _next(self, labels: _Labels, least: int) -> _Labels:
        """Return the labels one stage on, those that can still get through all layers."""
        count, choices = len(labels.layers), len(self.lengths)
        parent, choice = np.repeat(np.arange(count), choices), np.tile(np.arange(choices), count)
        self.budget.spend(len(parent))
        layers = np.minimum(labels.layers[parent] + self.lengths[choice], self.instance.num_layers)
        used = labels.used[parent] + self.sets[choice]
        fits = np.flatnonzero((used <= self.limit).all(axis=1) & (layers >= least))
        reached = _Labels(layers[fits], used[fits], parent[fits], choice[fits])
        reached = reached.take(np.lexsort((reached.used @ self.price, reached.layers)))
        return reached.take(_first_unlike(reached.layers, reached.used))

    def _ranges(self, history: list[_Labels], row: int) -> tuple[Range, ...]:
        stages = []
        for labels in reversed(history):
            choice = int(labels.choice[row])
            stages.append((int(self.lengths[choice]), self.sets[choice, :-1].tolist()))
            row = int(labels.parent[row])
        ranges, start = [], 0
        for length, nodes in reversed(stages):
            # The last stage may reach past the end: its nodes start earlier, at full length.
            first = min(start, self.instance.num_layers - length)
            ranges += [Range(kind, first, length) for kind, number in enumerate(nodes) for _ in range(number)]
            start += length
        return tuple(ranges)


def _first_unlike(layers: IntArray, used: IntArray) -> IntArray:
    """Return the first few labels of each number of layers, none that an earlier one beats."""
    kept: list[int] = []
    group: list[int] = []
    for row in range(len(layers)):
        if group and layers[group[0]] != layers[row]:
            group = []
        if len(group) < MOST_LABELS and not (used[group] <= used[row]).all(axis=1).any():
            group.append(row)
            kept.append(row)
    return np.array(kept, dtype=np.int64)
