"""A picture of two sets of times against each other: both axes logarithmic, the diagonal where they agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from gpuplan.units import format_seconds

_SIZE, _LEFT, _TOP, _RIGHT, _BOTTOM = 560, 86, 46, 30, 60
_COLOURS = ("#1f6feb", "#d29922", "#2da44e", "#cf222e")

#: Label → (across, up) pairs of seconds.
Points = Mapping[str, Sequence[tuple[float, float]]]


def agreement_svg(points: Points, *, title: str, across: str, up: str) -> str:
    """Return an SVG picture of pairs of times in s, one colour a label; pairs with a time of 0 are left out."""
    shown = {label: [pair for pair in pairs if min(pair) > 0.0] for label, pairs in points.items()}
    values = [value for pairs in shown.values() for pair in pairs for value in pair] or [1e-3, 1.0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    scale = _Scale(low, max(high, low + 1))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_SIZE}" height="{_SIZE}" viewBox="0 0 {_SIZE} {_SIZE}"'
            ' font-family="sans-serif" font-size="12">',
            f'<rect width="{_SIZE}" height="{_SIZE}" fill="white"/>',
            f'<text x="{_LEFT}" y="26" font-size="15" font-weight="bold">{escape(title)}</text>',
            *_axes(scale, across, up),
            *_marks(scale, shown),
            "</svg>\n",
        ]
    )


class _Scale:
    """From seconds to pixels, decades `low` to `high` along both axes."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def x(self, seconds: float) -> float:
        return _LEFT + self._share(seconds) * (_SIZE - _LEFT - _RIGHT)

    def y(self, seconds: float) -> float:
        return _SIZE - _BOTTOM - self._share(seconds) * (_SIZE - _TOP - _BOTTOM)

    def _share(self, seconds: float) -> float:
        return (math.log10(seconds) - self.low) / (self.high - self.low)


def _axes(scale: _Scale, across: str, up: str) -> list[str]:
    base, right = _SIZE - _BOTTOM, _SIZE - _RIGHT
    first, last = 10.0**scale.low, 10.0**scale.high
    lines = [
        f'<path d="M{_LEFT} {_TOP} V{base} H{right}" fill="none" stroke="#444"/>',
        f'<path d="M{scale.x(first):.1f} {scale.y(first):.1f} L{scale.x(last):.1f} {scale.y(last):.1f}" stroke="#999"'
        ' stroke-dasharray="4 4"/>',
        f'<text x="{(_LEFT + right) / 2}" y="{_SIZE - 14}" text-anchor="middle">{escape(across)}</text>',
        f'<text transform="translate(18 {(_TOP + base) / 2}) rotate(-90)" text-anchor="middle">{escape(up)}</text>',
    ]
    for power in range(scale.low, scale.high + 1):
        label, x, y = format_seconds(10.0**power), scale.x(10.0**power), scale.y(10.0**power)
        lines.append(f'<path d="M{x:.1f} {base} v5 M{_LEFT} {y:.1f} h-5" stroke="#444"/>')
        lines.append(f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle">{label}</text>')
        lines.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    return lines


def _marks(scale: _Scale, points: Points) -> list[str]:
    lines = []
    for number, (label, pairs) in enumerate(points.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        y = _TOP + 10 + 18 * number
        lines.append(f'<circle cx="{_LEFT + 14}" cy="{y - 4}" r="4" fill="{colour}"/>')
        lines.append(f'<text x="{_LEFT + 24}" y="{y}">{escape(label)}</text>')
        lines += [
            f'<circle cx="{scale.x(a):.1f}" cy="{scale.y(b):.1f}" r="3" fill="{colour}" fill-opacity="0.6"/>'
            for a, b in pairs
        ]
    return lines
