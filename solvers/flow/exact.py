"""Small problems whose links bind or whose hops are limited, by branch and bound over placements, without tolerances.

Nodes are placed one after the other, those that pass most first. A partial placement goes when the layers it leaves
short of the incumbent need more tokens·layers than the nodes left can give, or more tokens on one layer. Of *twins*,
nodes that could change places, the later one holds no more layers, and as many no earlier. With a limit on hops the
flow of a placement is found by branch and bound over its links (`short_flow`), and the hop bound of `stages.py` holds
for partial placements too, at every price μ.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import FloatArray, FlowProblem, IntArray
from gpuplan.solvers.flow.incumbent import Incumbent

#: Placements there may be, and partial ones looked at, before the method gives up.
MOST_PLACEMENTS = 3e8
MOST_VISITS = 150_000
#: Prices μ at which the hop bound is looked at: with hops limited a quarter less time than without it.
VISIT_PRICES = 8


def count_placements(problem: FlowProblem) -> float:
    """Return how many placements there are, those counted once that differ by twins that change places."""
    layers = problem.num_layers
    options = [1 + sum(layers - k + 1 for k in range(1, most + 1)) for most in problem.most_layers.tolist()]
    twins, sizes = np.unique(twins_of(problem), return_counts=True)
    kinds = problem.node_kinds[twins].tolist()
    return float(math.prod(math.comb(options[k] + n - 1, n) for k, n in zip(kinds, sizes.tolist(), strict=True)))


def search_exactly(incumbent: Incumbent) -> bool:
    """Raise the incumbent to the optimum; return whether that is proven (the bound is then its value)."""
    if count_placements(incumbent.problem) > MOST_PLACEMENTS:
        return False
    if _Branches(incumbent).run():
        incumbent.lower_bound_to(incumbent.value, "branch and bound over placements")
        return True
    return False


def twins_of(problem: FlowProblem) -> IntArray:
    """Return, for each node, the first node that could change places with it, perhaps itself."""
    links, size = problem.link_tokens_per_s, problem.num_nodes
    ends = np.stack([problem.node_kinds, problem.source_tokens_per_s, problem.sink_tokens_per_s])
    twin = np.arange(size)
    for node in range(size):
        for other in range(node):
            swapped = np.arange(size)
            swapped[[node, other]] = other, node
            if (ends[:, node] == ends[:, other]).all() and (links[np.ix_(swapped, swapped)] == links).all():
                twin[node] = other
                break
    return twin


class _Branches:
    def __init__(self, incumbent: Incumbent) -> None:
        self.incumbent = incumbent
        problem = incumbent.problem
        self.num_layers = problem.num_layers
        self.table = problem.throughput_table()
        self.most = problem.most_layers
        peak = self.table.max(axis=1)[problem.node_kinds]
        twin = twins_of(problem)
        self.order = np.lexsort((twin, -peak)).tolist()
        self.same = [False, *(twin[one] == twin[other] for one, other in itertools.pairwise(self.order))]
        self.kinds = [int(problem.node_kinds[node]) for node in self.order]
        work = (self.table * np.arange(self.table.shape[1])).max(axis=1)
        self.work_left = np.append(np.cumsum([work[kind] for kind in self.kinds][::-1])[::-1], 0.0)
        self.peak_left = np.append(np.cumsum([peak[node] for node in self.order][::-1])[::-1], 0.0)
        self.visits = 0
        stages = len(self.order) if problem.max_hops is None else problem.max_hops + 1
        visit = np.linspace(0.0, self.num_layers / stages, VISIT_PRICES, endpoint=False)
        layers = np.arange(self.table.shape[1])
        self.worth: FloatArray = self.table[:, :, None] * np.maximum(layers[:, None] - visit, 0.0)
        worth_of = [self.worth[kind].max(axis=0) for kind in self.kinds]
        self.worth_left = np.append(np.cumsum(worth_of[::-1], axis=0)[::-1], np.zeros((1, VISIT_PRICES)), axis=0)
        self.needed = self.num_layers - visit * stages

    def run(self) -> bool:
        """Return whether every branch was looked at."""
        return self._place(0, np.zeros(self.num_layers), np.zeros(VISIT_PRICES), [])

    def _more(self) -> bool:
        """Count a visit; return whether the limits allow it."""
        self.visits += 1
        self.incumbent.budget.spend(1)
        return self.visits <= MOST_VISITS and not self.incumbent.budget.exhausted()

    def _place(self, depth: int, coverage: FloatArray, worth: FloatArray, ranges: list[NodeRange]) -> bool:
        if not self._more():
            return False
        # Only more than the incumbent, by more than rounding, is of interest.
        wanted = self.incumbent.value * (1.0 + 1e-12)
        short = wanted - coverage
        most_short, all_short = float(short.max()), float(np.maximum(short, 0.0).sum())
        if most_short >= 0.0 and (most_short >= self.peak_left[depth] or all_short > self.work_left[depth]):
            return True
        if (worth + self.worth_left[depth] < wanted * self.needed).any():
            return True
        if depth == len(self.order):
            self.incumbent.offer(ranges, self._more)
            return self._more()
        return all(self._place(depth + 1, *choice) for choice in self._choices(depth, coverage, worth, ranges))

    def _choices(
        self, depth: int, coverage: FloatArray, worth: FloatArray, ranges: list[NodeRange]
    ) -> list[tuple[FloatArray, FloatArray, list[NodeRange]]]:
        node, kind = self.order[depth], self.kinds[depth]
        choices = []
        most, first = min(int(self.most[kind]), self.num_layers), 0
        if self.same[depth]:
            if not ranges or ranges[-1].node != self.order[depth - 1]:  # its twin holds nothing
                return [(coverage, worth, ranges)]
            most, first = ranges[-1].stop - ranges[-1].start, ranges[-1].start
        for layers in range(most, 0, -1):
            for start in range(first if layers == most else 0, self.num_layers - layers + 1):
                covered = coverage.copy()
                covered[start : start + layers] += self.table[kind, layers]
                item = NodeRange(node, start, start + layers)
                choices.append((covered, worth + self.worth[kind, layers], [*ranges, item]))
        return [*choices, (coverage, worth, ranges)]
