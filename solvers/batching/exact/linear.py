"""Mixed-integer models row by row, on HiGHS or CBC in a process of their own."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, field

from gpuplan.solvers.external.build import Builder, Terms
from gpuplan.solvers.external.isolated import LinearEngine, solve_isolated
from gpuplan.solvers.external.linear import memory_estimate
from gpuplan.solvers.limits import Budget, refuse_memory

Engine = LinearEngine


def default_engine() -> Engine:
    """Return ``highs`` where SciPy is installed, else ``cbc``."""
    return "highs" if importlib.util.find_spec("scipy") is not None else "cbc"


@dataclass(slots=True)
class LinearModel:
    """min Σ cost, rows lower ≤ Σ terms ≤ upper, variables between 0 and their upper ends."""

    builder: Builder = field(default_factory=Builder)

    @property
    def cost(self) -> Terms:
        """What is minimised; a column may stand in it several times."""
        return self.builder.cost

    @cost.setter
    def cost(self, terms: Terms) -> None:
        self.builder.cost = terms

    def add(self, name: str, upper: float, *, integer: bool = False) -> int:
        """Make a variable and return its column."""
        return self.builder.add(name, upper, integer=integer)

    def row(self, terms: Terms, lower: float, upper: float) -> None:
        """Add a constraint."""
        self.builder.row(f"r{len(self.builder.rows)}", terms, lower, upper)


@dataclass(frozen=True, slots=True)
class Found:
    """Values by column (None: no solution found), the dual bound (−inf: none), and what went wrong, if anything."""

    values: list[float] | None
    bound: float
    failure: str = ""


def run(model: LinearModel, engine: Engine, budget: Budget, seed: int) -> Found:
    """Solve without a gap until the budget ends or the caller cancels."""
    budget.spend(1)
    built = model.builder.build()
    needed = memory_estimate(built.num_variables, built.num_rows, len(built.values))
    refuse_memory("solver ilp", needed, budget.limits)
    answer = solve_isolated(
        engine,
        built,
        None if math.isinf(budget.remaining_s) else max(budget.remaining_s, 0.01),
        threads=budget.limits.threads,
        seed=seed,
        cancel=budget.limits.cancel,
    )
    values = None if answer.x is None else answer.x.tolist()
    bound = answer.bound if math.isfinite(answer.bound) else -math.inf
    return Found(values, bound, answer.note if answer.status == "failed" else "")
