"""How much of a data sheet's peak real kernels reach, per family or kind of device, and what a power cap costs."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from gpuplan.errors import InputError
from gpuplan.topology.graph import DeviceKind


@dataclass(frozen=True, slots=True)
class Factors:
    """What the roofline of one family (or kind) of devices is scaled by.

    compute_efficiency, memory_efficiency
        η_f and η_b: shares of the peak FLOP/s and of the peak memory bandwidth that kernels reach, in (0, 1].
    overhead_s
        Launch and tail of one operator, s.
    """

    compute_efficiency: float
    memory_efficiency: float
    overhead_s: float

    def __post_init__(self) -> None:
        for name in ("compute_efficiency", "memory_efficiency"):
            value = getattr(self, name)
            if not 0.0 < value <= 1.0:
                raise InputError(f"expected {name} above 0 and at most 1, got {value!r}")
        if not (math.isfinite(self.overhead_s) and self.overhead_s >= 0.0):
            raise InputError(f"expected overhead_s of at least 0, got {self.overhead_s!r}")


@dataclass(frozen=True, slots=True)
class PowerRule:
    """Clock factor φ of a device whose power is capped at x of its board power.

    φ = 1 for x ≥ 1, else max(floor, ((x − static_share) / (1 − static_share))^(1/exponent)): a share of the power
    does not depend on the clock, the rest grows with clock·voltage², which is about the clock cubed.
    """

    static_share: float
    exponent: float
    floor: float

    def clock_factor(self, cap_w: float | None, board_w: float) -> float:
        """Return φ in [floor, 1]; it never falls when the cap rises.

        >>> PowerRule(0.4, 3.0, 0.15).clock_factor(350.0, 350.0)
        1.0
        """
        if cap_w is None:
            return 1.0
        if not (math.isfinite(cap_w) and cap_w > 0.0):
            raise InputError(f"expected a power cap above 0 W, got {cap_w!r}")
        if not (math.isfinite(board_w) and board_w > 0.0):
            raise InputError(f"expected a board power above 0 W to judge a power cap by, got {board_w!r}")
        dynamic = (cap_w / board_w - self.static_share) / (1.0 - self.static_share)
        return min(1.0, max(self.floor, math.pow(max(0.0, dynamic), 1.0 / self.exponent)))


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Factors by kind and by family, the ones for everything else, and the power rule."""

    default: Factors
    families: Mapping[str, Factors]
    kinds: Mapping[str, Factors]
    power: PowerRule
    sources: tuple[str, ...] = ()

    def factors(self, kind: DeviceKind) -> Factors:
        """Return the factors of a kind: its own, else its family's, else the default."""
        return self.kinds.get(kind.name) or self.families.get(kind.family) or self.default


@functools.cache
def shipped_efficiency() -> Efficiency:
    """Return the factors that ship with gpuplan (``profiles/data/efficiency.yaml``)."""
    import yaml

    text = resources.files("gpuplan.profiles").joinpath("data/efficiency.yaml").read_text(encoding="utf-8")
    return efficiency_from_dict(yaml.safe_load(text))


def efficiency_from_dict(document: Mapping[str, Any]) -> Efficiency:
    """Return the factors a document like ``profiles/data/efficiency.yaml`` holds."""
    return Efficiency(
        default=Factors(**document["default"]),
        families={name: Factors(**entry) for name, entry in document["families"].items()},
        kinds={name: Factors(**entry) for name, entry in document["kinds"].items()},
        power=PowerRule(**document["power"]),
        sources=tuple(document["sources"]),
    )
