"""Several hosts: copies of one host, joined by a fabric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from gpuplan.errors import UsageError
from gpuplan.topology.catalog import Catalog, load_catalog
from gpuplan.topology.graph import Component, Device, Link, Topology
from gpuplan.topology.link_numbers import LinkNumbers, from_code, from_kind
from gpuplan.topology.readers.slurm import SwitchTree

_NETWORK: Final = "network0"
_RACK_SWITCH: Final = "nvswitch0"


def replicate(topology: Topology, hosts: int, fabric: str, *, catalog: str | Path | None = None) -> Topology:
    """Return `hosts` copies of a one-host topology, joined by `fabric`.

    Parameters
    ----------
    topology
        One host, without a fabric of its own.
    hosts
        Number of copies, at least 1 (1 returns the topology as it is).
    fabric
        A link kind: of class ``fabric`` (every NIC of every host joins one network; a host without NICs gets one that
        all its devices reach through the host bridge), or of class ``nvlink`` (all devices join one rack-scale
        NVSwitch domain).

    Raises
    ------
    UsageError
        A number of hosts below 1, an unknown fabric, or a topology of several hosts.

    Notes
    -----
    Hosts are called ``host0``, ``host1``, …; every other name keeps what follows the host's own.
    """
    if hosts < 1:
        raise UsageError(f"expected at least 1 host, got {hosts}")
    shelf = load_catalog(catalog)
    numbers = fabric_numbers(shelf, fabric)
    if len(topology.hosts) != 1:
        raise UsageError(f"expected a topology of one host to replicate, got {len(topology.hosts)} hosts")
    if hosts == 1:
        return topology
    copies = [_copy(topology, topology.hosts[0], f"host{number}") for number in range(hosts)]
    devices = [device for copy in copies for device in copy.devices]
    relays = [part for copy in copies for part in copy.components if part.role != "device"]
    links = [link for copy in copies for link in copy.links]
    return join_hosts(
        Topology(f"{hosts}x-{topology.name}", tuple(devices), (), (), topology.source, topology.notes),
        relays, links, numbers, shelf,
    )  # fmt: skip


def fabric_numbers(catalog: Catalog, fabric: str) -> LinkNumbers:
    """Return the numbers of a fabric's link; a kind that joins no hosts is refused."""
    link = catalog.link(fabric)
    if link.family not in ("fabric", "nvlink"):
        names = ", ".join(kind.name for kind in catalog.links.values() if kind.family == "fabric")
        raise UsageError(f"the link kind {fabric!r} does not join hosts; take one of {names}")
    return from_kind(link)


def _copy(topology: Topology, old: str, new: str) -> Topology:
    def renamed(name: str) -> str:
        return f"{new}/{name.removeprefix(f'{old}/')}"

    return replace(
        topology,
        devices=tuple(replace(device, name=renamed(device.name), host=new) for device in topology.devices),
        components=tuple(replace(part, name=renamed(part.name), host=new) for part in topology.components),
        links=tuple(replace(link, a=renamed(link.a), b=renamed(link.b)) for link in topology.links),
    )


def join_hosts(
    topology: Topology,
    relays: Sequence[Component],
    links: Sequence[Link],
    fabric: LinkNumbers | None,
    catalog: Catalog,
    *,
    tree: SwitchTree | None = None,
    rack_fabric: LinkNumbers | None = None,
) -> Topology:
    """Return `topology` with these relays and links, its hosts joined.

    Parameters
    ----------
    topology
        The devices.
    relays, links
        What the hosts have inside.
    fabric
        What joins the hosts; None leaves them apart.
    catalog
        Where link numbers come from.
    tree
        The switches of the fabric; without it one network joins all NICs.
    rack_fabric
        NVLink of a rack-scale domain: the devices of each rack join one NVSwitch besides.
    """
    parts, edges = list(relays), list(links)
    if rack_fabric is not None:
        for rack in dict.fromkeys(device.rack for device in topology.devices):
            switch = f"{rack}/{_RACK_SWITCH}" if rack else _RACK_SWITCH
            parts.append(Component(switch, "nvswitch"))
            edges += [
                _to_switch(device, rack_fabric, catalog, switch) for device in topology.devices if device.rack == rack
            ]
    if fabric is not None and fabric.kind.startswith("nvlink"):
        parts.append(Component(_RACK_SWITCH, "nvswitch"))
        edges += [_to_switch(device, fabric, catalog, _RACK_SWITCH) for device in topology.devices]
    elif fabric is not None:
        nics = _with_nics(topology, parts, edges, catalog)
        if tree is None:
            parts.append(Component(_NETWORK, "network_switch"))
            edges += [fabric.halved().between(nic, _NETWORK) for nic, _ in nics]
        else:
            parts += [Component(switch, "network_switch") for switch in tree.parents]
            edges += [fabric.halved().between(nic, tree.leaf_of[host]) for nic, host in nics]
            edges += _trunks(tree, fabric, catalog)
    everything = [Component(device.name, "device", device.host) for device in topology.devices] + parts
    return replace(topology, components=tuple(everything), links=tuple(edges))


def _trunks(tree: SwitchTree, fabric: LinkNumbers, catalog: Catalog) -> list[Link]:
    """Return the links between switches: the wires' bandwidth, and the latency of one more switch."""
    known = catalog.links.get(fabric.kind)
    hop = known.hop_latency_s if known is not None else 0.0
    trunk = LinkNumbers(fabric.kind, fabric.bandwidth_bytes_per_s, hop)
    return [trunk.between(switch, above) for switch, above in tree.parents.items() if above is not None]


def _to_switch(device: Device, fabric: LinkNumbers, catalog: Catalog, switch: str) -> Link:
    count = max(device.kind.nvlink_links, 1)
    numbers = from_code(catalog, f"NV{count}", (device.kind,))
    return replace(numbers.halved(), kind=fabric.kind).between(device.name, switch)


def _with_nics(
    topology: Topology, parts: list[Component], edges: list[Link], catalog: Catalog
) -> list[tuple[str, str]]:
    """Return every NIC with its host; a host without any gets one that all its devices reach (added to the lists)."""
    nics = [(part.name, part.host or "") for part in parts if part.role == "nic"]
    served = {host for _, host in nics}
    new: dict[str, str] = {}
    for device in topology.devices:
        if device.host in served:
            continue
        if device.host not in new:
            new[device.host] = f"{device.host}/nic0"
            parts.append(Component(new[device.host], "nic", device.host))
        edges.append(from_code(catalog, "PHB", (device.kind,)).between(device.name, new[device.host]))
    return nics + [(nic, host) for host, nic in new.items()]
