"""The kernels of the large engine, and what answers until they are there.

See `gpuplan.solvers.compiling`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuplan.solvers.compiling import KernelSet
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.core import Core, CoreOutcome, Query, make_core
from gpuplan.solvers.placement.effort import Settings
from gpuplan.solvers.placement.tables import ClassPath, ClassTables


def answer_meanwhile(
    kernels: KernelSet, core: Core, upper: float, budget: Budget, settings: Settings, hint: ClassPath | None = None
) -> CoreOutcome | None:
    """Return None once kernels may be used, else what walks along plain relaxations found within the limits.

    Parameters
    ----------
    kernels
        What the search is about to use.
    core, upper, budget, settings, hint
        As for the engines.
    """
    if kernels.loaded():
        return None
    from gpuplan.solvers.placement.cheap import Cheap

    # Its work does not count: with a work limit the answer is the same whether kernels were there or came.
    cheap = Cheap(core, upper, budget.aside(), hint)
    if kernels.prepare(budget, cheap.step):
        return None
    settings.trace.note("the kernels were not ready in time: walks along plain relaxations answer")
    settings.trace.proof = "Lagrangian relaxation in NumPy"
    return cheap.outcome()


def _dispatchers() -> tuple[Any, ...]:
    from gpuplan.solvers.placement import kernels, large  # noqa: F401  # its other modules take their time, too
    from gpuplan.solvers.placement.unlike import dive
    from gpuplan.solvers.placement.unlike import kernels as wide

    plain = (kernels.subgradient, kernels.expand, kernels.compact)
    return (*plain, wide.backward, wide.follow, wide.forward, dive.dive)


def _exercise() -> Iterator[None]:
    """Call the kernels on a tiny core."""
    from gpuplan.solvers.limits import Limits
    from gpuplan.solvers.placement import kernels
    from gpuplan.solvers.placement.core import first_groups
    from gpuplan.solvers.placement.labels import search
    from gpuplan.solvers.placement.lagrangian import joint_relaxation, kernel_arrays
    from gpuplan.solvers.placement.unlike.dive import plan_from
    from gpuplan.solvers.placement.unlike.links import make_wide
    from gpuplan.solvers.placement.unlike.relaxation import WideRelaxation

    core, budget = make_core(tiny_tables(), Query(), 1), Budget(Limits(None))
    arrays = kernel_arrays(core)
    plain = joint_relaxation(arrays, first_groups(core), np.zeros(len(arrays.limits)))
    plain.relax_plainly()
    yield
    plain.raise_bound(1, np.inf, budget, np.inf)
    yield
    search(plain, np.inf, None, budget)
    yield
    none, empty = np.zeros(0, dtype=np.int64), np.zeros(0)
    kernels.compact(none, none, none, none, empty, none, empty)
    yield
    wide = make_wide(core)
    relaxation = WideRelaxation(wide)
    relaxation.raise_bound(1, np.inf, budget, np.inf)
    yield
    plan_from(wide, relaxation, np.inf, budget)
    yield
    relaxation.through()


def tiny_tables() -> ClassTables:
    """Return the tables of six unlike devices and twelve layers."""
    from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Timing
    from gpuplan.solvers.placement.tables import class_tables

    n, devices, rng = 12, 6, np.random.default_rng(0)
    hops = rng.uniform(0.1, 0.3, (devices, devices))
    timing = Timing(rng.uniform(1.0, 2.0, (devices, n)), HopTable(hops, hops), np.ones(n))
    names = tuple(f"d{k}" for k in range(devices)), tuple(f"l{k}" for k in range(n))
    room = rng.uniform(3.0, 4.0, devices)
    problem = DensePlacement(*names, room, np.ones(devices), np.ones(n), np.zeros(n), timing, timing)
    return class_tables(problem)


#: Kernels of the ladder of efforts and of the engine for unlike devices.
LARGE = KernelSet("placement", _dispatchers, _exercise)
compile_now = LARGE.compile_now
