"""The oracle of the flow tests: all placements, NetworkX for their flow, nothing of the solvers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import networkx as nx
import numpy as np

from gpuplan.profiles.problems.flow import FlowProblem

Placement = Sequence[tuple[int, int] | None]


def random_problem(
    rng: np.random.Generator, *, nodes: int = 4, layers: int = 5, kinds: int = 2, bind: bool = False
) -> FlowProblem:
    """Return a small problem; T need not fall with the number of layers. With `bind`, links are slow or missing."""
    most = rng.integers(1, 4, kinds)
    table = tuple(rng.uniform(40, 300) / np.arange(1, m + 1) * rng.uniform(0.5, 1.3, m) for m in most)
    links = (
        rng.uniform(5, 200, (nodes, nodes)) * (rng.random((nodes, nodes)) < 0.8)
        if bind
        else np.full((nodes, nodes), 1e6)
    )
    ends = rng.uniform(30, 400, (2, nodes)) if bind else np.full((2, nodes), 1e6)
    np.fill_diagonal(links, 0.0)
    return FlowProblem(
        num_layers=layers,
        kind_names=tuple(f"kind{k}" for k in range(kinds)),
        throughput_tokens_per_s=table,
        node_names=tuple(f"node{i}" for i in range(nodes)),
        node_kinds=rng.integers(0, kinds, nodes).astype(np.int64),
        link_tokens_per_s=links,
        source_tokens_per_s=ends[0],
        sink_tokens_per_s=ends[1],
    )


def random_problems(count: int, *, bind: bool = False, nodes: tuple[int, int] = (2, 4)) -> Iterator[FlowProblem]:
    """Yield problems of the seeds from 0 on."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        yield random_problem(
            rng,
            nodes=int(rng.integers(nodes[0], nodes[1] + 1)),
            layers=int(rng.integers(3, 7)),
            kinds=int(rng.integers(1, 4)),
            bind=bind,
        )


def options(problem: FlowProblem, node: int) -> list[tuple[int, int] | None]:
    """Return the ranges a node can hold, and None for nothing."""
    most = min(len(problem.throughput_tokens_per_s[problem.node_kinds[node]]), problem.num_layers)
    spans = [(a, a + k) for k in range(1, most + 1) for a in range(problem.num_layers - k + 1)]
    return [None, *spans]


def coverage(problem: FlowProblem, placement: Placement) -> np.ndarray:
    """Return the summed T of the nodes over each layer."""
    covered = np.zeros(problem.num_layers)
    for node, span in enumerate(placement):
        if span is not None:
            covered[span[0] : span[1]] += problem.throughput_tokens_per_s[problem.node_kinds[node]][
                span[1] - span[0] - 1
            ]
    return covered


def nx_flow(problem: FlowProblem, placement: Placement) -> float:
    """Return the maximum flow of a placement, by NetworkX."""
    graph = nx.DiGraph()
    graph.add_nodes_from(["s", "t"])
    held = {i: span for i, span in enumerate(placement) if span is not None}
    for i, (start, stop) in held.items():
        most = float(problem.throughput_tokens_per_s[problem.node_kinds[i]][stop - start - 1])
        graph.add_edge((i, "in"), (i, "out"), capacity=most)
        if start == 0:
            graph.add_edge("s", (i, "in"), capacity=float(problem.source_tokens_per_s[i]))
        if stop == problem.num_layers:
            graph.add_edge((i, "out"), "t", capacity=float(problem.sink_tokens_per_s[i]))
        for j, (other_start, other_stop) in held.items():
            if other_start <= stop < other_stop:
                graph.add_edge((i, "out"), (j, "in"), capacity=float(problem.link_tokens_per_s[i, j]))
    value: float = nx.maximum_flow_value(graph, "s", "t", flow_func=nx.algorithms.flow.edmonds_karp)
    return value


def by_coverage(problem: FlowProblem, most_single: int | None = None) -> Iterator[tuple[float, Placement]]:
    """Yield every placement by the least coverage of a layer, falling, while that is above 0.

    With `most_single` those that leave no more layers to one node.
    """
    nodes = range(problem.num_nodes)
    choices = [options(problem, node) for node in nodes]
    alone = [
        [coverage(problem, [choice if other == node else None for other in nodes]) for choice in own]
        for node, own in enumerate(choices)
    ]
    least = _every_sum(alone).min(axis=-1)
    if most_single is not None:
        holders = _every_sum([[row > 0.0 for row in own] for own in alone])
        least[(holders == 1).sum(axis=-1) > most_single] = 0.0
    for place in np.argsort(-least, axis=None, kind="stable"):
        at = np.unravel_index(place, least.shape)
        if least[at] <= 0.0:
            return
        yield float(least[at]), [own[k] for own, k in zip(choices, at, strict=True)]


def optimum(problem: FlowProblem, *, most_single: int | None = None) -> float:
    """Return the best flow of any placement; by `most_single`, of those that leave no more layers to one node.

    No flow exceeds the least coverage of a layer, so placements by falling coverage need a flow only until the best
    flow reaches it.
    """
    best = 0.0
    for least, placement in by_coverage(problem, most_single):
        if least <= best:
            break
        best = max(best, nx_flow(problem, placement))
    return best


def _every_sum(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Return the sums of one row of each node, for every choice of rows: one axis a node, the last by layer."""
    total = np.zeros(len(rows[0][0]))
    for own in rows:
        total = total[..., None, :] + np.array(own, dtype=np.float64)
    return total
