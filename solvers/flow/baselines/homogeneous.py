"""`homogeneous`: full nodes in pipelines, one kind after the other.

Kinds by falling k·T(k) at the most layers k they hold, the nodes of each in random order (the seed's), fill one
pipeline after the other, every node with as many layers as it can hold; the last pipeline, if incomplete, is dropped.
The homogeneous layout of the code of Mei et al., *Helix*, ASPLOS 2025 (in the manner of Orca's).
"""

from __future__ import annotations

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import FlowProblem


def place(problem: FlowProblem, seed: int = 0) -> tuple[NodeRange, ...] | str:
    """Return the placement of the rule. O(n·log n)."""
    table, most = problem.throughput_table(), problem.most_layers
    work = table[np.arange(problem.num_kinds), most] * most
    rng = np.random.default_rng(seed)
    order = [node for kind in np.argsort(-work, kind="stable") for node in _shuffled(problem, int(kind), rng)]
    done: list[NodeRange] = []
    pipeline: list[NodeRange] = []
    for node in order:
        start = pipeline[-1].stop if pipeline else 0
        layers = int(most[problem.node_kinds[node]])
        if layers == 0:
            continue
        pipeline.append(NodeRange(node, start, min(start + layers, problem.num_layers)))
        if pipeline[-1].stop == problem.num_layers:
            done += pipeline
            pipeline = []
    return tuple(done) or "the nodes together do not hold all layers"


def _shuffled(problem: FlowProblem, kind: int, rng: np.random.Generator) -> list[int]:
    nodes: list[int] = rng.permutation(np.flatnonzero(problem.node_kinds == kind)).tolist()
    return nodes
