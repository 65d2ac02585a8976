"""Annealing of real nodes on real links, compiled: for clusters whose links bind.

A state is a start and a length for every node (length 0: unused). A move changes one node's range, swaps two ranges or
shifts a common boundary. Its energy

    E = max(0, F − flow) + cover_weight·Σ_l max(0, F − coverage_l)

pulls towards a target flow F; the second term leads through states that pass nothing yet, and since no flow exceeds the
least coverage, most bad moves are refused before their flow is computed. The target rises when it is reached.

Every function here is plain NumPy code that numba compiles on first use (and caches); `maxflow.py` is its slow twin,
and tests hold the two together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, FlowProblem, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """A problem as the kernels read it: T by kind and length, most layers, kinds, link capacities."""

    num_layers: int
    table: FloatArray
    most: IntArray
    kinds: IntArray
    links: FloatArray
    source: FloatArray
    sink: FloatArray


def arrays_of(problem: FlowProblem) -> Arrays:
    """Return the arrays of a problem, contiguous."""
    return Arrays(
        problem.num_layers,
        np.ascontiguousarray(problem.throughput_table()),
        problem.most_layers,
        np.ascontiguousarray(problem.node_kinds, dtype=np.int64),
        np.ascontiguousarray(problem.link_tokens_per_s),
        np.ascontiguousarray(problem.source_tokens_per_s),
        np.ascontiguousarray(problem.sink_tokens_per_s),
    )


@dataclass(frozen=True, slots=True)
class Schedule:
    """Moves of a run, its first and last temperature (shares of the target), and the chance of swaps within a kind."""

    moves: int
    hot: float
    cold: float
    swaps: float = 0.3


def anneal(
    arrays: Arrays, start: IntArray, length: IntArray, target: float, schedule: Schedule, seed: int
) -> tuple[float, IntArray, IntArray]:
    """Return the best flow met (tokens/s) with its starts and lengths."""
    kernel = _kernels()["anneal"]
    value, starts, lengths = kernel(
        arrays.num_layers,
        arrays.table,
        arrays.most,
        arrays.kinds,
        arrays.links,
        arrays.source,
        arrays.sink,
        start.astype(np.int64),
        length.astype(np.int64),
        float(target),
        int(schedule.moves),
        float(schedule.hot),
        float(schedule.cold),
        float(schedule.swaps),
        int(seed),
    )
    return float(value), starts, lengths


def compiled_flow(arrays: Arrays, start: IntArray, length: IntArray) -> float:
    """Return the maximum flow of starts and lengths (0: unused), tokens/s."""
    value = _kernels()["flow"](
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


@functools.cache
def _kernels() -> dict[str, Callable[..., Any]]:
    from gpuplan.solvers.flow import anneal_kernels

    return {"anneal": anneal_kernels.anneal, "flow": anneal_kernels.flow}
