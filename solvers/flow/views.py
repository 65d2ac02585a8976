"""Views of a problem for searches by regions: some regions told apart, the others joined.

A view joins regions as if no link between them could bind: a relaxation, so what is impossible in a view is impossible.
Its kinds are groups: nodes of one kind in one part.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.flow.crossing import Crossing
from gpuplan.solvers.flow.instance import Instance, instance_of
from gpuplan.solvers.flow.labels import Options, Outcome, Range
from gpuplan.solvers.flow.prices import PriceMaster, PricePool
from gpuplan.solvers.flow.region_labels import search_region_labels
from gpuplan.solvers.limits import Budget

#: Parts told apart in one view; the smallest regions of more are joined.
MOST_PARTS = 4


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A problem whose kinds are groups, the part of each group, and its prices."""

    problem: FlowProblem
    parts: tuple[int, ...]
    instance: Instance
    master: PriceMaster
    pool: PricePool

    def search(
        self, target: int, options: Options, budget: Budget, quantile: float | None = None
    ) -> tuple[Outcome, str]:
        """Look for ranges that may pass the target (ticks); return the outcome and the kind of a bound it proves.

        With a `quantile` every link between two parts is taken to be that quantile of them all, not the widest that any
        node may have: what is found then is near what real links pass, and nothing is proven.
        """
        prices = self.master.solve(target)
        if prices.impossible(self.instance.num_layers):
            return Outcome("impossible"), "configuration bound"
        problem = self.problem if quantile is None else self._alike(quantile)
        crossing = Crossing(problem, self.parts, prices.items, self.instance.tokens_per_tick, budget)
        pool = self.pool.scaled_to(prices)
        if budget.exhausted():
            return Outcome("stopped"), ""
        outcome = search_region_labels(self.instance, crossing, prices, options, budget, pool)
        if quantile is not None and outcome.answer == "impossible":
            outcome = dataclasses.replace(outcome, answer="missed")
        return outcome, "label search by regions"

    def _alike(self, quantile: float) -> FlowProblem:
        """Return the problem with links between two parts all alike."""
        links = self.problem.link_tokens_per_s.copy()
        part = np.array(self.parts)[self.problem.node_kinds]
        for a, b in itertools.permutations(range(max(self.parts) + 1), 2):
            at = np.ix_(part == a, part == b)
            links[at] = np.quantile(links[at], quantile)
        return dataclasses.replace(self.problem, link_tokens_per_s=links)

    def place(self, ranges: Sequence[Range]) -> list[NodeRange]:
        """Give ranges of groups to nodes, in order."""
        free = {group: np.flatnonzero(self.problem.node_kinds == group).tolist() for group in range(len(self.parts))}
        return [NodeRange(free[item.kind].pop(0), item.start, item.start + item.layers) for item in ranges]


def views_of(problem: FlowProblem, regions: Sequence[Sequence[int]], budget: Budget) -> list[View]:
    """Return the views worth searching: each large region against all others, last all regions apart."""
    return [_view(problem, parts, budget) for parts in _partings(problem, regions)]


def _partings(problem: FlowProblem, regions: Sequence[Sequence[int]]) -> Iterator[list[list[int]]]:
    work = (problem.throughput_table() * np.arange(problem.throughput_table().shape[1])).max(axis=1)
    worth = work[problem.node_kinds]
    ranked = sorted((sorted(nodes) for nodes in regions), key=lambda nodes: (-worth[nodes].sum(), nodes))
    apart = ranked
    if len(ranked) > MOST_PARTS:
        joined = [node for nodes in ranked[MOST_PARTS - 1 :] for node in nodes]
        apart = [*ranked[: MOST_PARTS - 1], joined]
    if len(apart) > 2:
        for nodes in apart:
            yield [nodes, [node for other in apart if other is not nodes for node in other]]
    yield apart


def _view(problem: FlowProblem, parts: Sequence[Sequence[int]], budget: Budget) -> View:
    part = np.zeros(problem.num_nodes, dtype=np.int64)
    for at, nodes in enumerate(parts):
        part[list(nodes)] = at
    pairs = list(zip(part.tolist(), problem.node_kinds.tolist(), strict=True))
    groups = sorted(set(pairs))
    grouped = dataclasses.replace(
        problem,
        kind_names=tuple(f"{problem.kind_names[kind]} of part {at}" for at, kind in groups),
        throughput_tokens_per_s=tuple(problem.throughput_tokens_per_s[kind] for _, kind in groups),
        node_kinds=np.array([groups.index(pair) for pair in pairs], dtype=np.int64),
    )
    instance = instance_of(grouped)
    master = PriceMaster(instance, budget)
    return View(grouped, tuple(at for at, _ in groups), instance, master, PricePool(master))
