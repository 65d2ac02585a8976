"""The loops of the contiguous programmes, in the subset of Python that Numba compiles; see `speed`.

All work on requests in a fixed order 1..N. f[j] is the least cost of the first j requests, f[0] = 0; `back[j]` is the
size of the last batch. A batch of b requests that ends at j costs fixed[j−1] + b·each[j−1] (+ h[b]) and holds at most
room[j−1] requests.
"""

from __future__ import annotations

import numpy as np

from gpuplan.profiles.problems.batching import FloatArray, IntArray


def window(fixed: FloatArray, each: FloatArray, room: IntArray, f: FloatArray, back: IntArray) -> None:
    """Fill f and back: f[j] = fixed + min over b ≤ room of f[j−b] + b·each. O(N·B)."""
    f[0] = 0.0
    for j in range(1, len(f)):
        most = min(room[j - 1], j)
        each_j = each[j - 1]
        best, size = np.inf, 0
        for b in range(1, most + 1):
            value = f[j - b] + b * each_j
            if value < best:
                best, size = value, b
        f[j] = best + fixed[j - 1]
        back[j] = size


def monge(
    fixed: FloatArray, each: FloatArray, room: IntArray, f: FloatArray, back: IntArray, queue: IntArray, since: IntArray
) -> None:
    """Fill f and back as `window` does, in O(N log B), for `each` rising and `room` falling.

    Start i < i' of the last batch: f[i'] − i'·each_j falls below f[i] − i·each_j at some j and stays there, and i
    leaves the window first. So each start is best on one run of ends; `queue` holds the starts whose runs are still to
    come and `since` where each run begins. A hull of lines without these runs would forget starts that become best
    only when a better one has left the window.
    """
    n = len(f) - 1
    f[0] = 0.0
    head, tail = 0, 1
    queue[0], since[0] = 0, 1
    for j in range(1, n + 1):
        while head + 1 < tail and since[head + 1] <= j:
            head += 1
        i = queue[head]
        f[j] = f[i] + (j - i) * each[j - 1] + fixed[j - 1]
        back[j] = j - i
        if j == n:
            break
        first = j + 1
        while tail > head:
            last = queue[tail - 1]
            start = max(since[tail - 1], j + 1)
            expired = start - last > room[start - 1]
            if expired or f[j] + (start - j) * each[start - 1] <= f[last] + (start - last) * each[start - 1]:
                tail -= 1
                continue
            # `last` is still better at its start: find the first end at which j is.
            low, high = start + 1, min(n + 1, last + room[start - 1] + 1)
            while low < high:
                middle = (low + high) // 2
                gone = middle - last > room[middle - 1]
                if gone or f[j] + (middle - j) * each[middle - 1] <= f[last] + (middle - last) * each[middle - 1]:
                    high = middle
                else:
                    low = middle + 1
            first = low
            break
        if tail == head:
            first = j + 1
        if first <= n:
            queue[tail], since[tail] = j, first
            tail += 1


def sized(fixed: FloatArray, each: FloatArray, room: IntArray, h: FloatArray, f: FloatArray) -> None:
    """Fill f with a further cost h[b] for each batch of size b, as SIMD minima. O(N·B)."""
    f[0] = 0.0
    for j in range(1, len(f)):
        most = min(room[j - 1], j)
        each_j = each[j - 1]
        best = np.inf
        for b in range(1, most + 1):
            best = min(best, f[j - b] + (b * each_j + h[b]))
        f[j] = best + fixed[j - 1]


def sized_counts(
    fixed: FloatArray, each: FloatArray, room: IntArray, h: FloatArray, f: FloatArray, counts: FloatArray
) -> None:
    """Count the batches of each size in the best plan that `sized` found."""
    j = len(f) - 1
    while j > 0:
        best, size = np.inf, 1
        for b in range(1, min(room[j - 1], j) + 1):
            value = f[j - b] + (b * each[j - 1] + h[b])
            if value < best:
                best, size = value, b
        counts[size] += 1.0
        j -= size


def ordered(
    prompt: IntArray,
    output: IntArray,
    rate: FloatArray,
    k: FloatArray,
    capacity: int,
    limit: int,
    f: FloatArray,
    back: IntArray,
) -> None:
    """Fill f and back for batches contiguous in the order given, whatever it is. O(N·B).

    A batch that begins after request i costs rate[i]·(time from k0..k4) + k5·b·(S+O): with the weight of all that
    still waits as its rate, the sum is Σ w·C of batches in this order.
    """
    f[0] = 0.0
    for j in range(1, len(f)):
        S, O = 0, 0  # noqa: E741
        best, size = np.inf, 1
        for b in range(1, min(limit, j) + 1):
            S, O = max(S, prompt[j - b]), max(O, output[j - b])  # noqa: E741
            if b > 1 and b * (S + O) > capacity:
                break
            steps = max(O - 1, 0)
            took = k[0] + k[1] * b * S + steps * (k[2] + k[3] * b) + k[4] * b * steps * (S + 0.5 * O)
            value = f[j - b] + rate[j - b] * took + k[5] * b * (S + O)
            if value < best:
                best, size = value, b
        f[j] = best
        back[j] = size


def ordered_late(
    prompt: IntArray,
    output: IntArray,
    deadline: FloatArray,
    k: FloatArray,
    capacity: int,
    limit: int,
    clock_s: float,
    f: FloatArray,
    back: IntArray,
) -> None:
    """Fill f with the earliest finish of the first j requests, all deadlines kept (inf: impossible). O(N·B)."""
    f[0] = clock_s
    for j in range(1, len(f)):
        S, O, due = 0, 0, np.inf  # noqa: E741
        best, size = np.inf, 0
        for b in range(1, min(limit, j) + 1):
            S, O = max(S, prompt[j - b]), max(O, output[j - b])  # noqa: E741
            due = min(due, deadline[j - b])
            if b > 1 and b * (S + O) > capacity:
                break
            steps = max(O - 1, 0)
            value = f[j - b] + (k[0] + k[1] * b * S + steps * (k[2] + k[3] * b) + k[4] * b * steps * (S + 0.5 * O))
            if value <= due + 1e-9 and value < best:
                best, size = value, b
        f[j] = best
        back[j] = size


def rank(first: IntArray, second: IntArray, bins: int, counts: IntArray, scratch: IntArray, order: IntArray) -> None:
    """Fill `order` with the rows by (first, second) rising, by counting: two stable passes, values below `bins`."""
    n = len(first)
    for stage in range(2):
        key = second if stage == 0 else first
        for v in range(bins + 1):
            counts[v] = 0
        for i in range(n):
            counts[key[i] + 1] += 1
        for v in range(bins):
            counts[v + 1] += counts[v]
        for i in range(n):
            row = i if stage == 0 else scratch[i]
            spot = counts[key[row]]
            counts[key[row]] = spot + 1
            if stage == 0:
                scratch[spot] = row
            else:
                order[spot] = row


def unwind(back: IntArray, sizes: IntArray) -> int:
    """Write the sizes of the batches, first batch first, to the end of `sizes`; return where they begin."""
    j, spot = len(back) - 1, len(sizes)
    while j > 0:
        spot -= 1
        sizes[spot] = back[j]
        j -= back[j]
    return spot
