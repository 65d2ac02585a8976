"""A budget for searches inside a search: the same clock and work, but nothing is reported."""

from __future__ import annotations

from gpuplan.solvers.limits import Budget


class QuietBudget(Budget):
    """Shares the limits, clock and work of another budget; progress of a part would mislead, so it is not told."""

    def __init__(self, whole: Budget) -> None:
        super().__init__(whole.limits)
        self.whole = whole
        self.started = whole.started
        self.work = whole.work

    def spend(self, work: int) -> None:
        """Count work for both."""
        self.whole.spend(work)
        self.work = self.whole.work

    def exhausted(self) -> bool:
        """Return whether the whole is."""
        return self.whole.exhausted()

    def report(self, phase: str, objective: float | None, bound: float | None) -> None:
        """Say nothing."""
