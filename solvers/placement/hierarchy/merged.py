"""Scarce kinds host by host, every other kind as one class: what is left when plans use up several scarce kinds.

Counting the uses of many scarce kinds exactly takes tables beyond measure, and prices leave a gap of some per cent. A
scarce kind has few hosts, though, so that these fit a search key as they are. All hosts of another kind are merged into
one class with the devices of them all, at the least hop that any two of its devices have. Every plan is a path over
these classes at no higher cost, so that their optimum is a lower bound, and the optimum itself where the merged stages
are given real hosts at the same cost.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.hops import FloatArray, IntArray
from gpuplan.solvers.placement.core import Core, bits_of
from gpuplan.solvers.placement.hierarchy.detect import Hierarchy
from gpuplan.solvers.placement.tables import ClassPath


@dataclass(frozen=True)
class Merged:
    """The relaxed core.

    whole
        What it relaxes.
    of
        Class of the relaxed core that each class is in, shape (C,).
    """

    core: Core
    whole: Core
    of: IntArray

    def plan(self, path: ClassPath) -> ClassPath | None:
        """Give every stage a real host, the nearest to the one before that has devices left; None where none has."""
        left, real = self.whole.counts.copy(), list[tuple[int, int, int]]()
        for c, start, stop in path:
            able = np.flatnonzero((self.of == c) & (left > 0))
            if not len(able):
                return None
            hops = np.zeros(len(able))
            if real:
                before = real[-1][0]
                hops = (
                    self.whole.hop_s[before, able]
                    + self.whole.boundary[start] * self.whole.hop_s_per_byte[before, able]
                )
            chosen = int(able[np.lexsort((left[able], hops))[0]])  # of equal hops the host that is used up most
            left[chosen] -= 1
            real.append((chosen, start, stop))
        found = tuple(real)
        return found if self.whole.holds(found) else None


def merge_plenty(core: Core, tree: Hierarchy, most_bits: int) -> Merged | None:
    """Return a core without cap relaxed, scarcest kinds apart as long as a key holds them; None where none is."""
    kinds = np.arange(tree.num_kinds)
    hosts = np.bincount(tree.kind, minlength=len(kinds))
    total = np.minimum(np.bincount(tree.kind, weights=core.counts, minlength=len(kinds)), core.num_layers)
    each = np.array(bits_of(tree.of_kinds(core.counts)))
    together = np.array(bits_of(total.astype(np.int64)))
    left = most_bits - int(together.sum())
    apart = np.zeros(len(kinds), dtype=np.bool_)
    for kind in np.argsort(hosts, kind="stable").tolist():
        more = int(hosts[kind] * each[kind] - together[kind])
        if more > left:
            break
        apart[kind], left = True, left - more
    if not apart.any() or apart.all():
        return None
    leader = np.where(
        apart[tree.kind], np.arange(core.num_classes), np.unique(tree.kind, return_index=True)[1][tree.kind]
    )
    first, of = np.unique(leader, return_inverse=True)
    return Merged(_relaxed(core, first, of.astype(np.int64)), core, of.astype(np.int64))


def _relaxed(core: Core, first: IntArray, of: IntArray) -> Core:
    counts = np.minimum(np.bincount(of, weights=core.counts).astype(np.int64), core.num_layers)
    alone = np.bincount(of) == 1
    before = np.where(core.pred[first] >= 0, of[core.pred[first]], -1)
    return dataclasses.replace(
        core,
        counts=counts,
        pred=np.where(alone & (before >= 0) & alone[before], before, -1).astype(np.int64),
        prefix=np.ascontiguousarray(core.prefix[first]),
        hop_s=_least(core.hop_s, of),
        hop_s_per_byte=_least(core.hop_s_per_byte, of, where=core.hop_s),
        back=None if core.back is None else _least(core.back, of),
        entry=core.entry[first],
        low=np.ascontiguousarray(core.low[first]),
        weights=None if core.weights is None else core.weights[first],
    )


def _least(table: FloatArray, of: IntArray, where: FloatArray | None = None) -> FloatArray:
    """Return the least entry between any two devices of merged classes (`where` there is a route; 0 without one)."""
    values = table if where is None else np.where(np.isfinite(where), table, np.inf)
    order = np.argsort(of, kind="stable")
    cuts = np.searchsorted(of[order], np.arange(int(of.max()) + 1))
    least = np.minimum.reduceat(np.minimum.reduceat(values[np.ix_(order, order)], cuts, axis=0), cuts, axis=1)
    return np.ascontiguousarray(least if where is None else np.where(np.isfinite(least), least, 0.0))
