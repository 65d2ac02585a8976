"""Small problems whose links bind, by branch and bound over the ranges of the nodes: proof without tolerances.

Nodes are placed one after the other, those that pass most first. A partial placement goes when the layers it leaves
short of the incumbent need more tokens·layers than the nodes left can give, or more tokens on one layer.
"""

from __future__ import annotations

import math

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import FloatArray, FlowProblem
from gpuplan.solvers.flow.incumbent import Incumbent

#: Placements there may be, and partial ones looked at, before the method gives up.
MOST_PLACEMENTS = 3e8
MOST_VISITS = 150_000


def count_placements(problem: FlowProblem) -> float:
    """Return how many placements there are."""
    layers = problem.num_layers
    options = [1.0 + sum(layers - k + 1 for k in range(1, most + 1)) for most in problem.most_layers.tolist()]
    return float(math.prod(options[kind] for kind in problem.node_kinds.tolist()))


def search_exactly(incumbent: Incumbent) -> bool:
    """Raise the incumbent to the optimum; return whether that is proven (the bound is then its value)."""
    if count_placements(incumbent.problem) > MOST_PLACEMENTS:
        return False
    if _Branches(incumbent).run():
        incumbent.lower_bound_to(incumbent.value, "branch and bound over placements")
        return True
    return False


class _Branches:
    def __init__(self, incumbent: Incumbent) -> None:
        self.incumbent = incumbent
        problem = incumbent.problem
        self.num_layers = problem.num_layers
        self.table = problem.throughput_table()
        self.most = problem.most_layers
        peak = self.table.max(axis=1)[problem.node_kinds]
        self.order = np.argsort(-peak, kind="stable").tolist()
        self.kinds = [int(problem.node_kinds[node]) for node in self.order]
        work = (self.table * np.arange(self.table.shape[1])).max(axis=1)
        self.work_left = np.append(np.cumsum([work[kind] for kind in self.kinds][::-1])[::-1], 0.0)
        self.peak_left = np.append(np.cumsum([peak[node] for node in self.order][::-1])[::-1], 0.0)
        self.visits = 0

    def run(self) -> bool:
        """Return whether every branch was looked at."""
        return self._place(0, np.zeros(self.num_layers), [])

    def _place(self, depth: int, coverage: FloatArray, ranges: list[NodeRange]) -> bool:
        self.visits += 1
        self.incumbent.budget.spend(1)
        if self.visits > MOST_VISITS or self.incumbent.budget.exhausted():
            return False
        # Only more than the incumbent, by more than rounding, is of interest.
        wanted = self.incumbent.value * (1.0 + 1e-12)
        short = wanted - coverage
        most_short, all_short = float(short.max()), float(np.maximum(short, 0.0).sum())
        if most_short >= 0.0 and (most_short >= self.peak_left[depth] or all_short > self.work_left[depth]):
            return True
        if depth == len(self.order):
            self.incumbent.offer(ranges)
            return True
        return all(self._place(depth + 1, *choice) for choice in self._choices(depth, coverage, ranges))

    def _choices(
        self, depth: int, coverage: FloatArray, ranges: list[NodeRange]
    ) -> list[tuple[FloatArray, list[NodeRange]]]:
        node, kind = self.order[depth], self.kinds[depth]
        choices = []
        for layers in range(int(self.most[kind]), 0, -1):
            for start in range(self.num_layers - layers + 1):
                covered = coverage.copy()
                covered[start : start + layers] += self.table[kind, layers]
                choices.append((covered, [*ranges, NodeRange(node, start, start + layers)]))
        return [*choices, (coverage, ranges)]
