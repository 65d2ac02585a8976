"""Units: SI base units in memory and files, binary prefixes only for display."""

from __future__ import annotations

import math
import re
from types import MappingProxyType
from typing import Final

from gpuplan.errors import UsageError

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

#: Bytes of one element. MXFP4 holds 32 four-bit values and one shared eight-bit scale (OCP MX 1.0).
DTYPE_BYTES: Final = MappingProxyType(
    {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5, "mxfp4": 4.25 / 8}
)

_SIZE = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([kmgt]?)(i?)b?\s*$", re.IGNORECASE)
_EXPONENT: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str) -> int:
    """Return the bytes a size such as ``1GiB``, ``512 MB`` or ``1e9`` stands for.

    >>> parse_bytes("1GiB"), parse_bytes("2 GB"), parse_bytes("100")
    (1073741824, 2000000000, 100)
    """
    match = _SIZE.match(text)
    if match is None:
        raise UsageError(f"expected a size such as 1GiB or 500MB, got {text!r}")
    number, prefix, binary = match.groups()
    value = float(number) * (1024.0 if binary else 1000.0) ** _EXPONENT[prefix.lower()]
    if not math.isfinite(value):
        raise UsageError(f"expected a finite size such as 1GiB, got {text!r}")
    return round(value)


def format_bytes(value: float) -> str:
    """Return a size with a binary prefix.

    >>> format_bytes(1536), format_bytes(3 * GIB)
    ('1.5 KiB', '3.0 GiB')
    """
    size = float(value)
    for suffix in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024.0:
            return f"{size:.0f} B" if suffix == "B" else f"{size:.1f} {suffix}"
        size /= 1024.0
    return f"{size:.1f} TiB"


def format_seconds(value: float) -> str:
    """Return a duration with the unit that keeps it readable.

    >>> format_seconds(0.0123), format_seconds(2.5), format_seconds(4.2e-6)
    ('12.3 ms', '2.50 s', '4.2 µs')
    """
    magnitude = abs(value)
    if magnitude >= 1.0 or value == 0.0:
        return f"{value:.2f} s"
    if magnitude >= 1e-3:
        return f"{value * 1e3:.1f} ms"
    return f"{value * 1e6:.1f} µs"


def format_bandwidth(bytes_per_s: float) -> str:
    """Return a bandwidth in GB/s (decimal, as vendors print it).

    >>> format_bandwidth(300e9)
    '300 GB/s'
    """
    return f"{bytes_per_s / 1e9:.3g} GB/s"
