"""Two regions as a relay: one holds the first layers at the flow of both, the other the rest.

A region alone must keep its flow F over all layers, and a node that would pass more than F with few layers, where it is
worth most, wastes the rest. Two regions that take turns have the flow of both, where such nodes are not wasted. What it
costs is the *handover*: tokens that change region do so over the slow links between the nodes that end with the first
part and those that start with the second. Where each of n nodes ends and meets n partners over links of width q, it
hands on n·q at most, so for a flow of F some F/(n·q) ≤ n nodes with T ≤ n·q stand on either side: long ranges of strong
nodes, or weak ones. The handover that wastes least, by the prices of both regions, is given (see `given_labels.py`),
and beams cover the rest of either part.

Regions pair up so that most is gained over each alone, by an estimate from prices; then beams try falling flows until
both parts are covered.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import FloatArray, FlowProblem, IntArray
from gpuplan.solvers.flow.given_labels import search_around
from gpuplan.solvers.flow.instance import Instance, instance_of
from gpuplan.solvers.flow.labels import Options, Range
from gpuplan.solvers.flow.maxflow import evaluate
from gpuplan.solvers.flow.parts import restricted
from gpuplan.solvers.flow.prices import PriceMaster, Prices
from gpuplan.solvers.limits import Budget

#: Ratio of neighbouring flows that are tried; prices are found once for each.
STEP = 1.005
#: Layers that beams lack, at least, of what prices promise for both parts: 1 to 3 on clusters of 200 nodes.
LOST_LAYERS = 1.5
#: Most nodes on either side of a handover.
MOST_PARTNERS = 48
#: Beams in turn, as labels a layer, covers a state, excess of a transition; labels in all of each. More covers a state
#: cost far more than labels and find no more.
BEAMS = ((200, 10, 0.06), (400, 10, 0.12), (800, 10, 0.25))
MOST_LABELS = 150_000
#: Quantiles of the links between two regions that a handover is planned for: real nodes live up to the median, and
#: mostly to the wider since those with the widest links are taken; never to 0.7. The first one is for estimates.
QUANTILES = (0.6, 0.5)
#: Share of the flow planned for that real links carry before nothing better is looked for.
NEAR = 0.995


def relay_placement(
    problem: FlowProblem,
    regions: Sequence[Sequence[int]],
    alone: Sequence[Sequence[NodeRange]],
    budget: Budget,
) -> tuple[NodeRange, ...]:
    """Return ranges for all regions, some of them in pairs as relays; empty where no relay was found.

    Parameters
    ----------
    alone
        The placement of each region by itself.
    """
    sides = [_Side(problem, nodes, budget) for nodes in regions]
    values = [evaluate(problem, placement)[0] for placement in alone]
    relays = {}
    for a in range(len(sides)):
        for b in range(a + 1, len(sides)):
            relays[a, b] = _Relay(problem, sides[a], sides[b], values[a] + values[b], budget)
    matchings = _matchings(tuple(range(len(sides))))
    best = max(matchings, key=lambda pairs: sum(relays[pair].promise for pair in pairs))
    found = {pair: relays[pair].search() for pair in best if relays[pair].promise > 0.0}
    taken = {region for pair, ranges in found.items() if ranges for region in pair}
    if not taken:
        return ()
    rest = [item for at, placement in enumerate(alone) if at not in taken for item in placement]
    return (*(item for ranges in found.values() for item in ranges), *rest)


def _matchings(regions: Sequence[int]) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield the ways to pair up regions, some of them with none."""
    if not regions:
        yield ()
        return
    first, others = regions[0], regions[1:]
    yield from _matchings(others)
    for other in others:
        for pairs in _matchings([region for region in others if region != other]):
            yield ((first, other), *pairs)


@dataclass(frozen=True, slots=True)
class _Ends:
    """Nodes of one side of a handover as (kind, layers), and the layers at full flow that their places waste."""

    nodes: tuple[tuple[int, int], ...]
    waste: float


class _Side:
    """A region with its prices by flow."""

    def __init__(self, problem: FlowProblem, nodes: Sequence[int], budget: Budget) -> None:
        inside = restricted(problem, nodes)
        self.nodes = np.array(nodes, dtype=np.int64)
        self.kinds = inside.node_kinds
        self.table = inside.throughput_table()
        # One layer: prices are then those of every flow, not of the first that is impossible over all layers.
        self.instance: Instance = dataclasses.replace(instance_of(inside), num_layers=1)
        self._master = PriceMaster(self.instance, budget)
        self._budget = budget
        self._prices: dict[int, Prices] = {}

    def prices(self, step: int) -> Prices:
        """Return the prices of the flow STEP^step tokens/s."""
        if step not in self._prices:
            self._prices[step] = self._master.solve(max(int(STEP**step / self.instance.tokens_per_tick), 1))
        return self._prices[step]

    def ends(self, step: int, partners: int, width: float) -> _Ends | None:
        """Return at least `partners` nodes that hand over the flow, none more than `width`, those that waste least."""
        flow, price = STEP**step, self.prices(step).price
        passed = np.minimum(self.table, min(width, flow))
        usable = (passed > 0.0) & (self.instance.counts[:, None] > 0)
        covered = passed * np.arange(passed.shape[1]) / flow
        rate: FloatArray = np.where(usable, (price[:, None] - covered) / np.where(usable, passed, 1.0), np.inf)
        best = np.argmin(rate, axis=1)
        nodes: list[tuple[int, int]] = []
        lacking, wasted = flow, 0.0
        for kind in np.argsort(rate.min(axis=1), kind="stable").tolist():
            length = int(best[kind])
            if not usable[kind, length]:
                break
            share = float(passed[kind, length])
            number = max(math.ceil(lacking / share), partners - len(nodes))
            number = min(number, int(self.instance.counts[kind]))
            useful = min(number * share, lacking)
            nodes += [(kind, length)] * number
            wasted += number * float(price[kind]) - useful * length / flow
            lacking -= useful
            if lacking <= 0.0 and len(nodes) >= partners:
                return _Ends(tuple(nodes), wasted)
        return None

    def cover(self, step: int, layers: int, ends: _Ends, *, last: bool) -> tuple[Range, ...]:
        """Return ranges that cover some layers with the flow, the ends before the last or after the first boundary."""
        prices = self.prices(step)
        if max(length for _, length in ends.nodes) > layers:
            return ()
        given = [Range(kind, layers - length if last else 0, length) for kind, length in ends.nodes]
        instance = dataclasses.replace(self.instance, num_layers=layers)
        for beam, branch, window in BEAMS:
            options = Options(beam, window, branch, most_labels=MOST_LABELS)
            outcome = search_around(instance, prices, given, options, self._budget)
            if outcome.answer == "found" or self._budget.exhausted():
                return outcome.ranges
        return ()


class _Relay:
    """Two regions, the first of which holds the first layers.

    `alone` is what they pass alone together, tokens/s.
    """

    def __init__(self, problem: FlowProblem, first: _Side, second: _Side, alone: float, budget: Budget) -> None:
        self.first, self.second, self.alone = first, second, alone
        self._problem = problem
        self._layers = problem.num_layers
        self._budget = budget
        self._links = problem.link_tokens_per_s[np.ix_(first.nodes, second.nodes)]
        self._widths = [float(width) for width in np.quantile(self._links, QUANTILES)]
        self._lowest = math.ceil(math.log(max(alone, 1.0)) / math.log(STEP)) + 1
        self._top = self._highest_step()

    @property
    def promise(self) -> float:
        """What the relay is expected to gain, tokens/s; 0 where nothing."""
        return STEP**self._top - self.alone if self._top >= self._lowest else 0.0

    def search(self) -> tuple[NodeRange, ...]:
        """Return the best relay met, flows tried from high to low; empty where none is better than alone."""
        best: tuple[NodeRange, ...] = ()
        value = self.alone
        for step in range(self._top, self._lowest - 1, -1):
            for width in self._widths:
                placement = self._relay(step, width)
                found = evaluate(self._problem, placement)[0] if placement else 0.0
                if found > value:
                    best, value = placement, found
            if value >= NEAR * STEP**step or self._budget.exhausted():
                break
        return best

    def _relay(self, step: int, width: float) -> tuple[NodeRange, ...]:
        """Return a relay planned for a flow and a width of links; empty where beams find none."""
        handover = None if self._budget.exhausted() else self._handover(step, width)
        layers = None if handover is None else self._split(step, handover)
        if handover is None or layers is None:
            return ()
        parts = self._covered(step, layers, handover)
        return () if parts is None else self._placed(layers, handover, parts)

    def _highest_step(self) -> int:
        """Return the highest step whose prices promise enough layers, those that beams lack included."""
        low, high = self._lowest - 1, self._lowest + math.ceil(math.log(2.0) / math.log(STEP))
        while high - low > 1 and not self._budget.exhausted():
            middle = (low + high) // 2
            handover = self._handover(middle, self._widths[0])
            enough = handover is not None and sum(self._worth(middle, handover)) >= self._layers + LOST_LAYERS
            low, high = (middle, high) if enough else (low, middle)
        return low

    def _handover(self, step: int, width: float) -> tuple[_Ends, _Ends] | None:
        """Return the nodes of both sides that waste least, over links of a width."""
        best: tuple[_Ends, _Ends] | None = None
        for partners in range(1, MOST_PARTNERS + 1):
            one, other = (side.ends(step, partners, partners * width) for side in (self.first, self.second))
            if one and other and (best is None or one.waste + other.waste < best[0].waste + best[1].waste):
                best = one, other
        return best

    def _worth(self, step: int, handover: tuple[_Ends, _Ends]) -> tuple[float, float]:
        """Return how many layers prices promise either part."""
        one, other = handover
        return self.first.prices(step).worth - one.waste, self.second.prices(step).worth - other.waste

    def _split(self, step: int, handover: tuple[_Ends, _Ends]) -> int | None:
        """Return the layers of the first part that leave both most to waste; None where prices promise too few."""
        one, other = self._worth(step, handover)
        if not math.isfinite(one + other):  # the budget ended before any prices
            return None
        layers = round((one + self._layers - other) / 2.0)
        return layers if 0 < layers < one and self._layers - other < layers < self._layers else None

    def _covered(
        self, step: int, layers: int, handover: tuple[_Ends, _Ends]
    ) -> tuple[tuple[Range, ...], tuple[Range, ...]] | None:
        first = self.first.cover(step, layers, handover[0], last=True)
        second = self.second.cover(step, self._layers - layers, handover[1], last=False) if first else ()
        return (first, second) if second else None

    def _placed(
        self, layers: int, handover: tuple[_Ends, _Ends], parts: tuple[tuple[Range, ...], tuple[Range, ...]]
    ) -> tuple[NodeRange, ...]:
        """Give ranges to nodes: the handover to those with the widest links between them."""
        one, other = handover
        receivers = _widest(self.second.kinds, other, self._links.sum(axis=0))
        senders = _widest(self.first.kinds, one, self._links[:, receivers].sum(axis=1))
        receivers = _widest(self.second.kinds, other, self._links[senders].sum(axis=0))
        return (*_dealt_out(self.first, parts[0], senders, 0), *_dealt_out(self.second, parts[1], receivers, layers))


def _widest(kinds: IntArray, ends: _Ends, width: FloatArray) -> list[int]:
    """Return a node for each of the ends, those of a kind with the widest links."""
    ranked = np.argsort(-width, kind="stable").tolist()
    free = {kind: [node for node in ranked if kinds[node] == kind] for kind, _ in ends.nodes}
    return [free[kind].pop(0) for kind, _ in ends.nodes]


def _dealt_out(side: _Side, ranges: Sequence[Range], ends: Sequence[int], first: int) -> list[NodeRange]:
    """Give ranges to nodes of a side, the last ones to its ends, layers counted from `first`."""
    others = [node for node in range(len(side.nodes)) if node not in ends]
    free = {kind: [node for node in others if side.kinds[node] == kind] for kind in {item.kind for item in ranges}}
    inner = len(ranges) - len(ends)
    nodes = [free[item.kind].pop(0) for item in ranges[:inner]] + list(ends)
    return [
        NodeRange(int(side.nodes[node]), first + item.start, first + item.start + item.layers)
        for node, item in zip(nodes, ranges, strict=True)
    ]
