"""Bounds on what a replica of given devices could do, whatever their grouping, order and cuts.

For K = |devices|/t groups at batch b, a replica's cycle is at least

    TTFT + (M − 1)·P + (o − 1)·max(M·B, TPOT)

with each part bounded on its own: every layer on the fastest kind, the nearest pair of devices for every hop, and the
largest stage by three facts: some stage holds ⌈n/K⌉ layers, the slowest single layer is somewhere, and the work that
all groups can do within T is Σ_i u_i·min(T/σ_i, what fits their memory) ≥ the work there is, σ_i the slowness of kind i
on the layer that suits it best. On demand the highest ceiling is sharpened: the least cycle of ideal chains, cuts
included, over every sequence of groups that uses the devices up, where there are few.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.chain import THOROUGH, Slo, sweep
from gpuplan.solvers.deployment.families import Families
from gpuplan.solvers.deployment.fleet import Fleet
from gpuplan.solvers.deployment.units import Units

Floats = NDArray[np.float64]
Counts = tuple[int, ...]
#: Rounding of sums that a bound may be off by, relatively.
ROUNDING = 1e-12
#: Sequences of unlike groups up to which each is bounded by itself.
MOST_ORDERS = 120


@dataclass(frozen=True, slots=True)
class Ceiling:
    """No replica of these devices at this degree and batch has a larger `value` (requests/s or tokens/s)."""

    value: float
    degree: int
    batch: int
    refined: bool = False


@dataclass(slots=True)
class Reached:
    """The least TTFT and the least seconds between tokens that any replica considered could have."""

    ttft_s: float = math.inf
    token_s: float = math.inf
    fits: bool = False


@dataclass(slots=True)
class Ceilings:
    """Ceilings by number of devices of each kind, made when asked for.

    Attributes
    ----------
    families
        What sharpens them where there are few vectors; without it chains over every sequence of groups do.
    reached
        The best SLO figures seen among replicas that could fit, for the reasons of an infeasible problem.
    """

    fleet: Fleet
    units: Units
    slo: Slo
    tokens: bool
    families: Families | None = None
    reached: Reached = field(default_factory=Reached)
    _kept: dict[Counts, list[Ceiling]] = field(default_factory=dict)

    def of(self, counts: Counts) -> list[Ceiling]:
        """Return the ceilings of a number of devices of each kind, the highest first; none when nothing fits."""
        if counts not in self._kept:
            size = sum(counts)
            found = []
            for degree in self.fleet.degrees:
                if size % degree or size // degree > self.fleet.num_layers:
                    continue
                for batch in self.fleet.batches():
                    value = self._value(counts, degree, batch)
                    if value > 0.0:
                        found.append(Ceiling(value, degree, batch))
            self._kept[counts] = sorted(found, key=_highest_first)
        return self._kept[counts]

    def best(self, counts: Counts) -> float:
        """Return the highest value that a replica of these devices could have; 0 when none can be."""
        found = self.of(counts)
        return found[0].value if found else 0.0

    def refine(self, counts: Counts) -> bool:
        """Sharpen the highest ceiling; return whether anything was left to do."""
        found = self.of(counts)
        if not found or found[0].refined:
            return False
        top, rest = found[0], found[1:]
        value, done = self._sharper(counts, top, rest[0].value if rest else 0.0)
        if value > 0.0:
            rest = [Ceiling(min(value, top.value), top.degree, top.batch, refined=done), *rest]
        self._kept[counts] = sorted(rest, key=_highest_first)
        return True

    def _sharper(self, counts: Counts, top: Ceiling, enough: float) -> tuple[float, bool]:
        """Return a lower ceiling, and whether it is as low as it gets; it need not be where it is at most `enough`."""
        if self.families is not None:
            return self.families.sharpen(counts, top.degree, top.batch, enough)
        sequences = orders(counts, top.degree, MOST_ORDERS)
        return (top.value if sequences is None else self._ideal_value(sequences, top)), True

    def _ideal_value(self, sequences: Sequence[tuple[tuple[int, ...], ...]], top: Ceiling) -> float:
        """Return the highest value of ideal chains over groups given by their kinds."""
        best = 0.0
        for groups in sequences:
            chain = self.units.ideal(groups, top.degree, top.batch)
            if chain is None:
                continue
            found = sweep(chain, self.slo, tokens=self.tokens, caps=THOROUGH)
            if math.isfinite(found.lower_s):
                lower = found.lower_s * (1.0 - ROUNDING)
                best = max(best, chain.micro_batches * top.batch / lower if lower > 0.0 else math.inf)
        return best

    def _value(self, counts: Counts, degree: int, batch: int) -> float:
        fleet = self.fleet
        groups = sum(counts) // degree
        parts = self._parts(counts, degree, batch, groups)
        if parts is None:
            return 0.0
        ttft, slowest, bottleneck, tpot = parts
        micro = fleet.problem.micro_batches(groups)
        interval = max(micro * bottleneck, tpot)
        self.reached.fits = True
        self.reached.ttft_s = min(self.reached.ttft_s, ttft)
        self.reached.token_s = min(self.reached.token_s, interval)
        if ttft > self.slo.ttft_s * (1 + ROUNDING) or interval > self.slo.token_s * (1 + ROUNDING):
            return 0.0
        cycle = interval if self.tokens else ttft + (micro - 1) * slowest + fleet.steps * interval
        return micro * batch / (cycle * (1.0 - ROUNDING)) if cycle > 0.0 else math.inf

    def _parts(self, counts: Counts, degree: int, batch: int, groups: int) -> tuple[float, float, float, float] | None:
        """Return bounds below TTFT, largest prefill stage, bottleneck and TPOT; None when the memory is too small."""
        fleet = self.fleet
        memory = fleet.memory(degree, batch)
        micro = fleet.problem.micro_batches(groups)
        need = np.diff(memory.weights) + micro * batch * np.diff(memory.kv)
        saving = memory.saving if groups == 1 else 0.0
        kinds = [kind for kind, count in enumerate(counts) if count]
        shares = np.array([counts[kind] / degree for kind in kinds])  # groups, as if each were of one kind
        rooms = np.array([fleet.kinds[kind].available_bytes for kind in kinds]) * (1 + 1e-9) - memory.workspace
        if (shares * np.maximum(rooms, 0.0)).sum() < need.sum() - saving or rooms.min() < 0.0:
            return None
        if groups == 1:
            rooms = np.full(len(kinds), np.inf)  # one group holds it all, as was just seen
        times = [own for own in (self.units.best_times((kind,), degree, batch) for kind in kinds) if own is not None]
        if len(times) < len(kinds):
            return None  # no group of this degree holds some of the devices
        hops = self.units.nearest_hops(degree, batch)
        back = hops[2] if groups > 1 else 0.0
        prefill = _phase([own.prefill_s for own in times], shares, rooms, need, groups, _least(hops[0]), 0.0)
        decode = _phase([own.decode_s for own in times], shares, rooms, need, groups, _least(hops[1]), back)
        if not (math.isfinite(prefill[1]) and math.isfinite(decode[1])):
            return None
        return prefill[0], prefill[1], decode[1], decode[0]


def orders(counts: Counts, degree: int, most: int) -> list[tuple[tuple[int, ...], ...]] | None:
    """Return every sequence of groups of `degree` that uses up `counts`, groups given by their kinds.

    None when there are more than `most`.

    >>> orders((2, 1), 1, 9)
    [((0,), (0,), (1,)), ((0,), (1,), (0,)), ((1,), (0,), (0,))]
    >>> orders((2, 2), 2, 9)
    [((0, 0), (1, 1)), ((0, 1), (0, 1)), ((1, 1), (0, 0))]
    """
    found: list[tuple[tuple[int, ...], ...]] = []
    kinds = [kind for kind, count in enumerate(counts) if count]

    def extend(left: Counts, taken: tuple[tuple[int, ...], ...]) -> bool:
        if not any(left):
            found.append(taken)
            return len(found) <= most
        for group in itertools.combinations_with_replacement(kinds, degree):
            rest = tuple(count - group.count(kind) for kind, count in enumerate(left))
            if min(rest) >= 0 and not extend(rest, (*taken, group)):
                return False
        return True

    return found if extend(counts, ()) else None


def _highest_first(ceiling: Ceiling) -> tuple[float, int, int]:
    return -ceiling.value, ceiling.degree, ceiling.batch


def _least(hop: Floats) -> float:
    return float(hop[:-1].min()) if len(hop) > 1 else 0.0


def _phase(
    times: Sequence[Floats], shares: Floats, rooms: Floats, need: Floats, groups: int, hop: float, back: float
) -> tuple[float, float]:
    """Return bounds below the sum and the largest of the stages in one phase, hops included, s."""
    fastest = np.min(times, axis=0)
    total = float(fastest.sum()) + ((groups - 1) * hop + back if groups > 1 else 0.0)
    fewest = math.ceil(len(fastest) / groups)
    some = float(np.partition(fastest, fewest - 1)[:fewest].sum())
    largest = max(float(fastest.max()), some, _within(times, fastest, shares, rooms, need))
    return total, max(largest, total / groups)


def _within(times: Sequence[Floats], fastest: Floats, shares: Floats, rooms: Floats, need: Floats) -> float:
    """Return the least T with ``Σ u_i·min(T/σ_i, fits_i) ≥ Σ fastest``; inf when even all memory is too little."""
    work = float(fastest.sum())
    positive = fastest > 0.0
    if work <= 0.0 or not positive.any():
        return 0.0
    slowness = np.array([float((own[positive] / fastest[positive]).min()) for own in times])
    fits = _most_work(fastest, need, rooms)
    ends = fits * slowness  # T from which kind i is full
    done, speed = 0.0, float((shares / slowness).sum())
    reached = 0.0
    for i in np.argsort(ends, kind="stable"):
        if speed > 0.0 and done + speed * (ends[i] - reached) >= work:
            return reached + (work - done) / speed
        if math.isinf(ends[i]):
            break
        done += speed * (ends[i] - reached)
        reached = float(ends[i])
        speed -= float(shares[i] / slowness[i])
        speed = max(speed, 0.0)
    return math.inf if done < work * (1 - 1e-9) else reached


def _most_work(fastest: Floats, need: Floats, rooms: Floats) -> Floats:
    """Return the most work whose layers fit each room: the densest layers first, the last one in part."""
    free = float(fastest[need <= 0.0].sum())
    held, work = need[need > 0.0], fastest[need > 0.0]
    order = np.argsort(-work / held, kind="stable")
    filled = np.concatenate([[0.0], np.cumsum(held[order])])
    done = np.concatenate([[0.0], np.cumsum(work[order])])
    inside = np.interp(np.clip(rooms, 0.0, None), filled, done)
    return np.asarray(free + inside, dtype=np.float64)
