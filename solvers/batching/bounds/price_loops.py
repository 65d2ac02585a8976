"""Compiled loops of the box prices (Numba, without the GIL). Import this module only where it is needed.

A grid of cells (i, j) holds ``count[i, j]`` requests of at least ``S[i]`` prompt and ``O[j]`` output tokens, and one
price for all of them. A list is the highest prices below a corner, falling, with the cell each comes from.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@njit(cache=True, nogil=True)
def insert(values: Floats, cells: Ints, filled: int, value: float, cell: int, count: int) -> int:
    """Put `count` copies of a price into a list kept to its length; return how many entries it has now."""
    most = len(values)
    place = filled
    while place > 0 and values[place - 1] < value:
        place -= 1
    count = min(count, most - place)
    filled = min(filled + count, most)
    for entry in range(filled - 1, place + count - 1, -1):
        values[entry], cells[entry] = values[entry - count], cells[entry - count]
    for entry in range(place, place + count):
        values[entry], cells[entry] = value, cell
    return filled


@njit(cache=True, nogil=True)
def merge(
    values: Floats, cells: Ints, filled: int, more: Floats, more_cells: Ints, more_filled: int, out: Floats, at: Ints
) -> int:
    """Merge two lists into `out`, kept to its length; return how many entries it has."""
    a, b, entries = 0, 0, min(filled + more_filled, len(out))
    for entry in range(entries):
        if b >= more_filled or (a < filled and values[a] >= more[b]):
            out[entry], at[entry] = values[a], cells[a]
            a += 1
        else:
            out[entry], at[entry] = more[b], more_cells[b]
            b += 1
    return entries


@njit(cache=True, nogil=True)
def judge(values: Floats, cells: Ints, most: int, fixed: float, each: float, excess: Floats, worst: Floats) -> None:
    """Raise worst[cell] to the largest excess (Σ of the b highest prices − cost)/b of a box it is among the b of."""
    total = 0.0
    for entry in range(most):
        total += values[entry]
        excess[entry] = (total - fixed) / (entry + 1) - each
    highest = -np.inf
    for entry in range(most - 1, -1, -1):
        highest = max(highest, excess[entry])
        if highest > worst[cells[entry]]:
            worst[cells[entry]] = highest


@njit(cache=True, nogil=True)
def sweep(
    count: Ints,
    price: Floats,
    S: Floats,
    O: Floats,  # noqa: E741
    k: Floats,
    capacity: float,
    limit: int,
    worst: Floats,
) -> None:
    """Fill worst[cell], the largest excess over all boxes that the cell's requests may be dearest in (−: slack).

    Lists below corner (i, j) are those below (i − 1, j) merged with row i up to j: O(cells·limit).
    """
    rows, columns = count.shape
    below, below_cells = np.empty((columns, limit)), np.empty((columns, limit), dtype=np.int64)
    filled = np.zeros(columns, dtype=np.int64)
    row, row_cells = np.empty(limit), np.empty(limit, dtype=np.int64)
    out, out_cells, excess = np.empty(limit), np.empty(limit, dtype=np.int64), np.empty(limit)
    worst[:] = -np.inf
    for i in range(rows):
        in_row = 0
        for j in range(columns):
            if count[i, j] > 0:
                in_row = insert(row, row_cells, in_row, price[i, j], i * columns + j, count[i, j])
            if in_row == 0:
                continue  # the box is no other than that of the row before
            entries = merge(below[j], below_cells[j], filled[j], row, row_cells, in_row, out, out_cells)
            for entry in range(entries):
                below[j, entry], below_cells[j, entry] = out[entry], out_cells[entry]
            filled[j] = entries
            steps = max(O[j] - 1.0, 0.0)
            fixed = k[0] + k[2] * steps
            each = k[1] * S[i] + k[3] * steps + k[4] * steps * (S[i] + 0.5 * O[j]) + k[5] * (S[i] + O[j])
            room = max(int(capacity // max(S[i] + O[j], 1.0)), 1)
            judge(out, out_cells, min(entries, room), fixed, each, excess, worst)
