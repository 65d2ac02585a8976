"""The kernel of the quotient, as a set to make ready; see `gpuplan.solvers.compiling`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpuplan.solvers.compiling import KernelSet


def _dispatchers() -> tuple[Any, ...]:
    from gpuplan.solvers.placement.hierarchy import kernels

    return (kernels.advance,)


def _exercise() -> Iterator[None]:
    """Solve the relaxation of two hosts of two devices."""
    import numpy as np

    from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Timing
    from gpuplan.solvers.limits import Budget, Limits
    from gpuplan.solvers.placement.core import Query, make_core
    from gpuplan.solvers.placement.hierarchy.detect import find_hierarchy
    from gpuplan.solvers.placement.hierarchy.relaxed import Counters, kind_core, solve_relaxed
    from gpuplan.solvers.placement.tables import class_tables

    host = np.array([0, 0, 1, 1])
    hops = np.where(host[:, None] == host, 0.1, 0.3)
    timing = Timing(np.ones((4, 3)), HopTable(hops, hops), np.ones(3))
    names = tuple(f"d{k}" for k in range(4)), tuple(f"l{k}" for k in range(3))
    problem = DensePlacement(*names, np.full(4, 2.0), np.ones(4), np.ones(3), np.zeros(3), timing, timing)
    tables = class_tables(problem)
    found = find_hierarchy(tables)
    if isinstance(found, str):
        raise ValueError(found)
    kinds = kind_core(make_core(tables, Query(), 1), found)
    solve_relaxed(kinds, np.zeros(len(kinds.per)), False, Counters(), Budget(Limits(None)))
    yield


#: The layer-by-layer programme over counters, phases and states.
HIERARCHY = KernelSet("hierarchy", _dispatchers, _exercise)
