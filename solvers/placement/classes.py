"""Classes of exchangeable devices: swapping two of a class leaves every number a solver reads unchanged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpuplan.profiles.problems.alike import alike, swappable
from gpuplan.profiles.problems.hops import FloatArray, Hops, IntArray, check_entries
from gpuplan.profiles.problems.placement import DensePlacement

__all__ = ["IntArray", "class_table", "exchangeable_classes", "swappable", "twin_predecessors"]


def _rows(problem: DensePlacement, with_price: bool) -> FloatArray:
    """Numbers of a device alone, shape (D, …)."""
    columns = [problem.available_bytes[:, None], problem.latency.compute_s]
    if problem.cycle is not problem.latency:
        columns.append(problem.cycle.compute_s)
    if with_price:
        columns.append(np.nan_to_num(problem.price_per_hour, nan=-1.0)[:, None])
    return np.ascontiguousarray(np.concatenate(columns, axis=1))


def all_hops(problem: DensePlacement) -> list[Hops]:
    """Return the distinct hop tables of a problem."""
    found: dict[int, Hops] = {}
    for timing in (problem.latency, problem.cycle):
        for hops in (timing.hop, timing.return_hop):
            if hops is not None:
                found.setdefault(id(hops), hops)
    return list(found.values())


def _units(hops: list[Hops], keys: list[bytes]) -> tuple[tuple[int, ...], ...]:
    """Group the devices of equal keys and equal homes: routes treat them alike."""
    homes = list({id(home): home for home in (table.home for table in hops)}.values())
    places: dict[tuple[object, ...], list[int]] = {}
    for device, place in enumerate(zip(keys, *(home.tolist() for home in homes), strict=True)):
        places.setdefault(place, []).append(device)
    return tuple(tuple(group) for group in places.values())


def _pair_tables(hops: list[Hops], members: tuple[tuple[int, ...], ...]) -> list[FloatArray]:
    """Return every pair table by unit, equal ones once, shape (U, U) each."""
    distinct: dict[int, FloatArray] = {}
    for table in hops:
        for values in (table.unit_latency_s, table.unit_s_per_byte):
            if id(values) not in distinct:
                distinct[id(values)] = class_table(table.home, values, members, 0.0)
    return list(distinct.values())


def exchangeable_classes(problem: DensePlacement, *, with_price: bool = False) -> tuple[tuple[int, ...], ...]:
    """Partition the devices into classes of exchangeable ones, in device order.

    Transpositions with one member generate every permutation of a class, so comparing with one member is enough.

    Parameters
    ----------
    problem
        Read in full: latency and cycle numbers alike, so that every metric of a plan is the same for the class.
    with_price
        Whether the price matters to the objective.

    Raises
    ------
    UnsupportedError
        The classes still need a matrix of more than 50 million entries.
    """
    rows, hops = _rows(problem, with_price), all_hops(problem)
    members = _units(hops, [row.tobytes() for row in rows])
    keys = [rows[group[0]].tobytes() for group in members]
    _check_classes(len(members), problem.num_layers)
    if len(set(keys)) < len(keys):  # only then may units be alike
        counts = np.array([len(group) for group in members], dtype=np.int64)
        leader = alike(_pair_tables(hops, members), keys, counts, merge=True)
        classes: dict[int, list[int]] = {}
        for unit, group in enumerate(members):
            classes.setdefault(int(leader[unit]), []).extend(group)
        members = tuple(tuple(group) for group in classes.values())
    return tuple(sorted(tuple(sorted(group)) for group in members))


def _check_classes(num: int, layers: int) -> None:
    check_entries(num * max(num, layers), f"{num:,} classes of devices of which no two are alike")


def class_table(
    home: IntArray, table: FloatArray, members: tuple[tuple[int, ...], ...], alone: float
) -> FloatArray:  # fmt: skip
    """Reduce a table by unit to classes: [c, e] between two devices of c and e, `alone` where c has one device."""
    first = home[np.array([group[0] for group in members])]
    second = home[np.array([group[1] if len(group) > 1 else group[0] for group in members])]
    if len(first) == len(table) and bool((first == np.arange(len(first))).all()):
        reduced = np.array(table, dtype=np.float64, order="C")  # as it is: far faster than by index
    else:
        columns = np.take(np.asarray(table, dtype=np.float64), first, axis=1)
        reduced = np.take(columns, first, axis=0)  # whole rows last: there are mostly many
    single = np.array([len(group) < 2 for group in members])
    np.fill_diagonal(reduced, np.where(single, alone, table[first, second]))
    return reduced


def twin_predecessors(counts: IntArray, rows: FloatArray, pairs: Callable[[], list[FloatArray]]) -> IntArray:
    """Return pred[c]: the class before c that could trade places with it whole (a twin host's), or −1.

    Some optimum uses the classes of such a chain in order of first use, so c is opened only after pred[c]. The
    diagonal of the tables (inside a class) counts here.

    Parameters
    ----------
    counts
        Devices per class, shape (C,).
    rows
        Numbers of a class alone, shape (C, …).
    pairs
        Gives the class-level pair tables, shape (C, C) each; asked only where two classes are alike by themselves.
    """
    own = np.ascontiguousarray(np.concatenate([rows, counts[:, None].astype(np.float64)], axis=1))
    if len({row.tobytes() for row in own}) == len(own):
        return np.full(len(counts), -1, dtype=np.int64)
    tables = pairs()
    inner = np.stack([np.diag(table) for table in tables], axis=1) if tables else np.zeros((len(counts), 0))
    own = np.ascontiguousarray(np.concatenate([rows, inner + 0.0, counts[:, None].astype(np.float64)], axis=1))
    leader = alike(tables, [row.tobytes() for row in own])
    pred = np.full(len(counts), -1, dtype=np.int64)
    latest: dict[int, int] = {}
    for c, first in enumerate(leader.tolist()):
        pred[c] = latest.get(first, -1)
        latest[first] = c
    return pred
