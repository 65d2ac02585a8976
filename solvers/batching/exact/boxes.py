"""The integer programme over boxes that closes the gap of column generation.

    min Σ_box c0·y + Σ_pairs c1·x,   Σ_box x[i, box] = 1,   x[i, box] ≤ y[box],   Σ_i x[i, box] ≤ room·y[box],

y whole numbers. For given y the x are a transport problem, whole in some optimum. Only pairs that a plan better than
the known one can use are in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from gpuplan.profiles.problems.batching import FloatArray, IntArray
from gpuplan.solvers.batching.exact import pricing_loops
from gpuplan.solvers.batching.exact.additive import Additive
from gpuplan.solvers.batching.exact.master import Pricer, Relaxation, Side, falling
from gpuplan.solvers.batching.exact.speed import fast
from gpuplan.solvers.limits import Budget

#: (Box, request) pairs of the integer programme at most.
MOST_PAIRS: Final = 60_000
#: HiGHS looks at the clock between steps; a programme this large needs so long for one.
_SECONDS_A_PAIR: Final = 3e-5
_SAFE: Final = 1.0 - 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Closed:
    """What the programme proves about Σ cost, and its batches when it found better ones."""

    bound: float
    batches: list[IntArray] | None


def close_gap(form: Additive, relaxed: Relaxation, side: Side | None, upper: float, budget: Budget) -> Closed | None:
    """Solve the boxes that a plan cheaper than `upper` can use; None when they are too many or time is short."""
    pricer, dual = Pricer(form), relaxed.dual
    pricer.price(dual, relaxed.reward)
    heights, widths, reduced = pricer.heights, pricer.widths, pricer.reduced
    gap = (upper - relaxed.bound) * (1.0 + 1e-9) + 1e-12 * abs(upper)
    box, request = np.empty(MOST_PAIRS, dtype=np.int64), np.empty(MOST_PAIRS, dtype=np.int64)
    count = fast(pricing_loops.count_pairs, float(reduced.size * len(dual)))(
        form.prompt,
        form.output,
        dual,
        relaxed.reward,
        falling(dual),
        heights,
        widths,
        form.k,
        form.capacity,
        form.limit,
        reduced,
        gap,
        MOST_PAIRS,
        box,
        request,
    )
    if count < 0 or budget.remaining_s < count * _SECONDS_A_PAIR:
        return None
    box, request = box[:count], request[:count]
    if len(np.unique(request)) < len(form.prompt):
        return Closed(upper, None)  # some request is in no better plan: the known one is best
    return _solve(form, heights, widths, box, request, side, upper, budget)


def _solve(
    form: Additive,
    heights: IntArray,
    widths: IntArray,
    box: IntArray,
    request: IntArray,
    side: Side | None,
    upper: float,
    budget: Budget,
) -> Closed | None:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    names, at = np.unique(box, return_inverse=True)
    S, O = heights[names // len(widths)], widths[names % len(widths)]  # noqa: E741
    zero, one = np.zeros(len(names), dtype=np.int64), np.ones(len(names), dtype=np.int64)
    c0 = form.cost(zero, S, O)
    c1 = form.cost(one, S, O) - c0
    room = form.room(S + O)
    scale = 1000.0 / upper if upper > 0.0 else 1.0
    n, boxes, pairs = len(form.prompt), len(names), len(box)
    x = boxes + np.arange(pairs)
    # rows: n assignments, `pairs` links x ≤ y, `boxes` capacities
    link, cap, last = n + np.arange(pairs), n + pairs + np.arange(boxes), n + pairs + boxes
    entries = [
        (request, x, np.ones(pairs)),
        (link, x, np.ones(pairs)),
        (link, at, -np.ones(pairs)),
        (cap[at], x, np.ones(pairs)),
        (cap, np.arange(boxes), -room.astype(np.float64)),
        (np.full(boxes, last), np.arange(boxes), np.ones(boxes)),
    ]
    rows, columns, data = (np.concatenate(part) for part in zip(*entries, strict=True))
    matrix = coo_array((data, (rows, columns)), shape=(last + 1, boxes + pairs)).tocsr()
    least, most = (1.0, float(n)) if side is None else (float(side.batches), float(n))
    if side is not None and not side.at_least:
        least, most = 1.0, float(side.batches)
    lower = np.concatenate([np.ones(n), np.full(pairs + boxes, -np.inf), [least]])
    found = milp(
        np.concatenate([c0, c1[at]]) * scale,
        integrality=np.concatenate([np.ones(boxes), np.zeros(pairs)]),
        bounds=Bounds(0.0, np.concatenate([np.full(boxes, float(n)), np.ones(pairs)])),
        constraints=LinearConstraint(matrix, lower, np.concatenate([np.ones(n), np.zeros(pairs + boxes), [most]])),
        options={"mip_rel_gap": 1e-10, "time_limit": max(min(budget.remaining_s, 1e6), 0.01)},
    )
    if found.status == 2:
        return Closed(upper, None)
    proven = found.mip_dual_bound if found.mip_dual_bound is not None else -np.inf
    bound = min(upper, float(proven) / scale * _SAFE if found.status != 0 else float(found.fun) / scale)
    if found.x is None:
        return Closed(bound, None)
    chosen = np.rint(found.x[:boxes]).astype(np.int64)
    return Closed(bound, _deal(n, at, request, c1, room, chosen))


def _deal(
    n: int, at: IntArray, request: IntArray, c1: FloatArray, room: IntArray, chosen: IntArray
) -> list[IntArray] | None:
    """Return the cheapest whole assignment of requests to the chosen boxes, as batches."""
    from scipy.optimize import linear_sum_assignment

    slots = np.repeat(np.arange(len(chosen)), chosen)
    places = np.repeat(np.arange(len(slots)), np.minimum(room[slots], n))
    price = np.full((n, len(chosen)), np.inf)
    price[request, at] = c1[at]
    table = price[:, slots[places]]
    if table.shape[1] < n:
        return None
    try:
        rows, columns = linear_sum_assignment(table)
    except ValueError:  # no assignment holds: the chosen boxes were whole within tolerances only
        return None
    owner = places[columns]
    return [rows[owner == batch].astype(np.int64) for batch in range(len(slots)) if bool((owner == batch).any())]
