"""A few SVG elements, written by hand: enough for boxes, lines and text."""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

_FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, sans-serif"


def _number(value: float) -> str:
    """Return a coordinate in few characters."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


@dataclass(slots=True)
class Canvas:
    """SVG elements in drawing order: `back` (frames), then `lines`, then `front` (boxes and text)."""

    back: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    front: list[str] = field(default_factory=list)

    def box(
        self, x: float, y: float, width: float, height: float, *, fill: str, stroke: str, radius: float = 6.0,
        dash: str = "", behind: bool = False, title: str = "",
    ) -> None:  # fmt: skip
        """Draw a rounded rectangle; `title` shows when a pointer rests on it."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        tip = f"<title>{escape(title)}</title>" if title else ""
        (self.back if behind else self.front).append(
            f'<rect x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" height="{_number(height)}"'
            f' rx="{_number(radius)}" fill="{fill}" stroke="{stroke}"{dashed}>{tip}</rect>'
        )

    def text(
        self, x: float, y: float, content: str, *, size: float = 11.0, anchor: str = "middle", weight: str = "400",
        fill: str = "#1f2933", halo: str = "",
    ) -> None:  # fmt: skip
        """Write text with its baseline at `y`; a `halo` of a colour hides the lines behind it."""
        if halo:
            room = 0.58 * size * len(content) + 6.0
            left = {"start": x - 3.0, "end": x - room + 3.0}.get(anchor, x - room / 2.0)
            self.box(left, y - size, room, 1.4 * size, fill=halo, stroke="none", radius=3.0)
        self.front.append(
            f'<text x="{_number(x)}" y="{_number(y)}" font-size="{_number(size)}" text-anchor="{anchor}"'
            f' font-weight="{weight}" fill="{fill}">{escape(content)}</text>'
        )

    def path(self, data: str, colour: str, width: float, *, title: str = "", dash: str = "") -> None:
        """Draw an open path."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        tip = f"<title>{escape(title)}</title>" if title else ""
        self.lines.append(
            f'<path d="{data}" fill="none" stroke="{colour}" stroke-width="{_number(width)}"{dashed}>{tip}</path>'
        )

    def line(self, a: tuple[float, float], b: tuple[float, float], colour: str, width: float, title: str = "") -> None:
        """Draw a straight line, or a curve that leaves and arrives upright where the ends are not above each other."""
        (x1, y1), (x2, y2) = a, b
        start = f"M{_number(x1)} {_number(y1)}"
        if abs(x1 - x2) < 0.5 or abs(y1 - y2) < 0.5:
            self.path(f"{start} L{_number(x2)} {_number(y2)}", colour, width, title=title)
            return
        middle = _number((y1 + y2) / 2.0)
        curve = f"C{_number(x1)} {middle} {_number(x2)} {middle} {_number(x2)} {_number(y2)}"
        self.path(f"{start} {curve}", colour, width, title=title)

    def arc(self, x1: float, x2: float, y: float, height: float, colour: str, width: float, title: str) -> None:
        """Draw an arch from (x1, y) to (x2, y); a negative height hangs below."""
        top = _number(y - height * 4.0 / 3.0)
        data = f"M{_number(x1)} {_number(y)} C{_number(x1)} {top} {_number(x2)} {top} {_number(x2)} {_number(y)}"
        self.path(data, colour, width, title=title)

    def document(self, width: float, height: float, title: str, description: str) -> str:
        """Return the whole SVG file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_number(width)}" height="{_number(height)}"'
            f' viewBox="0 0 {_number(width)} {_number(height)}" font-family={quoteattr(_FONT)} role="img">'
        )
        texts = f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
        paper = f'<rect width="{_number(width)}" height="{_number(height)}" fill="#ffffff"/>'
        return "\n".join([head, texts, paper, *self.back, *self.lines, *self.front, "</svg>", ""])
