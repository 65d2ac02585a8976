"""What a search over caps reads: classes, the edges between them, what stages take, and how a sequence becomes a plan.

The classes may be those of the problem, or states of a relaxation whose sequences `plan` turns into plans (kinds of
hosts, see `bottleneck_kinds`). Numbers are those of the cycle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.placement import bottleneck_kernels as kernels
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, trivial_upper
from gpuplan.solvers.placement.modes import Modes
from gpuplan.solvers.placement.tables import ClassPath

#: Turns a path over the classes of a core into a path of a plan of the same value, or None where that fails.
Realise = Callable[[ClassPath], ClassPath | None]
#: Makes the best plan of stages on these classes in this order: (bottleneck, path), or None.
Planner = Callable[[IntArray], tuple[float, ClassPath] | None]


@dataclass(frozen=True)
class Edges:
    """Which class may follow which (`kernels.Ways`), and by when a stage can be over that takes an edge.

    source
        A class with the edge, shape (E,); all of a door have the same times and windows.
    earliest
        earliest[k, j]: least prefix + hop over ends ≥ j (and < n), shape (E, n+1).
    """

    ways: kernels.Ways
    source: IntArray
    earliest: FloatArray


@dataclass(frozen=True)
class CapCore:
    """Arrays of a search over caps on stage + outgoing hop; C classes, n layers.

    prefix, low, top
        As in `Core`.
    back
        Return hop by (last, first), shape (C, C), or None.
    first
        Classes a plan may start with, shape (C,).
    stock
        What stages take of which resources, and what there is.
    highest
        A cap that no plan exceeds.
    plan
        Turns a sequence of classes into a plan.
    """

    prefix: FloatArray
    low: IntArray
    top: IntArray
    back: FloatArray | None
    first: NDArray[np.bool_]
    stock: kernels.Stock
    max_stages: int
    highest: float
    edges: Edges
    plan: Planner

    @property
    def num_classes(self) -> int:
        """Classes, C."""
        return len(self.prefix)

    @property
    def num_layers(self) -> int:
        """Layers, n."""
        return int(self.prefix.shape[1]) - 1


def cap_core(core: Core, edges: Edges | None = None, realise: Realise | None = None) -> CapCore:
    """Return a core of the cycle's numbers as the search over caps reads it; `edges` other than all are for bounds."""
    return CapCore(
        core.prefix,
        core.low,
        core.top,
        core.back,
        core.pred < 0,
        stock_of(core),
        core.max_stages,
        trivial_upper(core),
        edges_between(core) if edges is None else edges,
        planner(core, realise),
    )


def stock_of(core: Core) -> kernels.Stock:
    """Return what stages take, class by class; without modes one of the class itself."""
    if core.modes is not None:
        return stock_of_modes(core.modes)
    each = np.arange(core.num_classes, dtype=np.int64)
    begin, counts, ahead = np.arange(core.num_classes + 1), core.counts, core.pred
    return kernels.Stock(
        begin, each, np.ones_like(each), np.ascontiguousarray(counts), each, np.ascontiguousarray(ahead)
    )


def stock_of_modes(modes: Modes) -> kernels.Stock:
    """Return what stages take of the resources of modes."""
    classes, resources = np.nonzero(modes.use.T)
    begin = np.searchsorted(classes, np.arange(modes.use.shape[1] + 1))
    return kernels.Stock(
        begin.astype(np.int64),
        resources.astype(np.int64),
        np.ascontiguousarray(modes.use[resources, classes]),
        np.ascontiguousarray(modes.capacity),
        np.ascontiguousarray(modes.home),
        np.ascontiguousarray(modes.ahead),
    )


def edges_between(core: Core) -> Edges:
    """Return one edge per pair of classes with a route."""
    routed = np.isfinite(core.hop_s)
    source, target = np.nonzero(routed)
    gate = np.concatenate([[0], np.cumsum(routed.sum(axis=1))]).astype(np.int64)
    hops = core.hop_s[source, target][:, None] + core.hop_s_per_byte[source, target][:, None] * core.boundary
    return through_doors(gate, source, target, core.prefix, hops)


def through_doors(
    gate: IntArray,
    source: IntArray,
    target: IntArray,
    prefix: FloatArray,
    hops: FloatArray,
    group: IntArray | None = None,
) -> Edges:
    """Return edges where every class has a door of its own; `hops` by edge and boundary, shape (E, n+1)."""
    num = len(prefix)
    group = np.zeros(num, dtype=np.int64) if group is None else group
    none, each = np.zeros(num + 1, dtype=np.int64), np.arange(num, dtype=np.int64)
    ways = kernels.Ways(
        none, each, gate.astype(np.int64), target.astype(np.int64), group, int(group.max(initial=0)) + 1
    )
    return Edges(ways, source.astype(np.int64), earliest_ends(prefix[source], hops))


def earliest_ends(prefix: FloatArray, hops: FloatArray) -> FloatArray:
    """Return the least prefix + hop over ends at or behind each boundary, the last boundary left out; rows of edges."""
    ends = prefix + hops
    ends[:, -1] = np.inf
    return np.ascontiguousarray(np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1])


def by_least_hop(core: Core, near: int = 0, groups: int = 1) -> Edges:
    """Return few edges per class, a relaxation: to its `near` nearest followers, and one to the best of each group.

    That takes the least hop out of the class to any other of the group, groups being of similar speed. A hop is linear
    in the message, so distinct boundaries need one minimum each.
    """
    num = core.num_classes
    near = min(near, num - 1)
    sizes, place = np.unique(core.boundary, return_inverse=True)
    group = groups_by_speed(core.prefix[:, -1], groups)
    members, count = np.argsort(group, kind="stable"), int(group.max()) + 1
    cuts = np.searchsorted(group[members], np.arange(count))
    hops = np.empty((num, near + count, core.num_layers + 1))
    closest = np.empty((num, near), dtype=np.int64)
    for c in range(num):
        fixed, slope = core.hop_s[c], core.hop_s_per_byte[c]
        # The nearest only need to be near: whichever they are, the others take the least hop of the others.
        closest[c] = np.argpartition(fixed + float(sizes[-1]) * slope, near)[:near]
        hops[c, :near] = fixed[closest[c], None] + slope[closest[c], None] * core.boundary
        others = fixed[:, None] + slope[:, None] * sizes
        others[closest[c]] = np.inf
        hops[c, near:] = np.minimum.reduceat(others[members], cuts, axis=0)[:, place.reshape(-1)]
    gate = np.arange(num + 1) * (near + count)
    source = np.repeat(np.arange(num), near + count)
    best = np.broadcast_to(-1 - np.arange(count), (num, count))
    target = np.concatenate([closest, best], axis=1).ravel()
    return through_doors(gate, source, target, core.prefix, hops.reshape(len(source), -1), group)


def groups_by_speed(whole: FloatArray, groups: int) -> IntArray:
    """Return a number by the time each class takes for all layers: steps of one factor, as many as `groups` at most."""
    logs = np.log(np.maximum(whole, 1e-300))
    width = max(float(np.ptp(logs)), 1e-12) / groups
    steps = np.minimum(((logs - logs.min()) / width).astype(np.int64), groups - 1)
    return np.unique(steps, return_inverse=True)[1].reshape(-1).astype(np.int64)


def planner(core: Core, realise: Realise | None = None) -> Planner:
    """Return the exact programme over an order of classes: the least bottleneck of stages on them."""

    def plan(sequence: IntArray) -> tuple[float, ClassPath] | None:
        stops = np.zeros(len(sequence), dtype=np.int64)
        term = 0.0 if core.back is None else float(core.back[sequence[-1], sequence[0]])
        value = kernels.best_of_sequence(
            np.ascontiguousarray(sequence, dtype=np.int64),
            core.prefix,
            core.hop_s,
            core.hop_s_per_byte,
            core.boundary,
            term,
            core.low,
            core.top,
            stops,
        )
        if not np.isfinite(value):
            return None
        starts = [0, *stops[:-1].tolist()]
        path = tuple((int(c), a, int(b)) for c, a, b in zip(sequence, starts, stops, strict=True))
        real = path if realise is None else realise(path)
        return None if real is None else (float(value), real)

    return plan
