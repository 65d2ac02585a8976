"""The core problem of a part of a plan: some stages are free, those before and after stand still.

What stands still before the part becomes one class that holds one layer and hands over as its last device does; what
stands still behind it likewise. A plan of the part put between them is a plan of the whole, of the same value up to a
constant. Where the first stage is free and the last stands still, the class before hands over at the return hop's cost.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

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
    head: bool

    def whole(self, path: ClassPath) -> ClassPath:
        """Return the whole plan for a plan of the part."""
        shift = self.begin - self.head
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
    head = bool(before) or (bool(behind) and core.back is not None)
    part = _part(core, keep, standing, Frame(*ends, head, before, behind))
    place = {int(c): k for k, c in enumerate(keep)}
    shift = ends[0] - head
    stages = [(place[c], i - shift, j - shift) for c, i, j in free]
    if head:
        stages.insert(0, (len(keep), 0, 1))
    if behind:
        stages.append((part.num_classes - 1, part.num_layers - 1, part.num_layers))
    return Segment(part, tuple(stages), keep, before, behind, ends[0], head)


class Frame(NamedTuple):
    """What surrounds a part: its layers begin..end−1, whether a class stands before it, and the standing stages."""

    begin: int
    end: int
    head: bool
    before: ClassPath
    behind: ClassPath

    @property
    def extra(self) -> int:
        """Standing classes."""
        return self.head + bool(self.behind)


def _part(core: Core, keep: IntArray, standing: IntArray, frame: Frame) -> Core:
    """Assemble the core of a part."""
    weights, limit = core.weights, core.limit
    if weights is not None:
        limit = limit - float(standing @ weights)
        weights = np.concatenate([weights[keep], np.zeros(frame.extra)])
    hop_s, per_byte = _hops(core, keep, frame)
    low, top = _windows(core, keep, frame)
    return dataclasses.replace(
        core,
        counts=np.concatenate([core.counts[keep] - standing[keep], np.ones(frame.extra, dtype=np.int64)]),
        pred=np.full(len(keep) + frame.extra, -1, dtype=np.int64),
        prefix=_prefix(core, keep, frame),
        hop_s=hop_s,
        hop_s_per_byte=per_byte,
        boundary=_stretch(core.boundary, frame),
        back=_back(core, keep, frame),
        entry=np.concatenate([core.entry[keep], np.zeros(frame.extra)]),
        low=low,
        top=top,
        max_stages=core.max_stages - len(frame.before) - len(frame.behind) + frame.extra,
        weights=weights,
        limit=limit,
        any_plan=False,
    )


def _stretch(values: FloatArray, frame: Frame) -> FloatArray:
    """Return the columns of the part's boundaries, one more on a side where something stands."""
    columns = [frame.begin] * frame.head + list(range(frame.begin, frame.end + 1)) + [frame.end] * bool(frame.behind)
    return np.ascontiguousarray(values[..., columns])


def _prefix(core: Core, keep: IntArray, frame: Frame) -> FloatArray:
    """Return the times of the part's layers; the layers of what stands still cost nothing."""
    inner = _stretch(core.prefix[keep], frame)
    inner = inner - inner[:, :1]
    return np.ascontiguousarray(np.concatenate([inner, np.zeros((frame.extra, inner.shape[1]))]))


def _hops(core: Core, keep: IntArray, frame: Frame) -> tuple[FloatArray, FloatArray]:
    """Return the links of the part; the standing classes have none but those set here."""
    num = len(keep)
    size = num + frame.extra
    tables = []
    for table, none in ((core.hop_s, np.inf), (core.hop_s_per_byte, 0.0)):
        hops = np.full((size, size), none)
        hops[:num, :num] = table[np.ix_(keep, keep)]
        if frame.before:
            hops[num, :num] = table[frame.before[-1][0], keep]
        if frame.behind:
            hops[:num, size - 1] = table[keep, frame.behind[0][0]]
        tables.append(hops)
    if frame.head and not frame.before:
        assert core.back is not None
        tables[0][num, :num], tables[1][num, :num] = core.back[frame.behind[-1][0], keep], 0.0
    return tables[0], tables[1]


def _windows(core: Core, keep: IntArray, frame: Frame) -> tuple[IntArray, IntArray]:
    """Return the windows of the part: its classes hold no layer that stands still, the standing ones no other."""
    begin, end, head, tail = frame.begin, frame.end, int(frame.head), int(bool(frame.behind))
    n = end - begin + head + tail
    every = np.arange(n + 1)
    own = slice(head + 1, n - tail + 1)
    low = np.tile(every, (len(keep) + head + tail, 1))
    low[: len(keep), own] = np.maximum(core.low[keep, begin + 1 : end + 1] - begin + head, head)
    top = every - 1
    top[own] = np.minimum(core.top[begin + 1 : end + 1] - begin + head, top[own])
    if head:
        low[len(keep), 1] = 0
    else:
        low[:, 0] = 0
    if tail:
        low[-1, n] = n - 1
    return np.ascontiguousarray(low), np.ascontiguousarray(top)


def _back(core: Core, keep: IntArray, frame: Frame) -> FloatArray | None:
    """Return hop of the part; None where the last device stands still (see `_hops`)."""
    if core.back is None or frame.behind:
        return None
    num = len(keep)
    size = num + frame.extra
    back = np.zeros((size, size))
    back[:num, :num] = core.back[np.ix_(keep, keep)]
    if frame.before:
        back[:num, num] = core.back[keep, frame.before[0][0]]
    return back
