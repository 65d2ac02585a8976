"""The line that says how good an answer is, and what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpuplan.units import format_seconds

if TYPE_CHECKING:
    from rich.text import Text

    from gpuplan.solvers.result import Result, Value

#: Names of the components of an objective's value, and how each is written.
_COMPONENTS = {
    "latency": ("s",),
    "bottleneck": ("s",),
    "throughput": ("s", "s"),
    "efficiency": ("devices", "s"),
    "cost": ("per hour", "s"),
    "kv-capacity": ("tokens", "s"),
    "balanced": ("",),
    "flow": ("tokens/s",),
}


def format_value(value: Value | Sequence[float] | None, objective: str) -> str:
    """Return an objective's value with its units.

    >>> format_value((2.0, 1.5), "efficiency"), format_value(0.25, "latency")
    ('2 devices, 1.50 s', '250.0 ms')
    """
    if value is None:
        return "unknown"
    parts = tuple(value) if isinstance(value, tuple | list) else (value,)
    units = _COMPONENTS.get(objective, ("",))
    return ", ".join(_component(part, unit) for part, unit in zip(parts, units, strict=False))


def format_bound(bound: Value | None, value: Value | None, objective: str) -> str:
    """Return a bound with its units; of a pair the first key alone where it is open, for nothing is known beyond.

    >>> format_bound((2.0, 0.0), (3.0, 1.5), "efficiency"), format_bound((3.0, 1.0), (3.0, 1.5), "efficiency")
    ('2 devices', '3 devices, 1.00 s')
    """
    if isinstance(bound, tuple) and isinstance(value, tuple) and bound[0] != value[0]:
        return format_value(bound[:1], objective)
    return format_value(bound, objective)


def _component(value: Any, unit: str) -> str:
    if unit == "s":
        return format_seconds(float(value))
    if unit == "tokens":  # the objective is the negative capacity
        return f"{-value:,.0f} tokens"
    if unit == "devices":
        return f"{value:.0f} device{'' if value == 1 else 's'}"
    return f"{value:.6g} {unit}".rstrip()


def certificate(result: Result[Any], objective: str, *, what: str = "map", stopped: str = "") -> Text:
    """Return the certificate line of an answer.

    Parameters
    ----------
    what
        What the answer is: ``map``, ``solution``, ``front``.
    stopped
        Why the search ended early, if it did: ``Ctrl-C``, ``a limit``.
    """
    from rich.text import Text

    if result.status == "optimal":
        mark, claim, colour = "✔", proven_claim(result, objective, what), "bold green"
    else:
        mark, claim, colour = "•", open_claim(result, objective, what), "bold yellow"
    line = Text.assemble((f"{mark} {claim}", colour))
    if stopped:
        line.append(f"\n  stopped by {stopped}: this is the best {what} found until then")
    facts = [", ".join(_facts(result)), *result.report.notes]
    return line.append("".join(f"\n  {fact}" for fact in facts), "dim")


def proven_claim(result: Result[Any], objective: str, what: str) -> str:
    """Return the claim of a proven answer."""
    wall = format_seconds(result.report.wall_time_s)
    if what == "front":
        return f"complete: no point is missing (proven, {wall})"
    return f"optimal: no better {what} exists (proven, bound = {format_value(result.bound, objective)}, {wall})"


def open_claim(result: Result[Any], objective: str, what: str) -> str:
    """Return the claim of an answer without proof of optimality."""
    wall = format_seconds(result.report.wall_time_s)
    if what == "front":
        return f"points found so far, not proven complete ({wall})"
    if result.bound is None or result.gap is None:
        return f"a valid {what}; no bound is known, so how much better the best is stays open ({wall})"
    bound = format_bound(result.bound, result.objective, objective)
    return f"within {percent(result.gap)} of the best possible (bound = {bound}, {wall})"


def percent(share: float) -> str:
    """Return a gap that never rounds to zero.

    >>> percent(0.00412), percent(1e-7)
    ('0.41 %', '0.00001 %')
    """
    digits = 2
    while share and round(share * 100, digits) == 0.0 and digits < 12:
        digits += 1
    return f"{share * 100:.{digits}f} %"


def _facts(result: Result[Any]) -> list[str]:
    facts = [f"solver {result.report.solver}"]
    report = result.report
    if report.proof or report.bound_kind:
        facts.append(f"bound by {report.proof or report.bound_kind}")
    if report.failure:
        facts.append(report.failure)
    return facts
