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


class ShareBudget(QuietBudget):
    """A quiet budget that ends after a share of the time and work that are left."""

    def __init__(self, whole: Budget, share: float) -> None:
        super().__init__(whole)
        most = whole.limits.work_limit
        self.until_s = whole.elapsed_s + share * whole.remaining_s
        self.most_work = None if most is None else whole.work + int(share * max(most - whole.work, 0))

    @property
    def elapsed_s(self) -> float:
        """Seconds since the whole began."""
        return self.whole.elapsed_s

    @property
    def remaining_s(self) -> float:
        """Seconds left of the share."""
        return min(self.whole.remaining_s, self.until_s - self.elapsed_s)

    def exhausted(self) -> bool:
        """Return whether the share is used up, or the whole."""
        spent = self.most_work is not None and self.whole.work >= self.most_work
        return spent or self.remaining_s <= 0.0 or self.whole.exhausted()
