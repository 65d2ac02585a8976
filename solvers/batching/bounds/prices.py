"""Box prices: near-best duals of the set-partitioning programme, for two keys and any number of requests.

Numbers π_i with Σ_{i in B} π_i ≤ cost(B) for every batch B that fits bound Σ cost of any plan by Σ π (LP duality of
set partitioning). A batch costs what its box (S, O) and its size b say, so there is one constraint a box and size:

    sum of the b highest prices among requests with s ≤ S, o ≤ O   ≤   cost(b, S, O).

Keys are rounded down to a grid first, which lowers costs alone: prices of the rounded requests are prices of the real
ones. A sweep over the grid finds, for each cell, the largest excess of a box that it is among the dearest in; prices
with excess fall by it, prices with slack rise by half of it. A uniform cut makes the best prices so far exact.

Unlike the split of `split`, which prices prompts and outputs apart, these know how much padding two keys cannot avoid
together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from gpuplan.profiles.problems.batching import FloatArray, IntArray
from gpuplan.solvers.batching.exact.additive import Additive

#: List entries a sweep may look at: about 0.15 s on the finest grid.
_ENTRIES: Final = 3.2e7
#: From coarse to fine: share of the finest grid's levels, sweeps at least; more of them while they are cheap.
_LADDER: Final = ((0.125, 16), (0.35, 8), (1.0, 4))
_MOST_SWEEPS: Final = 150
#: Batches beyond which lists are too long to keep.
_LONGEST: Final = 512
_RISE: Final = 0.5
_FREE: Final = 0.2
_SAFE: Final = 1.0 - 1e-11


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """What box prices prove: `bound` on Σ cost of any plan (without the form's constant), and `share[i]` = π_i ≥ 0."""

    bound: float
    share: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """Requests counted in cells; `cell` is each request's place in the flattened grid."""

    prompt: FloatArray
    output: FloatArray
    count: IntArray
    cell: IntArray


def box_prices(form: Additive, effort: float = 1.0) -> Prices | None:
    """Return prices for the requests of `form`, or None where batches may hold more than 512.

    Takes O(G²·limit) steps a sweep for G levels a key, G at most 1,024 and less for large batches, and 30 sweeps or
    more where they are cheap: one to two seconds for many requests, less for few. `effort` scales the steps.
    """
    limit = int(form.room(np.array([int(form.prompt.min()) + int(form.output.min())]))[0])
    limit = max(1, min(limit, len(form.prompt)))
    if limit > _LONGEST:
        return None
    finest = max(16, min(1024, int(math.sqrt(effort * _ENTRIES / limit))))
    surplus: FloatArray | None = None
    best: Prices | None = None
    for share, fewest in _LADDER:
        grid = _grid(form, max(16, int(finest * share)))
        worth = (2.0 if share == 1.0 else 1.0) * effort * _ENTRIES
        sweeps = min(max(fewest, int(worth / (grid.count.size * limit))), _MOST_SWEEPS)
        start = _floor(form, grid)
        if surplus is not None:
            # What requests pay above the floor carries over: each cell starts with the mean of its requests'.
            start += _mean(grid, surplus)
        found, price = _climb(form, grid, start, limit, sweeps)
        best = found if best is None or found.bound > best.bound else best
        surplus = (price - _floor(form, grid)).ravel()[grid.cell]
    return best


def _levels(values: IntArray, most: int) -> IntArray:
    """Return at most `most` levels from the least value on: where many requests share a range, more of them.

    Widths follow the density to the power −1/2, which loses least by rounding down.
    """
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= most:
        return distinct
    gaps = np.diff(np.append(distinct, distinct[-1] + 1)).astype(np.float64)
    place = np.cumsum(np.sqrt(counts * gaps))
    group = np.minimum((place / place[-1] * most).astype(np.int64), most - 1)
    first: IntArray = distinct[np.concatenate([[True], group[1:] != group[:-1]])]
    return first


def _grid(form: Additive, most: int) -> _Grid:
    prompt, output = _levels(form.prompt, most), _levels(form.output, most)
    i = np.searchsorted(prompt, form.prompt, side="right") - 1
    j = np.searchsorted(output, form.output, side="right") - 1
    cell = (i * len(output) + j).astype(np.int64)
    count = np.bincount(cell, minlength=len(prompt) * len(output)).reshape(len(prompt), len(output))
    return _Grid(prompt.astype(np.float64), output.astype(np.float64), count.astype(np.int64), cell)


def _floor(form: Additive, grid: _Grid) -> FloatArray:
    """Return what a request pays at least: its own part, and a share of the fixed part of a full batch of its like."""
    S, O, k = grid.prompt[:, None], grid.output[None, :], form.k  # noqa: E741
    steps = np.maximum(O - 1.0, 0.0)
    room = np.maximum(np.minimum(form.capacity // np.maximum(S + O, 1.0), form.limit), 1.0)
    own = k[1] * S + k[3] * steps + k[4] * steps * (S + O / 2.0) + k[5] * (S + O)
    return np.ascontiguousarray(own + (k[0] + k[2] * steps) / room)


def _mean(grid: _Grid, values: FloatArray) -> FloatArray:
    total = np.bincount(grid.cell, weights=values, minlength=grid.count.size)
    return np.asarray((total / np.maximum(grid.count.ravel(), 1)).reshape(grid.count.shape))


def _climb(form: Additive, grid: _Grid, price: FloatArray, limit: int, sweeps: int) -> tuple[Prices, FloatArray]:
    """Raise and repair prices; return the best exact ones and those reached."""
    from gpuplan.solvers.batching.bounds.price_loops import sweep

    n, held = len(form.prompt), grid.count > 0
    worst = np.empty(grid.count.size)
    best, best_price = -np.inf, price
    for turn in range(sweeps + 1):
        sweep(grid.count, price, grid.prompt, grid.output, form.k, float(form.capacity), limit, worst)
        excess = np.where(held, worst.reshape(price.shape), 0.0)
        # Cheaper than all that any box around it counts: no constraint holds it down.
        excess[np.isneginf(excess)] = -_FREE * float(np.abs(price).mean())
        cut = max(float(excess.max()), 0.0)
        value = float((grid.count * price).sum()) - n * cut
        if value > best:
            best, best_price = value, price - cut
        # The last sweeps only repair, so that the cut that makes prices exact is small.
        rise = _RISE if turn < sweeps - 2 else 0.0
        price = price - np.where(excess > 0.0, excess, rise * excess)
    # A batch without its requests of negative price fits as well and costs no more, so 0 will do for them.
    share = np.maximum(best_price, 0.0).ravel()[grid.cell] * _SAFE
    return Prices(max(float(np.sum(share)) * _SAFE, 0.0), share), price
