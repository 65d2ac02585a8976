"""Upper bounds that know of slow links: what a node can pass on, and what can leave its region.

*Nodes.* Tokens leave node i to the sink if it holds the last layer, else on its links to other nodes, never on both; so
it passes at most out_i = max(sink_i, Σ_j link_ij). They come from the source or other nodes, and a node that holds the
first layer may take both: at most in_i = source_i + Σ_j link_ji. Capping T at min(in_i, out_i) changes no flow of any
placement, and makes every link-free bound aware of narrow nodes.

*Regions.* Let the nodes be parted into V_1 … V_m. A maximum flow is a sum of flows along paths. Those that stay in one
part V_r are a flow of the placement restricted to V_r, at most B_r, any upper bound for V_r alone. Every other path
uses a link between parts; a node sends at most min(T_i, Σ links to other parts), a node receives likewise, so these
paths carry at most C = min(Σ_i min(T_i, Σ_j link_ij), Σ_j min(T_j, Σ_i link_ij)), sums over links between parts. Hence

    F ≤ Σ_r B_r + C    for every partition.

It bites where regions are joined by little; where each pair of nodes has a link of its own, C is large and the
link-free bound is the better one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, FlowProblem

#: Caps are rounded up to powers of this, so that nodes of much the same links stay one kind.
GRID = 1.01


def tightened(problem: FlowProblem) -> FlowProblem:
    """Return the problem with T capped by the links of the nodes; kinds are split where caps differ.

    Every placement has the same maximum flow in both. The problem itself where no cap is below a T.
    """
    most = problem.throughput_table().max(axis=1)[problem.node_kinds]
    caps = np.minimum(
        np.maximum(problem.sink_tokens_per_s, problem.link_tokens_per_s.sum(axis=1)),
        problem.source_tokens_per_s + problem.link_tokens_per_s.sum(axis=0),
    )
    if not (caps < most).any():
        return problem
    numbers: dict[tuple[int, float], int] = {}
    kinds = []
    for kind, cap, peak in zip(problem.node_kinds.tolist(), caps.tolist(), most.tolist(), strict=True):
        limit = math.inf if cap >= peak else _rounded_up(cap)
        kinds.append(numbers.setdefault((kind, limit), len(numbers)))
    return dataclasses.replace(
        problem,
        kind_names=tuple(f"{problem.kind_names[kind]}≤{limit:g}" for kind, limit in numbers),
        throughput_tokens_per_s=tuple(
            np.minimum(problem.throughput_tokens_per_s[kind], limit) for kind, limit in numbers
        ),
        node_kinds=np.array(kinds, dtype=np.int64),
    )


def _rounded_up(cap: float) -> float:
    return 0.0 if cap <= 0.0 else float(GRID ** math.ceil(math.log(cap) / math.log(GRID) - 1e-9)) * (1.0 + 1e-9)


def crossing_capacity(problem: FlowProblem, parts: Sequence[Sequence[int]]) -> float:
    """Return C: the most tokens/s that paths through more than one part can carry."""
    part = np.full(problem.num_nodes, -1, dtype=np.int64)
    for at, nodes in enumerate(parts):
        part[list(nodes)] = at
    between: FloatArray = np.where(part[:, None] != part[None, :], problem.link_tokens_per_s, 0.0)
    most = problem.throughput_table().max(axis=1)[problem.node_kinds]
    sent = float(np.minimum(most, between.sum(axis=1)).sum())
    received = float(np.minimum(most, between.sum(axis=0)).sum())
    return min(sent, received) * (1.0 + 1e-12)
