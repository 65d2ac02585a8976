"""Limits on a search: time, work, threads, and a way to stop it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from gpuplan.errors import UnsupportedError, UsageError
from gpuplan.units import format_bytes

#: Time that a search is given where none is left: limits are above 0.
LEAST_S: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Progress:
    """A search's state while it runs: best objective and bound so far (None while unknown)."""

    phase: str
    objective: float | None
    bound: float | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a search may use.

    Parameters
    ----------
    time_limit_s
        Wall time, s, or None for no limit; honoured within 10 % or 50 ms.
    work_limit
        Labels or nodes to expand at most (repeatable, unlike time), or None.
    threads
        Threads a kernel may use.
    cancel
        Called between steps; the search stops with its incumbent when it returns True.
    on_progress
        Called between steps with the incumbent and bound.
    memory_limit_bytes
        Memory a search may take by its estimate, bytes, or None: what would take more is refused before it is built.
    """

    time_limit_s: float | None = 60.0
    work_limit: int | None = None
    threads: int = 1
    cancel: Callable[[], bool] | None = None
    on_progress: Callable[[Progress], None] | None = None
    memory_limit_bytes: int | None = None


def checked_limits(limits: Limits) -> Limits:
    """Return limits as a search takes them, an infinite time as none; UsageError for one out of range."""
    time_limit_s, work_limit, memory = limits.time_limit_s, limits.work_limit, limits.memory_limit_bytes
    if time_limit_s is not None and not time_limit_s > 0.0:
        raise UsageError(f"expected a time limit above 0 s, got {time_limit_s!r}")
    if work_limit is not None and work_limit < 1:
        raise UsageError(f"expected a work limit of at least 1, got {work_limit!r}")
    if limits.threads < 1:
        raise UsageError(f"expected at least 1 thread, got {limits.threads!r}")
    if memory is not None and memory < 1:
        raise UsageError(f"expected a memory limit of at least 1 byte, got {memory!r}")
    return replace(limits, time_limit_s=None) if time_limit_s == math.inf else limits


def refuse_memory(what: str, estimate_bytes: float, limits: Limits) -> None:
    """Refuse what would take more memory than allowed, before it is built.

    Parameters
    ----------
    what
        The method, as the sentence begins.
    estimate_bytes
        An upper estimate.

    Raises
    ------
    UnsupportedError
        The estimate is above ``limits.memory_limit_bytes``.
    """
    limit = limits.memory_limit_bytes
    if limit is not None and estimate_bytes > limit:
        raise UnsupportedError(
            f"{what} would take about {format_bytes(estimate_bytes)} of memory and --memory-limit is "
            f"{format_bytes(limit)}; allow more, or use another solver"
        )


class Budget:
    """The one clock of a search: counts work against `Limits` and says when to stop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.started = time.perf_counter()
        self.work = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the search began."""
        return time.perf_counter() - self.started

    @property
    def remaining_s(self) -> float:
        """Seconds left, inf without a time limit."""
        limit = self.limits.time_limit_s
        return float("inf") if limit is None else limit - self.elapsed_s

    def rest(self, kept_s: float = 0.0) -> Limits:
        """Return the limits with the time that is left, less what is kept for work to come (half of it at most)."""
        limit, left = self.limits.time_limit_s, self.remaining_s
        if limit is None:
            return self.limits
        return replace(self.limits, time_limit_s=max(left - kept_s, 0.5 * left, LEAST_S))

    def aside(self) -> Budget:
        """Return a budget on the same clock whose work counts for nothing: for what is done only while waiting."""
        own = Budget(replace(self.limits, work_limit=None, on_progress=None))
        own.started = self.started
        return own

    def spend(self, work: int) -> None:
        """Count `work` labels or nodes."""
        self.work += work

    def exhausted(self) -> bool:
        """Return whether time or work is used up or the caller asked to stop."""
        limits = self.limits
        if limits.work_limit is not None and self.work >= limits.work_limit:
            return True
        if self.remaining_s <= 0.0:
            return True
        return limits.cancel is not None and limits.cancel()

    def report(self, phase: str, objective: float | None, bound: float | None) -> None:
        """Tell the caller how far the search is."""
        if self.limits.on_progress is not None:
            self.limits.on_progress(Progress(phase, objective, bound))
