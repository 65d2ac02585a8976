"""What a check found: places and sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

#: Figures may be off by this much, relatively.
RELATIVE_TOLERANCE: Final = 1e-6
#: Below this, in whatever unit, a difference is rounding.
ABSOLUTE_TOLERANCE: Final = 1e-15
#: Memory may be overdrawn by this much, relatively.
MEMORY_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not hold, with the JSON path of the field that says it."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True, slots=True)
class Verification:
    """The findings of a check, none when everything holds."""

    problems: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.problems

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems)) or "every number and constraint holds"


class Ledger:
    """Collects findings while a check runs."""

    def __init__(self) -> None:
        self._problems: list[Finding] = []

    def add(self, place: str, message: str) -> None:
        """Note that what stands at `place` does not hold."""
        finding = Finding(place, message)
        if finding not in self._problems:
            self._problems.append(finding)

    def number(self, place: str, said: Any, value: float | None) -> bool:
        """Compare a stated number with a recomputed one; return whether they agree."""
        if agree(said, value):
            return True
        self.add(place, f"says {show(said)}, recomputed {show(value)}")
        return False

    def same(self, place: str, said: Any, value: Any) -> bool:
        """Compare a stated value with one that it must equal exactly; return whether it does."""
        if said == value:
            return True
        self.add(place, f"says {show(said)}, recomputed {show(value)}")
        return False

    def verdict(self) -> Verification:
        """Return everything found so far."""
        return Verification(tuple(self._problems))


def agree(said: Any, value: float | None, tolerance: float = RELATIVE_TOLERANCE) -> bool:
    """Return whether a stated number is within `tolerance` (relative) of a recomputed one; None equals only None."""
    if said is None or value is None:
        return said is None and value is None
    if isinstance(said, bool) or not isinstance(said, int | float):
        return False
    if not (math.isfinite(said) and math.isfinite(value)):
        return said == value
    return abs(said - value) <= max(tolerance * max(abs(said), abs(value)), ABSOLUTE_TOLERANCE)


def show(value: Any) -> str:
    """Return a stated value for a message.

    >>> show(0.25), show(None), show("a"), show((1, 2.5)), show(math.inf)
    ('0.25', 'null', "'a'", '[1, 2.5]', 'infinity')
    """
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{value:.12g}" if math.isfinite(value) else "infinity" if value > 0 else "-infinity"
    if isinstance(value, Sequence) and not isinstance(value, str):
        text = f"[{', '.join(show(item) for item in value)}]"
        return text if len(text) <= 160 else f"{text[:80]} … {text[-60:]}"
    return repr(value)
