"""What hwloc and NCCL say of a machine, before any GPU kind is known, and the topology that follows from it.

Both tell the tree of PCIe bridges below each socket. Every edge of that tree becomes a link, with the numbers of the
matrix code it stands for: a GPU and its switch (PIX), two switches (PXB), anything and a socket (PHB), two sockets
(SYS). The slowest link of a route then has the code's bandwidth, and its latencies add up to the code's latency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from gpuplan.topology.catalog import Catalog
from gpuplan.topology.graph import Component, Device, Link, Role, Topology
from gpuplan.topology.link_numbers import LinkNumbers, from_code, pcie_at_rate, pcie_rate, scale_up_numbers

#: Links below this share of the connector's rate are remarked: idle GPUs lower theirs.
_SLOW: Final = 0.6


@dataclass(slots=True)
class Bridge:
    """Anything a PCIe device can hang from; `parent` is None for a socket, `rate` bytes/s of its link upwards."""

    label: str
    parent: Bridge | None = None
    rate: float | None = None
    socket: bool = False
    host_bridge: bool = False
    name: str = ""


@dataclass(slots=True)
class Gpu:
    """A GPU: its PCI address, where it hangs, its link's rate, and its index in PCI order once that is known."""

    address: str
    parent: Bridge
    rate: float | None = None
    index: int = -1
    model: str | None = None
    architecture: str | None = None


@dataclass(slots=True)
class Nic:
    """A NIC: its name, where it hangs, its link's rate, and its own speed in bytes/s where the file says it."""

    name: str
    parent: Bridge
    rate: float | None = None
    speed: float | None = None


@dataclass(slots=True)
class Bond:
    """NVLink or XGMI from a GPU: to another GPU, an NVSwitch (by name) or the socket; links, or bytes/s one way."""

    gpu: Gpu
    other: Gpu | str | None
    links: int = 0
    bandwidth: float = 0.0


@dataclass(slots=True)
class Machine:
    """One host as a file describes it."""

    host: str
    sockets: list[Bridge] = field(default_factory=list)
    gpus: list[Gpu] = field(default_factory=list)
    nics: list[Nic] = field(default_factory=list)
    bonds: list[Bond] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def number_gpus(self) -> None:
        """Give every GPU its index: the order of PCI addresses, as drivers count."""
        self.gpus.sort(key=lambda gpu: gpu.address)
        for index, gpu in enumerate(self.gpus):
            gpu.index = index


def named_gpus(indices: Sequence[int]) -> str:
    """Return GPUs in few words.

    >>> named_gpus([3]), named_gpus([0, 1, 2, 5])
    ('GPU3', 'GPU0, GPU1, GPU2, … (4 GPUs)')
    """
    names = [f"GPU{index}" for index in indices]
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])}, … ({len(names)} GPUs)"


DeviceOf = Callable[[str, int], Device]


def build_machines(machines: Sequence[Machine], device_of: DeviceOf, catalog: Catalog, *, name: str) -> Topology:
    """Return the topology of hosts read from a file.

    Parameters
    ----------
    machines
        The hosts; NVSwitches that GPUs of several hosts reach become one rack-scale switch.
    device_of
        Gives the device of a host and a GPU index.
    catalog
        Where link numbers come from.
    name
        Name of the topology.
    """
    switch_hosts: dict[str, set[str]] = {}
    for machine in machines:
        for bond in machine.bonds:
            if isinstance(bond.other, str):
                switch_hosts.setdefault(bond.other, set()).add(machine.host)
    shared = {switch for switch, hosts in switch_hosts.items() if len(hosts) > 1}
    parts: dict[str, Component] = {}
    links: list[Link] = []
    devices: list[Device] = []
    notes: list[str] = []
    for machine in machines:
        builder = _Builder(machine, device_of, catalog, shared)
        devices += builder.devices
        for part in builder.components():
            parts.setdefault(part.name, part)
        links += builder.links()
        notes += [*machine.notes, *builder.notes]
    components = [Component(device.name, "device", device.host) for device in devices] + list(parts.values())
    return Topology(name, tuple(devices), tuple(components), tuple(links), "", tuple(dict.fromkeys(notes)))


class _Builder:
    """Components and links of one machine."""

    def __init__(self, machine: Machine, device_of: DeviceOf, catalog: Catalog, shared: set[str]) -> None:
        self.machine, self.catalog, self.shared = machine, catalog, shared
        self.devices = [device_of(machine.host, gpu.index) for gpu in machine.gpus]
        self.notes: list[str] = []
        self.bridges = _used_bridges(machine)
        self._name_bridges()
        self.rate = max((self._gpu_rate(gpu) for gpu in machine.gpus), default=pcie_rate(None))
        self._remark_slow()

    def _name_bridges(self) -> None:
        number = 0
        for bridge in self.bridges:
            if bridge.socket:
                bridge.name = f"{self.machine.host}/{bridge.label}"
            else:
                kind = "bridge" if bridge.host_bridge else "switch"
                bridge.name = f"{self.machine.host}/{kind}{number}"
                number += 1

    def components(self) -> Iterator[Component]:
        """Yield every relay."""
        host = self.machine.host
        for bridge in self.bridges:
            role: Role = "socket" if bridge.socket else "pcie_switch"
            yield Component(bridge.name, role, host)
        for nic in self.machine.nics:
            yield Component(f"{host}/{nic.name}", "nic", host)
        for bond in self.machine.bonds:
            if isinstance(bond.other, str):
                yield Component(self._switch(bond.other), "nvswitch", None if bond.other in self.shared else host)

    def _switch(self, name: str) -> str:
        return name if name in self.shared else f"{self.machine.host}/{name}"

    def links(self) -> Iterator[Link]:
        """Yield every link."""
        for gpu in self.machine.gpus:
            yield self._end(self.devices[gpu.index].name, gpu.parent, self._gpu_rate(gpu))
        for nic in self.machine.nics:
            rate = pcie_rate(None) if nic.rate is None else nic.rate
            yield self._end(f"{self.machine.host}/{nic.name}", nic.parent, rate, nic.speed)
        for bridge in self.bridges:
            if bridge.parent is not None:
                yield self._upwards(bridge, bridge.parent)
        yield from self._between_sockets()
        for bond in self.machine.bonds:
            yield self._bond(bond)

    def _gpu_rate(self, gpu: Gpu) -> float:
        """Return bytes/s of a GPU's link: what the file says, and never more than the kind's connector carries."""
        own = pcie_rate(self.devices[gpu.index].kind)
        return own if gpu.rate is None else min(gpu.rate, own)

    def _remark_slow(self) -> None:
        slow: dict[tuple[str, float], list[int]] = {}
        for gpu in self.machine.gpus:
            kind = self.devices[gpu.index].kind
            if gpu.rate is not None and gpu.rate < _SLOW * pcie_rate(kind):
                slow.setdefault((kind.name, gpu.rate), []).append(gpu.index)
        for (name, rate), indices in slow.items():
            self.notes.append(
                f"the PCIe link of {named_gpus(indices)} runs at {rate / 1e9:.1f} GB/s by the file, below what"
                f" {name} has; taken as the file says (idle GPUs lower it)"
            )

    def _end(self, name: str, parent: Bridge, rate: float, speed: float | None = None) -> Link:
        """Return the link of a GPU or NIC to what it hangs from."""
        code = "PHB" if parent.socket or parent.host_bridge else "PIX"
        numbers = pcie_at_rate(self.catalog, code, rate)
        bandwidth = min(numbers.bandwidth_bytes_per_s, speed or numbers.bandwidth_bytes_per_s)
        return LinkNumbers(numbers.kind, bandwidth, numbers.latency_s / 2.0, code).between(name, parent.name)

    def _latency(self, code: str, nearer: str) -> float:
        """Return how much longer a message takes by one code than by a nearer one, s."""
        far, near = (pcie_at_rate(self.catalog, which, self.rate).latency_s for which in (code, nearer))
        return far - near

    def _upwards(self, bridge: Bridge, parent: Bridge) -> Link:
        rate = self.rate if bridge.rate is None else bridge.rate
        if bridge.host_bridge:
            code, latency = "NODE", self._latency("NODE", "PHB") / 2.0
        elif parent.socket or parent.host_bridge:
            code, latency = "PHB", self._latency("PHB", "PIX") / 2.0
        else:
            code, latency = "PXB", self._latency("PXB", "PIX")
        numbers = pcie_at_rate(self.catalog, code, rate)
        return LinkNumbers(numbers.kind, numbers.bandwidth_bytes_per_s, latency, code).between(bridge.name, parent.name)

    def _between_sockets(self) -> Iterator[Link]:
        sockets = [bridge for bridge in self.bridges if bridge.socket]
        nearer = "NODE" if any(bridge.host_bridge for bridge in self.bridges) else "PHB"
        numbers = pcie_at_rate(self.catalog, "SYS", self.rate)
        between = LinkNumbers(numbers.kind, numbers.bandwidth_bytes_per_s, self._latency("SYS", nearer), "SYS")
        for position, a in enumerate(sockets):
            for b in sockets[position + 1 :]:
                yield between.between(a.name, b.name)

    def _bond(self, bond: Bond) -> Link:
        own = self.devices[bond.gpu.index]
        if bond.other is None:
            numbers = self._to_socket(bond, own)
            return numbers.between(own.name, _socket_of(bond.gpu.parent).name)
        if isinstance(bond.other, str):
            numbers = scale_up_numbers(self.catalog, (own.kind,), bond.links, bond.bandwidth).halved()
            return numbers.between(own.name, self._switch(bond.other))
        other = self.devices[bond.other.index]
        return scale_up_numbers(self.catalog, (own.kind, other.kind), bond.links, bond.bandwidth).between(
            own.name, other.name
        )

    def _to_socket(self, bond: Bond, own: Device) -> LinkNumbers:
        """Return the numbers of NVLink or C2C to the CPU: no island comes of it, so it is a kind of its own."""
        known = self.catalog.link("c2c")
        rate = bond.bandwidth or bond.links * (
            own.kind.nvlink_bandwidth_bytes_per_s or from_code(self.catalog, "NV1", (own.kind,)).bandwidth_bytes_per_s
        )
        return LinkNumbers("c2c", rate, known.latency_s)


def _socket_of(bridge: Bridge) -> Bridge:
    while bridge.parent is not None:
        bridge = bridge.parent
    return bridge


def _used_bridges(machine: Machine) -> list[Bridge]:
    """Return the bridges and sockets that GPUs or NICs hang from, sockets first; ports that only pass on are left out.

    A bridge with one thing below it is a port of a switch, or a root port: its link melts into the one below.
    """
    ends: list[Gpu | Nic] = [*machine.gpus, *machine.nics]
    below: dict[int, set[int]] = {}
    by_id: dict[int, Bridge] = {}
    for end in ends:
        child: Gpu | Nic | Bridge = end
        parent: Bridge | None = end.parent
        while parent is not None:
            by_id[id(parent)] = parent
            below.setdefault(id(parent), set()).add(id(child))
            child, parent = parent, parent.parent

    def only_passes_on(key: int) -> bool:
        bridge = by_id[key]
        if bridge.host_bridge and bridge.parent is not None:
            return len(below[id(bridge.parent)]) == 1  # one of several host bridges of a socket counts (NODE)
        return len(below[key]) == 1 and not bridge.socket

    melted = {key for key in below if only_passes_on(key)}
    for holder in [*ends, *(bridge for key, bridge in by_id.items() if key not in melted)]:
        while holder.parent is not None and id(holder.parent) in melted:
            passed = holder.parent
            if passed.rate is not None:
                holder.rate = passed.rate if holder.rate is None else min(holder.rate, passed.rate)
            holder.parent = passed.parent
    kept = [bridge for key, bridge in by_id.items() if key not in melted and not bridge.socket]
    return [socket for socket in machine.sockets if id(socket) in by_id] + kept
