"""`separate-pipelines`: every kind of node serves on its own.

As many pipelines of one kind as its nodes can hold; each pipeline of the kind gets as many nodes as the others (one
more for the first ones where they do not divide), and its layers are split evenly over them. Kinds that cannot hold the
model stay unused. The baseline of the same name of Mei et al., *Helix*, ASPLOS 2025, where it is made by hand.
"""

from __future__ import annotations

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import FlowProblem


def place(problem: FlowProblem, seed: int = 0) -> tuple[NodeRange, ...] | str:
    """Return the placement of the rule. O(n)."""
    del seed  # no chance in it
    ranges: list[NodeRange] = []
    for kind, most in enumerate(problem.most_layers.tolist()):
        nodes = np.flatnonzero(problem.node_kinds == kind).tolist()
        pipelines = len(nodes) // -(-problem.num_layers // most) if most else 0
        for p in range(pipelines):
            ranges += split_evenly(nodes[p::pipelines], problem.num_layers)
    return tuple(ranges) or "the nodes of no kind hold all layers alone"


def split_evenly(nodes: list[int], num_layers: int) -> list[NodeRange]:
    """Return a pipeline over nodes in order, layers split evenly, the first ones one more; at most a layer a node."""
    nodes = nodes[:num_layers]
    share, more = divmod(num_layers, len(nodes))
    ends = np.cumsum([0, *(share + (i < more) for i in range(len(nodes)))]).tolist()
    return [NodeRange(node, ends[i], ends[i + 1]) for i, node in enumerate(nodes)]
