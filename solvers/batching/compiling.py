"""The kernels of neighbourhood search and box prices, as a set to make ready; see `gpuplan.solvers.compiling`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpuplan.solvers.compiling import KernelSet


def _dispatchers() -> tuple[Any, ...]:
    from gpuplan.solvers.batching.bounds import price_loops
    from gpuplan.solvers.batching.heuristics import moves

    return moves.fill_facts, moves.price, moves.anneal, price_loops.sweep


def _exercise() -> Iterator[None]:
    """Improve and price a plan of four requests."""
    import numpy as np

    from gpuplan.profiles.problems.batching import BatchingProblem, BatchTime, Executor, Requests
    from gpuplan.solvers.batching.bounds.lower import relaxed_form
    from gpuplan.solvers.batching.bounds.prices import box_prices
    from gpuplan.solvers.batching.heuristics.lns import State
    from gpuplan.solvers.batching.heuristics.starts import best_start
    from gpuplan.solvers.limits import Budget, Limits

    tokens, zeros = np.array([3, 5, 2, 4]), np.zeros(4)
    requests = Requests(np.array(list("abcd")), tokens, tokens[::-1].copy(), zeros, np.full(4, np.inf), np.ones(4))
    problem = BatchingProblem(requests, (Executor("e", 100.0, 2),), BatchTime(0.1, 0.01, 0.1, 0.01, 0.001))
    state = State(problem, best_start(problem, Budget(Limits(None))).solution)
    yield
    state.anneal(0, 1, 1.0)
    yield
    box_prices(relaxed_form(problem, 1.0, 0.0), 0.01)


#: Moves of the neighbourhood search, and the sweep of the box prices.
MOVES = KernelSet("batching", _dispatchers, _exercise)
