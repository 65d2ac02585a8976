"""The large engine: the ladder of efforts where counters fit a key, the engine for unlike devices elsewhere."""

from __future__ import annotations

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.core import Core, CoreOutcome, bits_of
from gpuplan.solvers.placement.effort import Settings
from gpuplan.solvers.placement.groups.wide import bound_wide
from gpuplan.solvers.placement.ladder import LadderSearch
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.unlike.solve import minimise_unlike

DEFAULT = Settings()


def minimise(
    core: Core,
    upper: float,
    budget: Budget,
    settings: Settings = DEFAULT,
    *,
    hint: ClassPath | None = None,
    multipliers: dict[str, FloatArray] | None = None,
) -> CoreOutcome:
    """Return the best plan of two stages or more below `upper`.

    Parameters
    ----------
    core, upper, budget, settings
        What to minimise, the value to beat, the limits, how hard to try (a ladder that ends in a beam leaves a gap).
    hint
        A path to start from, if it fits.
    multipliers
        Multipliers of a similar core to start from; the best ones found are left here.
    """
    memory = {} if multipliers is None else multipliers
    if sum(bits_of(core.capacity)) <= settings.key_bits:
        return LadderSearch(core, upper, budget, settings, hint, memory).run()
    if core.modes is not None:
        return bound_wide(core, upper, budget, settings, hint, memory)
    return minimise_unlike(core, upper, budget, settings, hint, memory)
