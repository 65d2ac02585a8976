"""Annealing of real nodes on real links, compiled: for clusters whose links bind.

A state is a start and a length for every node (length 0: unused). A move changes one node's range, swaps two ranges or
shifts a common boundary. Its energy

    E = max(0, F − flow) + cover_weight·Σ_x max(0, F − cut_x)

pulls towards a target flow F. cut_x is the cheapest cut by regions that ends at layer x (see `cheapest_cuts` in the
kernels): coverage, and what the links between regions let over. The second term leads through states that pass nothing
yet, and since no flow exceeds a cut, most bad moves are refused before their flow is computed.
The target rises when it is reached. A *rough* run takes the least cut for the flow: for many nodes far faster.

The kernels are plain loops that numba compiles once after installation; `compiling.py` has another process do that, so
that a search never waits for the compiler beyond its limits. `maxflow.py` is their slow twin; tests hold the two
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, FlowProblem, IntArray

#: Regions told apart in cuts; smaller ones beyond count as one, as if joined by wide links.
MOST_REGIONS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """A problem as the kernels read it.

    T by kind and length, most layers, kinds, regions of nodes and their number, link capacities.
    """

    num_layers: int
    table: FloatArray
    most: IntArray
    kinds: IntArray
    region: IntArray
    links: FloatArray
    source: FloatArray
    sink: FloatArray
    num_regions: int


def arrays_of(problem: FlowProblem, regions: Sequence[Sequence[int]] | None = None) -> Arrays:
    """Return the arrays of a problem, contiguous; nodes without regions are one region."""
    region = np.zeros(problem.num_nodes, dtype=np.int64)
    ranked = sorted(regions or [], key=lambda nodes: (-len(nodes), nodes))
    for at, nodes in enumerate(ranked):
        region[list(nodes)] = min(at, MOST_REGIONS - 1)
    return Arrays(
        problem.num_layers,
        np.ascontiguousarray(problem.throughput_table()),
        problem.most_layers,
        np.ascontiguousarray(problem.node_kinds, dtype=np.int64),
        region,
        np.ascontiguousarray(problem.link_tokens_per_s),
        np.ascontiguousarray(problem.source_tokens_per_s),
        np.ascontiguousarray(problem.sink_tokens_per_s),
        int(region.max(initial=0)) + 1,
    )


@dataclass(frozen=True, slots=True)
class Schedule:
    """Moves of a run, first and last temperature (shares of the target), chance of swaps, least cut for flow."""

    moves: int
    hot: float
    cold: float
    swaps: float = 0.3
    rough: bool = False


def anneal(arrays: Arrays, start: IntArray, length: IntArray, target: float, schedule: Schedule, seed: int) -> Annealed:
    """Return the best flow met (tokens/s) with its starts and lengths, and the last state."""
    from gpuplan.solvers.flow import anneal_kernels

    values = arguments(arrays, start, length, target, schedule, seed)
    value = anneal_kernels.anneal(*values)
    states: Any = values[STATES]
    return Annealed(float(value), states[2], states[3], states[0], states[1])


#: Where `arguments` has start, length, best start and best length, which the kernel changes.
STATES = slice(9, 13)


def arguments(
    arrays: Arrays, start: IntArray, length: IntArray, target: float, schedule: Schedule, seed: int
) -> tuple[object, ...]:
    """Return the arguments of the kernel, in types that are always the same: others would be compiled anew."""
    return (
        arrays.table,
        arrays.most,
        arrays.kinds,
        arrays.region,
        arrays.links,
        arrays.source,
        arrays.sink,
        np.zeros((arrays.num_layers, arrays.num_regions)),
        np.zeros((arrays.num_layers + 1, 2**arrays.num_regions)),
        *(np.array(state, dtype=np.int64) for state in (start, length, start, length)),
        float(target),
        int(schedule.moves),
        float(schedule.hot),
        float(schedule.cold),
        float(schedule.swaps),
        bool(schedule.rough),
        int(seed),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Annealed:
    """What a run gave: the best flow with its placement, and where it ended."""

    value: float
    best_start: IntArray
    best_length: IntArray
    start: IntArray
    length: IntArray


def compiled_flow(arrays: Arrays, start: IntArray, length: IntArray) -> float:
    """Return the maximum flow of starts and lengths (0: unused), tokens/s."""
    from gpuplan.solvers.flow import flow_kernels

    value = flow_kernels.flow(
        arrays.num_layers,
        arrays.table,
        arrays.kinds,
        arrays.links,
        arrays.source,
        arrays.sink,
        start.astype(np.int64),
        length.astype(np.int64),
    )
    return float(value)
