"""Does it fit? Answers that need no states, for clusters whose sets of devices are too many to go through.

A packing that is found is a plan; a relaxation that no plan can beat is a proof against one. Between the two: None.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.placement import FloatArray

BoolArray = NDArray[np.bool_]


def fits_quickly(
    room: FloatArray, sizes: FloatArray, limit: int, must_hold: BoolArray | None, complete: bool
) -> bool | None:
    """Return whether some plan fits on these devices, None where no rule decides.

    Parameters
    ----------
    room
        Bytes each device has for layers, shape (d,).
    sizes
        Bytes of the layers before each position, shape (n + 1,).
    limit
        Devices a plan may use at most.
    must_hold
        Layers of which every stage must hold one, or None.
    complete
        Whether every device reaches every other: only then is a packing a plan.
    """
    if not may_fit(room, sizes, limit):
        return False
    found = complete and (packs_by_size(room, sizes, limit, must_hold) or packs_tightly(room, sizes, limit, must_hold))
    return True if found else None


def may_fit(room: FloatArray, sizes: FloatArray, limit: int) -> bool:
    """Return False where no plan can fit: in total, by layers, or were all devices as large as the largest.

    By layers: a device holds at most as many as fit it anywhere, and the largest such numbers must reach n. The
    relaxations ignore routes, marks and the order of devices, so False is a proof.
    """
    top = np.sort(np.maximum(room, 0.0))[::-1][:limit]
    if len(top) == 0 or float(top.sum()) < float(sizes[-1]) * (1.0 - 1e-12):
        return False
    n = len(sizes) - 1
    values, place = np.unique(top, return_inverse=True)
    stops = np.searchsorted(sizes, (sizes[None, :n] + values[:, None]).ravel(), side="right").reshape(-1, n) - 1
    if int((stops - np.arange(n)).max(axis=1)[place].sum()) < n:
        return False
    position, stages = 0, 0
    while position < n and stages < limit:
        furthest = int(np.searchsorted(sizes, sizes[position] + top[0], side="right")) - 1
        if furthest == position:
            return False
        position, stages = furthest, stages + 1
    return position == n


def packs_by_size(room: FloatArray, sizes: FloatArray, limit: int, must_hold: BoolArray | None) -> bool:
    """Return whether the largest devices, each filled as far as it goes, hold everything."""
    n, position = len(sizes) - 1, 0
    for space in np.sort(room)[::-1][:limit]:
        stop = int(np.searchsorted(sizes, sizes[position] + space, side="right")) - 1
        if stop > position and (must_hold is None or bool(must_hold[position:stop].any())):
            position = stop
        if position == n:
            return True
    return False


def packs_tightly(room: FloatArray, sizes: FloatArray, limit: int, must_hold: BoolArray | None) -> bool:
    """Return whether this rule holds everything: next comes the device that wastes the least share of its room."""
    n, position, used = len(sizes) - 1, 0, 0
    # Of the devices a plan may use the largest are enough to choose from, and leave room for few.
    left = np.sort(room[room > 0.0])[::-1][:limit]
    while len(left) and used < limit:
        stops = np.searchsorted(sizes, sizes[position] + left, side="right") - 1
        waste = np.where(stops > position, 1.0 - (sizes[stops] - sizes[position]) / left, np.inf)
        if must_hold is not None:
            waste[[not must_hold[position:stop].any() for stop in stops]] = np.inf
        best = int(np.argmin(waste))
        if np.isinf(waste[best]):
            return False
        position, used = int(stops[best]), used + 1
        if position == n:
            return True
        left = np.delete(left, best)
    return False
