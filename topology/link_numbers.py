"""Bandwidth and latency of a link from its matrix code (``NV12``, ``PHB``) or its kind (``pcie4-node``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gpuplan.topology.catalog import Catalog, LinkKind
from gpuplan.topology.graph import DeviceKind, Link

PCIE_CODES: Final = ("PIX", "PXB", "PHB", "NODE", "SYS")
_NVLINK: Final = re.compile(r"^NV([1-9][0-9]{0,2})$")
#: One direction of an x16 connector in bytes/s, by PCIe generation (PCI-SIG base specifications).
_GENERATIONS: Final = ((6, 121.0e9), (5, 63.0e9), (4, 31.5e9), (3, 15.75e9))
#: What stands in for the NVLink generation of a GPU family that has none or is not known.
_USUAL_NVLINK: Final = "nvlink3"


@dataclass(frozen=True, slots=True)
class LinkNumbers:
    """Kind, one-direction bandwidth in bytes/s, latency in s, and the matrix code where there was one."""

    kind: str
    bandwidth_bytes_per_s: float
    latency_s: float
    code: str | None = None

    def between(self, a: str, b: str) -> Link:
        """Return the link with these numbers that joins `a` and `b`."""
        return Link(a, b, self.kind, self.bandwidth_bytes_per_s, self.latency_s, self.code)

    def halved(self) -> LinkNumbers:
        """Return the numbers of one of two such links in a row that have this latency together."""
        return LinkNumbers(self.kind, self.bandwidth_bytes_per_s, self.latency_s / 2.0, self.code)


def nvlink_count(code: str) -> int | None:
    """Return the number of links of a code such as ``NV12``, or None for any other code."""
    match = _NVLINK.match(code)
    return int(match[1]) if match else None


def is_code(code: str) -> bool:
    """Return whether `code` is a link code of ``nvidia-smi topo -m``."""
    return code in PCIE_CODES or nvlink_count(code) is not None


def pcie_generation(kind: DeviceKind) -> int:
    """Return the PCIe generation of a GPU kind's connector (4 where the kind does not say)."""
    if not kind.pcie_bandwidth_bytes_per_s:
        return 4
    # 1 % of room: vendors round 15.754 to 15.75 and 31.508 to 31.5; half-width connectors fall to a lower generation.
    fits = (number for number, rate in _GENERATIONS if kind.pcie_bandwidth_bytes_per_s >= 0.99 * rate)
    return next(fits, 3)


def from_code(catalog: Catalog, code: str, kinds: tuple[DeviceKind, ...]) -> LinkNumbers:
    """Return the numbers of the link that a matrix code stands for between GPUs of these kinds.

    PCIe codes go by the oldest generation among the kinds. ``NV#`` is # links at the rate of the slower kind.
    """
    count = nvlink_count(code)
    if count is None:
        link = catalog.pcie(code, min(pcie_generation(kind) for kind in kinds))
        return LinkNumbers(link.name, link.bandwidth_bytes_per_s, link.latency_s, code)
    slower = min(kinds, key=lambda kind: (kind.nvlink_bandwidth_bytes_per_s or float("inf"), kind.name))
    link = catalog.scale_up(slower.family) or catalog.link(_USUAL_NVLINK)
    rate = slower.nvlink_bandwidth_bytes_per_s or link.bandwidth_bytes_per_s
    return LinkNumbers(link.name, count * rate, link.latency_s, code)


def from_kind(link: LinkKind, count: int = 1) -> LinkNumbers:
    """Return the numbers of `count` bundled links of one kind."""
    return LinkNumbers(link.name, count * link.bandwidth_bytes_per_s, link.latency_s)


def nvlink_remark(code: str, name: str, kind: DeviceKind) -> str | None:
    """Return a warning when a GPU kind cannot have as many NVLinks as `code` says, else None."""
    count = nvlink_count(code)
    if count is None or count <= kind.nvlink_links:
        return None
    have = f"has {kind.nvlink_links} NVLinks" if kind.nvlink_links else "has no NVLink"
    return f"{name} shows {code}, but a {kind.name} {have}; check the GPU kind (the matrix is taken as it is)"
