"""Nearly alike devices made alike: every number of a problem replaced by the best (or worst) of a group of near ones.

A *group* holds devices whose numbers differ by a share of ε at most: layer times, memory (and the price, where it is
the objective). Taking the least of the group's times layer by layer, its largest memory and least price gives a problem
that every plan of the true one fits, at no higher value, so its optimum bounds the true one from below. Links are
treated alike, value by value. With `up` it is the other way round: every plan of the problem so made is one of the
true problem, and worth no more there than it seems.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.hops import FloatArray, Hops, HopTable, IntArray, UnitHops
from gpuplan.profiles.problems.placement import DensePlacement, Timing
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.classes import all_hops

#: More groups of devices than this are no help.
MOST_GROUPS = 64
#: Links of at most so many different values are left as they are; tables of more units than that are not rounded.
FEW_VALUES, MOST_UNITS = 256, 2048
#: Seconds that roundings take for each device, each pair of units whose links are rounded, and each other pair: twice
#: what was measured on 1,024-4,096 devices, alike and unlike.
SECONDS = 5e-5, 5e-7, 4e-8
#: Bytes they take for each pair of units.
BYTES = 96


def rounding_fits(problem: DensePlacement, budget: Budget) -> bool:
    """Whether the time and memory left suffice to try roundings."""
    units = max(len(hops.unit_latency_s) for hops in all_hops(problem))
    limit = budget.limits.memory_limit_bytes
    if limit is not None and limit < BYTES * units**2:
        return False
    each_device, rounded, other = SECONDS
    pair = rounded if units <= MOST_UNITS else other
    return budget.remaining_s >= each_device * problem.num_devices + pair * units**2


@dataclass(frozen=True)
class Rounded:
    """A rounded problem.

    problem
        The same devices and layers.
    epsilon
        The largest share by which rounding lowered (raised) the times of a whole device, or of a link.
    group
        Group of each device, shape (D,).
    """

    problem: DensePlacement
    epsilon: float
    group: IntArray


class Rounding:
    """Rounds one problem to any ε; what does not depend on ε is made once."""

    def __init__(self, problem: DensePlacement, *, with_price: bool = False) -> None:
        self.problem = problem
        self.times = [problem.latency.compute_s]
        if problem.cycle is not problem.latency:
            self.times.append(problem.cycle.compute_s)
        self.scalars = [problem.available_bytes] + ([problem.price_per_hour] if with_price else [])
        self.totals = [times.sum(axis=1) for times in self.times]
        few = (table for table in _tables(problem) if len(table) <= MOST_UNITS)
        self.values = {id(table): np.unique(table[np.isfinite(table)]) for table in few}

    def groups(self, epsilon: float, most: int = MOST_GROUPS) -> IntArray | None:
        """Return the group of each device, from the fastest on; None where they are more than `most`."""
        group = np.full(self.problem.num_devices, -1, dtype=np.int64)
        order = np.argsort(self.totals[0], kind="stable")
        left = order
        for number in range(most):
            leader = left[0]
            near = left[self._near(leader, left, epsilon)]
            group[near] = number
            left = left[group[left] < 0]
            if len(left) == 0:
                return group
        return None

    def _near(self, leader: int, devices: IntArray, epsilon: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return which devices differ from a leader by a share of ε at most."""
        near = np.ones(len(devices), dtype=np.bool_)
        for values in self.scalars:
            near &= np.abs(values[devices] - values[leader]) <= epsilon * values[leader]
        for times, totals in zip(self.times, self.totals, strict=True):
            near &= np.abs(totals[devices] - totals[leader]) <= epsilon * totals[leader]
            some = np.flatnonzero(near)
            apart = np.abs(times[devices[some]] - times[leader]).sum(axis=1)
            near[some] &= apart <= epsilon * totals[leader]
        return near

    def rounded(self, group: IntArray, epsilon: float, *, up: bool = False) -> Rounded:
        """Return the problem rounded by groups of devices, links to a share of ε."""
        problem = self.problem
        made: dict[int, Hops] = {}
        for hops in all_hops(problem):
            made[id(hops)] = self._hops(hops, epsilon, up)
        latency = self._timing(problem.latency, group, made, up)
        same = problem.cycle is problem.latency
        cycle = latency if same else self._timing(problem.cycle, group, made, up)
        rounded = dataclasses.replace(
            problem,
            latency=latency,
            cycle=cycle,
            available_bytes=_best_of(problem.available_bytes, group, np.fmin if up else np.fmax),
            price_per_hour=_best_of(problem.price_per_hour, group, np.fmax if up else np.fmin),
        )
        return Rounded(rounded, self._loss(rounded), group)

    def _timing(self, timing: Timing, group: IntArray, made: dict[int, Hops], up: bool) -> Timing:
        return dataclasses.replace(
            timing,
            compute_s=_best_of(timing.compute_s, group, np.maximum if up else np.minimum),
            hop=made[id(timing.hop)],
            return_hop=None if timing.return_hop is None else made[id(timing.return_hop)],
        )

    def _hops(self, hops: Hops, epsilon: float, up: bool) -> Hops:
        latency = self._links(hops.unit_latency_s, epsilon, up)
        per_byte = self._links(hops.unit_s_per_byte, epsilon, up)
        if isinstance(hops, HopTable):
            return HopTable(latency, per_byte)
        return UnitHops(hops.home, latency, per_byte)

    def _links(self, table: FloatArray, epsilon: float, up: bool) -> FloatArray:
        """Return a table whose values fall (rise) to the least (largest) of a stretch of a share of ε at most."""
        values = self.values.get(id(table))
        if values is None or len(values) <= FEW_VALUES:
            return table
        starts = [0]
        while (stop := int(np.searchsorted(values, values[starts[-1]] * (1.0 + epsilon), side="right"))) < len(values):
            starts.append(stop)
        least = values[starts]
        ends = values[[*(start - 1 for start in starts[1:]), -1]] if up else least
        place = np.searchsorted(least, table, side="right") - 1  # among the few stretches: far faster than all values
        return np.where(np.isfinite(table), ends[place], table)

    def _loss(self, rounded: DensePlacement) -> float:
        """Return the largest relative change of a device's time for all layers, or of a link."""
        timings = ((self.problem.latency, rounded.latency), (self.problem.cycle, rounded.cycle))
        pairs = [(before.compute_s.sum(axis=1), after.compute_s.sum(axis=1)) for before, after in timings]
        pairs += list(zip(_tables(self.problem), _tables(rounded), strict=True))
        changes = [0.0]
        for before, after in pairs:
            if before is after:
                continue
            known = np.isfinite(before) & (before > 0.0)
            changes.append(float(np.abs(after[known] / before[known] - 1.0).max(initial=0.0)))
        return max(changes)


def _tables(problem: DensePlacement) -> list[FloatArray]:
    """Return the pair tables of a problem, in a fixed order."""
    return [table for hops in all_hops(problem) for table in (hops.unit_latency_s, hops.unit_s_per_byte)]


def _best_of(values: FloatArray, group: IntArray, join: np.ufunc) -> FloatArray:
    """Return for each device what `join` makes of its group's values, column by column."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    return np.ascontiguousarray(join.reduceat(values[order], starts, axis=0)[group])
