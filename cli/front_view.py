"""A Pareto front as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from gpuplan.cli.map_view import device_names
from gpuplan.cli.style import layer_range, plain_table
from gpuplan.plans.placement_solution import GroupStage, StageRange

if TYPE_CHECKING:
    from rich.table import Table

    from gpuplan.plans.placement_solution import FrontPoint, PlacementFront

#: Size of the picture and its margins, px.
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 440, 105, 60, 40, 30
_COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#9c755f")


def front_table(front: PlacementFront, devices: Sequence[str]) -> Table:
    """Return the points of a front by rising latency; layers stand behind their device."""
    table = plain_table("latency", "bottleneck", "devices", "stages", right=("latency", "bottleneck", "devices"))
    short = short_names(devices)
    for point in front.points:
        table.add_row(
            fine_seconds(point.latency_s),
            fine_seconds(point.bottleneck_s),
            str(point.devices),
            _stages(point, short),
        )
    return table


def short_names(devices: Sequence[str]) -> list[str]:
    """Return device names without their host when there is one host only.

    >>> short_names(["a/gpu0", "a/gpu1"]), short_names(["a/gpu0", "b/gpu0"])
    (['gpu0', 'gpu1'], ['a/gpu0', 'b/gpu0'])
    """
    hosts = {name.rpartition("/")[0] for name in devices}
    return [name.rpartition("/")[2] for name in devices] if len(hosts) == 1 else list(devices)


def fine_seconds(value: float) -> str:
    """Return a duration with five digits, because neighbours on a front differ by little.

    >>> fine_seconds(11.83912), fine_seconds(0.0446)
    ('11.839 s', '44.600 ms')
    """
    if value >= 1.0 or value == 0.0:
        return f"{value:.3f} s"
    return f"{value * 1e3:.3f} ms" if value >= 1e-3 else f"{value * 1e6:.3f} µs"


def _devices(stage: StageRange | GroupStage, devices: Sequence[str]) -> str:
    if isinstance(stage, StageRange):
        return devices[stage.device]
    return device_names([devices[number] for number in stage.devices])


def _stages(point: FrontPoint, devices: Sequence[str]) -> str:
    # A stage is never broken over two lines.
    stages = [f"{_devices(stage, devices)} {layer_range(stage.start, stage.stop)}" for stage in point.stages]
    return " · ".join(stage.replace(" ", "\N{NO-BREAK SPACE}") for stage in stages)


def front_svg(front: PlacementFront, title: str) -> str:
    """Return a front as an SVG picture: latency across, bottleneck up, one colour for each number of devices."""
    marks = [_mark(point, x, y) for point, (x, y) in zip(front.points, _positions(front), strict=True)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
            f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
            f'<text x="{_LEFT}" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
            *_axes(front),
            *marks,
            *_legend(front),
            "</svg>\n",
        ]
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def _scales(front: PlacementFront) -> tuple[tuple[float, float], tuple[float, float]]:
    points = front.points
    return _range([point.latency_s for point in points]), _range([point.bottleneck_s for point in points])


def _positions(front: PlacementFront) -> list[tuple[float, float]]:
    (x0, x1), (y0, y1) = _scales(front)
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return [
        (
            _LEFT + (point.latency_s - x0) / (x1 - x0) * wide,
            _HEIGHT - _BOTTOM - (point.bottleneck_s - y0) / (y1 - y0) * high,
        )
        for point in front.points
    ]


def _axes(front: PlacementFront) -> list[str]:
    (x0, x1), (y0, y1) = _scales(front)
    base, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    lines = [
        f'<path d="M{_LEFT} {_TOP} V{base} H{right}" fill="none" stroke="#444"/>',
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 14}" text-anchor="middle">latency of a request</text>',
        f'<text transform="translate(18 {(_TOP + base) / 2}) rotate(-90)" text-anchor="middle">bottleneck</text>',
    ]
    for step in range(5):
        share = step / 4
        x, y = _LEFT + share * (right - _LEFT), base - share * (base - _TOP)
        lines.append(f'<path d="M{x:.1f} {base} v5 M{_LEFT} {y:.1f} h-5" stroke="#444"/>')
        across, up = fine_seconds(x0 + share * (x1 - x0)), fine_seconds(y0 + share * (y1 - y0))
        lines.append(f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle">{across}</text>')
        lines.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{up}</text>')
    return lines


def _colour(devices: int) -> str:
    return _COLOURS[(devices - 1) % len(_COLOURS)]


def _mark(point: FrontPoint, x: float, y: float) -> str:
    label = f"latency {fine_seconds(point.latency_s)}, bottleneck {fine_seconds(point.bottleneck_s)}"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{_colour(point.devices)}" stroke="white">'
        f"<title>{label}, devices {point.devices}</title></circle>"
    )


def _legend(front: PlacementFront) -> list[str]:
    counts = sorted({point.devices for point in front.points})
    lines = []
    for row, count in enumerate(counts):
        y = _TOP + 10 + 18 * row
        lines.append(f'<circle cx="{_WIDTH - 130}" cy="{y - 4}" r="5" fill="{_colour(count)}"/>')
        lines.append(f'<text x="{_WIDTH - 118}" y="{y}">{count} device{"" if count == 1 else "s"}</text>')
    return lines
