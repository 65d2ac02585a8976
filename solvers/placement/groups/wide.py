"""The large engine on modes; where resources need more than one key, a bound and what its relaxed paths find."""

from __future__ import annotations

import math

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.core import Core, CoreOutcome, bits_of
from gpuplan.solvers.placement.effort import Settings
from gpuplan.solvers.placement.ladder import LadderSearch
from gpuplan.solvers.placement.tables import ClassPath

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
    if sum(bits_of(core.capacity)) <= settings.key_bits:
        return LadderSearch(core, upper, budget, settings, hint, multipliers).run()
    return _bound_wide(core, upper, budget, settings, hint, multipliers)


def _bound_wide(
    core: Core,
    upper: float,
    budget: Budget,
    settings: Settings,
    hint: ClassPath | None,
    multipliers: dict[str, FloatArray],
) -> CoreOutcome:
    """Return the best plan that a relaxed path turned out to be, and the bound; proven where the two meet."""
    search = LadderSearch(core, upper, budget, settings, hint, multipliers)
    joint = search.bound_jointly(STEPS)
    search.offer(joint.upper, joint.path)
    lower = max(joint.lower, joint.relax_plainly())
    if search.path is None and lower == math.inf:
        return CoreOutcome(math.inf, None, search.best, True)
    return search.outcome(lower)
