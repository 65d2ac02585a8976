"""The best replica on a given set of devices: its groups, their order, the cuts and the batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gpuplan.solvers.deployment.ceilings import Ceiling, Ceilings, Counts
from gpuplan.solvers.deployment.chain import QUICK, THOROUGH, Rate, rate_of, sweep
from gpuplan.solvers.deployment.units import Group, Units

#: Blocks of like groups up to which every order of them is tried.
MOST_ORDERED = 4
#: Sequences of unlike groups up to which every one is tried.
MOST_ORDERS = 30


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica: groups of device numbers in pipeline order, ``cuts[k]..cuts[k+1]−1`` the layers of stage k."""

    groups: tuple[Group, ...]
    cuts: tuple[int, ...]
    rate: Rate
    value: float

    @property
    def devices(self) -> tuple[int, ...]:
        """Devices in pipeline order."""
        return tuple(device for group in self.groups for device in group)

    @property
    def degree(self) -> int:
        """Devices in a stage."""
        return len(self.groups[0])


class Shaper:
    """Finds the best replica on a set of devices; once it has found any and `stop` says so, the best so far."""

    def __init__(self, units: Units, ceilings: Ceilings) -> None:
        self.units, self.ceilings = units, ceilings
        self.fleet = units.fleet
        self.stop: Callable[[], bool] | None = None
        self.found = False
        self._cut: dict[Hashable, Replica | None] = {}

    def counts(self, devices: Sequence[int]) -> Counts:
        """Return how many devices of each kind there are."""
        counts = [0] * len(self.fleet.kinds)
        for device in devices:
            counts[int(self.fleet.kind_of[device])] += 1
        return tuple(counts)

    def best(self, devices: Sequence[int], *, thorough: bool = False) -> Replica | None:
        """Return the best replica that uses exactly `devices`; None when none fits and keeps to the SLOs."""
        best: Replica | None = None
        for ceiling in self.ceilings.of(self.counts(devices)):
            if best is not None and ceiling.value <= best.value * (1 + 1e-12):
                break
            for groups in self._orders(devices, ceiling.degree):
                if self.found and self.stop is not None and self.stop():
                    return best
                found = self.on(groups, ceiling, thorough=thorough)
                if found is not None and (best is None or found.value > best.value):
                    best, self.found = found, True
        return best

    def on(self, groups: tuple[Group, ...], ceiling: Ceiling, *, thorough: bool = False) -> Replica | None:
        """Return the best replica over `groups` in this order, at the ceiling's batch."""
        chain = self.units.chain(groups, ceiling.batch)
        if chain is None:
            return None
        tokens = self.ceilings.tokens
        found = sweep(chain, self.ceilings.slo, tokens=tokens, caps=THOROUGH if thorough else QUICK)
        if found.cuts is None or found.rate is None:
            return None
        value = found.rate.tokens_per_s if tokens else found.rate.requests_per_s
        return Replica(groups, found.cuts, found.rate, value)

    def moved(self, replica: Replica, swap: Mapping[int, int]) -> Replica | None:
        """Return `replica` on the devices that `swap` maps its own to; None where links or SLOs forbid it."""
        groups = tuple(tuple(sorted(swap[d] for d in group)) for group in replica.groups)
        return self.as_cut(groups, replica.cuts, replica.rate.batch)

    def as_cut(self, groups: tuple[Group, ...], cuts: tuple[int, ...], batch: int) -> Replica | None:
        """Return the replica of these groups and cuts; None where it does not fit or breaks an SLO."""
        key = self.fleet.ways.likeness(device for group in groups for device in group), len(groups), cuts, batch
        if key not in self._cut:
            self._cut[key] = self._as_cut(groups, cuts, batch)
        found = self._cut[key]
        return None if found is None else replace(found, groups=groups)

    def _as_cut(self, groups: tuple[Group, ...], cuts: tuple[int, ...], batch: int) -> Replica | None:
        chain = self.units.chain(groups, batch)
        if chain is None:
            return None
        rate = rate_of(chain, cuts)
        if not math.isfinite(rate.cycle_s) or not self.ceilings.slo.holds(rate):
            return None
        value = rate.tokens_per_s if self.ceilings.tokens else rate.requests_per_s
        return Replica(groups, cuts, rate, value)

    def _orders(self, devices: Sequence[int], degree: int) -> Iterator[tuple[Group, ...]]:
        """Yield the groups of `devices` in the orders worth a try: like groups of one island stay together."""
        blocks = self._blocks(devices, degree)
        if blocks is None:
            return
        rows = [groups for _, groups in blocks]
        natural = tuple(group for groups in rows for group in groups)
        if len({kind for kind, _ in blocks}) == 1:
            yield natural
            return
        every = list(itertools.islice(_interleavings([len(groups) for groups in rows]), MOST_ORDERS + 1))
        if len(every) <= MOST_ORDERS:
            for order in every:
                supply = [iter(groups) for groups in rows]
                yield tuple(next(supply[block]) for block in order)
        elif len(rows) <= MOST_ORDERED:
            for blocks_in_order in itertools.permutations(rows):
                yield tuple(group for groups in blocks_in_order for group in groups)
        else:
            yield natural
            yield natural[::-1]

    def _blocks(self, devices: Sequence[int], degree: int) -> list[tuple[Counts, list[Group]]] | None:
        """Return groups of `degree` within islands, like neighbours together; None where an island does not divide."""
        fleet = self.fleet
        islands: dict[int, list[int]] = {}
        for device in sorted(devices):
            islands.setdefault(int(fleet.island_of[device]), []).append(device)
        blocks: list[tuple[Counts, list[Group]]] = []
        for members in islands.values():
            if len(members) % degree:
                return None
            ordered = sorted(members, key=lambda d: (int(fleet.kind_of[d]), d))
            start = len(blocks)
            for first in range(0, len(ordered), degree):
                group = tuple(sorted(ordered[first : first + degree]))
                kinds = self.counts(group)
                if len(blocks) > start and blocks[-1][0] == kinds:
                    blocks[-1][1].append(group)
                else:
                    blocks.append((kinds, [group]))
        return blocks


def _interleavings(counts: list[int]) -> Iterator[tuple[int, ...]]:
    """Yield every sequence that holds number i ``counts[i]`` times.

    >>> list(_interleavings([2, 1]))
    [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
    """
    if not any(counts):
        yield ()
        return
    for i, count in enumerate(counts):
        if count:
            rest = [left - (j == i) for j, left in enumerate(counts)]
            for tail in _interleavings(rest):
                yield (i, *tail)
