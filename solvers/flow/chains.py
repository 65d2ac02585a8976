"""One chain of nodes from source to sink: the least placement that passes tokens, or the proof that none does.

Whatever flows does so along chains, so where no chain of at most `max_hops` hops holds all layers nothing flows. Depth
first, each node stops as late as it can; nodes that cannot reach the sink in the hops left are passed over, by the most
layers that any walk of as many nodes holds, nodes met twice included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import FlowProblem, IntArray

#: Ranges looked at before the search gives up; chains of thousands of nodes took less.
MOST_VISITS = 20_000


def short_chain(problem: FlowProblem) -> list[NodeRange] | None:
    """Return a chain of at most `max_hops` hops with links and throughputs above 0.

    Returns
    -------
    list of NodeRange or None
        Empty where there is none, None where the search gave up.
    """
    return _Chains(problem).search()


def dealt_out(problem: FlowProblem, chain: Sequence[NodeRange]) -> list[NodeRange]:
    """Return a chain with the other nodes dealt out to its stages, each to the weakest that it can hold.

    Stages reach from stop to stop of the chain, so no chain has more hops than this one.
    """
    stops = [item.stop for item in chain]
    stages = list(zip([0, *stops], stops, strict=False))
    table = problem.throughput_table()
    passed = [float(table[problem.node_kinds[item.node], item.stop - item.start]) for item in chain]
    placement = list(chain)
    taken = {item.node for item in chain}
    for node in range(problem.num_nodes):
        own = table[problem.node_kinds[node]]
        fitting = [at for at, (start, stop) in enumerate(stages) if stop - start < len(own) and own[stop - start] > 0.0]
        if node not in taken and fitting:
            at = min(fitting, key=lambda at: passed[at])
            passed[at] += float(own[stages[at][1] - stages[at][0]])
            placement.append(NodeRange(node, *stages[at]))
    return placement


class _Chains:
    def __init__(self, problem: FlowProblem) -> None:
        self.problem = problem
        self.num_layers = problem.num_layers
        self.table = problem.throughput_table()[:, : problem.num_layers + 1]
        self.linked = problem.link_tokens_per_s > 0.0
        hops = problem.num_nodes - 1
        self.hops = hops if problem.max_hops is None else min(problem.max_hops, hops)
        most = np.where(self.table > 0.0, np.arange(self.table.shape[1]), 0).max(axis=1)[problem.node_kinds]
        self.ahead = self._ahead(most)
        self.visits = 0

    def search(self) -> list[NodeRange] | None:
        """Return the first chain met."""
        chain: list[NodeRange] = []
        tried = [self._next(chain)]
        while tried:
            item = next(tried[-1], None)
            self.visits += 1
            if self.visits > MOST_VISITS:
                return None
            if item is None:
                tried.pop()
                chain = chain[:-1]
                continue
            chain = [*chain, item]
            if item.stop == self.num_layers:
                return chain
            tried.append(self._next(chain))
        return []

    def _next(self, chain: list[NodeRange]) -> Iterator[NodeRange]:
        """Yield the ranges that may follow a chain, the widest links first, of each node the latest stop first."""
        problem, first = self.problem, chain[-1].stop if chain else 0
        links = problem.link_tokens_per_s[chain[-1].node] if chain else problem.source_tokens_per_s
        hops_left = self.hops - len(chain)
        if hops_left < 0:
            return
        ahead = self.ahead[min(hops_left, len(self.ahead) - 1)]
        taken = [item.node for item in chain]
        for node in np.argsort(-links, kind="stable").tolist():
            if links[node] <= 0.0:
                return
            if node in taken:
                continue
            lengths = np.flatnonzero(self.table[problem.node_kinds[node]] > 0.0)
            last = self.num_layers - (problem.sink_tokens_per_s[node] <= 0.0)
            for stop in range(min(first + int(lengths.max(initial=0)), last), first, -1):
                if self.num_layers - stop > ahead[node]:
                    break
                fitting = lengths[(lengths >= stop - first) & (lengths <= stop)]
                if len(fitting):
                    yield NodeRange(node, stop - int(fitting[0]), stop)

    def _ahead(self, most: IntArray) -> list[IntArray]:
        """Return, by hops left, the most layers (no more than L) that nodes after each one hold, the last at the sink.

        −1 where the sink is out of reach.
        """
        ahead: IntArray = np.where(self.problem.sink_tokens_per_s > 0.0, 0, -1).astype(np.int64)
        found = [ahead]
        for _ in range(self.hops):
            then = np.where((ahead >= 0) & (most > 0), np.minimum(ahead + most, self.num_layers), -1)
            ahead = np.maximum(ahead, np.where(self.linked, then, -1).max(axis=1, initial=-1))
            if (ahead == found[-1]).all():
                break
            found.append(ahead)
        return found
