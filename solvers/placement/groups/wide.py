"""The large engine on modes; where resources need more than one key, a bound and what its relaxed paths find."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.compiling import LARGE, answer_meanwhile
from gpuplan.solvers.placement.core import Core, CoreOutcome, bits_of, known_plan
from gpuplan.solvers.placement.effort import Settings
from gpuplan.solvers.placement.tables import ClassPath

if TYPE_CHECKING:
    from gpuplan.solvers.placement.ladder import LadderSearch

#: Subgradient steps on all plans together.
STEPS = 1_000


def minimise_modes(
    core: Core,
    upper: float,
    budget: Budget,
    settings: Settings,
    hint: ClassPath | None,
    multipliers: dict[str, FloatArray],
) -> CoreOutcome:
    """Return the best plan of two stages or more below `upper`, by the ladder of efforts where one key suffices."""
    until_ready = answer_meanwhile(LARGE, core, upper, budget, settings, hint)
    if until_ready is not None:
        return until_ready
    if budget.exhausted():
        return known_plan(core, hint, upper)
    from gpuplan.solvers.placement.ladder import LadderSearch  # loads kernels

    search = LadderSearch(core, upper, budget, settings, hint, multipliers)
    return search.run() if sum(bits_of(core.capacity)) <= settings.key_bits else _bound_wide(search)


def _bound_wide(search: LadderSearch) -> CoreOutcome:
    """Return the best plan that a relaxed path turned out to be, and the bound; proven where the two meet."""
    joint = search.bound_jointly(STEPS)
    search.offer(joint.upper, joint.path)
    lower = max(joint.lower, joint.relax_plainly())
    if search.path is None and lower == math.inf:
        return CoreOutcome(math.inf, None, search.best, True)
    return search.outcome(lower)
