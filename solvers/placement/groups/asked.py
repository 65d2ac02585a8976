"""One question over groups, as every method of this room takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from gpuplan.solvers.placement.query import EngineName

if TYPE_CHECKING:
    from gpuplan.plans.placement_solution import GroupStage
    from gpuplan.profiles.problems.build import PlacementProblem
    from gpuplan.profiles.problems.segments import Segments
    from gpuplan.solvers.limits import Budget
    from gpuplan.solvers.registry import SolverEntry


@dataclass(frozen=True, slots=True)
class Asked:
    """A problem over groups and who is to answer it.

    problem, segments
        What is planned, and the runs of alike devices that groups are formed of.
    degrees
        Sizes of groups to try.
    entry, budget, seed
        The solver by name, what it may use, its seed.
    start
        The stages of a plan to start from, or None.
    """

    problem: PlacementProblem
    segments: Segments
    degrees: tuple[int, ...]
    entry: SolverEntry
    budget: Budget
    seed: int = 0
    start: tuple[GroupStage, ...] | None = None

    @property
    def engine(self) -> EngineName:
        """The engine of an exact solver."""
        assert self.entry.engine is not None
        return cast(EngineName, self.entry.engine)

    def seconds_left(self) -> float | None:
        """Return the wall time left, None where there is no limit."""
        return None if self.budget.limits.time_limit_s is None else max(self.budget.remaining_s, 1e-3)

    @property
    def uneven(self) -> bool:
        """Whether stages of one plan may differ in size."""
        return self.problem.uneven_tensor_parallel

    @property
    def one_size(self) -> bool:
        """Whether all stages of a plan are of one size."""
        return len(self.degrees) == 1 or not self.uneven
