"""The value of a placement: a maximum flow from source to sink through its nodes and links.

Dinic's algorithm in plain Python on the few links that may carry flow: the first run waits for no compiler, and a
placement of 200 nodes takes milliseconds. Arcs narrower than `THIN` of the cluster's throughput count as full, which
bounds the error of the flow by (arcs · THIN) relative; annealing has a compiled twin (`anneal.py`), checked against it.

References
----------
E. A. Dinic, *Algorithm for solution of a problem of maximum flow in a network with power estimation* (1970).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from gpuplan.plans.flow_solution import SINK, SOURCE, FlowSolution, LinkFlow, NodeRange
from gpuplan.profiles.problems.flow import FlowProblem

#: Arcs with less room than this share of the total throughput are full.
THIN = 1e-14


@dataclass(frozen=True, slots=True)
class Flow:
    """A maximum flow: its value and the links it uses, tokens/s."""

    tokens_per_s: float
    links: tuple[LinkFlow, ...]


def maximum_flow(problem: FlowProblem, placement: Sequence[NodeRange], *, longest_path: int | None = None) -> Flow:
    """Return a maximum flow of a placement.

    With `longest_path` the flow grows only along paths of at most that many links between nodes; it may then be less
    than the maximum.

    Notes
    -----
    Every link with flow leads to a node that stops later, so the flow has no cycles.
    """
    network = _Network(problem, placement)
    network.saturate(None if longest_path is None else 2 * longest_path + 3)
    return network.flow()


class _Network:
    """Arcs in pairs (forward at an even index, back at the next): two vertices a node, the source and the sink."""

    def __init__(self, problem: FlowProblem, placement: Sequence[NodeRange]) -> None:
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
        self._connect(problem)

    def _connect(self, problem: FlowProblem) -> None:
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

    def saturate(self, longest: int | None) -> None:
        """Push blocking flows until the sink is out of reach (or farther than `longest` arcs)."""
        while True:
            level = self._levels()
            if level[self.sink] < 0 or (longest is not None and level[self.sink] > longest):
                return
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


def evaluate(problem: FlowProblem, placement: Sequence[NodeRange]) -> tuple[float, FlowSolution]:
    """Return the value of a placement and the solution with its flows; respects the limit on hops."""
    placement = tuple(sorted(placement, key=lambda item: item.node))
    flow = maximum_flow(problem, placement)
    if problem.max_hops is not None and depth(placement, flow.links) > problem.max_hops:
        flow = maximum_flow(problem, placement, longest_path=problem.max_hops)
        if depth(placement, flow.links) > problem.max_hops:
            flow = Flow(0.0, ())
    return flow.tokens_per_s, FlowSolution(placement, flow.links)


def depth(placement: Sequence[NodeRange], links: Sequence[LinkFlow]) -> int:
    """Return the links between nodes in the longest chain of links with flow."""
    stops = {item.node: item.stop for item in placement}
    longest = dict.fromkeys(stops, 0)
    # Stops rise along a chain, so links by their sender's stop come in topological order.
    inner = [link for link in links if link.sender != SOURCE and link.receiver != SINK]
    for link in sorted(inner, key=lambda link: stops[link.sender]):
        longest[link.receiver] = max(longest[link.receiver], longest[link.sender] + 1)
    return max(longest.values(), default=0)


def holders(problem: FlowProblem, placement: Sequence[NodeRange]) -> list[int]:
    """Return how many nodes hold each layer."""
    count = [0] * problem.num_layers
    for item in placement:
        for layer in range(item.start, item.stop):
            count[layer] += 1
    return count
