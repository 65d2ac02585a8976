"""Small pieces that every table shares: bars, ranges, numbers, and the table's look."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gpuplan.units import GIB

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

#: Eighths of a character cell, so that a short bar still shows small differences.
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(share: float, width: int = 10) -> str:
    """Return a bar of `width` characters, `share` of it filled.

    >>> bar(0.5, 4), bar(1.2, 4), bar(0.3, 4)
    ('██░░', '████', '█▎░░')
    """
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (_EIGHTHS[rest] if rest else "")
    return filled + "░" * (width - len(filled))


def memory_bar(used: float, available: float, width: int = 13) -> Text:
    """Return a coloured bar over ``used/available GiB``."""
    from rich.text import Text

    share = used / available if available > 0 else 1.0
    colour = "green" if share < 0.85 else "yellow" if share < 0.97 else "red"
    return Text.assemble((bar(share, width), colour), "\n", f"{used / GIB:.1f}/{available / GIB:.1f} GiB")


def layer_range(start: int, stop: int) -> str:
    """Return layers ``start..stop−1`` as people write them.

    >>> layer_range(0, 41), layer_range(5, 6)
    ('0-40', '5')
    """
    return str(start) if stop - start == 1 else f"{start}-{stop - 1}"


def plural(count: int, noun: str, many: str | None = None) -> str:
    """Return a count with its noun.

    >>> plural(1, "layer"), plural(2, "layer"), plural(2, "class", "classes")
    ('1 layer', '2 layers', '2 classes')
    """
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def bullets(sentences: Iterable[str]) -> Table:
    """Return sentences as a list whose wrapped lines stay indented."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1, 0, 0))
    for sentence in sentences:
        grid.add_row("•", sentence)
    return grid


def plain_table(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> Table:
    """Return an empty table in the common look; the columns in `right` hold numbers."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
        title=title,
        title_justify="left",
        title_style="bold",
    )
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table
