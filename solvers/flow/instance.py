"""A flow problem as the searches read it: throughputs in whole ticks, nodes as counts a kind.

Sums of ticks are exact, so no search needs a tolerance and equal states compare equal. A tick is the largest power of
two of which all nodes together pass at most 2⁶⁰: rounding moves a sum by less than n·2⁻⁶¹ of the cluster's total.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, FlowProblem, IntArray

#: Bits of the largest sum of ticks.
BITS = 60
#: Ticks that no sum reaches: larger targets are as impossible.
BEYOND = 2**61


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """Throughputs in ticks and nodes by kind.

    Parameters
    ----------
    num_layers
        L.
    ticks
        T by kind and number of layers, shape (K, longest+1), 0 where a kind cannot hold as many.
    counts
        Nodes of each kind, shape (K,).
    tokens_per_tick
        Tokens/s a tick stands for.
    """

    num_layers: int
    ticks: IntArray
    counts: IntArray
    tokens_per_tick: float

    @property
    def longest(self) -> int:
        """Most layers any node can hold."""
        return int(self.ticks.shape[1]) - 1

    @property
    def num_kinds(self) -> int:
        """Number of kinds K."""
        return len(self.counts)

    def aggregate_bound(self) -> int:
        """Return ⌊Σ over nodes of max k·T(k) / L⌋, ticks: no placement passes more, links or not."""
        work = (self.ticks * np.arange(self.ticks.shape[1])).max(axis=1, initial=0)
        return sum(int(w) * int(c) for w, c in zip(work, self.counts, strict=True)) // self.num_layers

    def tokens(self, ticks: int) -> float:
        """Return ticks as tokens/s."""
        return float(ticks) * self.tokens_per_tick

    def bound_tokens(self, ticks: int) -> float:
        """Return tokens/s that no placement exceeds when none passes more than `ticks`: rounding comes on top."""
        return self.tokens(ticks) + 0.5 * float(self.counts.sum()) * self.tokens_per_tick


def instance_of(problem: FlowProblem) -> Instance:
    """Return the instance of a problem; kinds with equal throughputs stay apart."""
    table = problem.throughput_table()
    counts = np.bincount(problem.node_kinds, minlength=problem.num_kinds).astype(np.int64)
    table = np.where(counts[:, None] > 0, table, 0.0)  # kinds without nodes may pass too much for these ticks
    total = float((table.max(axis=1, initial=0.0) * counts).sum())
    # A power of two keeps ticks·tokens_per_tick exact up to the rounding of the ticks themselves.
    tick = 2.0 ** (math.frexp(total)[1] - BITS) if total > 0.0 else 1.0
    return Instance(problem.num_layers, np.rint(table / tick).astype(np.int64), counts, tick)


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """Ranges worth placing when every layer is to get `target` ticks: (kind, layers) without those a longer one beats.

    Parameters
    ----------
    value
        min(T, target), falling, shape (m,).
    kind, layers
        Shape (m,).
    """

    target: int
    value: IntArray
    kind: IntArray
    layers: IntArray

    def rates(self, prices: FloatArray) -> FloatArray:
        """Return the price of an item on each layer it covers, shape (m,)."""
        rates: FloatArray = prices[self.kind] / self.layers
        return rates


def items_for(instance: Instance, target: int) -> Items:
    """Return the items for a target, by falling value."""
    rows = []
    capped = np.minimum(instance.ticks, target)
    for kind in range(instance.num_kinds):
        best = 0
        if instance.counts[kind] == 0:
            continue
        for layers in range(instance.longest, 0, -1):
            value = int(capped[kind, layers])
            if value > best:  # a longer range with the same node is worth less on each of its layers
                rows.append((-value, kind, layers))
                best = value
    rows.sort()
    table = np.array(rows, dtype=np.int64).reshape(len(rows), 3)
    return Items(target, -table[:, 0], table[:, 1], table[:, 2])
