"""Regions one after the other: each takes a block of layers at the full flow, so that tokens change region seldom.

For a target F every region tells how many layers its nodes can cover with F: at most the worth of its nodes in layers
(the configuration LP), and as many as a beam of the label search finds. Where the blocks add up to the model, their
orders are placements whose flow crosses slow links only between blocks. Ranges that reach past their block stay whole:
they overlap the next region's, which spreads a crossing over more links.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.flow.instance import Instance, instance_of
from gpuplan.solvers.flow.labels import Options, Range, search_labels
from gpuplan.solvers.flow.parts import restricted
from gpuplan.solvers.flow.prices import PriceMaster

#: Shares of the bound tried as targets, from above.
TARGETS = (1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.92, 0.9, 0.87, 0.84, 0.8, 0.75, 0.7, 0.6, 0.5)
#: Targets at which blocks are laid out once they fit.
MOST_TARGETS = 3
#: Orders of blocks tried at a target.
MOST_ORDERS = 12
#: Block lengths tried below what a region's nodes are worth.
SHORTER = 3
#: Labels a layer, covers a state, labels in all, of a region's search.
BEAM, BRANCH, MOST_LABELS = 400, 40, 150_000


def block_placements(incumbent: Incumbent, regions: Sequence[Sequence[int]]) -> Iterator[tuple[NodeRange, ...]]:
    """Yield placements of regions one after the other, from high targets to low, until out of budget."""
    masters = [_Region(incumbent, nodes) for nodes in regions]
    num_layers = incumbent.problem.num_layers
    fitting = 0
    for share in TARGETS:
        if fitting == MOST_TARGETS or incumbent.budget.exhausted():
            return
        target = share * incumbent.bound
        worths = [region.worth(target) for region in masters]
        if sum(worths) < num_layers:
            continue
        blocks = [region.block(target, min(worth, num_layers)) for region, worth in zip(masters, worths, strict=True)]
        fitting += sum(length for length, _ in blocks) >= num_layers
        used = [at for at in range(len(blocks)) if blocks[at][0]]
        for order in itertools.islice(itertools.permutations(used), MOST_ORDERS):
            yield _laid_out(incumbent, [masters[at] for at in order], [blocks[at] for at in order])


class _Region:
    def __init__(self, incumbent: Incumbent, nodes: Sequence[int]) -> None:
        problem = restricted(incumbent.problem, nodes)
        self.nodes = nodes
        self.budget = incumbent.budget
        self.kinds = problem.node_kinds.tolist()
        # One layer: the LP then prices every target to the end rather than stop at one it disproves.
        self.instance: Instance = dataclasses.replace(instance_of(problem), num_layers=1)
        self.master = PriceMaster(self.instance, incumbent.budget)

    def worth(self, target: float) -> int:
        """Return how many layers the nodes can cover with the target at most."""
        worth = self.master.solve(self._ticks(target)).worth
        return int(worth + 1e-6) if math.isfinite(worth) else 0  # infinite when the budget ends before any prices

    def block(self, target: float, longest: int) -> tuple[int, tuple[Range, ...]]:
        """Return the most layers found to be covered with the target, and their ranges from layer 0 on."""
        prices = self.master.solve(self._ticks(target))
        for length in range(longest, max(longest - SHORTER, 1) - 1, -1):
            window = min(8.0 * max(prices.worth / length - 1.0, 0.0), 0.2)
            options = Options(BEAM, window, BRANCH, most_labels=MOST_LABELS)
            instance = dataclasses.replace(self.instance, num_layers=length)
            outcome = search_labels(instance, prices, options, self.budget)
            if outcome.answer == "found":
                return length, outcome.ranges
            if self.budget.exhausted():
                break
        return 0, ()

    def _ticks(self, target: float) -> int:
        return max(int(target / self.instance.tokens_per_tick), 1)


def _laid_out(
    incumbent: Incumbent, regions: Sequence[_Region], blocks: Sequence[tuple[int, tuple[Range, ...]]]
) -> tuple[NodeRange, ...]:
    num_layers, first = incumbent.problem.num_layers, 0
    placement: list[NodeRange] = []
    for region, (length, ranges) in zip(regions, blocks, strict=True):
        free: dict[int, list[int]] = {}
        for node, kind in zip(region.nodes, region.kinds, strict=True):
            free.setdefault(kind, []).append(node)
        for item in ranges:
            start = max(min(first + item.start, num_layers - item.layers), 0)
            placement.append(NodeRange(free[item.kind].pop(0), start, start + item.layers))
        first = min(first + length, num_layers)
    return tuple(placement)
