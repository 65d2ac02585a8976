"""The compiled kernels of `anneal.py`: a maximum flow by Dinic's algorithm, and annealing around it.

Importing this module imports numba; import it inside functions only. Vertices: 2i and 2i+1 are where node i takes and
passes tokens, 2n the source, 2n+1 the sink. Arc x and its reverse x^1 are neighbours.
"""

# Kernels work on scalars and arrays, so their signatures are long and their types are numba's.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"

from __future__ import annotations

import numpy as np
from numba import njit

#: Arcs narrower than this share of the throughput of all nodes are full.
THIN = 1e-13
#: Weight of the shortage of a layer against that of the flow.
COVER_WEIGHT = 0.3
#: The target rises by this share when it is reached.
RAISE = 1e-4


@njit(cache=True, nogil=True)
def _link(arcs, head, following, to, room, tail, target, capacity):
    """Add an arc and its reverse; return the number of arcs."""
    to[arcs] = target
    room[arcs] = capacity
    following[arcs] = head[tail]
    head[tail] = arcs
    to[arcs + 1] = tail
    room[arcs + 1] = 0.0
    following[arcs + 1] = head[target]
    head[target] = arcs + 1
    return arcs + 2


@njit(cache=True, nogil=True)
def _build(num_layers, table, kinds, links, source, sink, start, length, head, following, to, room):
    """Lay out the network of a placement; return its throughput, for scale."""
    nodes = len(kinds)
    head[:] = -1
    arcs = 0
    total = 0.0
    for i in range(nodes):
        if length[i] == 0:
            continue
        most = table[kinds[i], length[i]]
        total += most
        arcs = _link(arcs, head, following, to, room, 2 * i, 2 * i + 1, most)
        stop = start[i] + length[i]
        if start[i] == 0 and source[i] > 0.0:
            arcs = _link(arcs, head, following, to, room, 2 * nodes, 2 * i, source[i])
        if stop == num_layers:
            if sink[i] > 0.0:
                arcs = _link(arcs, head, following, to, room, 2 * i + 1, 2 * nodes + 1, sink[i])
            continue
        for j in range(nodes):
            if length[j] > 0 and start[j] <= stop and stop < start[j] + length[j] and links[i, j] > 0.0:
                arcs = _link(arcs, head, following, to, room, 2 * i + 1, 2 * j, links[i, j])
    return total


@njit(cache=True, nogil=True)
def _levels(head, following, to, room, level, queue, origin, goal, thin):
    """Give vertices their distance from the origin; return whether the goal is in reach."""
    level[:] = -1
    level[origin] = 0
    queue[0] = origin
    first = 0
    last = 1
    while first < last:
        vertex = queue[first]
        first += 1
        arc = head[vertex]
        while arc >= 0:
            other = to[arc]
            if room[arc] > thin and level[other] < 0:
                level[other] = level[vertex] + 1
                queue[last] = other
                last += 1
            arc = following[arc]
    return level[goal] >= 0


@njit(cache=True, nogil=True)
def _block(head, following, to, room, level, cursor, path, origin, goal, thin):
    """Push a blocking flow along the levels; return its value."""
    cursor[:] = head
    pushed = 0.0
    depth = 0
    vertex = origin
    while True:
        if vertex == goal:
            width = np.inf
            for d in range(depth):
                width = min(width, room[path[d]])
            cut = 0
            for d in range(depth - 1, -1, -1):
                room[path[d]] -= width
                room[path[d] ^ 1] += width
                if room[path[d]] <= thin:
                    cut = d
            pushed += width
            # Go on from where the path broke, not from the source.
            depth = cut
            vertex = to[path[cut] ^ 1]
            continue
        arc = cursor[vertex]
        while arc >= 0 and not (room[arc] > thin and level[to[arc]] == level[vertex] + 1):
            arc = following[arc]
        cursor[vertex] = arc
        if arc >= 0:
            path[depth] = arc
            depth += 1
            vertex = to[arc]
        elif depth == 0:
            return pushed
        else:
            depth -= 1
            vertex = to[path[depth] ^ 1]
            cursor[vertex] = following[path[depth]]


@njit(cache=True, nogil=True)
def _flow(
    num_layers, table, kinds, links, source, sink, start, length, head, following, to, room, level, cursor, queue, path
):
    total = _build(num_layers, table, kinds, links, source, sink, start, length, head, following, to, room)
    nodes = len(kinds)
    thin = THIN * total
    value = 0.0
    while _levels(head, following, to, room, level, queue, 2 * nodes, 2 * nodes + 1, thin):
        value += _block(head, following, to, room, level, cursor, path, 2 * nodes, 2 * nodes + 1, thin)
    return value


@njit(cache=True, nogil=True)
def flow(num_layers, table, kinds, links, source, sink, start, length):
    """Return the maximum flow of a placement."""
    vertices = 2 * len(kinds) + 2
    arcs = 2 * (len(kinds) * len(kinds) + 3 * len(kinds)) + 4
    return _flow(
        num_layers, table, kinds, links, source, sink, start, length,
        np.empty(vertices, np.int64), np.empty(arcs, np.int64), np.empty(arcs, np.int64), np.empty(arcs),
        np.empty(vertices, np.int64), np.empty(vertices, np.int64), np.empty(vertices, np.int64),
        np.empty(vertices, np.int64),
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _propose(num_layers, most, kinds, start, length, swaps, move):
    """Draw a move into `move` = (i, start, length, j, start, length), j = −1 for none; return whether it is legal."""
    nodes = len(kinds)
    i = np.random.randint(nodes)
    move[0], move[1], move[2], move[3] = i, start[i], length[i], -1
    step = 1 if np.random.random() < 0.5 else -1
    if np.random.random() < swaps:
        j = np.random.randint(nodes)
        if j == i or kinds[j] != kinds[i] or (start[i] == start[j] and length[i] == length[j]):
            return False
        move[1], move[2], move[3], move[4], move[5] = start[j], length[j], j, start[i], length[i]
        return True
    draw = np.random.random()
    if draw < 0.3:  # move one end
        if np.random.random() < 0.5:
            move[1] += step
            move[2] -= step
        else:
            move[2] += step
    elif draw < 0.5:  # shift
        move[1] += step * (np.random.randint(1, 4) if np.random.random() < 0.3 else 1)
    elif draw < 0.58:  # anywhere
        move[2] = np.random.randint(1, most[kinds[i]] + 1) if most[kinds[i]] > 0 else 0
        move[1] = np.random.randint(0, num_layers - move[2] + 1)
    elif draw < 0.74:  # against another node's end
        j = np.random.randint(nodes)
        move[2] = np.random.randint(1, most[kinds[i]] + 1) if most[kinds[i]] > 0 else 0
        move[1] = start[j] + length[j] if np.random.random() < 0.5 else start[j] - move[2]
        move[1] = min(max(move[1], 0), num_layers - move[2])
    elif draw < 0.86:  # trade places with a node of another kind
        j = np.random.randint(nodes)
        if j == i or kinds[j] == kinds[i]:
            return False
        move[3], move[1], move[4], move[2], move[5] = j, start[j], start[i], length[i], length[j]
        if np.random.random() < 0.5:
            move[2], move[5] = min(length[j], most[kinds[i]]), min(length[i], most[kinds[j]])
        move[1] = min(move[1], num_layers - move[2])
        move[4] = min(move[4], num_layers - move[5])
    else:  # move a boundary that two nodes share
        j = np.random.randint(nodes)
        for _ in range(nodes):
            if j != i and length[j] > 0 and start[j] == start[i] + length[i]:
                break
            j = (j + 1) % nodes
        if j == i or start[j] != start[i] + length[i]:
            return False
        move[2] += step
        move[3], move[4] = j, start[j] + step
        move[5] = length[j] if np.random.random() < 0.3 else length[j] - step
    return _legal(num_layers, most, kinds, move)


@njit(cache=True, nogil=True)
def _legal(num_layers, most, kinds, move):
    if move[2] < 1 or move[2] > most[kinds[move[0]]] or move[1] < 0 or move[1] + move[2] > num_layers:
        return False
    if move[3] < 0:
        return True
    return not (move[5] < 1 or move[5] > most[kinds[move[3]]] or move[4] < 0 or move[4] + move[5] > num_layers)


@njit(cache=True, nogil=True)
def _cover(coverage, table, kind, start, length, sign):
    amount = sign * table[kind, length]
    for layer in range(start, start + length):
        coverage[layer] += amount


@njit(cache=True, nogil=True)
def _lack(coverage, target):
    """Return the shortage of the layers, weighed, and the least coverage."""
    short = 0.0
    least = np.inf
    for value in coverage:
        if value < target:
            short += target - value
        least = min(least, value)
    return COVER_WEIGHT * short, least


@njit(cache=True, nogil=True)
def anneal(num_layers, table, most, kinds, links, source, sink, start, length, target, moves, hot, cold, swaps, seed):
    """Anneal from a placement towards a target flow; return the best flow, starts and lengths."""
    np.random.seed(seed)
    nodes = len(kinds)
    vertices = 2 * nodes + 2
    arcs = 2 * (nodes * nodes + 3 * nodes) + 4
    head, level, cursor = np.empty(vertices, np.int64), np.empty(vertices, np.int64), np.empty(vertices, np.int64)
    queue, path = np.empty(vertices, np.int64), np.empty(vertices, np.int64)
    following, to, room = np.empty(arcs, np.int64), np.empty(arcs, np.int64), np.empty(arcs)
    start, length = start.copy(), length.copy()
    coverage = np.zeros(num_layers)
    for i in range(nodes):
        _cover(coverage, table, kinds[i], start[i], length[i], 1.0)
    value = _flow(
        num_layers, table, kinds, links, source, sink, start, length,
        head, following, to, room, level, cursor, queue, path,
    )  # fmt: skip
    best, best_start, best_length = value, start.copy(), length.copy()
    target = max(target, best * (1.0 + 1e-6))
    energy = _lack(coverage, target)[0] + max(0.0, target - value)
    trial = np.empty(num_layers)
    move = np.zeros(6, np.int64)
    for step in range(moves):
        if not _propose(num_layers, most, kinds, start, length, swaps, move):
            continue
        i, j = move[0], move[3]
        limit = energy - target * hot * (cold / hot) ** (step / moves) * np.log(np.random.random() + 1e-300)
        trial[:] = coverage
        _cover(trial, table, kinds[i], start[i], length[i], -1.0)
        _cover(trial, table, kinds[i], move[1], move[2], 1.0)
        if j >= 0:
            _cover(trial, table, kinds[j], start[j], length[j], -1.0)
            _cover(trial, table, kinds[j], move[4], move[5], 1.0)
        short, least = _lack(trial, target)
        # No flow exceeds the least coverage, so this much energy is certain.
        if short + max(0.0, target - least) > limit:
            continue
        old_i, old_length_i = start[i], length[i]
        old_j, old_length_j = start[j], length[j]
        start[i], length[i] = move[1], move[2]
        if j >= 0:
            start[j], length[j] = move[4], move[5]
        flow_now = _flow(
            num_layers, table, kinds, links, source, sink, start, length,
            head, following, to, room, level, cursor, queue, path,
        )  # fmt: skip
        energy_now = short + max(0.0, target - flow_now)
        if energy_now > limit:
            if j >= 0:
                start[j], length[j] = old_j, old_length_j
            start[i], length[i] = old_i, old_length_i
            continue
        coverage[:] = trial
        value, energy = flow_now, energy_now
        if value > best * (1.0 + 1e-9):
            best, best_start, best_length = value, start.copy(), length.copy()
            if best >= target:
                target = best * (1.0 + RAISE)
                energy = _lack(coverage, target)[0] + target - value
    return best, best_start, best_length
