"""The value of a placement: a maximum flow from source to sink through its nodes and links.

Dinic's algorithm in plain Python on the few links that may carry flow: the first run waits for no compiler, and a
placement of 200 nodes takes milliseconds. Arcs narrower than `THIN` of the cluster's throughput count as full, which
bounds the error of the flow by (arcs · THIN) relative; annealing has a compiled twin (`anneal.py`), checked against it.

References
----------
E. A. Dinic, *Algorithm for solution of a problem of maximum flow in a network with power estimation* (1970).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from gpuplan.plans.flow_solution import SINK, SOURCE, FlowSolution, LinkFlow, NodeRange
from gpuplan.profiles.problems.flow import FlowProblem

#: Arcs with less room than this share of the total throughput are full.
THIN = 1e-14
#: Maximum flows tried of a placement whose chains are to be short: on 40 clusters of 9 to 19 nodes 200 found no more.
MOST_FLOWS = 20

#: Sender and receiver of a link.
Ends = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Flow:
    """A maximum flow: its value and the links it uses, tokens/s."""

    tokens_per_s: float
    links: tuple[LinkFlow, ...]


def maximum_flow(problem: FlowProblem, placement: Sequence[NodeRange], without: Container[Ends] = ()) -> Flow:
    """Return a maximum flow of a placement, some links between nodes left out.

    Notes
    -----
    Every link with flow leads to a node that stops later, so the flow has no cycles.
    """
    network = _Network(problem, placement, without)
    network.saturate()
    return network.flow()


class _Network:
    """Arcs in pairs (forward at an even index, back at the next): two vertices a node, the source and the sink."""

    def __init__(self, problem: FlowProblem, placement: Sequence[NodeRange], without: Container[Ends]) -> None:
        self.placement = placement
        size = len(placement)
        self.source, self.sink = 2 * size, 2 * size + 1
        self.heads: list[int] = []
        self.room: list[float] = []
        self.arcs: list[list[int]] = [[] for _ in range(2 * size + 2)]
        self.links: list[tuple[int, int, int]] = []
        throughput = problem.throughput_tokens_per_s
        total = 0.0
        for at, item in enumerate(placement):
            most = float(throughput[int(problem.node_kinds[item.node])][item.stop - item.start - 1])
            total += most
            self._arc(2 * at, 2 * at + 1, most)
        self.thin = THIN * total
        self._connect(problem, without)

    def _connect(self, problem: FlowProblem, without: Container[Ends]) -> None:
        by_layer: list[list[int]] = [[] for _ in range(problem.num_layers)]
        for at, item in enumerate(self.placement):
            for layer in range(item.start, item.stop):
                by_layer[layer].append(at)
        for at, item in enumerate(self.placement):
            if item.start == 0:
                self._link(SOURCE, item.node, self.source, 2 * at, float(problem.source_tokens_per_s[item.node]))
            if item.stop == problem.num_layers:
                self._link(item.node, SINK, 2 * at + 1, self.sink, float(problem.sink_tokens_per_s[item.node]))
                continue
            capacity = problem.link_tokens_per_s[item.node]
            for other in by_layer[item.stop]:
                node = self.placement[other].node
                if (item.node, node) not in without:
                    self._link(item.node, node, 2 * at + 1, 2 * other, float(capacity[node]))

    def _link(self, sender: int, receiver: int, tail: int, head: int, capacity: float) -> None:
        if capacity > 0.0:
            self.links.append((sender, receiver, self._arc(tail, head, capacity)))

    def _arc(self, tail: int, head: int, capacity: float) -> int:
        index = len(self.heads)
        self.heads += [head, tail]
        self.room += [capacity, 0.0]
        self.arcs[tail].append(index)
        self.arcs[head].append(index + 1)
        return index

    def saturate(self) -> None:
        """Push blocking flows until the sink is out of reach."""
        while (level := self._levels())[self.sink] >= 0:
            self._block(level)

    def _levels(self) -> list[int]:
        level = [-1] * len(self.arcs)
        level[self.source] = 0
        queue = deque([self.source])
        while queue:
            vertex = queue.popleft()
            for arc in self.arcs[vertex]:
                head = self.heads[arc]
                if level[head] < 0 and self.room[arc] > self.thin:
                    level[head] = level[vertex] + 1
                    queue.append(head)
        return level

    def _block(self, level: list[int]) -> None:
        cursor = [0] * len(self.arcs)
        path: list[int] = []
        vertex = self.source
        while True:
            if vertex == self.sink:
                self._push(path)
                path, vertex = [], self.source
                continue
            arc = self._next(vertex, level, cursor)
            if arc is not None:
                path.append(arc)
                vertex = self.heads[arc]
            elif not path:
                return
            else:
                vertex = self.heads[path.pop() ^ 1]
                cursor[vertex] += 1

    def _next(self, vertex: int, level: list[int], cursor: list[int]) -> int | None:
        arcs = self.arcs[vertex]
        while cursor[vertex] < len(arcs):
            arc = arcs[cursor[vertex]]
            if self.room[arc] > self.thin and level[self.heads[arc]] == level[vertex] + 1:
                return arc
            cursor[vertex] += 1
        return None

    def _push(self, path: list[int]) -> None:
        width = min(self.room[arc] for arc in path)
        for arc in path:
            self.room[arc] -= width
            self.room[arc ^ 1] += width

    def flow(self) -> Flow:
        """Return the flow pushed so far."""
        carried = [(sender, receiver, self.room[arc + 1]) for sender, receiver, arc in self.links]
        links = tuple(LinkFlow(*link) for link in carried if link[2] > self.thin)
        return Flow(sum(link.tokens_per_s for link in links if link.sender == SOURCE), links)


def short_flow(
    problem: FlowProblem, placement: Sequence[NodeRange], more: Callable[[], bool], above: float = 0.0
) -> Flow | None:
    """Return the most that flows with chains of at most `max_hops` hops; None where that is no more than `above`.

    A maximum flow may have longer chains. Of as many links of such a chain as are one too many, one must carry nothing:
    branch and bound leaves out each in turn, the one with least flow first, and keeps those left out before.

    Parameters
    ----------
    more
        Asked before every maximum flow; the search ends with the best so far where it says no.
    """
    assert problem.max_hops is not None
    best: Flow | None = None
    nothing: frozenset[Ends] = frozenset()
    branches = [(nothing, nothing)]
    while branches and more():
        without, kept = branches.pop()
        flow = maximum_flow(problem, placement, without)
        if flow.tokens_per_s <= above:
            continue
        chain = _too_long(placement, flow.links, problem.max_hops)
        if not chain:
            best, above = flow, flow.tokens_per_s
        children = []
        for link in sorted(chain, key=lambda link: (link.tokens_per_s, link.sender, link.receiver)):
            ends = link.sender, link.receiver
            if ends not in kept:
                children.append((without | {ends}, kept))
                kept |= {ends}
        branches += reversed(children)
    return best


def _too_long(placement: Sequence[NodeRange], links: Sequence[LinkFlow], hops: int) -> list[LinkFlow]:
    """Return the first links of a chain of links with flow, one more than allowed; empty where none is as long."""
    chains: dict[int, list[LinkFlow]] = {item.node: [] for item in placement}
    for link in _inner(placement, links):
        if len(chains[link.sender]) >= len(chains[link.receiver]):
            chains[link.receiver] = [*chains[link.sender], link]
            if len(chains[link.receiver]) > hops:
                return chains[link.receiver]
    return []


def evaluate(
    problem: FlowProblem,
    placement: Sequence[NodeRange],
    more: Callable[[], bool] | None = None,
    above: float = 0.0,
) -> tuple[float, FlowSolution]:
    """Return the value of a placement and the solution with its flows.

    A limit on hops is kept to by `short_flow`, with `some_flows` where `more` is not given.
    """
    placement = tuple(sorted(placement, key=lambda item: item.node))
    if problem.max_hops is None:
        flow = maximum_flow(problem, placement)
    else:
        flow = short_flow(problem, placement, more or some_flows(), above) or Flow(0.0, ())
    return flow.tokens_per_s, FlowSolution(placement, flow.links)


def some_flows(over: Callable[[], bool] = lambda: False) -> Callable[[], bool]:
    """Return what lets `short_flow` try a first maximum flow, and `MOST_FLOWS` while it is not `over`."""
    tried = itertools.count()
    return lambda: (number := next(tried)) == 0 or (number < MOST_FLOWS and not over())


def depth(placement: Sequence[NodeRange], links: Sequence[LinkFlow]) -> int:
    """Return the links between nodes in the longest chain of links with flow."""
    longest = dict.fromkeys((item.node for item in placement), 0)
    for link in _inner(placement, links):
        longest[link.receiver] = max(longest[link.receiver], longest[link.sender] + 1)
    return max(longest.values(), default=0)


def _inner(placement: Sequence[NodeRange], links: Sequence[LinkFlow]) -> list[LinkFlow]:
    """Return the links between nodes in topological order: stops rise along a chain."""
    stops = {item.node: item.stop for item in placement}
    inner = [link for link in links if link.sender != SOURCE and link.receiver != SINK]
    return sorted(inner, key=lambda link: stops[link.sender])


def holders(problem: FlowProblem, placement: Sequence[NodeRange]) -> list[int]:
    """Return how many nodes hold each layer."""
    count = [0] * problem.num_layers
    for item in placement:
        for layer in range(item.start, item.stop):
            count[layer] += 1
    return count
