"""Exchangeable devices and hosts: swapping them leaves every number a solver reads unchanged.

Colour refinement proposes the classes; a check of every swap on the matrices confirms them. Swaps that change nothing
compose: (i k) = (i j)(j k)(i j), so comparing with one member of a class is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.topology.graph import Device, Topology
from gpuplan.topology.routes import Router
from gpuplan.topology.symmetry_compact import CompactSymmetry

Ids = NDArray[np.int64]
#: Up to so many devices the D×D tables are compared.
MOST_DENSE: Final = 128


def exchangeable_classes(
    topology: Topology,
    message_bytes: float | Sequence[float] | None = None,
    *,
    router: Router | None = None,
    routes_alone: bool = False,
) -> tuple[tuple[str, ...], ...]:
    """Return the classes of exchangeable devices; they partition the devices, in topology order.

    Parameters
    ----------
    topology
        The graph.
    message_bytes
        The message sizes whose route tables must stay unchanged; by default every size there is.
    router
        Routes of `topology`, where a caller has them already.
    routes_alone
        Whether kind, memory, power and price may differ within a class.

    Returns
    -------
    tuple of tuples of str
        Two devices share a class when their kind, available memory, power and price are equal and swapping them
        changes no entry of the tables.

    Notes
    -----
    Up to 128 devices O(D² log D) a refinement round, then O(D) for each comparison with a class's first member. Above
    that the tables within hosts and between route groups are compared, whose sizes hardly depend on D; there, devices
    of two hosts that could only be swapped crosswise (the first of one with the second of the other) stay apart.
    """
    router = router or Router(topology)
    names = [device.name for device in topology.devices]
    colours = np.zeros(len(names), dtype=np.int64) if routes_alone else _initial_colours(topology.devices)
    if len(names) > MOST_DENSE:
        places = CompactSymmetry(router.compact(), _sizes(message_bytes), colours).classes()
        return tuple(tuple(names[place] for place in group) for group in places)
    ids = _pair_ids(router, message_bytes)
    colours = _refined(colours, ids)
    classes: list[list[int]] = []
    for colour in np.unique(colours):
        classes += _confirmed(np.flatnonzero(colours == colour), ids)
    return tuple(tuple(names[member] for member in group) for group in sorted(classes))


def exchangeable_hosts(
    topology: Topology, message_bytes: float | Sequence[float] | None = None, *, router: Router | None = None
) -> tuple[tuple[str, ...], ...]:
    """Return the classes of exchangeable hosts: swapping two of them, device by device in order, changes no number."""
    router = router or Router(topology)
    if topology.num_devices > MOST_DENSE and router.compact().host_per_cell:
        devices = topology.devices
        colours = _initial_colours(devices)
        places = CompactSymmetry(router.compact(), _sizes(message_bytes), colours).host_classes()
        return tuple(sorted((tuple(devices[place].host for place in group) for group in places), key=_first(topology)))
    ids = _pair_ids(router, message_bytes)
    members = {
        host: np.array([place for place, device in enumerate(topology.devices) if device.host == host])
        for host in topology.hosts
    }
    colours = _initial_colours(topology.devices)
    classes: list[list[str]] = []
    for host, rows in members.items():
        for group in classes:
            if _swap_hosts(members[group[0]], rows, colours, ids):
                group.append(host)
                break
        else:
            classes.append([host])
    return tuple(tuple(group) for group in classes)


def _sizes(message_bytes: float | Sequence[float] | None) -> list[float] | None:
    if message_bytes is None:
        return None
    return [message_bytes] if isinstance(message_bytes, (int, float)) else list(message_bytes)


def _first(topology: Topology) -> Callable[[tuple[str, ...]], int]:
    """Return what orders groups of hosts by their first member."""
    order = {host: number for number, host in enumerate(topology.hosts)}
    return lambda group: order[group[0]]


def _swap_hosts(first: NDArray[np.intp], second: NDArray[np.intp], colours: Ids, ids: Ids) -> bool:
    if len(first) != len(second) or not np.array_equal(colours[first], colours[second]):
        return False
    order = np.arange(len(colours))
    order[first], order[second] = second, first
    both = np.concatenate([first, second])
    return bool(np.array_equal(ids[both], ids[np.ix_(order[both], order)]))


def _initial_colours(devices: Sequence[Device]) -> Ids:
    """Return one number per device, equal where everything but the routes is equal."""
    keys: dict[tuple[object, ...], int] = {}
    colours = []
    for device in devices:
        # A cap at or above the board's own power changes nothing.
        power = min(device.power_cap_w or device.kind.power_w, device.kind.power_w)
        key = (device.kind.name, device.available_bytes, power, device.price_per_hour)
        colours.append(keys.setdefault(key, len(keys)))
    return np.array(colours, dtype=np.int64)


def _pair_ids(router: Router, message_bytes: float | Sequence[float] | None) -> Ids:
    """Return one number per pair of devices, equal where all their routes' numbers are equal, shape (D, D)."""
    sizes = _sizes(message_bytes)
    if sizes is None:
        matrices = [layer for _, layer in router.layers()]
    else:
        tables = [router.table(size) for size in sizes]
        matrices = [matrix for table in tables for matrix in (table.latency_s, table.s_per_byte)]
    count = len(router.devices)
    ids = np.zeros((count, count), dtype=np.int64)
    for matrix in matrices:
        _, of_matrix = np.unique(matrix, return_inverse=True)
        together = ids * (int(of_matrix.max(initial=0)) + 1) + of_matrix.reshape(ids.shape)
        ids = np.unique(together, return_inverse=True)[1].reshape(ids.shape).astype(np.int64)
    return ids


def _refined(colours: Ids, ids: Ids) -> Ids:
    """Return the coarsest colouring in which equal colours see equal numbers of every (pair id, colour)."""
    while True:
        count = int(colours.max()) + 1
        seen = ids * count + colours
        np.fill_diagonal(seen, -1)
        signature = np.concatenate([colours[:, None], np.sort(seen, axis=1)], axis=1)
        refined = np.unique(signature, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
        if int(refined.max()) + 1 == count:
            return colours
        colours = refined


def _confirmed(candidates: NDArray[np.intp], ids: Ids) -> list[list[int]]:
    """Return `candidates` split into classes within which every swap leaves `ids` unchanged."""
    classes: list[list[int]] = []
    left = candidates
    while left.size:
        first = left[0]
        differs = ids[left] != ids[first]
        # The two swapped columns may differ: they trade places.
        differs[:, first] = False
        differs[np.arange(left.size), left] = False
        equal = ~differs.any(axis=1)
        classes.append([int(member) for member in left[equal]])
        left = left[~equal]
    return classes
