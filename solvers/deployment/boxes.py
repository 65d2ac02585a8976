"""Boxes: replicas of one degree, batch, number of stages, and range of their slowest stages, bounded together.

A replica of K stages whose slowest prefill stage lies in [P₀, P₁] and whose slowest decode stage in [B₀, B₁] has
stages within P₁ and B₁, so a group of kind k holds at most a whole number of layers: q_k, the largest Σ w_l over runs
of layers that keep to P₁, B₁ and the memory of k at M batches in flight. With y_k groups of kind k and x_lk of layer l
on kind k::

    Σ_l w_l·x_lk ≤ q_k·y_k      Σ_k x_lk = 1      Σ_k y_k = K
    value ≤ M·b/(s + D),        s = Σ_lk p_lk·x_lk + hops,   D = (M − 1)·P₀ + (o − 1)·M·B₀

w is 1 for the usual layer and never more than a layer's share of it in time for others. The value is convex in s, hence
below its chord. Groups of unlike members are fractions of groups of each kind: they are no faster than their average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.ceilings import Ceilings, Counts
from gpuplan.solvers.deployment.points import SLACK, Point, kinds_of, layer_classes, make_point

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Slowest stages up to this many times the whole model on the slowest kind are in a box: links may be slow.
BEYOND: Final = 1e6


@dataclass(slots=True)
class Boxes:
    """Boxes as columns, one entry a box.

    Attributes
    ----------
    point
        Number of the degree and batch.
    stages
        Fewest and most stages, shape (boxes, 2).
    caps
        P₀, P₁, B₀, B₁ in s, shape (boxes, 4).
    holds
        q by group, 0 where the group cannot serve, shape (boxes, groups).
    spare
        Most that the last stage, without a hop, holds beyond q, by group.
    curve
        M·b, D, and the least and largest s, shape (boxes, 4); s = 0 where nothing adds up.
    """

    point: Ints
    stages: Ints
    caps: Floats
    holds: Floats
    spare: Floats
    curve: Floats

    def __len__(self) -> int:
        return len(self.point)

    def take(self, which: NDArray[np.bool_] | Ints) -> Boxes:
        """Return some of them."""
        return Boxes(*(getattr(self, name)[which] for name in Boxes.__slots__))


def chord(curve: Floats) -> Floats:
    """Return the line above the value ``M·b/(s + D)`` from least to largest s: intercept and slope, shape (boxes, 2).

    >>> chord(np.array([[12.0, 1.0, 1.0, 3.0]]))
    array([[7.5, 1.5]])
    """
    work, fixed, least, largest = curve.T
    high, low = (work / np.maximum(own + fixed, 1e-300) for own in (least, largest))
    slope = np.where(largest > least, (high - low) / np.maximum(largest - least, 1e-300), 0.0)
    return np.stack([high + slope * least, slope], axis=1)


def joined(parts: Sequence[Boxes]) -> Boxes:
    """Return boxes one after the other."""
    return Boxes(*(np.concatenate([getattr(part, name) for part in parts]) for name in Boxes.__slots__))


class Maker:
    """Makes and splits the boxes of a deployment problem."""

    def __init__(self, ceilings: Ceilings, counts: Counts) -> None:
        self.ceilings, self.fleet = ceilings, ceilings.fleet
        self.problem = self.fleet.problem
        self.counts = np.array(counts, dtype=np.float64)
        self.devices = min(sum(counts), self.problem.max_devices or sum(counts))
        self.points = [
            point
            for degree in self.fleet.degrees
            for batch in self.fleet.batches()
            if degree <= self.devices and (point := make_point(ceilings, counts, degree, batch)) is not None
        ]
        self.classes = [layer_classes(point) for point in self.points]

    def micro(self, stages: Ints) -> Ints:
        """Return M of numbers of stages."""
        if self.problem.micro_batches_from_stages:
            return stages
        return np.full_like(stages, self.problem.workload.micro_batches)

    def roots(self) -> Boxes:
        """Return one box for every degree, batch and range of stages."""
        rows = []
        for number, point in enumerate(self.points):
            most = min(self.fleet.num_layers, self.devices // point.degree)
            for least, last in _ranges(most):
                low_p, low_d = (float(np.diff(own, axis=1).min(axis=0).max()) for own in (point.prefill, point.decode))
                high_p, high_d = (
                    BEYOND * float(own[:, -1].max() + hop)
                    for own, hop in zip((point.prefill, point.decode), _tops(point), strict=True)
                )
                rows.append((number, least, last, low_p, high_p, low_d, high_d))
        table = np.array(rows, dtype=np.float64).reshape(-1, 7)
        return self.make(table[:, 0].astype(np.int64), table[:, 1:3].astype(np.int64), table[:, 3:7])

    def make(self, point: Ints, stages: Ints, caps: Floats) -> Boxes:
        """Return the boxes that may hold a replica."""
        groups = max((len(own.groups) for own in self.points), default=0)
        holds, spare = np.zeros((len(point), groups)), np.zeros((len(point), groups))
        curve, alive = np.zeros((len(point), 4)), np.zeros(len(point), dtype=bool)
        for number in np.unique(point):
            rows = np.flatnonzero(point == number)
            own = self.points[int(number)]
            for k in range(len(own.groups)):
                holds[rows, k], spare[rows, k] = self._held(own, k, stages[rows], caps[rows])
            curve[rows], alive[rows] = self._curve(int(number), stages[rows], caps[rows])
            most = self._most_held(own, holds[rows, : len(own.groups)], stages[rows, 1]) + spare[rows].max(axis=1)
            alive[rows] &= most >= own.shares.sum() * (1 - SLACK)
        return Boxes(point, stages, caps, holds, spare, curve).take(alive)

    def _most_held(self, point: Point, holds: Floats, stages: Ints) -> Floats:
        """Return what stages hold together at most, on the groups there are, the roomiest first."""
        order = np.argsort(-holds, axis=1, kind="stable")
        groups = point.there[order]
        before = np.concatenate([np.zeros((len(holds), 1)), np.cumsum(groups, axis=1)[:, :-1]], axis=1)
        used = np.clip(stages[:, None] - before, 0.0, groups)
        most: Floats = (np.take_along_axis(holds, order, axis=1) * used).sum(axis=1)
        return most

    def ends(self, point: Point, k: int, stages: Ints, caps: Floats) -> tuple[Ints, Ints]:
        """Return where stages that begin with each layer end at most, with a hop and last of all, (boxes, n)."""
        prefill, decode = point.prefill[k], point.decode[k]
        memory = self._reaches(point, k, stages[:, 0])
        hop_p, hop_d = (np.where(stages[:, 1] > 1, hop, 0.0)[:, None] for hop in point.hops[k])
        ends = memory
        if not self.ceilings.tokens:
            ends = np.minimum(ends, _reach(prefill, caps[:, 1:2] * (1 + SLACK) - hop_p))
        ends = np.minimum(ends, _reach(decode, caps[:, 3:4] * (1 + SLACK) - hop_d))
        ends = np.maximum(ends, np.arange(len(prefill) - 1)[None, :])
        last = memory
        if not self.ceilings.tokens:
            last = np.minimum(last, _reach(prefill, caps[:, 1:2] * (1 + SLACK)))
        last = np.minimum(last, _reach(decode, caps[:, 3:4] * (1 + SLACK) - np.minimum(hop_d, point.back)))
        return ends, last

    def _held(self, point: Point, k: int, stages: Ints, caps: Floats) -> tuple[Floats, Floats]:
        """Return the most w that a stage with a hop holds, and what the last one may hold beyond it."""
        weight = np.concatenate([[0.0], np.cumsum(point.shares)])
        ends, last = self.ends(point, k, stages, caps)
        holds = (weight[ends] - weight[None, :-1]).max(axis=1)
        whole = last >= len(weight) - 1
        most = np.where(whole, weight[-1] - weight[None, :-1], 0.0).max(axis=1)
        return np.where(holds > 0.0, holds, most), np.where(holds > 0.0, np.maximum(most - holds, 0.0), 0.0)

    def _reaches(self, point: Point, k: int, stages: Ints) -> Ints:
        """Return where a stage that begins with each layer has to end for the memory, shape (boxes, n)."""
        found = {int(count): self._reach_of(point, k, int(count)) for count in np.unique(stages)}
        return np.array([found[int(count)] for count in stages])

    def _reach_of(self, point: Point, k: int, count: int) -> Ints:
        key = (k, count)
        if key not in point.reaches:
            memory = self.fleet.memory(point.degree, point.batch)
            micro = int(self.micro(np.array([count]))[0])
            need = memory.weights + micro * point.batch * memory.kv
            room = min(self.fleet.kinds[kind].available_bytes for kind in kinds_of(point.groups[k]))
            room = room * (1 + SLACK) - memory.workspace
            saving = memory.saving if count == 1 else 0.0
            ends = np.searchsorted(need, need[:-1] + room, side="right") - 1
            if need[-1] - saving <= room:
                ends = np.full_like(ends, len(need) - 1)
            point.reaches[key] = ends
        return point.reaches[key]

    def _curve(self, number: int, stages: Ints, caps: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the value over what adds up (see `Boxes`), and whether any replica can be in the box."""
        point, slo = self.points[number], self.ceilings.slo
        most = self.micro(stages[:, 1]).astype(np.float64)
        few = self.micro(stages[:, 0]).astype(np.float64)
        least, steps = self.least_seconds(number, stages[:, 0])
        interval = np.maximum(most * caps[:, 2], steps)
        alive = (few * caps[:, 2] <= slo.token_s * (1 + SLACK)) & (steps <= slo.token_s * (1 + SLACK))
        alive &= least <= slo.ttft_s * (1 + SLACK)
        work = most * point.batch
        if self.ceilings.tokens:
            return np.stack([work, interval, 0.0 * work, 0.0 * work], axis=1), alive
        fixed = (most - 1) * caps[:, 0] + self.fleet.steps * interval
        least = np.maximum(least, caps[:, 0])
        largest = np.minimum(stages[:, 1] * caps[:, 1], slo.ttft_s) * (1 + SLACK)
        alive &= largest >= least * (1 - SLACK)
        return np.stack([work, fixed, least, np.maximum(largest, least)], axis=1), alive

    def least_seconds(self, number: int, stages: Ints) -> tuple[Floats, Floats]:
        """Return the least TTFT and the least seconds of a decode step of so many stages at a point, shape (boxes,)."""
        point, (amounts, rows) = self.points[number], self.classes[number]
        ttft = float(amounts @ rows[:, 1:].min(axis=1)) + (stages - 1) * point.hops[:, 0].min()
        step = np.diff(point.decode, axis=1).min(axis=0).sum() + (stages - 1) * point.hops[:, 1].min()
        return ttft, step

    def halves(self, boxes: Boxes) -> Boxes:
        """Return the boxes cut in two: in stages while those are a range, else in the wider range of seconds."""
        wide = boxes.caps[:, 1::2] / np.maximum(boxes.caps[:, ::2], 1e-300)
        if self.ceilings.tokens:
            wide[:, 0] = 1.0
        ranged = boxes.stages[:, 0] < boxes.stages[:, 1]
        side = wide.argmax(axis=1)
        lower_s, upper_s = boxes.stages.copy(), boxes.stages.copy()
        middle = boxes.stages.sum(axis=1) // 2
        lower_s[ranged, 1], upper_s[ranged, 0] = middle[ranged], middle[ranged] + 1
        lower_c, upper_c = boxes.caps.copy(), boxes.caps.copy()
        for axis in (0, 1):
            rows = ~ranged & (side == axis)
            low, high = boxes.caps[rows, 2 * axis], boxes.caps[rows, 2 * axis + 1]
            cut = np.where(low > 0.0, np.sqrt(low * high), high / 1024)
            lower_c[rows, 2 * axis + 1], upper_c[rows, 2 * axis] = cut, cut
        return self.make(
            np.concatenate([boxes.point, boxes.point]),
            np.concatenate([lower_s, upper_s]),
            np.concatenate([lower_c, upper_c]),
        )

    def splittable(self, boxes: Boxes, fine: float) -> NDArray[np.bool_]:
        """Return which boxes have several numbers of stages, or a range wider than `fine`, largest to least."""
        wide = boxes.caps[:, 1::2] / np.maximum(boxes.caps[:, ::2], 1e-300)
        if self.ceilings.tokens:
            wide[:, 0] = 1.0
        rough: NDArray[np.bool_] = (boxes.stages[:, 0] < boxes.stages[:, 1]) | (wide.max(axis=1) > fine)
        return rough


def _tops(point: Point) -> tuple[float, float]:
    return float(point.hops[:, 0].max()), max(float(point.hops[:, 1].max()), point.back)


def _ranges(most: int) -> list[tuple[int, int]]:
    """Return ranges of stages: 1, 2, then up to each power of two."""
    found = []
    first = 1
    while first <= most:
        last = 1 if first == 1 else 2 * first - 1
        found.append((first, min(last, most)))
        first = last + 1
    return found


def _reach(prefix: Floats, caps: Floats) -> Ints:
    """Return the last end of a run from each layer whose seconds keep to the caps, (boxes, n)."""
    places = np.searchsorted(prefix, (prefix[None, :-1] + caps).ravel(), side="right") - 1
    return places.reshape(len(caps), -1)
