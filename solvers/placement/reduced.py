"""Cores too wide for one key: leave out classes that cannot help, proven by reduced costs where possible.

When the least cost of any relaxed path that uses a class (`through` of a relaxation) reaches the incumbent's value, no
better plan uses it. If the classes that remain fit a key, the search over them is exact. Otherwise the best ones are
searched for good plans, and the bound of the whole problem stands beside them.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, bits_of
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.windows import CapWindows


def useful(core: Core, costs: FloatArray, target: float) -> NDArray[np.bool_]:
    """Return which classes a plan better than `target` may use; a class falls with its twin predecessor."""
    keep = costs < target
    for c in range(core.num_classes):  # predecessors come first
        if core.pred[c] >= 0:
            keep[c] &= keep[core.pred[c]]
    return keep


def best_classes(core: Core, costs: FloatArray, key_bits: int) -> IntArray:
    """Return the classes of least cost whose counters fit one key of so many bits."""
    bits = np.array(bits_of(core.counts))
    chosen: list[int] = []
    left = key_bits
    for c in np.argsort(costs, kind="stable"):
        if math.isfinite(costs[c]) and bits[c] <= left:
            chosen.append(int(c))
            left -= int(bits[c])
    return np.array(sorted(chosen), dtype=np.int64)


def restrict(core: Core, keep: IntArray) -> Core:
    """Return the core over some of its classes."""
    place = {int(c): k for k, c in enumerate(keep)}
    pairs = np.ix_(keep, keep)
    cap = core.cap
    if cap is not None:
        cap = CapWindows(
            np.ascontiguousarray(cap.following[pairs]),
            np.ascontiguousarray(cap.ending[pairs]),
            np.ascontiguousarray(cap.loosest[keep]),
        )
    return dataclasses.replace(
        core,
        counts=core.counts[keep],
        pred=np.array([place.get(int(core.pred[c]), -1) for c in keep], dtype=np.int64),
        prefix=np.ascontiguousarray(core.prefix[keep]),
        hop_s=np.ascontiguousarray(core.hop_s[pairs]),
        hop_s_per_byte=np.ascontiguousarray(core.hop_s_per_byte[pairs]),
        back=None if core.back is None else np.ascontiguousarray(core.back[pairs]),
        entry=core.entry[keep],
        low=np.ascontiguousarray(core.low[keep]),
        cap=cap,
        weights=None if core.weights is None else core.weights[keep],
    )


def restore(path: ClassPath, keep: IntArray) -> ClassPath:
    """Return a path of a restricted core in the classes of the whole."""
    return tuple((int(keep[c]), start, stop) for c, start, stop in path)
