"""Colours and words of the picture: links by bandwidth, components by role."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gpuplan.topology.graph import Link
from gpuplan.units import format_bandwidth, format_seconds

#: Slow to fast: grey, blue, teal, green, amber, red (distinct in print and for most colour-blind readers).
_RAMP: Final = ("#a3adb8", "#6f93c4", "#2f6db5", "#2a9d8f", "#7aa63c", "#e0a030", "#d9602b", "#b3202e")
#: Logarithms of the bandwidths (bytes/s) at the ends of the ramp.
_SLOWEST: Final = 8.0
_FASTEST: Final = 12.0
#: Fill and stroke by role.
ROLES: Final = {
    "device": ("#e8f1e4", "#5b8c5a"),
    "nvswitch": ("#fdf0dc", "#c98a2b"),
    "pcie_switch": ("#eef1f5", "#8493a8"),
    "socket": ("#e3e8f3", "#5a6f9e"),
    "nic": ("#f0e8f5", "#8a66a8"),
    "network_switch": ("#e6eef5", "#456b8f"),
}
MUTED: Final = "#5f6b7a"


@dataclass(frozen=True, slots=True)
class Stroke:
    """How links of one bandwidth are drawn."""

    colour: str
    width: float


class Palette:
    """A stroke for every bandwidth of a picture: by rank, so that any two look different, and by the bandwidth itself.

    The absolute part keeps a fast fabric from looking slow where everything else is faster still.
    """

    def __init__(self, links: Iterable[Link]) -> None:
        rates = sorted({link.bandwidth_bytes_per_s for link in links})
        self.strokes: dict[float, Stroke] = {}
        for position, rate in enumerate(rates):
            rank = 0.5 if len(rates) == 1 else position / (len(rates) - 1)
            absolute = min(max((math.log10(rate) - _SLOWEST) / (_FASTEST - _SLOWEST), 0.0), 1.0)
            share = 0.5 * rank + 0.5 * absolute
            self.strokes[rate] = Stroke(_mixed(share), 1.0 + 2.2 * share)

    def of(self, link: Link) -> Stroke:
        """Return the stroke of a link."""
        return self.strokes[link.bandwidth_bytes_per_s]


def _mixed(share: float) -> str:
    """Return the colour at a share of the ramp."""
    at = share * (len(_RAMP) - 1)
    low = min(int(at), len(_RAMP) - 2)
    ends = [[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in _RAMP[low : low + 2]]
    return "#" + "".join(f"{round(a + (b - a) * (at - low)):02x}" for a, b in zip(*ends, strict=True))


def label(link: Link) -> str:
    """Return what a link is called: its matrix code, or its kind."""
    return link.code or link.kind


def describe(link: Link) -> str:
    """Return a link in words: ``NV18 · 450 GB/s · 5.0 µs``."""
    return f"{label(link)} · {format_bandwidth(link.bandwidth_bytes_per_s)} · {format_seconds(link.latency_s)}"
