"""Topology: devices, the components that relay between them, and the links that join them.

Pure values; nothing here reads a file or computes a route.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import networkx as nx

Role = Literal["device", "socket", "pcie_switch", "nvswitch", "nic", "network_switch"]


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """What a vendor's data sheet says of one kind of accelerator.

    Parameters
    ----------
    name
        ``model[-form]-memorygb``, for example ``a100-sxm4-80gb``.
    memory_bytes
        Memory as the driver reports it, bytes.
    memory_bandwidth_bytes_per_s
        Peak memory bandwidth, bytes/s.
    flops_per_s
        Dense tensor FLOP/s by dtype (a dtype the device lacks is absent).
    power_w
        Board power, W.
    price_per_hour
        On-demand price, currency per hour, or None when no source is known.
    pcie_bandwidth_bytes_per_s
        One direction of the device's PCIe connector, bytes/s.
    nvlink_links, nvlink_bandwidth_bytes_per_s
        NVLink (or XGMI) links per device, and bytes/s of one link in one direction; 0 when it has none.
    family
        Architecture family, for example ``ampere``; efficiency factors are kept per family.
    source
        Where the numbers come from.
    """

    name: str
    vendor: str
    family: str
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    flops_per_s: Mapping[str, float]
    power_w: float
    price_per_hour: float | None = None
    pcie_bandwidth_bytes_per_s: float = 0.0
    nvlink_links: int = 0
    nvlink_bandwidth_bytes_per_s: float = 0.0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator of a cluster.

    Parameters
    ----------
    name
        ``host/gpuN``.
    host
        Name of its host.
    index
        Index in the driver's PCI order on its host.
    kind
        Its data sheet.
    available_bytes
        Memory a plan may use, bytes (already reduced by the memory fraction).
    power_cap_w
        Power limit in W, or None for the board's own.
    price_per_hour
        Price of this device, currency per hour, or None when unknown.
    rack
        Failure domain above the host, or None.
    """

    name: str
    host: str
    index: int
    kind: DeviceKind
    available_bytes: int
    power_cap_w: float | None = None
    price_per_hour: float | None = None
    rack: str | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """A node of the graph; devices are components too (role ``device``, the same name)."""

    name: str
    role: Role
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """An undirected edge; `bandwidth_bytes_per_s` is one direction, `code` the matrix code it came from."""

    a: str
    b: str
    kind: str
    bandwidth_bytes_per_s: float
    latency_s: float
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Topology:
    """A graph of components and links, with its devices in order.

    `devices` holds only the devices a plan may use (excluded ones are left out by the loader);
    `notes` are one-sentence remarks of the reader (assumptions, warnings) for a person.
    """

    name: str
    devices: tuple[Device, ...]
    components: tuple[Component, ...]
    links: tuple[Link, ...]
    source: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def num_devices(self) -> int:
        """Number of devices a plan may use."""
        return len(self.devices)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Host names in order of first appearance."""
        return tuple(dict.fromkeys(device.host for device in self.devices))

    def device(self, name: str) -> Device:
        """Return the device called `name`; KeyError when there is none."""
        for device in self.devices:
            if device.name == name:
                return device
        raise KeyError(name)

    def to_networkx(self) -> nx.Graph[str]:
        """Return the graph for NetworkX: components with ``role`` and ``host``, links with their numbers and kind."""
        import networkx as nx

        graph: nx.Graph[str] = nx.Graph(name=self.name)
        for component in self.components:
            graph.add_node(component.name, role=component.role, host=component.host)
        for link in self.links:
            graph.add_edge(
                link.a,
                link.b,
                kind=link.kind,
                code=link.code,
                bandwidth_bytes_per_s=link.bandwidth_bytes_per_s,
                latency_s=link.latency_s,
            )
        return graph
