"""The pricing loops of column generation, in the subset of Python that Numba compiles; see `speed`.

A box (S, O) is the set of batches whose prompts are at most S and outputs at most O: cost c0 + b·c1, at most `room`
requests. With duals π its best batch takes the requests with the largest π that the box dominates: so pricing over all
2^N batches is a loop over boxes. `by_dual` lists the requests by π falling; `reward` is the dual of the number of
batches, which every batch gets as well.
"""

from __future__ import annotations

import numpy as np

from gpuplan.profiles.problems.batching import FloatArray, IntArray


def price_boxes(
    prompt: IntArray,
    output: IntArray,
    dual: FloatArray,
    reward: float,
    by_dual: IntArray,
    heights: IntArray,
    widths: IntArray,
    k: FloatArray,
    capacity: int,
    limit: int,
    reduced: FloatArray,
    count: IntArray,
) -> float:
    """Fill the least reduced cost of each box and the size that has it; return the largest (Σπ + reward)/cost."""
    n = len(prompt)
    worst = 0.0
    for x in range(len(heights)):
        S = heights[x]
        for y in range(len(widths)):
            O = widths[y]  # noqa: E741
            steps = max(O - 1, 0)
            c0 = k[0] + steps * k[2]
            c1 = k[1] * S + steps * k[3] + k[4] * steps * (S + 0.5 * O) + k[5] * (S + O)
            room = min(limit, capacity // max(S + O, 1))
            best, size, total, taken = np.inf, 0, reward, 0
            if room > 0:
                for place in range(n):
                    i = by_dual[place]
                    if prompt[i] <= S and output[i] <= O:
                        taken += 1
                        total += dual[i]
                        cost = c0 + taken * c1
                        if cost - total < best:
                            best, size = cost - total, taken
                        if total > worst * cost:
                            worst = total / cost if cost > 0.0 else np.inf
                        if taken == room:
                            break
            reduced[x, y] = best
            count[x, y] = size
    return worst


def count_pairs(
    prompt: IntArray,
    output: IntArray,
    dual: FloatArray,
    reward: float,
    by_dual: IntArray,
    heights: IntArray,
    widths: IntArray,
    k: FloatArray,
    capacity: int,
    limit: int,
    reduced: FloatArray,
    gap: float,
    most: int,
    pair_box: IntArray,
    pair_request: IntArray,
) -> int:
    """List (box, request) pairs that a plan within `gap` of the bound can use; −1 when there are more than `most`.

    A pair's reduced cost is that of the best batch of the box that holds the request.
    """
    n, found = len(prompt), 0
    for x in range(len(heights)):
        S = heights[x]
        for y in range(len(widths)):
            if reduced[x, y] > gap:
                continue
            O = widths[y]  # noqa: E741
            steps = max(O - 1, 0)
            c0 = k[0] + steps * k[2] - reward
            c1 = k[1] * S + steps * k[3] + k[4] * steps * (S + 0.5 * O) + k[5] * (S + O)
            room = min(limit, capacity // max(S + O, 1))
            gained, least, taken = 0.0, 0.0, 0  # gains of the best batch, the smallest of them when it is full
            for place in range(n):
                i = by_dual[place]
                if prompt[i] <= S and output[i] <= O:
                    if taken == room or dual[i] - c1 <= 0.0:
                        break
                    taken += 1
                    gained += dual[i] - c1
                    least = dual[i] - c1
            if taken < room:
                least = 0.0
            seen = 0
            for place in range(n):
                i = by_dual[place]
                if prompt[i] <= S and output[i] <= O:
                    seen += 1
                    forced = c0 - gained
                    if seen > taken:
                        forced += least - (dual[i] - c1)
                    if forced > gap:
                        break
                    if found == most:
                        return -1
                    pair_box[found], pair_request[found] = x * len(widths) + y, i
                    found += 1
    return found
