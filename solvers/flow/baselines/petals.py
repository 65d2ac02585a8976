"""`petals`: every node joins where the model is served worst.

Nodes come in random order (the seed's), each holds as many layers as it can, and starts where the sorted throughputs of
the layers it would hold are lexicographically least, the first such place (Borzunov et al., *Petals*, 2023, appendix D;
in its code `block_selection._choose_best_start`). Nodes do not move again afterwards.
"""

from __future__ import annotations

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import FlowProblem


def place(problem: FlowProblem, seed: int = 0) -> tuple[NodeRange, ...] | str:
    """Return the placement of the rule. O(n·L²·log L)."""
    table, most = problem.throughput_table(), problem.most_layers
    served = np.zeros(problem.num_layers)
    ranges = []
    for node in np.random.default_rng(seed).permutation(problem.num_nodes).tolist():
        kind = int(problem.node_kinds[node])
        layers = int(most[kind])
        if layers == 0:
            continue
        starts = range(problem.num_layers - layers + 1)
        start = min(starts, key=lambda at: (np.sort(served[at : at + layers]).tolist(), at))
        served[start : start + layers] += table[kind, layers]
        ranges.append(NodeRange(node, start, start + layers))
    if not served.all():
        return "the nodes together do not hold all layers by this rule"
    return tuple(ranges)
