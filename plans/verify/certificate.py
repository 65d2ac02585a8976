"""Objective, bound, gap and status against each other and against the recomputed values of a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuplan.plans.verify.answers import has_bound
from gpuplan.plans.verify.findings import RELATIVE_TOLERANCE, Ledger, agree, show

#: Components of a pair within this are the same for the gap of the next one.
TIE = 1e-9


@dataclass(frozen=True, slots=True)
class PlanValues:
    """What a plan is worth, recomputed.

    `price_per_hour` is None when a price is missing, `kv_capacity_tokens` None when no stage keeps KV.
    `kv_room_tokens` is the capacity before rounding down.
    """

    latency_s: float
    bottleneck_s: float
    devices: int
    price_per_hour: float | None
    kv_room_tokens: float | None
    compute_s: float
    hops_s: float
    return_hop_s: float

    @property
    def kv_capacity_tokens(self) -> int | None:
        """Whole tokens that every stage with KV has room for."""
        return None if self.kv_room_tokens is None else math.floor(self.kv_room_tokens)

    def terms(self) -> dict[str, float | None]:
        """Return the values by the names that `terms` uses."""
        return {
            "latency_s": self.latency_s,
            "bottleneck_s": self.bottleneck_s,
            "devices": self.devices,
            "price_per_hour": self.price_per_hour,
            "kv_capacity_tokens": self.kv_capacity_tokens,
            "compute_s": self.compute_s,
            "hops_s": self.hops_s,
            "return_hop_s": self.return_hop_s,
        }


@dataclass(frozen=True, slots=True)
class Goal:
    """What was minimised; `name` in the words of the file."""

    name: str
    latency_weight: float = 10.0
    devices_weight: float = 1.0


def check_certificate(ledger: Ledger, result: Mapping[str, Any], goal: Goal, values: PlanValues, place: str) -> None:
    """Check ``objective, terms, bound, gap, status`` of `result`, which stands at `place`."""
    _check_terms(ledger, result["terms"], goal, values, f"{place}.terms")
    objective = objective_value(goal, values, result["terms"])
    said = result.get("objective")
    if objective is None:
        ledger.add(f"{place}.objective", f"says {show(said)}, but {_missing(goal)}")
    else:
        if goal.name == "kv-capacity":
            objective = _rounded_alike(said, objective, values)
        _check_components(ledger, f"{place}.objective", said, objective)
    check_bound(ledger, result, place)


def objective_value(goal: Goal, values: PlanValues, terms: Mapping[str, Any]) -> list[float] | None:
    """Return the components of the objective, one or two; None when what they need is missing."""
    if goal.name == "latency":
        return [values.latency_s]
    if goal.name == "bottleneck":
        return [values.bottleneck_s]
    if goal.name == "balanced":
        return _balanced(goal, values, terms)
    first = {
        "throughput": values.bottleneck_s,
        "efficiency": values.devices,
        "cost": values.price_per_hour,
        "kv-capacity": None if values.kv_capacity_tokens is None else -values.kv_capacity_tokens,
    }[goal.name]
    return None if first is None else [first, values.latency_s]


def check_bound(ledger: Ledger, result: Mapping[str, Any], place: str) -> None:
    """Check that the bound lies on the valid side, that the gap follows from it, and that ``optimal`` is earned."""
    bound, gap, optimal = result["bound"], result["gap"], result["status"] == "optimal"
    objective = _components(result.get("objective"))
    if not has_bound(ledger, bound, gap, optimal, place):
        return
    limits = _components(bound)
    if len(limits) != len(objective):
        ledger.add(f"{place}.bound", f"says {show(bound)}, but the objective is {show(result.get('objective'))}")
        return
    if _above(limits, objective):
        ledger.add(f"{place}.bound", f"says {show(bound)}, above the objective {show(objective)}")
    elif optimal and not all(agree(a, b) for a, b in zip(limits, objective, strict=True)):
        ledger.add(f"{place}.bound", f"says {show(bound)}, which does not prove {show(objective)} optimal")
    _check_gap(ledger, f"{place}.gap", gap, optimal, objective, limits)


def _check_gap(
    ledger: Ledger, place: str, gap: float | None, optimal: bool, objective: list[float], limits: list[float]
) -> None:
    if optimal:
        if gap != 0:
            ledger.add(place, f"says {show(gap)}, but the gap of an optimal plan is 0.0")
        return
    expected = {_gap(objective, limits, 0.0), _gap(objective, limits, TIE)}
    if any(gap is None if math.isinf(value) else agree(gap, value) for value in expected):
        return
    ledger.add(place, f"says {show(gap)}, recomputed {show(min(expected))}")


def _gap(objective: list[float], limits: list[float], tie: float) -> float:
    for value, limit in zip(objective, limits, strict=True):
        if abs(limit - value) > tie * abs(value):
            return abs(limit - value) / abs(value) if value else math.inf
    return 0.0


def _above(limits: list[float], objective: list[float]) -> bool:
    for limit, value in zip(limits, objective, strict=True):
        if not agree(limit, value):
            return limit > value
    return False


def _balanced(goal: Goal, values: PlanValues, terms: Mapping[str, Any]) -> list[float] | None:
    latency_star, devices_star = terms.get("latency_star_s"), terms.get("devices_star")
    if not latency_star or not devices_star:
        return None
    latency = goal.latency_weight * values.latency_s / latency_star
    return [latency + goal.devices_weight * values.devices / devices_star]


def _check_terms(ledger: Ledger, terms: Mapping[str, Any], goal: Goal, values: PlanValues, place: str) -> None:
    known = values.terms()
    if goal.name == "balanced":
        known.update(_balanced_terms(ledger, terms, goal, values, place))
    for name, said in terms.items():
        if name not in known:
            ledger.add(f"{place}.{name}", f"unknown term; the terms here are {', '.join(sorted(known))}")
        elif not (name == "kv_capacity_tokens" and kv_agrees(said, values.kv_room_tokens)):
            ledger.number(f"{place}.{name}", said, known[name])


def kv_agrees(said: Any, room: float | None) -> bool:
    """Return whether a stated KV capacity is `room` rounded down, with room on a whole number within rounding."""
    if said is None or room is None:
        return said is None and room is None
    slack = max(1e-9 * abs(room), 1e-9)
    return bool(said in (math.floor(room - slack), math.floor(room), math.floor(room + slack)))


def _balanced_terms(
    ledger: Ledger, terms: Mapping[str, Any], goal: Goal, values: PlanValues, place: str
) -> dict[str, float | None]:
    for name, own, floor in (("latency_star_s", values.latency_s, 0.0), ("devices_star", values.devices, 1 - TIE)):
        star = terms.get(name)
        if star is None:
            ledger.add(f"{place}.{name}", "expected the optimum that the balanced objective is measured by, got none")
        elif star <= floor or star > own * (1 + RELATIVE_TOLERANCE):
            ledger.add(f"{place}.{name}", f"says {show(star)}, but this plan reaches {show(own)}")
    latency_star, devices_star = terms.get("latency_star_s"), terms.get("devices_star")
    parts: dict[str, float | None] = {"latency_star_s": latency_star, "devices_star": devices_star}
    if latency_star and devices_star:
        parts["latency_term"] = goal.latency_weight * values.latency_s / latency_star
        parts["devices_term"] = goal.devices_weight * values.devices / devices_star
    return parts


def _check_components(ledger: Ledger, place: str, said: Any, value: list[float]) -> None:
    stated = _components(said)
    if len(stated) != len(value):
        ledger.add(place, f"says {show(said)}, recomputed {show(value if len(value) > 1 else value[0])}")
        return
    for index, (own, recomputed) in enumerate(zip(stated, value, strict=True)):
        ledger.number(place if len(value) == 1 else f"{place}[{index}]", own, recomputed)


def _components(value: Any) -> list[float]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _rounded_alike(said: Any, objective: list[float], values: PlanValues) -> list[float]:
    # A capacity that falls on a whole number within rounding may have been rounded down to the one below.
    stated = _components(said)
    alike = bool(stated) and kv_agrees(-stated[0], values.kv_room_tokens)
    return [stated[0], *objective[1:]] if alike else objective


def _missing(goal: Goal) -> str:
    return {
        "cost": "a device used has no price",
        "kv-capacity": "no stage keeps KV",
        "balanced": "the terms do not hold the optima it is measured by",
    }[goal.name]
