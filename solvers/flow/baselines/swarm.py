"""`swarm`: equal stages that the smallest node can hold, nodes dealt out to the weakest stage.

As few stages of equally many layers as the smallest node can hold; then, the fastest first, every node joins the stage
whose nodes pass least (Ryabinin et al., *SWARM parallelism*, 2023, as restated for serving by Mei et al., *Helix*,
ASPLOS 2025). Stages are equal only where their number divides the layers, so it is a divisor.
"""

from __future__ import annotations

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import FlowProblem


def place(problem: FlowProblem, seed: int = 0) -> tuple[NodeRange, ...] | str:
    """Return the placement of the rule. O(n·L)."""
    del seed  # no chance in it
    most = problem.most_layers[problem.node_kinds]
    nodes = np.flatnonzero(most > 0)
    if not len(nodes):
        return "no node can hold a layer"
    layers = max(size for size in range(1, int(most[nodes].min()) + 1) if problem.num_layers % size == 0)
    passes = problem.throughput_table()[problem.node_kinds, layers]
    stages = np.zeros(problem.num_layers // layers)
    if len(nodes) < len(stages):
        return f"{len(stages)} stages of {layers} layers (the smallest node's size) need more than {len(nodes)} nodes"
    ranges = []
    for node in sorted(nodes.tolist(), key=lambda node: (-passes[node], node)):
        stage = int(np.argmin(stages))
        stages[stage] += passes[node]
        ranges.append(NodeRange(node, stage * layers, (stage + 1) * layers))
    return tuple(ranges)
