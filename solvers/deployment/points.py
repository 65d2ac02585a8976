"""What layers take at one degree and batch, on each sort of group: what boxes of replicas are bounded with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.ceilings import Ceilings, Counts
from gpuplan.solvers.deployment.fleet import Fleet, GroupTimes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Rounding of sums of times and bytes, relatively.
SLACK: Final = 1e-9
#: Sorts of groups of one degree up to which unlike ones are told apart.
MOST_SORTS: Final = 24
#: Kinds of devices up to which each has its own nearest hop; of more all have the nearest there is. With six the prices
#: meet in a minute then (512 devices: gap 4 %, else 22 %), with four they do in any case (4,096: 0.9 %, else 2.4 %).
MOST_SENDERS: Final = 4


@dataclass(frozen=True, slots=True)
class Point:
    """One degree and batch: what layers take on each group.

    Attributes
    ----------
    groups
        What groups there are, as counts by kind, shape (groups, kinds): those whose memory holds the workspace.
    there
        How many of each there are at most.
    prefill, decode
        Prefix sums of seconds, shape (groups, n+1).
    seconds
        Of each layer's prefill, shape (groups, n): as they are, so that equal layers are equal.
    shares
        w by layer: 1 for the decoder layer that takes longest, at most its share of it for others.
    hops
        Seconds of the nearest hop from each group in prefill and decode, shape (groups, 2).
    back
        Seconds of the nearest hop back.
    reaches
        Where stages have to end for the memory, by group and number of stages: filled when asked for.
    """

    degree: int
    batch: int
    groups: Floats
    there: Floats
    prefill: Floats
    decode: Floats
    seconds: Floats
    shares: Floats
    hops: Floats
    back: float
    reaches: dict[tuple[int, int], Ints] = field(default_factory=dict)


def make_point(ceilings: Ceilings, counts: Counts, degree: int, batch: int) -> Point | None:
    """Return what layers take at a degree and batch; None where no group can serve."""
    fleet, units = ceilings.fleet, ceilings.units
    memory = fleet.memory(degree, batch)
    fits = [kind.available_bytes * (1 + SLACK) >= memory.workspace for kind in fleet.kinds]
    known = {
        group: own
        for group in _groups(ceilings, degree)
        if all(fits[k] for k in kinds_of(group)) and (own := units.best_times(kinds_of(group), degree, batch))
    }
    if not known:
        return None
    times = list(known.values())
    groups = np.array(list(known), dtype=np.float64)
    back = units.nearest_hops(degree, batch)[2]
    return Point(
        degree,
        batch,
        groups,
        np.min(np.where(groups > 0.0, np.array(counts) / np.maximum(groups, 1e-300), np.inf), axis=1),
        _prefixes([own.prefill_s for own in times]),
        _prefixes([own.decode_s for own in times]),
        np.array([own.prefill_s for own in times]),
        _shares(fleet, times),
        _hops(ceilings, list(known), degree, batch),
        back if math.isfinite(back) else 0.0,
    )


def _groups(ceilings: Ceilings, degree: int) -> list[Counts]:
    """Return the groups that islands hold, as counts by kind.

    Where they are too many, those of each kind alone: each is at least as good as any with that kind in it.
    """
    kinds = range(len(ceilings.fleet.kinds))
    alone = [tuple(degree * (k == kind) for k in kinds) for kind in kinds]
    sorts = ceilings.units.sorts(degree) if degree > 1 else alone
    return sorts if len(sorts) <= MOST_SORTS else alone


def _hops(ceilings: Ceilings, groups: Sequence[Counts], degree: int, batch: int) -> Floats:
    """Return the seconds of the nearest hop from each group in prefill and decode, shape (groups, 2)."""
    least = [[_least_hop(own) for own in hop[:2]] for hop in ceilings.units.hops_from(degree, batch)]
    hops: Floats = np.array([np.max([least[kind] for kind in kinds_of(group)], axis=0) for group in groups])
    if len(ceilings.fleet.kinds) > MOST_SENDERS:
        hops = np.tile(hops.min(axis=0), (len(groups), 1))
    return hops


def _shares(fleet: Fleet, times: Sequence[GroupTimes]) -> Floats:
    """Return w: 1 for the decoder layer that takes longest, at most its share of it for others."""
    decoder = np.diff(fleet.decoders) > 0
    ratios = []
    for own in times:
        for seconds in (own.prefill_s, own.decode_s):
            usual = float(seconds[decoder].max()) if decoder.any() else float(seconds.max())
            ratios.append(seconds / usual if usual > 0.0 else np.ones_like(seconds))
    shares: Floats = np.min(ratios, axis=0)
    shares[decoder] = np.where(shares[decoder] > 1 - 1e-6, 1.0, shares[decoder])
    return shares


def layer_classes(point: Point) -> tuple[Ints, Floats]:
    """Return how many layers of each class there are, and their w and seconds that add up: (classes, 1+groups)."""
    rows = np.concatenate([point.shares[:, None], point.seconds.T], axis=1)
    found, amounts = np.unique(rows, axis=0, return_counts=True)
    return amounts.astype(np.int64), found


def kinds_of(group: Sequence[float] | Floats) -> list[int]:
    """Return the kinds in a group."""
    return [kind for kind, count in enumerate(group) if count]


def _least_hop(hop: Floats) -> float:
    """Return the least seconds of a hop by cut; 0 where there is none."""
    least = float(hop[:-1].min()) if len(hop) > 1 else 0.0
    return least if math.isfinite(least) else 0.0


def _prefixes(rows: Sequence[Floats]) -> Floats:
    return np.concatenate([np.zeros((len(rows), 1)), np.cumsum(np.asarray(rows, dtype=np.float64), axis=1)], axis=1)
