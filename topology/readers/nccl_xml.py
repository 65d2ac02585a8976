"""Reader of NCCL and RCCL topology XML: what ``NCCL_TOPO_DUMP_FILE`` writes, and what cloud vendors ship.

Taken: sockets (NUMA nodes), the PCIe tree with its link speeds, GPUs, NICs with their speed, NVLink and XGMI counts.
GPU kinds are not in the file; its compute capability (``sm``) or architecture (``gcn``) only checks what is told.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gpuplan.errors import InputError
from gpuplan.topology.link_numbers import pcie_link_rate
from gpuplan.topology.readers.machine import Bond, Bridge, Gpu, Machine, Nic, named_gpus
from gpuplan.topology.readers.safe_xml import parse_xml, whole

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_ADDRESS: Final = re.compile(r"^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}(\.[0-9a-f])?$")
_SPEED: Final = re.compile(r"^([0-9]{1,3}(?:\.[0-9]{1,6})?) GT/s")
_CLASS: Final = re.compile(r"^0x[0-9a-f]{4,6}$")
_NVSWITCH, _CPU = "0x068000", "0x068001"
#: PCI classes (base and sub-class) of 3D controllers and processing accelerators: always GPUs.
_GPU_CLASSES: Final = ("0x0302", "0x1200")
#: Of network and InfiniBand controllers.
_NIC_CLASSES: Final = ("0x0200", "0x0207")
#: Megabits per second no NIC reaches: some drivers write other units.
_FASTEST_NIC: Final = 3_200_000
_MOST_GPUS: Final = 4096
_MOST_NICS: Final = 1024
_MOST_SOCKETS: Final = 256


def read_nccl(content: str) -> list[Machine]:
    """Return the hosts of a topology file, their GPUs numbered in PCI order.

    Raises
    ------
    InputError
        XML that cannot be read, a graph file, no GPU, or an element that says something impossible.
    """
    root = parse_xml(content)
    if root.tag == "graphs":
        message = (
            "expected a topology, got the channels NCCL chose on one (NCCL_GRAPH_DUMP_FILE);"
            " give the file of NCCL_TOPO_DUMP_FILE"
        )
        raise InputError(message, place="<graphs>")
    if root.tag != "system":
        raise InputError(f"expected the root element <system>, got <{root.tag[:40]}>", place="line 1")
    whole(root, "version", 1)
    reader = _Reader()
    for cpu in root:
        if cpu.tag == "cpu":
            reader.read_cpu(cpu)
    return reader.finished()


class _Reader:
    """The hosts found so far; more than one only in files of a rack-scale NVLink domain (``host_hash``)."""

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self.by_address: dict[tuple[str, str], Gpu] = {}
        self.bonds: list[tuple[Machine, Gpu, Element]] = []
        self.dev: dict[int, int] = {}

    def read_cpu(self, cpu: Element) -> None:
        """Take one socket (NUMA node) and all below it."""
        key = cpu.get("host_hash", "")
        machine = self.machines.setdefault(key, Machine(f"host{len(self.machines)}"))
        if len(machine.sockets) >= _MOST_SOCKETS:
            raise InputError(f"expected at most {_MOST_SOCKETS} NUMA nodes, got more", place="<cpu>")
        label = f"numa{whole(cpu, 'numaid', 0, minimum=-1)}"
        if any(socket.label == label for socket in machine.sockets):
            raise InputError(f"the NUMA node {label[4:]} appears twice; give each once", place="<cpu numaid>")
        socket = Bridge(label, socket=True)
        machine.sockets.append(socket)
        for child in cpu:
            if child.tag == "pci":
                self._read_pci(child, socket, machine, key)
            elif child.tag == "nic":
                self._read_nets(child, socket, machine, None)

    def _read_pci(self, pci: Element, parent: Bridge, machine: Machine, key: str) -> None:
        address = pci.get("busid", "").strip().lower()
        if not _ADDRESS.match(address):
            raise InputError(f"expected a PCI address, got {address[:40]!r}", place="<pci busid>")
        device_class = pci.get("class", "").strip().lower()
        if device_class and not _CLASS.match(device_class):
            raise InputError(f"expected a PCI class such as 0x030200, got {device_class[:40]!r}", place="<pci class>")
        rate = _rate(pci)
        gpus = [child for child in pci if child.tag == "gpu"]
        if gpus or device_class.startswith(_GPU_CLASSES):
            self._add_gpu(address, parent, rate, gpus, machine, key)
            return
        nics = [child for child in pci if child.tag == "nic"]
        for nic in nics:
            self._read_nets(nic, parent, machine, rate)
        if not nics and device_class.startswith(_NIC_CLASSES):
            if len(machine.nics) >= _MOST_NICS:
                raise InputError(f"expected at most {_MOST_NICS} NICs, got more", place="<pci>")
            machine.nics.append(Nic(f"nic{len(machine.nics)}", parent, rate))
        bridge = Bridge(address, parent, rate)
        for child in pci:
            if child.tag == "pci":
                self._read_pci(child, bridge, machine, key)

    def _add_gpu(
        self, address: str, parent: Bridge, rate: float | None, found: list[Element], machine: Machine, key: str
    ) -> None:
        if (key, address) in self.by_address:
            raise InputError(f"the GPU {address} appears twice; give it once", place="<pci busid>")
        if len(self.by_address) >= _MOST_GPUS:
            raise InputError(f"expected at most {_MOST_GPUS} GPUs, got more", place="<pci busid>")
        gpu = Gpu(address, parent, rate)
        machine.gpus.append(gpu)
        self.by_address[key, address] = gpu
        for element in found[:1]:
            gpu.architecture = _architecture(element)
            self.dev[id(gpu)] = whole(element, "dev", -1, minimum=-1)
            self.bonds += [(machine, gpu, bond) for bond in element if bond.tag in ("nvlink", "xgmi", "c2c")]

    def _read_nets(self, nic: Element, parent: Bridge, machine: Machine, rate: float | None) -> None:
        for net in nic:
            if net.tag != "net":
                continue
            if len(machine.nics) >= _MOST_NICS:
                raise InputError(f"expected at most {_MOST_NICS} NICs, got more", place="<net>")
            megabits = whole(net, "speed", 0, maximum=1 << 40)
            name = re.sub(r"[^A-Za-z0-9_.:-]+", "_", net.get("name", "").strip()[:60]) or f"nic{len(machine.nics)}"
            taken = {other.name for other in machine.nics}
            if name in taken:
                name = f"{name}.{whole(net, 'port', len(taken))}"
            while name in taken:
                name += "_"
            if megabits > _FASTEST_NIC:
                machine.notes.append(f"a NIC has a speed of {megabits} Mb/s by the file, which is left out")
                megabits = 0
            machine.nics.append(Nic(name, parent, rate, megabits * 1e6 / 8.0 or None))

    def finished(self) -> list[Machine]:
        """Return the hosts with GPUs, numbered, their NVLink and XGMI links paired."""
        machines = [machine for machine in self.machines.values() if machine.gpus]
        if not machines:
            raise InputError("expected at least one GPU, got none; dump the file on a GPU host", place="<system>")
        for number, machine in enumerate(machines):
            machine.host = f"host{number}"
            machine.number_gpus()
            by_dev = sorted(machine.gpus, key=lambda gpu: self.dev.get(id(gpu), -1))
            if all(self.dev.get(id(gpu), -1) >= 0 for gpu in by_dev) and by_dev != machine.gpus:
                order = ", ".join(str(gpu.index) for gpu in by_dev)
                machine.notes.append(f"GPUs are numbered in PCI order; the file's dev 0, 1, … are GPU {order} here")
        self._pair_bonds()
        return machines

    def _pair_bonds(self) -> None:
        addresses = {address: gpu for (_, address), gpu in self.by_address.items()}
        home = {id(gpu): machine for machine in self.machines.values() for gpu in machine.gpus}
        counts: dict[tuple[int, int], int] = {}
        ends: dict[int, Gpu] = {}
        switched: dict[tuple[int, str], Bond] = {}
        lost: dict[str, list[int]] = {}
        for machine, gpu, element in self.bonds:
            count = whole(element, "count", 1, minimum=1, maximum=1024)
            target = element.get("target", "").strip().lower()
            target_class = element.get("tclass", "").strip().lower()
            key = next(key for key, other in self.machines.items() if other is machine)
            other = self.by_address.get((key, target)) or addresses.get(target)
            if element.tag == "c2c":
                rate = count * whole(element, "bw", 0, maximum=1 << 30) * 1e6
                machine.bonds.append(Bond(gpu, None, count, rate))
            elif target_class.startswith(_CPU):
                machine.bonds.append(Bond(gpu, None, count))
            elif target_class.startswith(_NVSWITCH):
                _add_to_switch(switched, machine, gpu, count)
            elif other is gpu:
                lost.setdefault(machine.host, []).append(gpu.index)
            elif other is None:
                what = target[:40] or "nothing"
                machine.notes.append(f"GPU{gpu.index} has {count} links to {what}, no GPU of this file; left out")
            elif home[id(other)] is not machine:
                raise InputError(
                    f"GPU{gpu.index} has a direct link to another host ({target})", place="<nvlink target>"
                )
            else:
                pair = (id(gpu), id(other))
                counts[pair] = counts.get(pair, 0) + count
                ends[id(gpu)], ends[id(other)] = gpu, other
        for machine in self.machines.values():
            if machine.host in lost:
                which = named_gpus(sorted(set(lost[machine.host])))
                machine.notes.append(f"the links of {which} lead back to themselves by the file: left out")
        for (a, b), count in counts.items():
            back = counts.get((b, a))
            if back is not None and back != count:
                places = f"GPU{ends[a].index} and GPU{ends[b].index}"
                raise InputError(f"{places} count their links differently, {count} and {back}", place="<gpu>")
            if back is None or ends[a].index < ends[b].index:
                home[a].bonds.append(Bond(ends[a], ends[b], count))


def _add_to_switch(switched: dict[tuple[int, str], Bond], machine: Machine, gpu: Gpu, count: int) -> None:
    """Count links into NVSwitches: as NCCL does, all of them are one switch."""
    bond = switched.get((id(gpu), "nvswitch0"))
    if bond is None:
        bond = switched[id(gpu), "nvswitch0"] = Bond(gpu, "nvswitch0")
        machine.bonds.append(bond)
    bond.links += count


def _rate(pci: Element) -> float | None:
    """Return bytes/s of a PCIe element's own link, or None where the file does not say."""
    text = pci.get("link_speed", "").strip()
    match = _SPEED.match(text)
    if text and match is None and not text.startswith("Unknown"):
        raise InputError(f"expected link_speed such as '16.0 GT/s PCIe', got {text[:40]!r}", place="<pci link_speed>")
    return pcie_link_rate(float(match[1]) * 1e9 if match else 0.0, whole(pci, "link_width", 0, maximum=256))


def _architecture(gpu: Element) -> str | None:
    """Return ``sm 90`` or ``gcn 908`` as the file says, else None."""
    gcn = gpu.get("gcn", "").strip().lower().removeprefix("gfx")
    if gcn:
        return f"gcn {gcn[:8]}"
    capability = whole(gpu, "sm", 0)
    return f"sm {capability}" if capability else None
