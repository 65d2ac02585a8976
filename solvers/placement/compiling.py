"""Compiling the kernels of the large engine beside a search, in a process of its own.

numba cannot be stopped once it compiles, so the first call after installation would pass a small time limit by many
seconds. Here a child compiles into numba's cache while the search waits within its limits, a plain answer in hand
(see `cheap`). What a killed child has compiled stays in the cache. `python -m gpuplan.solvers.placement.compiling`
compiles ahead.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.core import Core, Query, make_core

#: What the child runs.
COMMAND = ("-m", "gpuplan.solvers.placement.compiling")
#: Seconds between two looks at the child; time left from which on compiling here is sure to fit.
PAUSE_S, PLENTY_S = 0.01, 40.0
#: Time that loading compiled kernels may take, and the share of the limit kept back for the answer.
LOAD_S, RESERVE = 0.7, 0.03


def kernels_ready(budget: Budget) -> bool:
    """Return whether the kernels are there, or sure to be compiled in time by this process."""
    return _known() or budget.remaining_s > PLENTY_S or compiled()


def compile_beside(budget: Budget, meanwhile: Callable[[], bool]) -> bool:
    """Have a child compile within the budget; return whether the kernels may be used.

    `meanwhile` is called while it returns True and the time is sure to suffice for another call, once in any case.
    """
    pipe = subprocess.DEVNULL
    started = time.perf_counter()
    try:
        child = subprocess.Popen([sys.executable, *COMMAND], stdin=pipe, stdout=pipe, stderr=pipe)
    except OSError:
        meanwhile()
        return False
    try:
        in_time = _wait(child, budget, meanwhile)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    # Without a cache that can be written the child was in vain: compile here, if that is sure to fit.
    needed = LOAD_S if compiled() else 3.0 * (time.perf_counter() - started)
    return in_time and budget.remaining_s > needed


def _wait(child: subprocess.Popen[bytes], budget: Budget, meanwhile: Callable[[], bool]) -> bool:
    """Wait for the child; return whether it ended within the budget."""
    reserve = RESERVE * (budget.limits.time_limit_s or 0.0)
    more, took = True, 0.0
    while child.poll() is None:
        left = budget.remaining_s - reserve
        if budget.exhausted() or left <= 0.0:
            return False
        if more and left > 1.5 * took:
            before = time.perf_counter()
            more = meanwhile()
            took = max(took, time.perf_counter() - before)
        else:
            time.sleep(PAUSE_S)
    return True


@lru_cache(maxsize=1)
def _dispatchers() -> tuple[Any, ...]:
    from gpuplan.solvers.placement import kernels
    from gpuplan.solvers.placement.unlike import dive
    from gpuplan.solvers.placement.unlike import kernels as wide

    plain = (kernels.subgradient, kernels.expand, kernels.compact)
    return (*plain, wide.backward, wide.follow, wide.forward, dive.dive)


def _known() -> bool:
    """Return whether this process has the kernels already."""
    return all(kernel.overloads for kernel in _dispatchers())


def compiled() -> bool:
    """Return whether every kernel is compiled, in this process or in numba's cache for this source and machine."""
    try:
        return all(kernel.overloads or kernel._cache._cache_file._load_index() for kernel in _dispatchers())
    except (AttributeError, OSError):
        return False


def compile_now() -> None:
    """Compile the kernels, or load them from the cache, by working on a tiny core."""
    from gpuplan.solvers.limits import Limits
    from gpuplan.solvers.placement import kernels
    from gpuplan.solvers.placement.core import first_groups
    from gpuplan.solvers.placement.labels import search
    from gpuplan.solvers.placement.lagrangian import joint_relaxation, kernel_arrays
    from gpuplan.solvers.placement.unlike.dive import plan_from
    from gpuplan.solvers.placement.unlike.links import make_wide
    from gpuplan.solvers.placement.unlike.relaxation import WideRelaxation

    core, budget = _tiny_core(), Budget(Limits(None))
    arrays = kernel_arrays(core)
    plain = joint_relaxation(arrays, first_groups(core), np.zeros(len(arrays.limits)))
    plain.raise_bound(1, np.inf, budget, np.inf)
    plain.relax_plainly()
    search(plain, np.inf, None, budget)
    none, empty = np.zeros(0, dtype=np.int64), np.zeros(0)
    kernels.compact(none, none, none, none, empty, none, empty)
    wide = make_wide(core)
    relaxation = WideRelaxation(wide)
    relaxation.raise_bound(1, np.inf, budget, np.inf)
    plan_from(wide, relaxation, np.inf)
    relaxation.through()


def _tiny_core() -> Core:
    from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Timing
    from gpuplan.solvers.placement.tables import class_tables

    n, devices, rng = 12, 6, np.random.default_rng(0)
    hops = rng.uniform(0.1, 0.3, (devices, devices))
    timing = Timing(rng.uniform(1.0, 2.0, (devices, n)), HopTable(hops, hops), np.ones(n))
    names = tuple(f"d{k}" for k in range(devices)), tuple(f"l{k}" for k in range(n))
    room = rng.uniform(3.0, 4.0, devices)
    problem = DensePlacement(*names, room, np.ones(devices), np.ones(n), np.zeros(n), timing, timing)
    return make_core(class_tables(problem), Query(), 1)


if __name__ == "__main__":
    compile_now()
