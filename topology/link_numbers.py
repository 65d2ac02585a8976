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


def pcie_rate(kind: DeviceKind | None) -> float:
    """Return one direction of a GPU kind's PCIe connector, bytes/s; x16 of generation 4 where nothing is known."""
    usual = dict(_GENERATIONS)[4]
    return usual if kind is None else kind.pcie_bandwidth_bytes_per_s or usual


def pcie_link_rate(transfers_per_s: float, lanes: int) -> float | None:
    """Return one direction of a PCIe link, bytes/s, from GT/s and its width; None when either is not said.

    >>> round(pcie_link_rate(16e9, 16) / 1e9, 1)
    31.5
    """
    if transfers_per_s <= 0.0 or lanes <= 0:
        return None
    # Line coding: 8b/10b up to 5 GT/s, 128b/130b up to 32 GT/s, flits of 242 in 256 bytes beyond.
    coding = 0.8 if transfers_per_s < 6e9 else 128.0 / 130.0 if transfers_per_s < 48e9 else 242.0 / 256.0
    return transfers_per_s / 8.0 * lanes * coding


def pcie_at_rate(catalog: Catalog, code: str, rate_bytes_per_s: float) -> LinkNumbers:
    """Return the numbers of a PCIe code over a link of this rate: the generation's, scaled where it has fewer lanes."""
    fitting = [(number, rate) for number, rate in _GENERATIONS if rate >= 0.99 * rate_bytes_per_s]
    generation, full = fitting[-1] if fitting else _GENERATIONS[0]
    link = catalog.pcie(code, generation)
    share = min(1.0, rate_bytes_per_s / full) if rate_bytes_per_s < 0.99 * full else 1.0
    return LinkNumbers(link.name, share * link.bandwidth_bytes_per_s, link.latency_s, code)


def scale_up_numbers(
    catalog: Catalog, kinds: tuple[DeviceKind, ...], count: int, bandwidth_bytes_per_s: float = 0.0
) -> LinkNumbers:
    """Return the numbers of `count` NVLink or XGMI links of the slower kind, or of a bandwidth that a file says.

    NVLink has the matrix code ``NV#`` where the number of links is known or follows from the bandwidth.
    """
    numbers = from_code(catalog, f"NV{max(count, 1)}", kinds)
    if bandwidth_bytes_per_s:
        one = numbers.bandwidth_bytes_per_s / max(count, 1)
        links = bandwidth_bytes_per_s / one
        code = f"NV{round(links)}" if abs(links - round(links)) < 0.05 and 1 <= round(links) < 1000 else None
        numbers = LinkNumbers(numbers.kind, bandwidth_bytes_per_s, numbers.latency_s, code)
    return (
        numbers
        if numbers.kind.startswith("nvlink")
        else LinkNumbers(numbers.kind, numbers.bandwidth_bytes_per_s, numbers.latency_s)
    )


def nvlink_remark(code: str, name: str, kind: DeviceKind) -> str | None:
    """Return a warning when a GPU kind cannot have as many NVLinks as `code` says, else None."""
    count = nvlink_count(code)
    if count is None or count <= kind.nvlink_links:
        return None
    have = f"has {kind.nvlink_links} NVLinks" if kind.nvlink_links else "has no NVLink"
    return f"{name} shows {code}, but a {kind.name} {have}; check the GPU kind (the matrix is taken as it is)"
