"""Objectives by the names people type, and what solvers read for them."""

from __future__ import annotations

import difflib
import math

from gpuplan.errors import UsageError
from gpuplan.profiles.problems.placement import Objective, ObjectiveName

#: User-level name → name in a dense problem. ``throughput`` minimises the bottleneck, latency second.
OBJECTIVES: dict[str, ObjectiveName] = {
    "latency": "latency",
    "throughput": "bottleneck",
    "efficiency": "efficiency",
    "balanced": "balanced",
    "cost": "cost",
    "kv-capacity": "kv-capacity",
}


def dense_objective(objective: str | Objective) -> Objective:
    """Return what a solver minimises for a user-level name, or a checked `Objective`.

    >>> dense_objective("throughput").name
    'bottleneck'
    """
    if isinstance(objective, Objective):
        return _checked(objective)
    name = OBJECTIVES.get(objective)
    if name is None:
        close = difflib.get_close_matches(str(objective), OBJECTIVES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"expected one of the objectives {', '.join(OBJECTIVES)}, got {objective!r}{hint}")
    return Objective(name)


def user_objective_name(objective: str | Objective) -> str:
    """Return the name a person knows an objective by (``throughput`` for a dense ``bottleneck``)."""
    name = dense_objective(objective).name
    return "throughput" if name == "bottleneck" else name


def parse_balance(text: str) -> Objective:
    """Return the balanced objective for ``latency:devices`` weights such as ``10:1``.

    >>> parse_balance("10:1")
    Objective(name='balanced', latency_weight=10.0, devices_weight=1.0)
    """
    try:
        latency, devices = (float(part) for part in text.split(":"))
    except ValueError:
        raise UsageError(f"expected two weights latency:devices such as 10:1, got {text!r}") from None
    return _checked(Objective("balanced", latency, devices))


def _checked(objective: Objective) -> Objective:
    if objective.name not in OBJECTIVES.values():
        raise UsageError(f"expected one of {', '.join(OBJECTIVES.values())}, got {objective.name!r}")
    weights = objective.latency_weight, objective.devices_weight
    if not all(math.isfinite(weight) and weight >= 0.0 for weight in weights) or weights == (0.0, 0.0):
        raise UsageError(f"expected two weights of at least 0, one of them above 0, got {weights[0]:g}:{weights[1]:g}")
    return objective
