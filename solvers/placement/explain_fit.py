"""What workload would fit where the one asked for does not: the largest batch, or the longest prompt at batch 1."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from gpuplan.solvers.placement.packing import Packing

if TYPE_CHECKING:
    from gpuplan.profiles import PlacementProblem, Workload


def largest_workload(problem: PlacementProblem, seconds: float = math.inf) -> Workload | None:
    """Return the largest workload with a plan, for a problem that has none.

    The batch shrinks first; where one sequence does not fit either, its prompt does. Workspace and KV are those of the
    smaller workload, and every candidate is decided by the exact check of memory, routes and limits; more of either
    never fits when less does not, so bisection finds the largest; after so many `seconds` what is known to fit is the
    answer.

    Returns
    -------
    Workload or None
        None when not even one sequence of one prompt token fits, or when that could not be decided.
    """
    work, fits, until = problem.workload, _Fits(problem), time.monotonic() + seconds
    batch = _largest(work.batch - 1, lambda b: fits(replace(work, batch=b)), until)
    if batch is not None:
        return replace(work, batch=batch)
    prompt = _largest(work.prompt_tokens - 1, lambda s: fits(replace(work, batch=1, prompt_tokens=s)), until)
    return None if prompt is None else replace(work, batch=1, prompt_tokens=prompt)


def would_fit(problem: PlacementProblem, seconds: float = math.inf) -> str | None:
    """Return a sentence about the largest workload that fits, or None when none does (or not within `seconds`).

    Examples
    --------
    "a batch of 12 would fit" or "a batch of 1 with a prompt of 7,168 tokens would fit"
    """
    best = largest_workload(problem, seconds)
    if best is None:
        return None
    if best.prompt_tokens == problem.workload.prompt_tokens:
        return f"a batch of {best.batch:,} would fit"
    return f"a batch of {best.batch} with a prompt of {best.prompt_tokens:,} tokens would fit"


class _Fits:
    """Whether a workload fits; what only depends on routes is made once."""

    def __init__(self, problem: PlacementProblem) -> None:
        self.problem = problem
        self.first: Packing | None = None

    def __call__(self, workload: Workload) -> bool:
        changed = self.problem.replace(workload=workload)
        if self.problem.single_devices:
            packing = Packing(changed.dense(), self.first)
            self.first = self.first or packing
            return bool(packing.fits())
        from gpuplan.solvers.placement.groups.fit import groups_fit

        return groups_fit(changed)


def _largest(most: int, fits: Callable[[int], bool], until: float) -> int | None:
    """Return the largest number in 1..most that fits, when every smaller one does, too; None when 1 does not.

    When the time is up, one that fits.
    """
    if most < 1 or time.monotonic() >= until or not fits(1):
        return None
    low, high = 1, most + 1  # low fits, high does not or is not asked for
    while high - low > 1 and time.monotonic() < until:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
