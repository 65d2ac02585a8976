"""The loops of the programme over subsets, in the subset of Python that Numba compiles; see `speed`.

A set of requests is a bit mask. `took[m]` is the time of m as one batch (inf: it does not fit), `pad[m]` its padding
cost, `weight[m]` Σ w. The labels of a mask stand at `offset[m]..offset[m+1]`, times rising and costs falling.
"""

from __future__ import annotations

import numpy as np

from gpuplan.profiles.problems.batching import FloatArray, IntArray


def first_batches(
    took: FloatArray,
    pad: FloatArray,
    weight: FloatArray,
    latency: float,
    makespan: float,
    f: FloatArray,
    first: IntArray,
) -> None:
    """Fill f[m], the least cost of m served from time 0, and its first batch, which all of m wait for. O(3^N)."""
    f[0] = 0.0
    for mask in range(1, len(f)):
        rate = latency * weight[mask] + makespan
        # Without latency the order is free: let the batch of the lowest request come first.
        low = mask & -mask if latency == 0.0 else 0
        rest = mask ^ low
        part = rest
        best, chosen = np.inf, 0
        while True:
            batch = part | low
            if batch != 0 and took[batch] < np.inf:
                value = took[batch] * rate + pad[batch] + f[mask ^ batch]
                if value < best:
                    best, chosen = value, batch
            if part == 0:
                break
            part = (part - 1) & rest
        f[mask] = best
        first[mask] = chosen


def sequence_labels(
    took: FloatArray,
    pad: FloatArray,
    release: FloatArray,
    due: FloatArray,
    weight: FloatArray,
    weighted_arrival: FloatArray,
    weights: FloatArray,
    deadline: FloatArray,
    rest_cost: FloatArray,
    latency: float,
    makespan: float,
    violation: float,
    hard: bool,
    upper: float,
    offset: IntArray,
    clock: FloatArray,
    cost: FloatArray,
    batch: IntArray,
    parent: IntArray,
    front: FloatArray,
    origin: IntArray,
) -> int:
    """Fill, for each mask, the labels (finish, cost, last batch, label before it) that no other label beats.

    A finish and a cost that are both no better than another's can be dropped: what follows starts no earlier and adds
    no less. A label whose cost, with at least `rest_cost` to come, exceeds `upper` is dropped as well. Returns the
    number of labels; −1 when the arrays are full.
    """
    n = len(weights)
    clock[0], cost[0], batch[0], parent[0] = 0.0, 0.0, 0, -1
    offset[0], offset[1], count, everything = 0, 1, 1, len(took) - 1
    for mask in range(1, len(took)):
        size = 0  # labels in `front`: rows time and cost, sorted by time
        part = mask
        while part > 0:
            before = mask ^ part
            if took[part] < np.inf:
                for label in range(offset[before], offset[before + 1]):
                    finish = max(clock[label], release[part]) + took[part]
                    missed = 0.0
                    if finish > due[part] + 1e-9:
                        if hard:
                            continue
                        for i in range(n):
                            if part >> i & 1 and finish > deadline[i] + 1e-9:
                                missed += weights[i]
                    value = cost[label] + pad[part] + violation * missed
                    value += latency * (weight[part] * finish - weighted_arrival[part])
                    if value + makespan * finish + rest_cost[everything ^ mask] > upper:
                        continue
                    spot = size
                    while spot > 0 and front[0, spot - 1] >= finish:
                        spot -= 1
                    if spot > 0 and front[1, spot - 1] <= value:
                        continue
                    if spot < size and front[0, spot] == finish and front[1, spot] <= value:
                        continue
                    end = spot
                    while end < size and front[1, end] >= value:
                        end += 1
                    if end == spot and size + 1 >= front.shape[1]:
                        return -1
                    shift = 1 - (end - spot)  # one label in, those it beats out
                    for k in range(size - end):
                        i = size - 1 - k if shift > 0 else end + k
                        front[0, i + shift], front[1, i + shift] = front[0, i], front[1, i]
                        origin[0, i + shift], origin[1, i + shift] = origin[0, i], origin[1, i]
                    size += shift
                    front[0, spot], front[1, spot] = finish, value
                    origin[0, spot], origin[1, spot] = part, label
            part = (part - 1) & mask
        if count + size > len(clock):
            return -1
        for i in range(size):
            clock[count], cost[count] = front[0, i], front[1, i]
            batch[count], parent[count] = origin[0, i], origin[1, i]
            count += 1
        offset[mask + 1] = count
    return count


def join(
    own_offset: IntArray,
    own_clock: FloatArray,
    own_cost: FloatArray,
    offset: IntArray,
    clock: FloatArray,
    cost: FloatArray,
    makespan: bool,
    new_offset: IntArray,
    new_clock: FloatArray,
    new_cost: FloatArray,
    mine: IntArray,
    theirs: IntArray,
    front: FloatArray,
    origin: IntArray,
) -> int:
    """Fill the labels of one more executor: (latest finish, summed cost, own label, label of the others).

    Without a weight on the makespan finishes count as 0, so that one label a mask remains. Returns the number of
    labels; −1 when the arrays are full.
    """
    count = 0
    new_offset[0] = 0
    for mask in range(len(offset) - 1):
        size = 0
        part = mask
        while True:
            other = mask ^ part
            for a in range(own_offset[part], own_offset[part + 1]):
                for b in range(offset[other], offset[other + 1]):
                    finish = max(own_clock[a], clock[b]) if makespan else 0.0
                    value = own_cost[a] + cost[b]
                    spot = size
                    while spot > 0 and front[0, spot - 1] >= finish:
                        spot -= 1
                    if spot > 0 and front[1, spot - 1] <= value:
                        continue
                    if spot < size and front[0, spot] == finish and front[1, spot] <= value:
                        continue
                    end = spot
                    while end < size and front[1, end] >= value:
                        end += 1
                    if size + 1 - (end - spot) >= front.shape[1]:
                        return -1
                    shift = 1 - (end - spot)
                    if shift == 1:
                        for i in range(size, spot, -1):
                            front[0, i], front[1, i] = front[0, i - 1], front[1, i - 1]
                            origin[0, i], origin[1, i] = origin[0, i - 1], origin[1, i - 1]
                    elif shift < 0:
                        for i in range(end, size):
                            front[0, i + shift], front[1, i + shift] = front[0, i], front[1, i]
                            origin[0, i + shift], origin[1, i + shift] = origin[0, i], origin[1, i]
                    size += shift
                    front[0, spot], front[1, spot] = finish, value
                    origin[0, spot], origin[1, spot] = a, b
            if part == 0:
                break
            part = (part - 1) & mask
        if count + size > len(new_clock):
            return -1
        for i in range(size):
            new_clock[count], new_cost[count] = front[0, i], front[1, i]
            mine[count], theirs[count] = origin[0, i], origin[1, i]
            count += 1
        new_offset[mask + 1] = count
    return count
