"""The core problem of a part of a plan: some stages are free, those before and after stand still.

What stands still before the part becomes one class that holds one layer and hands over as its last device does; what
stands still behind it likewise. A plan of the part put between them is a plan of the whole, of the same value up to a
constant.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core
from gpuplan.solvers.placement.tables import ClassPath


@dataclass(frozen=True)
class Segment:
    """A part of a plan as a core of its own.

    core
        Classes `keep`, then the standing class before (if any), then the one behind (if any).
    path
        The part's stages now, in the classes of `core`.
    """

    core: Core
    path: ClassPath
    keep: IntArray
    before: ClassPath
    behind: ClassPath
    begin: int

    def whole(self, path: ClassPath) -> ClassPath:
        """Return the whole plan for a plan of the part."""
        shift = self.begin - bool(self.before)
        num = len(self.keep)
        free = [(int(self.keep[c]), i + shift, j + shift) for c, i, j in path if c < num]
        return (*self.before, *free, *self.behind)


def make_segment(core: Core, path: ClassPath, first: int, last: int, others: IntArray) -> Segment:
    """Free the stages first..last−1 of a plan, with `others` to use besides their classes (no cap allowed).

    Stages before and behind stand still; classes of `others` used up by them are left out.
    """
    assert core.cap is None
    before, free, behind = path[:first], path[first:last], path[last:]
    standing = np.bincount([c for c, _, _ in (*before, *behind)], minlength=core.num_classes)
    wanted = np.union1d([c for c, _, _ in free], others).astype(np.int64)
    keep = wanted[core.counts[wanted] > standing[wanted]]
    ends = (free[0][1], free[-1][2])
    part = _part(core, keep, standing, ends, before, behind)
    place = {int(c): k for k, c in enumerate(keep)}
    shift = ends[0] - bool(before)
    stages = [(place[c], i - shift, j - shift) for c, i, j in free]
    if before:
        stages.insert(0, (len(keep), 0, 1))
    if behind:
        stages.append((part.num_classes - 1, part.num_layers - 1, part.num_layers))
    return Segment(part, tuple(stages), keep, before, behind, ends[0])


def _part(
    core: Core, keep: IntArray, standing: IntArray, ends: tuple[int, int], before: ClassPath, behind: ClassPath
) -> Core:
    """Assemble the core of a part."""
    extra = bool(before) + bool(behind)
    num = len(keep) + extra
    weights, limit = core.weights, core.limit
    if weights is not None:
        limit = limit - float(standing @ weights)
        weights = np.concatenate([weights[keep], np.zeros(extra)])
    hop_s, per_byte = _hops(core, keep, before, behind)
    low, top = _windows(core, keep, ends, before, behind)
    return dataclasses.replace(
        core,
        counts=np.concatenate([core.counts[keep] - standing[keep], np.ones(extra, dtype=np.int64)]),
        pred=np.full(num, -1, dtype=np.int64),
        prefix=_prefix(core, keep, ends, before, behind),
        hop_s=hop_s,
        hop_s_per_byte=per_byte,
        boundary=_stretch(core.boundary, ends, before, behind),
        back=_back(core, keep, before, behind),
        entry=np.concatenate([core.entry[keep], np.zeros(extra)]),
        low=low,
        top=top,
        max_stages=core.max_stages - len(before) - len(behind) + extra,
        weights=weights,
        limit=limit,
        any_plan=False,
    )


def _stretch(values: FloatArray, ends: tuple[int, int], before: ClassPath, behind: ClassPath) -> FloatArray:
    """Return the columns of the part's boundaries, one more on a side that stands still."""
    begin, end = ends
    columns = [begin] * bool(before) + list(range(begin, end + 1)) + [end] * bool(behind)
    return np.ascontiguousarray(values[..., columns])


def _prefix(core: Core, keep: IntArray, ends: tuple[int, int], before: ClassPath, behind: ClassPath) -> FloatArray:
    """Times of the part's layers; the layers of what stands still cost nothing."""
    inner = _stretch(core.prefix[keep], ends, before, behind)
    inner = inner - inner[:, :1]
    extra = bool(before) + bool(behind)
    return np.ascontiguousarray(np.concatenate([inner, np.zeros((extra, inner.shape[1]))]))


def _hops(core: Core, keep: IntArray, before: ClassPath, behind: ClassPath) -> tuple[FloatArray, FloatArray]:
    num = len(keep)
    size = num + bool(before) + bool(behind)
    tables = []
    for table, none in ((core.hop_s, np.inf), (core.hop_s_per_byte, 0.0)):
        hops = np.full((size, size), none)
        hops[:num, :num] = table[np.ix_(keep, keep)]
        if before:
            hops[num, :num] = table[before[-1][0], keep]
        if behind:
            hops[:num, size - 1] = table[keep, behind[0][0]]
        tables.append(hops)
    # A link of no route is inf + 0 per byte; the classes that stand still have none but those set.
    return tables[0], tables[1]


def _windows(
    core: Core, keep: IntArray, ends: tuple[int, int], before: ClassPath, behind: ClassPath
) -> tuple[IntArray, IntArray]:
    """Windows of the part: nobody else holds the layers that stand still, their classes hold nothing else."""
    begin, end = ends
    head, tail = int(bool(before)), int(bool(behind))
    n = end - begin + head + tail
    every = np.arange(n + 1)
    low = np.tile(every, (len(keep) + head + tail, 1))
    inner = np.maximum(core.low[keep, begin + 1 : end + 1] - begin + head, head)
    low[: len(keep), head + 1 : n - tail + 1] = inner
    top = every - 1
    top[head + 1 : n - tail + 1] = np.minimum(core.top[begin + 1 : end + 1] - begin + head, top[head + 1 : n - tail + 1])
    if before:
        low[len(keep), 1] = 0
    else:
        low[:, 0] = 0
    if behind:
        low[-1, n] = n - 1
    return np.ascontiguousarray(low), np.ascontiguousarray(top)


def _back(core: Core, keep: IntArray, before: ClassPath, behind: ClassPath) -> FloatArray | None:
    """Return hop of the part; None where first and last device stand still."""
    if core.back is None or (before and behind):
        return None
    num = len(keep)
    size = num + bool(before) + bool(behind)
    back = np.zeros((size, size))
    back[:num, :num] = core.back[np.ix_(keep, keep)]
    if before:
        back[:num, num] = core.back[keep, before[0][0]]
    if behind:
        back[num, :num] = core.back[behind[-1][0], keep]
    return back
