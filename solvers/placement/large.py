"""The large engine: the ladder of efforts where counters fit a key, the engine for unlike devices elsewhere."""

from __future__ import annotations

import math

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.compiling import LARGE, answer_meanwhile
from gpuplan.solvers.placement.core import Core, CoreOutcome, bits_of, known_plan
from gpuplan.solvers.placement.effort import LADDER, Settings
from gpuplan.solvers.placement.ladder import LadderSearch
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.unlike.closing import close
from gpuplan.solvers.placement.unlike.fill import BY_MEMORY, fill_if_tight
from gpuplan.solvers.placement.unlike.links import make_wide
from gpuplan.solvers.placement.unlike.neighbourhood import MOST_WHOLE, Neighbourhoods
from gpuplan.solvers.placement.unlike.relaxation import WideRelaxation
from gpuplan.solvers.placement.unlike.solve import minimise_unlike

DEFAULT = Settings()
#: Seconds that links and a first step on the bound take for each pair of unlike classes: 30-50 ms at 1,024.
LINKS_S = 4e-8
#: Neighbourhoods that may pass in vain.
PATIENCE = 40


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
    settings.trace.proof = ""
    until_ready = answer_meanwhile(LARGE, core, upper, budget, settings, hint)
    if until_ready is not None:
        return until_ready
    keyed = sum(bits_of(core.capacity)) <= settings.key_bits
    if budget.exhausted() or not (keyed or budget.remaining_s >= LINKS_S * core.num_classes**2):
        return known_plan(core, hint, upper)
    if hint is None and math.isinf(upper):
        filled = fill_if_tight(core, budget)
        if filled.impossible:
            settings.trace.proof = BY_MEMORY
            return CoreOutcome(math.inf, None, math.inf, True)
        hint = filled.path
    memory = {} if multipliers is None else multipliers
    if keyed:
        return _climb(core, upper, budget, settings, hint, memory)
    return minimise_unlike(core, upper, budget, settings, hint, memory)


def _climb(
    core: Core,
    upper: float,
    budget: Budget,
    settings: Settings,
    hint: ClassPath | None,
    memory: dict[str, FloatArray],
) -> CoreOutcome:
    """Climb the ladder; where its beams leave a gap, close it with a bound that remembers before all labels are tried.

    A cap on the cycle makes windows depend on the next device, which only the ladder's own relaxation reads exactly.
    """
    search = LadderSearch(core, upper, budget, settings, hint, memory)
    if search.ladder is not LADDER or core.cap is not None or core.any_plan or core.modes is not None:
        return search.run()
    search.ladder = LADDER[:3]
    first = search.run()
    if first.proven or budget.exhausted():
        return first
    value, path = _improve(core, first, budget, settings, memory.get("best"))
    settings.trace.note("the beams left a gap: bounded again by paths that remember, then labels and a MILP")
    last = close(core, min(upper, value), path, budget, settings, memory.get("best"))
    if last.path is None:
        return CoreOutcome(value, path, max(min(first.bound, value), last.bound), last.proven)
    return CoreOutcome(last.value, last.path, max(min(first.bound, last.value), last.bound), last.proven)


def _improve(
    core: Core, first: CoreOutcome, budget: Budget, settings: Settings, multipliers: FloatArray | None
) -> tuple[float, ClassPath | None]:
    """Search neighbourhoods of a long plan part by part; the beams have seen plans of few stages whole."""
    value, path = first.value, first.path
    if path is None or len(path) <= MOST_WHOLE:
        return value, path
    wide = make_wide(core)
    relaxation = WideRelaxation(wide, multipliers)
    relaxation.raise_bound(1, value, budget, math.inf)
    search = Neighbourhoods(wide, budget, settings)
    search.look_again(relaxation)
    idle = 0
    while idle < PATIENCE and not budget.exhausted():
        better = search.improve(value, path)
        idle = 0 if better is not None else idle + 1
        value, path = better or (value, path)
    budget.report("placement", value, first.bound if math.isfinite(first.bound) else None)
    return value, path
