"""Takes D×D hop tables that a file came with to tables by unit, where there are too many devices to keep them."""

from __future__ import annotations

import dataclasses

import numpy as np

from gpuplan.profiles.problems import hops
from gpuplan.profiles.problems.alike import alike
from gpuplan.profiles.problems.hops import Hops, IntArray, UnitHops
from gpuplan.profiles.problems.placement import Timing


def by_unit(latency: Timing, cycle: Timing) -> tuple[Timing, Timing]:
    """Return both timings with hop tables by unit above 2,048 devices, as they are otherwise.

    Devices are of one unit when swapping them changes no hop, return hops included.
    """
    count = len(latency.compute_s)
    if count <= hops.MOST_DENSE:
        return latency, cycle
    tables = [table for timing in (latency, cycle) for table in (timing.hop, timing.return_hop) if table is not None]
    distinct = {id(table): table for table in tables}
    values = {id(column): column for t in distinct.values() for column in (t.unit_latency_s, t.unit_s_per_byte)}
    first, home = np.unique(alike(list(values.values()), [b""] * count, merge=True), return_inverse=True)
    second = np.array([np.flatnonzero(home == unit)[:2][-1] for unit in range(len(first))])
    home = home.reshape(-1).astype(np.int64)
    reduced = {key: _reduced(table, home, first, second) for key, table in distinct.items()}

    def changed(timing: Timing) -> Timing:
        back = None if timing.return_hop is None else reduced[id(timing.return_hop)]
        return dataclasses.replace(timing, hop=reduced[id(timing.hop)], return_hop=back)

    whole = changed(latency)
    return whole, whole if cycle is latency else changed(cycle)


def _reduced(table: Hops, home: IntArray, first: IntArray, second: IntArray) -> UnitHops:
    """Keep the first device of each unit; on the diagonal stands its pair with the second."""
    columns = []
    for values in (table.unit_latency_s, table.unit_s_per_byte):
        kept = values[np.ix_(first, first)]
        np.fill_diagonal(kept, values[first, second])
        columns.append(kept)
    return UnitHops(home, *columns)
