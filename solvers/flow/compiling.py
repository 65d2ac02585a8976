"""Compiling the kernels of the annealing beside a search, in a process of its own.

numba cannot be stopped once it compiles, so a search that compiled in its own process could pass its time limit by
many seconds. Here a child compiles into numba's cache while the parent goes on planning; the parent anneals when the
kernels are there, and ends the child when its limits come first. `python -m gpuplan.solvers.flow.compiling` compiles
ahead.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import numpy as np

from gpuplan.solvers.flow.anneal import Arrays, Schedule, arguments
from gpuplan.solvers.limits import Budget

#: What the child runs.
COMMAND = ("-m", "gpuplan.solvers.flow.compiling")
#: Seconds between two looks at the child.
PAUSE_S = 0.01
#: Time that must be left to compile in this process, as a multiple of what the child took.
SAFE = 3.0


class Compilation:
    """Kernels on their way: compiled before, being compiled by a child, or not to be had."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._started = time.perf_counter()
        self._ready = compiled()
        if not self._ready:
            pipe = subprocess.DEVNULL
            try:
                self._child = subprocess.Popen([sys.executable, *COMMAND], stdin=pipe, stdout=pipe, stderr=pipe)
            except OSError:
                self._child = None

    def wait(self, budget: Budget) -> bool:
        """Wait for the kernels within the budget; return whether annealing may start."""
        while self._child is not None and self._child.poll() is None:
            if budget.exhausted():
                self.stop()
                return False
            time.sleep(PAUSE_S)
        if not self._ready:
            took = time.perf_counter() - self._started
            # Without a cache that can be written the child was in vain: compile here, if that is sure to fit.
            self._ready = compiled() or budget.remaining_s > SAFE * took
        return self._ready

    def stop(self) -> None:
        """End the child."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()


def compiled() -> bool:
    """Return whether the kernels are compiled for this machine already, in this process or in numba's cache."""
    from gpuplan.solvers.flow import anneal_kernels

    anneal: Any = anneal_kernels.anneal
    signature = tuple(anneal.typeof_pyval(value) for value in _smallest())
    if signature in anneal.overloads:
        return True
    try:
        return anneal._cache.load_overload(signature, anneal.targetctx) is not None
    except (AttributeError, OSError):
        return False


def compile_now() -> None:
    """Compile the kernels, or load them from the cache."""
    from gpuplan.solvers.flow.anneal_kernels import anneal

    anneal(*_smallest())


def _smallest() -> tuple[object, ...]:
    """Return arguments of the annealing for one node: the types are what counts."""
    one, vector = np.ones(1, dtype=np.int64), np.ones(1)
    arrays = Arrays(1, np.ones((1, 2)), one, 0 * one, 0 * one, np.zeros((1, 1)), vector, vector, 1)
    return arguments(arrays, 0 * one, one, 1.0, Schedule(1, 0.1, 0.01), 0)


if __name__ == "__main__":
    compile_now()
