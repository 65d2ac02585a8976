"""Reader of hwloc XML (``lstopo --of xml``): packages, host bridges, the PCIe tree, GPUs, NICs, link matrices.

A GPU's kind comes from its model name (``GPUModel``) where hwloc was built with NVML or RSMI, otherwise it must be
told. Matrices ``NVLinkBandwidth`` and ``XGMIBandwidth`` (MB/s, one direction) become links, through NVSwitches where
they say so.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gpuplan.errors import InputError
from gpuplan.topology.readers.machine import Bond, Bridge, Gpu, Machine, Nic
from gpuplan.topology.readers.safe_xml import parse_xml, whole

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_PCI_CLASS: Final = re.compile(r"^([0-9a-fA-F]{4}) \[([0-9a-fA-F]{4}):[0-9a-fA-F]{4}\]")
_GPU_OBJECT: Final = re.compile(r"^(nvml|cuda|rsmi|ze)[0-9]+$")
_GPU_VENDORS: Final = ("10de", "1002", "8086", "1da3")  # NVIDIA, AMD, Intel, Habana
_ACCELERATORS: Final = ("0302", "0380", "1200")
_MATRICES: Final = ("NVLinkBandwidth", "XGMIBandwidth")
_MOST_OBJECTS: Final = 1024
_MOST_SOCKETS: Final = 256


def read_hwloc(content: str) -> tuple[Machine, str]:
    """Return the host, its GPUs numbered in PCI order, and the product name its firmware tells.

    Raises
    ------
    InputError
        XML that cannot be read, a root that is not hwloc's, or an object or matrix that says something impossible.
    """
    root = parse_xml(content)
    if root.tag != "topology":
        raise InputError(f"expected the root element <topology>, got <{root.tag[:40]}>", place="line 1")
    machine = Machine("host0")
    objects: dict[tuple[str, int], Element] = {}
    gpus: dict[int, Gpu] = {}
    tops = [child for child in root if child.tag == "object"]
    if not tops:
        raise InputError("expected an <object> of type Machine, got none", place="<topology>")
    for top in tops:
        _walk(top, None, machine, objects, gpus)
    machine.number_gpus()
    for matrix in root:
        if matrix.tag in ("distances2", "distances2hetero") and matrix.get("name") in _MATRICES:
            _add_matrix(matrix, machine, objects, gpus)
    infos = {info.get("name"): info.get("value", "") for info in tops[0] if info.tag == "info"}
    return machine, (infos.get("DMIProductName") or "").strip()


def _walk(
    element: Element,
    parent: Bridge | None,
    machine: Machine,
    objects: dict[tuple[str, int], Element],
    gpus: dict[int, Gpu],
) -> None:
    """Take an object and what is below it; `gpus` gets every GPU under the identity of its elements."""
    kind = element.get("type", "")
    if element.get("gp_index"):
        objects[kind, whole(element, "gp_index", 0, maximum=1 << 62)] = element
    below = parent
    if kind == "Package" or (kind == "Machine" and parent is None and _has_bridges(element)):
        label = f"socket{whole(element, 'os_index', len(machine.sockets))}" if kind == "Package" else "socket"
        if len(machine.sockets) >= _MOST_SOCKETS:
            raise InputError(f"expected at most {_MOST_SOCKETS} packages, got more", place='<object type="Package">')
        below = Bridge(label, socket=True)
        machine.sockets.append(below)
    elif kind == "Bridge" and parent is not None:
        host_bridge = element.get("bridge_type", "").startswith("0")
        below = Bridge(kind, parent, None if host_bridge else _rate(element), host_bridge=host_bridge)
    elif kind == "PCIDev" and parent is not None:
        _add_device(element, parent, machine, objects, gpus)
        return
    for child in element:
        if child.tag == "object":
            _walk(child, below, machine, objects, gpus)


def _has_bridges(machine: Element) -> bool:
    """Return whether PCI hangs from the machine itself, as hwloc has it when a host bridge is near no one package."""
    return any(child.get("type") == "Bridge" for child in machine)


def _add_device(
    element: Element, parent: Bridge, machine: Machine, objects: dict[tuple[str, int], Element], gpus: dict[int, Gpu]
) -> None:
    match = _PCI_CLASS.match(element.get("pci_type", ""))
    device_class, vendor = (match[1], match[2].lower()) if match else ("", "")
    systems = [child for child in element.iter("object") if child.get("type") == "OSDev"]
    for system in systems:
        if system.get("gp_index"):
            objects["OSDev", whole(system, "gp_index", 0, maximum=1 << 62)] = system
    infos = {info.get("name"): info.get("value", "") for system in systems for info in system if info.tag == "info"}
    names = [system.get("name", "") for system in systems]
    if "GPUModel" in infos or any(_GPU_OBJECT.match(name) for name in names) or (
        vendor in _GPU_VENDORS and (device_class in _ACCELERATORS or (device_class == "0300" and vendor != "8086"))
    ):  # fmt: skip
        address = element.get("pci_busid", "").strip().lower()
        if not address or any(gpu.address == address for gpu in machine.gpus):
            what = f"the PCI address {address} appears twice" if address else "a GPU has no pci_busid"
            raise InputError(f"{what}; save the whole file again", place='<object type="PCIDev">')
        if len(machine.gpus) >= _MOST_OBJECTS:
            raise InputError(f"expected at most {_MOST_OBJECTS} GPUs, got more", place='<object type="PCIDev">')
        gpu = Gpu(address, parent, _rate(element), model=infos.get("GPUModel") or None)
        machine.gpus.append(gpu)
        for same in (element, *systems):
            gpus[id(same)] = gpu
    elif device_class in ("0200", "0207"):
        if len(machine.nics) >= _MOST_OBJECTS:
            raise InputError(f"expected at most {_MOST_OBJECTS} NICs, got more", place='<object type="PCIDev">')
        named = [name for name in names if name.startswith(("mlx", "hfi", "bnxt_re", "efa", "rdmap"))] or names
        name = re.sub(r"[^A-Za-z0-9_.:-]+", "_", named[0][:60]) if named and named[0] else f"nic{len(machine.nics)}"
        while any(nic.name == name for nic in machine.nics):
            name += "_"
        machine.nics.append(Nic(name, parent, _rate(element)))


def _rate(element: Element) -> float | None:
    """Return bytes/s of a PCI object's link (hwloc writes GB/s), or None where the file does not say."""
    text = element.get("pci_link_speed", "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1e4:
        raise InputError(f"expected pci_link_speed in GB/s, got {text[:40]!r}", place="<object pci_link_speed>")
    return value * 1e9 or None


# ---------------------------------------------------------------------------------------------------------- matrices


def _add_matrix(
    matrix: Element, machine: Machine, objects: dict[tuple[str, int], Element], gpus: dict[int, Gpu]
) -> None:
    """Turn a matrix of bandwidths into links between GPUs, and from GPUs into groups of NVSwitches."""
    names, rates = _numbers(matrix)
    count = len(names)
    ends = [_end(name, objects, gpus) for name in names]
    into: dict[int, dict[int, float]] = {}
    for row in range(count):
        for column in range(count):
            rate, back = rates[row * count + column], rates[column * count + row]
            if row == column or not rate:
                continue
            if rate != back:
                message = f"{names[row]} to {names[column]} says {rate}, the way back {back}; save the file again"
                raise InputError(message, place=f'<{matrix.tag} name="{matrix.get("name")}">')
            a, b = ends[row], ends[column]
            if a is not None and b is not None and a is not b and row < column:
                machine.bonds.append(Bond(a, b, bandwidth=rate * 1e6))
            elif a is not None and names[column].startswith(("Package:", "NUMANode:")):
                machine.bonds.append(Bond(a, None, bandwidth=rate * 1e6))
            elif a is not None and b is None:
                into.setdefault(row, {})[column] = rate * 1e6
    _add_switches(into, ends, machine)


def _add_switches(into: dict[int, dict[int, float]], ends: list[Gpu | None], machine: Machine) -> None:
    """Join GPUs that reach the same NVSwitches to one switch that has the bandwidth of all."""
    groups: dict[frozenset[int], str] = {}
    for row, switches in into.items():
        name = groups.setdefault(frozenset(switches), f"nvswitch{len(groups)}")
        gpu = ends[row]
        assert gpu is not None
        machine.bonds.append(Bond(gpu, name, bandwidth=sum(switches.values())))
    if len(groups) > 1:
        machine.notes.append(
            f"the GPUs reach {len(groups)} groups of NVSwitches, and the matrix has no link between the groups"
        )


def _numbers(matrix: Element) -> tuple[list[str], list[int]]:
    """Return the names (``OSDev:802``) and the values of a matrix, row by row."""
    kind = matrix.get("type", "")
    names: list[str] = []
    rates: list[int] = []
    for child in matrix:
        words = (child.text or "").split()
        if child.tag == "indexes":
            names += [word if ":" in word else f"{kind}:{word}" for word in words]
        elif child.tag == "u64values":
            rates += [_value(word) for word in words]
    place = f'<{matrix.tag} name="{matrix.get("name")}">'
    count = whole(matrix, "nbobjs", 0, maximum=_MOST_OBJECTS)
    if len(names) != count or len(rates) != count * count:
        message = f"expected {count} names and {count * count} values, got {len(names)} and {len(rates)}"
        raise InputError(message, place=place)
    return names, rates


def _value(word: str) -> int:
    if not word.isdecimal() or len(word) > 12:
        raise InputError(f"expected bandwidths in MB/s, got {word[:40]!r}", place="<u64values>")
    return int(word)


def _end(name: str, objects: dict[tuple[str, int], Element], gpus: dict[int, Gpu]) -> Gpu | None:
    """Return the GPU of a matrix entry, or None for an NVSwitch (or anything else)."""
    kind, _, number = name.partition(":")
    if not number.isdecimal() or len(number) > 20:
        raise InputError(f"expected a name such as OSDev:802, got {name[:40]!r}", place="<indexes>")
    element = objects.get((kind, int(number)))
    if element is None:
        raise InputError(f"the matrix names {name}, which the file does not have", place="<indexes>")
    return gpus.get(id(element))
