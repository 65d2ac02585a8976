"""The compiled kernels of `anneal.py`: cuts of a placement by regions and layers, moves, and annealing around them.

Importing this module imports numba; import it inside functions only. Loops stand where NumPy would take a slice: numba
compiles an assignment to a slice for seconds, a loop in milliseconds.
"""

# Kernels work on scalars and arrays, so their signatures are long and their types are numba's.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"

from __future__ import annotations

import numpy as np
from numba import njit

from gpuplan.solvers.flow.flow_kernels import flow_of, flow_space

#: Weight of the shortage of a layer against that of the flow.
COVER_WEIGHT = 0.3
#: The target rises by this share when it is reached.
RAISE = 1e-4


@njit(cache=True, nogil=True)
def copy_into(old, new):
    """Copy the entries of a vector."""
    for i in range(len(old)):
        new[i] = old[i]


@njit(cache=True, nogil=True)
def cover(covered, region, amount, start, stop):
    """Add an amount to the coverage of some layers by a region."""
    for layer in range(start, stop):
        covered[layer, region] += amount


@njit(cache=True, nogil=True)
def crossings(x, table, kinds, region, links, start, length, holding, room, cross):
    """Write what may leave every set of regions at boundary x, by the links of nodes that stop there.

    cross[x, P] = Σ over nodes i of P that stop at x of min(T_i, Σ links from i to holders of layer x outside P); sets
    are bit masks.
    """
    sets, layers = cross.shape[1], len(cross) - 1
    for chosen in range(sets):
        cross[x, chosen] = 0.0
    if x == 0 or x == layers or sets == 2:
        return
    held = 0
    for j in range(len(kinds)):
        if start[j] <= x < start[j] + length[j]:
            holding[held] = j
            held += 1
    for i in range(len(kinds)):
        if length[i] == 0 or start[i] + length[i] != x:
            continue
        for r in range(len(room)):
            room[r] = 0.0
        for h in range(held):
            room[region[holding[h]]] += links[i, holding[h]]
        most = table[kinds[i], length[i]]
        for chosen in range(sets):
            if chosen >> region[i] & 1:
                over = 0.0
                for r in range(len(room)):
                    if not chosen >> r & 1:
                        over += room[r]
                cross[x, chosen] += min(most, over)


@njit(cache=True, nogil=True)
def cheapest_cuts(covered, cross, behind, cuts):
    """Write to `cuts` the cheapest cut that ends at each layer, among cuts by regions and layers; return the least.

    Tokens at position x in region r go on to x+1 through the nodes of r that hold layer x, or change region at x. A
    cut is a set P_x of regions at every position, from all to none: it pays covered[x, r] for r in P_x but not in
    P_x+1, and cross[x, P_x]. `behind[P]` is the least cost so far with P at this position; with all regions it is 0.
    """
    layers, regions = covered.shape
    sets = len(behind)
    for chosen in range(sets):
        behind[chosen] = np.inf
    least = np.inf
    for x in range(layers):
        behind[sets - 1] = 0.0
        behind[0] = np.inf
        for r in range(regions):
            bit = 1 << r
            for chosen in range(sets):
                if chosen & bit:
                    without, within = behind[chosen ^ bit], behind[chosen]
                    behind[chosen ^ bit] = min(without, within + covered[x, r])
                    behind[chosen] = min(without, within)
        cuts[x] = behind[0]
        least = min(least, cuts[x])
        for chosen in range(1, sets - 1):
            behind[chosen] += cross[x + 1, chosen]
    return least


@njit(cache=True, nogil=True)
def propose(num_layers, most, kinds, start, length, swaps, move):
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
    elif draw < 0.86:
        if not trade(num_layers, most, kinds, start, length, move):
            return False
    elif not push(kinds, start, length, move, step):
        return False
    return legal(num_layers, most, kinds, move)


@njit(cache=True, nogil=True)
def trade(num_layers, most, kinds, start, length, move):
    """Let two nodes of different kinds trade places; return whether there are two."""
    i, j = move[0], np.random.randint(len(kinds))
    if j == i or kinds[j] == kinds[i]:
        return False
    move[3], move[1], move[4], move[2], move[5] = j, start[j], start[i], length[i], length[j]
    if np.random.random() < 0.5:
        move[2], move[5] = min(length[j], most[kinds[i]]), min(length[i], most[kinds[j]])
    move[1] = min(move[1], num_layers - move[2])
    move[4] = min(move[4], num_layers - move[5])
    return True


@njit(cache=True, nogil=True)
def push(kinds, start, length, move, step):
    """Move a boundary that two nodes share; return whether there is one."""
    i, nodes = move[0], len(kinds)
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
    return True


@njit(cache=True, nogil=True)
def legal(num_layers, most, kinds, move):
    """Return whether the ranges of a move are within the model and their nodes."""
    if move[2] < 1 or move[2] > most[kinds[move[0]]] or move[1] < 0 or move[1] + move[2] > num_layers:
        return False
    if move[3] < 0:
        return True
    return not (move[5] < 1 or move[5] > most[kinds[move[3]]] or move[4] < 0 or move[4] + move[5] > num_layers)


@njit(cache=True, nogil=True)
def place(table, kinds, region, covered, start, length, i, first, count):
    """Give node i another range, and the coverage with it."""
    cover(covered, region[i], -table[kinds[i], length[i]], start[i], start[i] + length[i])
    start[i], length[i] = first, count
    cover(covered, region[i], table[kinds[i], count], first, first + count)


@njit(cache=True, nogil=True)
def mark(touched, start, length):
    """Mark the boundaries that a range has a part in."""
    if length > 0:
        for x in range(start, start + length + 1):
            touched[x] = True


@njit(cache=True, nogil=True)
def swap_in(table, kinds, region, covered, start, length, move, old, touched):
    """Make a move; write how to undo it to `old`, and the boundaries it changes to `touched`."""
    for x in range(len(touched)):
        touched[x] = False
    for part in range(0, 6, 3):
        i, first, count = move[part], move[part + 1], move[part + 2]
        old[part] = i
        if i >= 0:
            old[part + 1], old[part + 2] = start[i], length[i]
            mark(touched, start[i], length[i])
            mark(touched, first, count)
            place(table, kinds, region, covered, start, length, i, first, count)


@njit(cache=True, nogil=True)
def recross(table, kinds, region, links, start, length, holding, room, touched, cross, saved):
    """Find the crossings of touched boundaries anew, the old ones in `saved`."""
    for x in range(len(cross)):
        if touched[x]:
            for chosen in range(cross.shape[1]):
                saved[x, chosen] = cross[x, chosen]
            crossings(x, table, kinds, region, links, start, length, holding, room, cross)


@njit(cache=True, nogil=True)
def restore(touched, cross, saved):
    """Take back the crossings of touched boundaries."""
    for x in range(len(cross)):
        if touched[x]:
            for chosen in range(cross.shape[1]):
                cross[x, chosen] = saved[x, chosen]


@njit(cache=True, nogil=True)
def shortage(cuts, target):
    """Return the weighed shortage of the layers."""
    short = 0.0
    for value in cuts:
        if value < target:
            short += target - value
    return COVER_WEIGHT * short


@njit(cache=True, nogil=True)
def anneal(
    table, most, kinds, region, links, source, sink, covered, cross,
    start, length, best_start, best_length, target, moves, hot, cold, swaps, rough, seed,
):  # fmt: skip
    """Anneal from a placement towards a target; return the best flow, its ranges in `best_start` and `best_length`.

    `covered` comes as zeros, shape (L, regions), `cross` as any (L+1, 2^regions). With `rough` the least cut stands in
    for the flow, which is computed only where that cut promises more than any before.
    """
    np.random.seed(seed)
    nodes, num_layers = len(kinds), len(covered)
    arcs, vertices, numbers = flow_space(nodes)
    holding, room, behind = np.empty(nodes, np.int64), np.empty(covered.shape[1]), np.empty(cross.shape[1])
    cuts, saved = np.empty(num_layers), np.empty(cross.shape)
    touched = np.ones(num_layers + 1, np.bool_)
    move, old = np.zeros(6, np.int64), np.zeros(6, np.int64)
    for i in range(nodes):
        cover(covered, region[i], table[kinds[i], length[i]], start[i], start[i] + length[i])
    recross(table, kinds, region, links, start, length, holding, room, touched, cross, saved)
    tried = cheapest_cuts(covered, cross, behind, cuts)
    best = flow_of(num_layers, table, kinds, links, source, sink, start, length, arcs, vertices, numbers)
    copy_into(start, best_start)
    copy_into(length, best_length)
    target = max(target, best * (1.0 + 1e-6))
    energy = shortage(cuts, target) + max(0.0, target - (tried if rough else best))
    for step in range(moves):
        if not propose(num_layers, most, kinds, start, length, swaps, move):
            continue
        limit = energy - target * hot * (cold / hot) ** (step / moves) * np.log(np.random.random() + 1e-300)
        swap_in(table, kinds, region, covered, start, length, move, old, touched)
        recross(table, kinds, region, links, start, length, holding, room, touched, cross, saved)
        least = cheapest_cuts(covered, cross, behind, cuts)
        short = shortage(cuts, target)
        # No flow exceeds the least cut, so this much energy is certain.
        accepted = short + max(0.0, target - least) <= limit
        value = least
        if accepted and (not rough or least > max(best, tried) * (1.0 + 1e-9)):
            tried = max(tried, least)
            flow = flow_of(num_layers, table, kinds, links, source, sink, start, length, arcs, vertices, numbers)
            value = value if rough else flow
            accepted = short + max(0.0, target - value) <= limit
            if flow > best * (1.0 + 1e-9):
                best = flow
                copy_into(start, best_start)
                copy_into(length, best_length)
        if not accepted:
            restore(touched, cross, saved)
            swap_in(table, kinds, region, covered, start, length, old, move, touched)
            continue
        if value >= target:
            target = value * (1.0 + RAISE)
            short = shortage(cuts, target)
        energy = short + max(0.0, target - value)
    return best
