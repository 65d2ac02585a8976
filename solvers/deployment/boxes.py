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

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.ceilings import Ceilings, Counts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Rounding of sums of times and bytes, relatively.
SLACK: Final = 1e-9
#: Boxes are split no further once their slowest stages are known this closely.
FINE: Final = 1.015
#: Slowest stages up to this many times the whole model on the slowest kind are in a box: links may be slow.
BEYOND: Final = 1e6


@dataclass(frozen=True, slots=True)
class Point:
    """One degree and batch: what layers take on each kind.

    Attributes
    ----------
    kinds
        Kinds whose memory holds the workspace.
    prefill, decode
        Prefix sums of seconds, shape (kinds, n+1).
    seconds
        Of each layer's prefill, shape (kinds, n): as they are, so that equal layers are equal.
    hops
        Seconds of the nearest hop: prefill, decode, and back.
    """

    degree: int
    batch: int
    kinds: tuple[int, ...]
    prefill: Floats
    decode: Floats
    seconds: Floats
    shares: Floats
    hops: tuple[float, float, float]
    reaches: dict[tuple[int, int], Ints] = field(default_factory=dict)


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
        q by kind, 0 where the kind cannot serve, shape (boxes, kinds).
    spare
        Most that the last stage, without a hop, holds beyond q, by kind.
    chord
        Intercept and slope of the chord, shape (boxes, 2).
    """

    point: Ints
    stages: Ints
    caps: Floats
    holds: Floats
    spare: Floats
    chord: Floats

    def __len__(self) -> int:
        return len(self.point)

    def take(self, which: NDArray[np.bool_] | Ints) -> Boxes:
        """Return some of them."""
        return Boxes(*(getattr(self, name)[which] for name in Boxes.__slots__))


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
            if (point := self._point(degree, batch)) is not None
        ]
        self.classes: list[tuple[Ints, Floats]] = [self._layer_classes(point) for point in self.points]

    def _point(self, degree: int, batch: int) -> Point | None:
        fleet, units = self.fleet, self.ceilings.units
        if degree > self.devices:
            return None
        memory = fleet.memory(degree, batch)
        fits = [kind.available_bytes * (1 + SLACK) >= memory.workspace for kind in fleet.kinds]
        known = {k: own for k, fit in enumerate(fits) if fit and (own := units.best_times((k,), degree, batch))}
        if not known:
            return None
        kinds, times = tuple(known), list(known.values())
        hop = units.nearest_hops(degree, batch)
        least = [float(own[:-1].min()) if len(own) > 1 else 0.0 for own in hop[:2]]
        if not all(map(math.isfinite, (*least, hop[2]))):
            least, back = [0.0, 0.0], 0.0
        else:
            back = float(hop[2])
        prefill, decode = (_prefixes([getattr(own, name) for own in times]) for name in ("prefill_s", "decode_s"))
        seconds = np.array([own.prefill_s for own in times])
        return Point(degree, batch, kinds, prefill, decode, seconds, self._shares(times), (least[0], least[1], back))

    def _shares(self, times: Sequence[object]) -> Floats:
        """Return w: 1 for the decoder layer that takes longest, at most its share of it for others."""
        decoder = np.diff(self.fleet.decoders) > 0
        ratios = []
        for own in times:
            for name in ("prefill_s", "decode_s"):
                seconds = getattr(own, name)
                usual = float(seconds[decoder].max()) if decoder.any() else float(seconds.max())
                ratios.append(seconds / usual if usual > 0.0 else np.ones_like(seconds))
        shares: Floats = np.min(ratios, axis=0)
        shares[decoder] = np.where(shares[decoder] > 1 - 1e-6, 1.0, shares[decoder])
        return shares

    def micro(self, stages: Ints) -> Ints:
        """Return M of numbers of stages."""
        if self.problem.micro_batches_from_stages:
            return stages
        return np.full_like(stages, self.problem.workload.micro_batches)

    def _layer_classes(self, point: Point) -> tuple[Ints, Floats]:
        """Return how many layers of each class there are, and their w and seconds that add up: (classes, 1+kinds)."""
        adding = np.zeros_like(point.seconds) if self.ceilings.tokens else point.seconds
        rows = np.concatenate([point.shares[:, None], adding.T], axis=1)
        found, amounts = np.unique(rows, axis=0, return_counts=True)
        return amounts.astype(np.int64), found

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
        kinds = len(self.fleet.kinds)
        holds, spare = np.zeros((len(point), kinds)), np.zeros((len(point), kinds))
        chord, alive = np.zeros((len(point), 2)), np.zeros(len(point), dtype=bool)
        for number in np.unique(point):
            rows = np.flatnonzero(point == number)
            own = self.points[int(number)]
            for k, kind in enumerate(own.kinds):
                holds[rows, kind], spare[rows, kind] = self._held(own, k, stages[rows], caps[rows])
            chord[rows], alive[rows] = self._chord(int(number), stages[rows], caps[rows])
            most = self._most_held(holds[rows], stages[rows, 1], own.degree) + spare[rows].max(axis=1)
            alive[rows] &= most >= own.shares.sum() * (1 - SLACK)
        return Boxes(point, stages, caps, holds, spare, chord).take(alive)

    def _most_held(self, holds: Floats, stages: Ints, degree: int) -> Floats:
        """Return what stages hold together at most, on the groups there are, the roomiest first."""
        order = np.argsort(-holds, axis=1, kind="stable")
        groups = (self.counts / degree)[order]
        before = np.concatenate([np.zeros((len(holds), 1)), np.cumsum(groups, axis=1)[:, :-1]], axis=1)
        used = np.clip(stages[:, None] - before, 0.0, groups)
        most: Floats = (np.take_along_axis(holds, order, axis=1) * used).sum(axis=1)
        return most

    def _held(self, point: Point, k: int, stages: Ints, caps: Floats) -> tuple[Floats, Floats]:
        """Return the most w that a stage with a hop holds, and what the last one may hold beyond it."""
        prefill, decode = point.prefill[k], point.decode[k]
        weight = np.concatenate([[0.0], np.cumsum(point.shares)])
        memory = self._reaches(point, k, stages[:, 0])
        hop_p, hop_d = (np.where(stages[:, 1] > 1, hop, 0.0)[:, None] for hop in point.hops[:2])
        ends = memory
        if not self.ceilings.tokens:
            ends = np.minimum(ends, _reach(prefill, caps[:, 1:2] * (1 + SLACK) - hop_p))
        ends = np.minimum(ends, _reach(decode, caps[:, 3:4] * (1 + SLACK) - hop_d))
        ends = np.maximum(ends, np.arange(len(prefill) - 1)[None, :])
        holds = (weight[ends] - weight[None, :-1]).max(axis=1)
        last = memory
        if not self.ceilings.tokens:
            last = np.minimum(last, _reach(prefill, caps[:, 1:2] * (1 + SLACK)))
        last = np.minimum(last, _reach(decode, caps[:, 3:4] * (1 + SLACK) - np.minimum(hop_d, point.hops[2])))
        whole = last >= len(prefill) - 1
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
            room = self.fleet.kinds[point.kinds[k]].available_bytes * (1 + SLACK) - memory.workspace
            saving = memory.saving if count == 1 else 0.0
            ends = np.searchsorted(need, need[:-1] + room, side="right") - 1
            if need[-1] - saving <= room:
                ends = np.full_like(ends, len(need) - 1)
            point.reaches[key] = ends
        return point.reaches[key]

    def _chord(self, number: int, stages: Ints, caps: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the chord of the value over what adds up, and whether any replica can be in the box."""
        point, slo = self.points[number], self.ceilings.slo
        amounts, rows = self.classes[number]
        most = self.micro(stages[:, 1]).astype(np.float64)
        few = self.micro(stages[:, 0]).astype(np.float64)
        hops = (stages[:, 0] - 1) * (0.0 if self.ceilings.tokens else point.hops[0])
        least = float(amounts @ rows[:, 1:].min(axis=1)) + hops
        steps = np.diff(point.decode, axis=1).min(axis=0).sum() + (stages[:, 0] - 1) * point.hops[1]
        interval = np.maximum(most * caps[:, 2], steps)
        alive = (few * caps[:, 2] <= slo.token_s * (1 + SLACK)) & (steps <= slo.token_s * (1 + SLACK))
        if self.ceilings.tokens:
            value = most * point.batch / np.maximum(interval, 1e-300)
            return np.stack([value, np.zeros_like(value)], axis=1), alive
        alive &= least <= slo.ttft_s * (1 + SLACK)
        fixed = (most - 1) * caps[:, 0] + self.fleet.steps * interval
        least = np.maximum(least, caps[:, 0])
        largest = np.minimum(stages[:, 1] * caps[:, 1], slo.ttft_s) * (1 + SLACK)
        alive &= largest >= least * (1 - SLACK)
        largest = np.maximum(largest, least)
        high, low = (most * point.batch / np.maximum(own + fixed, 1e-300) for own in (least, largest))
        slope = np.where(largest > least, (high - low) / np.maximum(largest - least, 1e-300), 0.0)
        return np.stack([high + slope * least, slope], axis=1), alive

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

    def splittable(self, boxes: Boxes) -> NDArray[np.bool_]:
        """Return which boxes are still worth a split."""
        wide = boxes.caps[:, 1::2] / np.maximum(boxes.caps[:, ::2], 1e-300)
        if self.ceilings.tokens:
            wide[:, 0] = 1.0
        rough: NDArray[np.bool_] = (boxes.stages[:, 0] < boxes.stages[:, 1]) | (wide.max(axis=1) > FINE)
        return rough


def _tops(point: Point) -> tuple[float, float]:
    return point.hops[0], max(point.hops[1], point.hops[2])


def _ranges(most: int) -> list[tuple[int, int]]:
    """Return ranges of stages: 1, 2, then up to each power of two."""
    found = []
    first = 1
    while first <= most:
        last = 1 if first == 1 else 2 * first - 1
        found.append((first, min(last, most)))
        first = last + 1
    return found


def _prefixes(rows: Sequence[Floats]) -> Floats:
    return np.concatenate([np.zeros((len(rows), 1)), np.cumsum(np.asarray(rows, dtype=np.float64), axis=1)], axis=1)


def _reach(prefix: Floats, caps: Floats) -> Ints:
    """Return the last end of a run from each layer whose seconds keep to the caps, (boxes, n)."""
    places = np.searchsorted(prefix, (prefix[None, :-1] + caps).ravel(), side="right") - 1
    return places.reshape(len(caps), -1)
