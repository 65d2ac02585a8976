"""Vectors of device counts and chains over them: the least prefill of every replica within caps, all vectors at once.

For groups of t devices of the sorts that islands hold (kinds together, `sorts`), K stages and caps P and B on the
slowest prefill and decode stage::

    f_0(0, 0) = 0
    f_m(u, j) = min over sorts g ≤ u, starts i of  f_{m−1}(u − g, i) + p_g(i, j) + hop

i runs over the starts for which layers i..j−1 fit the memory of g and keep to the caps: an interval, so its least is
read from a table of ranges. f_K(u, n) is the least Σ prefill of any chain over the devices u, in any order, with any
cuts, with every link and hop as near as any there is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.fleet import Fleet, GroupTimes
from gpuplan.solvers.deployment.units import Units

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Counts = tuple[int, ...]
#: Rounding of sums of times and bytes, relatively.
SLACK: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Level:
    """Vectors of m groups; for each sort the rows it may be the last group of, and those it leaves in level m − 1."""

    states: Ints
    last: tuple[tuple[Ints, Ints], ...]


@dataclass(frozen=True, slots=True)
class Stages:
    """What stages of K at one degree and batch take, by sort: prefix sums of seconds and of bytes, and room.

    saving
        Bytes less where one stage holds all layers.
    hops
        Seconds of the nearest hop in prefill and decode, and back.
    """

    times: tuple[GroupTimes | None, ...]
    prefill: tuple[Floats, ...]
    decode: tuple[Floats, ...]
    need: Floats
    rooms: tuple[float, ...]
    saving: float
    hops: tuple[float, float, float]


class Lattice:
    """The vectors of counts of a small fleet, and chains over them.

    Attributes
    ----------
    states
        Every vector of counts by kind, shape (S, kinds).
    sorts
        For each degree the groups that some island holds, as counts by kind.
    """

    def __init__(self, fleet: Fleet, units: Units) -> None:
        self.fleet, self.units = fleet, units
        counts = np.bincount(fleet.kind_of, minlength=len(fleet.kinds))
        self.counts: Counts = tuple(int(count) for count in counts)
        self.states = np.indices([most + 1 for most in self.counts]).reshape(len(counts), -1).T.astype(np.int64)
        self.strides = np.array(
            [math.prod(most + 1 for most in self.counts[i + 1 :]) for i in range(len(counts))], dtype=np.int64
        )
        self.sizes = self.states.sum(axis=1)
        self.sorts = {degree: units.sorts(degree) for degree in fleet.degrees}
        self._levels: dict[int, list[Level]] = {}
        self._stages: dict[tuple[int, int, int], Stages] = {}

    def number(self, counts: Sequence[int]) -> int:
        """Return the row of a vector of counts."""
        return int(np.asarray(counts) @ self.strides)

    def levels(self, degree: int) -> list[Level]:
        """Return the vectors by number of groups of `degree`."""
        if degree not in self._levels:
            sorts = self.sorts[degree]
            row_of = np.full(len(self.states), -1, dtype=np.int64)
            row_of[0] = 0
            levels = [Level(np.zeros(1, dtype=np.int64), ())]
            while len(levels) <= min(self.fleet.num_layers, sum(self.counts) // degree):
                before = levels[-1].states
                reached = [before[(self.states[before] + own <= self.counts).all(axis=1)] for own in sorts]
                ends = [
                    starts + int(np.asarray(own) @ self.strides) for starts, own in zip(reached, sorts, strict=True)
                ]
                # None where devices are left over that make no group: that level and those after it are empty.
                states = np.unique(np.concatenate(ends)) if ends else np.zeros(0, dtype=np.int64)
                place = np.full(len(self.states), -1, dtype=np.int64)
                place[states] = np.arange(len(states))
                last = tuple((place[end], row_of[start]) for end, start in zip(ends, reached, strict=True))
                levels.append(Level(states, last))
                row_of = place
            self._levels[degree] = levels
        return self._levels[degree]

    def stages(self, degree: int, batch: int, count: int) -> Stages:
        """Return what stages of `count` at a degree and batch take."""
        key = (degree, batch, count)
        if key not in self._stages:
            fleet = self.fleet
            memory, micro = fleet.memory(degree, batch), fleet.problem.micro_batches(count)
            groups = [[kind for kind, held in enumerate(own) if held] for own in self.sorts[degree]]
            times = tuple(self.units.best_times(kinds, degree, batch) for kinds in groups)
            known = [own or GroupTimes(np.zeros(fleet.num_layers), np.zeros(fleet.num_layers)) for own in times]
            rooms = [min(fleet.kinds[kind].available_bytes for kind in kinds) - memory.workspace for kinds in groups]
            hops = self.units.nearest_hops(degree, batch)
            inner = [float(own[:-1].min()) if len(own) > 1 else 0.0 for own in hops[:2]]
            self._stages[key] = Stages(
                times,
                tuple(_prefix(own.prefill_s) for own in known),
                tuple(_prefix(own.decode_s) for own in known),
                memory.weights + micro * batch * memory.kv,
                tuple(room * (1 + SLACK) for room in rooms),
                memory.saving if count == 1 else 0.0,
                (inner[0], inner[1], hops[2]) if count > 1 else (0.0, 0.0, 0.0),
            )
        return self._stages[key]

    def least(self, degree: int, batch: int, count: int, caps: tuple[float, float], *, decode: bool) -> Floats:
        """Return the least Σ of stages of every vector of `count` groups, prefill or decode, inf where none fits.

        Parameters
        ----------
        caps
            On prefill and decode stages, hops included, s.
        """
        least: Floats = self._fill(degree, batch, count, caps, decode=decode)[-1][-1]
        return least

    def chain(self, degree: int, batch: int, counts: Counts, caps: tuple[float, float]) -> tuple[Counts, ...] | None:
        """Return the sorts of the groups, in order, of the chain of least Σ prefill over `counts`; None without one."""
        count = sum(counts) // degree
        own, levels, n = self.stages(degree, batch, count), self.levels(degree), self.fleet.num_layers
        found = self._fill(degree, batch, count, caps, decode=False)
        state, end = self.number(counts), n
        order: list[Counts] = []
        for m in range(count, 0, -1):
            best: tuple[float, int, int, int] | None = None
            for sort, (ends, starts) in enumerate(levels[m].last):
                place = np.flatnonzero(levels[m].states[ends] == state)
                if not len(place) or own.times[sort] is None:
                    continue
                first, past = self._window(own, sort, caps, whole=m == count)
                row = int(starts[place[0]])
                before = found[m - 1][first[end] : past[end], row] - own.prefill[sort][first[end] : past[end]]
                if len(before) and math.isfinite(float(before.min())):
                    total = float(before.min()) + float(own.prefill[sort][end])
                    if best is None or total < best[0]:
                        best = (total, sort, int(first[end]) + int(before.argmin()), row)
            if best is None:
                return None
            order.append(self.sorts[degree][best[1]])
            state, end = int(levels[m - 1].states[best[3]]), best[2]
        return tuple(reversed(order))

    def _fill(self, degree: int, batch: int, count: int, caps: tuple[float, float], *, decode: bool) -> list[Floats]:
        """Return f_0 … f_K, each (n+1, vectors); of the last one only the row of all layers."""
        own, levels, n = self.stages(degree, batch, count), self.levels(degree), self.fleet.num_layers
        start = np.full((n + 1, 1), np.inf)
        start[0] = 0.0
        found = [start]
        for m in range(1, count + 1):
            level, whole = levels[m], m == count
            rows = 1 if whole else n + 1
            best = np.full((rows, len(level.states)), np.inf)
            for sort, (ends, starts) in enumerate(level.last):
                if own.times[sort] is None or own.rooms[sort] < 0.0 or not len(ends):
                    continue
                first, past = self._window(own, sort, caps, whole=whole)
                seconds = own.decode[sort] if decode else own.prefill[sort]
                hop = own.hops[2 if whole else 1] if decode else 0.0 if whole else own.hops[0]
                before = found[-1][:, starts] - seconds[:, None]
                if whole:
                    least = before[first[-1] : past[-1]].min(axis=0, initial=np.inf)[None, :] + (seconds[-1] + hop)
                else:
                    least = _range_least(before, first, past) + (seconds[:, None] + hop)
                best[:, ends] = np.minimum(best[:, ends], least)
            found.append(best)
        return found

    def _window(self, own: Stages, sort: int, caps: tuple[float, float], *, whole: bool) -> tuple[Ints, Ints]:
        """Return for every end j the first start of a stage that may end there, and the one past the last."""
        n = self.fleet.num_layers
        first = np.searchsorted(own.need, own.need - own.rooms[sort] - own.saving, side="left")
        rests = (caps[0] - (0.0 if whole else own.hops[0]), caps[1] - own.hops[2 if whole else 1])
        for seconds, rest in zip((own.prefill[sort], own.decode[sort]), rests, strict=True):
            if math.isfinite(rest):
                reach = rest + SLACK * (abs(rest) + float(seconds[-1]))
                first = np.maximum(first, np.searchsorted(seconds, seconds - reach, side="left"))
        past = np.arange(n + 1)
        if self.fleet.problem.decoder_in_every_stage:
            past = np.searchsorted(self.fleet.decoders, self.fleet.decoders, side="left")
        return first, past


def _range_least(values: Floats, first: Ints, past: Ints) -> Floats:
    """Return for every row j the least of rows ``first[j]..past[j]−1``, inf where there is none.

    A table of the least of 2^d rows from each row on, for one d after the other; two of them cover any range.
    """
    length = past - first
    depths = np.frexp(np.maximum(length, 1))[1] - 1
    least: Floats = np.full_like(values, np.inf)
    table = values
    for depth in range(int(depths.max()) + 1):
        rows = np.flatnonzero((depths == depth) & (length > 0))
        if len(rows):
            least[rows] = np.minimum(table[first[rows]], table[past[rows] - 2**depth])
        table = np.minimum(table[: -(2**depth)], table[2**depth :])
    return least


def _prefix(seconds: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(seconds)])
