"""Islands: devices joined by the same best kind of direct interconnect; tensor-parallel groups stay inside one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gpuplan.topology.graph import Link, Topology

#: Kinds of links that scale up: their names start so, whatever the generation.
_SCALE_UP: Final = ("nvlink", "xgmi")
_PCIE: Final = "pcie"


@dataclass(frozen=True, slots=True)
class Island:
    """One island: its name, its kind (``nvlink``, ``xgmi`` or ``pcie``), its devices in topology order."""

    name: str
    kind: str
    devices: tuple[str, ...]


def islands(topology: Topology) -> tuple[Island, ...]:
    """Return the islands of `topology`; they partition its devices.

    Devices joined by NVLink (XGMI) links, directly or through NVSwitches, form one island, also across hosts; a partial
    mesh is one island whose slow pairs cost what they cost. The other devices of a host form one island of kind
    ``pcie``, as far as they reach each other.
    """
    order = {device.name: position for position, device in enumerate(topology.devices)}
    found: list[tuple[str, list[str]]] = []
    rest = list(order)
    for kind in _SCALE_UP:
        edges = [link for link in topology.links if link.kind.startswith(kind)]
        groups = [group for group in _groups(rest, edges) if len(group) > 1]
        found += [(kind, group) for group in groups]
        taken = {name for group in groups for name in group}
        rest = [name for name in rest if name not in taken]
    found += [(_PCIE, group) for group in _pcie_groups(topology, rest)]
    found.sort(key=lambda entry: order[entry[1][0]])
    return tuple(_named(topology, found))


def _pcie_groups(topology: Topology, names: list[str]) -> list[list[str]]:
    """Return the groups of `names` on one host that reach each other without leaving it or crossing a device."""
    host_of: dict[str, str | None] = {part.name: part.host for part in topology.components}
    host_of |= {device.name: device.host for device in topology.devices}
    relays = {part.name for part in topology.components if part.role != "device"}
    allowed = relays | set(names)
    inside = [
        link
        for link in topology.links
        if host_of[link.a] == host_of[link.b] is not None and link.a in allowed and link.b in allowed
    ]
    return _groups(names, inside)


def _groups(names: Iterable[str], links: Iterable[Link]) -> list[list[str]]:
    """Return the connected groups of `names` over `links`, in order of their first member."""
    parent: dict[str, str] = {name: name for name in names}
    wanted = list(parent)

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for link in links:
        parent[root(link.b)] = root(link.a)
    groups: dict[str, list[str]] = {}
    for name in wanted:
        groups.setdefault(root(name), []).append(name)
    return list(groups.values())


def _named(topology: Topology, found: list[tuple[str, list[str]]]) -> list[Island]:
    """Return islands with names ``host/kindN``, or ``kindN`` where an island spans hosts."""
    host_of = {device.name: device.host for device in topology.devices}
    counts: dict[str, int] = {}
    named = []
    for kind, group in found:
        hosts = {host_of[name] for name in group}
        stem = f"{hosts.pop()}/{kind}" if len(hosts) == 1 else kind
        number = counts.get(stem, 0)
        counts[stem] = number + 1
        named.append(Island(f"{stem}{number}", kind, tuple(group)))
    return named
