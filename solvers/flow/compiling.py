"""The kernels of the annealing, made ready beside a search; see `gpuplan.solvers.compiling`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuplan.solvers.compiling import KernelSet
from gpuplan.solvers.flow.anneal import Arrays, Schedule, arguments, compiled_flow
from gpuplan.solvers.limits import Budget


class Compilation:
    """Kernels on their way: there before, loaded or compiled while the search goes on planning, or not to be had."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._wait = self._stack.enter_context(ANNEAL.coming())

    def wait(self, budget: Budget) -> bool:
        """Wait for the kernels within the budget; return whether annealing may start."""
        return self._wait(budget)

    def stop(self) -> None:
        """Wait no more: a compiling process ends."""
        self._stack.close()


def _dispatchers() -> tuple[Any, ...]:
    from gpuplan.solvers.flow.anneal_kernels import anneal
    from gpuplan.solvers.flow.flow_kernels import flow

    return anneal, flow


def _exercise() -> Iterator[None]:
    """Anneal and value a cluster of one node: the types are what counts."""
    from gpuplan.solvers.flow.anneal_kernels import anneal

    one, vector = np.ones(1, dtype=np.int64), np.ones(1)
    arrays = Arrays(1, np.ones((1, 2)), one, 0 * one, 0 * one, np.zeros((1, 1)), vector, vector, 1)
    anneal(*arguments(arrays, 0 * one, one, 1.0, Schedule(1, 0.1, 0.01), 0))
    yield
    compiled_flow(arrays, 0 * one, one)


#: The annealing on the real links, and the flow of a placement.
ANNEAL = KernelSet("flow", _dispatchers, _exercise)
