"""One source, two speeds: loops over arrays run as plain Python when small and compiled by Numba when large.

Compiling costs seconds once and loading the compiled code a quarter of a second in each process: nothing that ten
requests should wait for. Plain loops take about a microsecond a step, so the choice goes by the number of steps; both
speeds run the same statements on the same doubles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, ParamSpec, TypeVar, cast

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

#: Steps up to which plain Python is used (about 0.1 s).
PLAIN_STEPS: Final = 100_000
#: Plain steps of one function in this process (about a second) from which on it is worth compiling or loading.
WORTH_STEPS: Final = 1_000_000
_taken: dict[Callable[..., Any], float] = {}


@cache
def _compiled(function: Callable[..., Any], relaxed: bool) -> Callable[..., Any]:
    from numba import njit

    # min() may be reordered (SIMD): it changes no result, since no sum is reassociated across it.
    return cast(
        "Callable[..., Any]", njit(function, cache=True, nogil=True, fastmath={"nnan", "nsz"} if relaxed else False)
    )


def fast(function: Callable[P, R], steps: float, *, relaxed: bool = False, times: int = 1) -> Callable[P, R]:
    """Return `function` as it is for few steps, else compiled (`relaxed`: SIMD minima, no NaN).

    Few are up to 100,000 in so many `times`; and up to a million as long as all calls together took no more: a first
    search of a process neither compiles nor loads for what plain Python does within its limit.
    """
    if steps * times <= PLAIN_STEPS:
        return _plainly(function)
    taken = _taken.get(function, 0.0) + steps
    if taken <= WORTH_STEPS:
        _taken[function] = taken
        return _plainly(function)
    return cast("Callable[P, R]", _compiled(function, relaxed))


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` compiled, whatever the size."""
    return cast("Callable[P, R]", _compiled(function, False))


def _plainly(function: Callable[P, R]) -> Callable[P, R]:
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return run
