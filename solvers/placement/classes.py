"""Classes of exchangeable devices: swapping two of a class leaves every number a solver reads unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.placement import DensePlacement, FloatArray, Timing

IntArray = NDArray[np.int64]


def _rows(problem: DensePlacement, with_price: bool) -> FloatArray:
    """Numbers of a device alone, shape (D, …)."""
    columns = [problem.available_bytes[:, None], problem.latency.compute_s]
    if problem.cycle is not problem.latency:
        columns.append(problem.cycle.compute_s)
    if with_price:
        columns.append(np.nan_to_num(problem.price_per_hour, nan=-1.0)[:, None])
    return np.ascontiguousarray(np.concatenate(columns, axis=1))


def _pair_tables(timing: Timing) -> Iterator[FloatArray]:
    for table in (timing.hop, timing.return_hop):
        if table is not None:
            yield table.latency_s
            yield table.s_per_byte


def pair_tables(problem: DensePlacement) -> list[FloatArray]:
    """Every (D, D) table of the problem, its diagonal (never read) set to zero, equal ones once."""
    tables: list[FloatArray] = []
    seen: set[int] = set()
    timings = [problem.latency] if problem.cycle is problem.latency else [problem.latency, problem.cycle]
    for timing in timings:
        for table in _pair_tables(timing):
            if id(table) not in seen:
                seen.add(id(table))
                copy = np.array(table, dtype=np.float64)
                np.fill_diagonal(copy, 0.0)
                tables.append(copy)
    return tables


def swappable(tables: list[FloatArray], a: int, b: int) -> bool:
    """Return whether swapping a and b leaves every pair table unchanged."""
    for table in tables:
        if table[a, b] != table[b, a]:
            return False
        for first, second in ((table[a], table[b]), (table[:, a], table[:, b])):
            same = first == second
            same[a] = same[b] = True
            if not same.all():
                return False
    return True


def exchangeable_classes(problem: DensePlacement, *, with_price: bool = False) -> tuple[tuple[int, ...], ...]:
    """Partition the devices into classes of exchangeable ones, in device order.

    Each member is compared with its class's first: transpositions with one member generate every permutation of the
    class, so all of its pairs are then equal, too. O(D·classes·D) at worst.

    Parameters
    ----------
    problem
        Read in full: latency and cycle numbers alike, so that every metric of a plan is the same for the class.
    with_price
        Whether the price matters to the objective.
    """
    rows = _rows(problem, with_price)
    tables = pair_tables(problem)
    classes: list[list[int]] = []
    by_row: dict[bytes, list[list[int]]] = {}
    for device in range(problem.num_devices):
        candidates = by_row.setdefault(rows[device].tobytes(), [])
        for members in candidates:
            if swappable(tables, members[0], device):
                members.append(device)
                break
        else:
            members = [device]
            candidates.append(members)
            classes.append(members)
    return tuple(tuple(members) for members in classes)


def class_table(table: FloatArray, members: tuple[tuple[int, ...], ...], alone: float) -> FloatArray:
    """Reduce a (D, D) table to classes: entry [c, e] between two devices of c and e, `alone` where c has one device."""
    first = np.array([group[0] for group in members])
    reduced = np.array(table[np.ix_(first, first)], dtype=np.float64)
    for c, group in enumerate(members):
        reduced[c, c] = table[group[0], group[1]] if len(group) > 1 else alone
    return np.ascontiguousarray(reduced)


def twin_predecessors(counts: IntArray, rows: FloatArray, tables: list[FloatArray]) -> IntArray:
    """Return pred[c]: the class before c that could trade places with it whole (a twin host's), or −1.

    Some optimum uses the classes of such a chain in order of first use, so c is opened only after pred[c]. The
    diagonal of `tables` (inside a class) counts here.

    Parameters
    ----------
    counts
        Devices per class, shape (C,).
    rows
        Numbers of a class alone, shape (C, …).
    tables
        Class-level pair tables, shape (C, C) each.
    """
    num = len(counts)
    pred = np.full(num, -1, dtype=np.int64)
    latest: dict[bytes, list[int]] = {}
    for c in range(num):
        key = rows[c].tobytes() + int(counts[c]).to_bytes(8, "little")
        earlier = latest.setdefault(key, [])
        for b in reversed(earlier):
            if all(table[b, b] == table[c, c] for table in tables) and swappable(tables, b, c):
                pred[c] = b
                break
        earlier.append(c)
    return pred
