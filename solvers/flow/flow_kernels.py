"""The compiled maximum flow of a placement by Dinic's algorithm, twin of `maxflow.py`.

Importing this module imports numba; import it inside functions only. Vertices: 2i and 2i+1 are where node i takes and
passes tokens, 2n the source, 2n+1 the sink. Arc x and its reverse x^1 are neighbours. Workspaces are matrices, one row
a table: `arcs` = (next arc of the tail, head), `vertices` = (first arc, level, next arc to try, queue, path).
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"

from __future__ import annotations

import numpy as np
from numba import njit

#: Arcs narrower than this share of the throughput of all nodes are full.
THIN = 1e-13


@njit(cache=True, nogil=True)
def flow_space(nodes):
    """Return the workspaces for placements of some nodes: arcs, vertices, room of arcs."""
    arcs = 2 * (nodes * nodes + 3 * nodes) + 4
    return np.empty((2, arcs), np.int64), np.empty((5, 2 * nodes + 2), np.int64), np.empty(arcs)


@njit(cache=True, nogil=True)
def _link(count, arcs, vertices, room, tail, head, capacity):
    """Add an arc and its reverse; return the number of arcs."""
    arcs[0, count], arcs[1, count], room[count] = vertices[0, tail], head, capacity
    vertices[0, tail] = count
    arcs[0, count + 1], arcs[1, count + 1], room[count + 1] = vertices[0, head], tail, 0.0
    vertices[0, head] = count + 1
    return count + 2


@njit(cache=True, nogil=True)
def _build(num_layers, table, kinds, links, source, sink, start, length, arcs, vertices, room):
    """Lay out the network of a placement; return its throughput, for scale."""
    nodes = len(kinds)
    for vertex in range(2 * nodes + 2):
        vertices[0, vertex] = -1
    count = 0
    total = 0.0
    for i in range(nodes):
        if length[i] == 0:
            continue
        most = table[kinds[i], length[i]]
        total += most
        count = _link(count, arcs, vertices, room, 2 * i, 2 * i + 1, most)
        stop = start[i] + length[i]
        if start[i] == 0 and source[i] > 0.0:
            count = _link(count, arcs, vertices, room, 2 * nodes, 2 * i, source[i])
        if stop == num_layers:
            if sink[i] > 0.0:
                count = _link(count, arcs, vertices, room, 2 * i + 1, 2 * nodes + 1, sink[i])
            continue
        for j in range(nodes):
            if start[j] <= stop < start[j] + length[j] and links[i, j] > 0.0:
                count = _link(count, arcs, vertices, room, 2 * i + 1, 2 * j, links[i, j])
    return total


@njit(cache=True, nogil=True)
def _levels(arcs, vertices, room, origin, goal, thin):
    """Give vertices their distance from the origin; return whether the goal is in reach."""
    for vertex in range(vertices.shape[1]):
        vertices[1, vertex] = -1
        vertices[2, vertex] = vertices[0, vertex]
    vertices[1, origin] = 0
    vertices[3, 0] = origin
    first = 0
    last = 1
    while first < last:
        vertex = vertices[3, first]
        first += 1
        arc = vertices[0, vertex]
        while arc >= 0:
            other = arcs[1, arc]
            if room[arc] > thin and vertices[1, other] < 0:
                vertices[1, other] = vertices[1, vertex] + 1
                vertices[3, last] = other
                last += 1
            arc = arcs[0, arc]
    return vertices[1, goal] >= 0


@njit(cache=True, nogil=True)
def _advance(arcs, vertices, room, depth, vertex, thin):
    """Take the next arc one level on, or one step back; return the depth, −1 at the end."""
    arc = vertices[2, vertex]
    while arc >= 0 and not (room[arc] > thin and vertices[1, arcs[1, arc]] == vertices[1, vertex] + 1):
        arc = arcs[0, arc]
    vertices[2, vertex] = arc
    if arc >= 0:
        vertices[4, depth] = arc
        return depth + 1
    if depth > 0:
        back = vertices[4, depth - 1]
        vertices[2, arcs[1, back ^ 1]] = arcs[0, back]
    return depth - 1


@njit(cache=True, nogil=True)
def _block(arcs, vertices, room, origin, goal, thin):
    """Push a blocking flow along the levels; return its value."""
    pushed = 0.0
    depth = 0
    while depth >= 0:
        vertex = origin if depth == 0 else arcs[1, vertices[4, depth - 1]]
        if vertex != goal:
            depth = _advance(arcs, vertices, room, depth, vertex, thin)
            continue
        width = np.inf
        for d in range(depth):
            width = min(width, room[vertices[4, d]])
        cut = 0
        for d in range(depth - 1, -1, -1):
            arc = vertices[4, d]
            room[arc] -= width
            room[arc ^ 1] += width
            if room[arc] <= thin:
                cut = d
        pushed += width
        depth = cut  # go on from where the path broke, not from the source
    return pushed


@njit(cache=True, nogil=True)
def flow_of(num_layers, table, kinds, links, source, sink, start, length, arcs, vertices, room):
    """Return the maximum flow of a placement."""
    total = _build(num_layers, table, kinds, links, source, sink, start, length, arcs, vertices, room)
    origin, goal = 2 * len(kinds), 2 * len(kinds) + 1
    thin = THIN * total
    value = 0.0
    while _levels(arcs, vertices, room, origin, goal, thin):
        value += _block(arcs, vertices, room, origin, goal, thin)
    return value


@njit(cache=True, nogil=True)
def flow(num_layers, table, kinds, links, source, sink, start, length):
    """Return the maximum flow of a placement, in workspaces of its own."""
    arcs, vertices, room = flow_space(len(kinds))
    return flow_of(num_layers, table, kinds, links, source, sink, start, length, arcs, vertices, room)
