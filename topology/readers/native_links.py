"""Links of a hand-written topology: defaults of a host, its NVSwitch and NICs, and links named one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gpuplan.errors import InputError, UsageError
from gpuplan.topology import checks
from gpuplan.topology.catalog import Catalog
from gpuplan.topology.graph import Component, Device, DeviceKind, Link, Topology
from gpuplan.topology.link_numbers import (
    PCIE_CODES,
    LinkNumbers,
    from_code,
    from_kind,
    is_code,
    nvlink_count,
    nvlink_remark,
)

NONE: Final = "none"
_ASSUMED: Final = "PHB"
_LINK_KEYS: Final = ("between", "a", "b", "kind", "links", "bandwidth_bytes_per_s", "latency_s")
#: Counts beyond this are typing errors.
_MOST_LINKS: Final = 1024
_MOST_TO_NICS: Final = 65536


@dataclass(slots=True)
class Host:
    """One host while it is read: its devices (excluded ones too), relays, links by pair, names of excluded devices."""

    name: str
    path: str
    devices: list[Device] = field(default_factory=list)
    relays: list[Component] = field(default_factory=list)
    links: dict[tuple[str, str], Link | None] = field(default_factory=dict)
    excluded: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a <= b else (b, a)


def copy_host(host: Host, name: str, rack: str | None) -> Host:
    """Return a copy of a host under another name, in another rack (None keeps the rack)."""
    start = len(host.name)

    def renamed(old: str) -> str:
        return name + old[start:]

    copy = Host(name, host.path, notes=host.notes)
    copy.devices = [
        Device(
            renamed(device.name), name, device.index, device.kind, device.available_bytes, device.power_cap_w,
            device.price_per_hour, device.rack if rack is None else rack,
        )
        for device in host.devices
    ]  # fmt: skip
    copy.relays = [Component(renamed(part.name), part.role, name) for part in host.relays]
    for (a, b), link in host.links.items():
        pair = _pair(renamed(a), renamed(b))
        copy.links[pair] = link and Link(
            renamed(link.a), renamed(link.b), link.kind, link.bandwidth_bytes_per_s, link.latency_s, link.code
        )
    copy.excluded = {renamed(device) for device in host.excluded}
    return copy


def host_of_topology(topology: Topology, name: str, path: str, rack: str | None) -> Host:
    """Return the one host of a topology under a name of its own; names without a host before them get it."""
    old = topology.hosts[0]
    prefix = f"{old}/"

    def below(part: str) -> str:
        return f"{old}/{part.removeprefix(prefix)}"

    host = Host(old, path, notes=list(topology.notes))
    host.devices = [replace(device, name=below(device.name)) for device in topology.devices]
    host.relays = [Component(below(part.name), part.role, old) for part in topology.components if part.role != "device"]
    for link in topology.links:
        a, b = below(link.a), below(link.b)
        host.links[_pair(a, b)] = replace(link, a=a, b=b)
    return copy_host(host, name, rack)


def default_links(host: Host, entry: Mapping[str, Any], catalog: Catalog) -> None:
    """Join every two devices by ``default_link``; without it through the host bridge, unless an NVSwitch does."""
    if "default_link" not in entry and "nvswitch" in entry:
        return
    code = entry.get("default_link", _ASSUMED)
    path = f"{host.path}.default_link"
    checks.text(code, path)
    if code == NONE:
        return
    for position, a in enumerate(host.devices):
        for b in host.devices[position + 1 :]:
            numbers = _named_link(code, (a.kind, b.kind), 1, path, catalog)
            host.links[_pair(a.name, b.name)] = numbers.between(a.name, b.name)


def add_nvswitch(host: Host, entry: Mapping[str, Any], catalog: Catalog) -> None:
    """Join every device to one NVSwitch by so many links; half of an NVLink's latency each way."""
    if "nvswitch" not in entry:
        return
    count = checks.integer(entry["nvswitch"], f"{host.path}.nvswitch", maximum=_MOST_LINKS)
    switch = f"{host.name}/nvswitch0"
    if any(relay.name == switch for relay in host.relays):
        raise InputError("the file of this host has an NVSwitch already; leave 'nvswitch' out",
                         place=f"{host.path}.nvswitch")  # fmt: skip
    host.relays.append(Component(switch, "nvswitch", host.name))
    for device in host.devices:
        remark = nvlink_remark(f"NV{count}", device.name, device.kind)
        host.notes += [remark] if remark else []
        numbers = from_code(catalog, f"NV{count}", (device.kind,)).halved()
        host.links[_pair(device.name, switch)] = numbers.between(device.name, switch)


def add_nics(host: Host, entry: Mapping[str, Any], catalog: Catalog) -> None:
    """Add NICs: one next to each device (``per_device``), or so many that every device reaches."""
    value, path = entry.get("nics", 0), f"{host.path}.nics"
    code = checks.text(entry.get("nic_link", "PXB" if value == "per_device" else "PHB"), f"{host.path}.nic_link")
    if code not in PCIE_CODES:
        raise InputError(f"expected one of {', '.join(PCIE_CODES)}, got {code!r}", place=f"{host.path}.nic_link")
    if isinstance(value, str) and value != "per_device":
        raise InputError(f"expected a number of NICs or per_device, got {value!r}", place=path)
    if "nics" in entry:
        _drop_nics(host)
    count = len(host.devices) if value == "per_device" else checks.integer(value, path, minimum=0, maximum=_MOST_LINKS)
    if value != "per_device" and count * len(host.devices) > _MOST_TO_NICS:
        message = f"expected at most {_MOST_TO_NICS} links between devices and NICs, got {count * len(host.devices)}"
        raise InputError(message, place=path)
    for number in range(count):
        nic = f"{host.name}/nic{number}"
        host.relays.append(Component(nic, "nic", host.name))
        for device in [host.devices[number]] if value == "per_device" else host.devices:
            numbers = from_code(catalog, code, (device.kind,))
            host.links[_pair(device.name, nic)] = numbers.between(device.name, nic)


def _drop_nics(host: Host) -> None:
    """Take out the NICs that the file of a host has: the description says which there are."""
    gone = {relay.name for relay in host.relays if relay.role == "nic"}
    if gone:
        host.notes.append(f"the {len(gone)} NICs of the host's file are replaced by those of the description")
        host.relays = [relay for relay in host.relays if relay.name not in gone]
        host.links = {pair: link for pair, link in host.links.items() if not gone & set(pair)}


def _named_link(
    name: str, kinds: tuple[DeviceKind, ...], count: int, path: str, catalog: Catalog
) -> LinkNumbers:  # fmt: skip
    """Return the numbers of a link given by a matrix code or by a link kind."""
    if is_code(name):
        if not kinds:
            raise InputError(f"the code {name!r} needs a GPU at one end; give a link kind", place=path)
        return from_code(catalog, name, kinds)
    if name not in catalog.links:
        try:
            catalog.link(name)
        except UsageError as error:
            message = f"{error}; or a code: {', '.join(PCIE_CODES)}, NV1, NV2, …"
            raise InputError(message, place=path) from None
    return from_kind(catalog.links[name], count)


def remark_assumed(host: Host, entry: Mapping[str, Any], named: set[tuple[str, str]]) -> None:
    """Note when pairs of a host have the default link although the document names none."""
    if {"default_link", "nvswitch"} & set(entry):
        return
    count = len(host.devices)
    own = {device.name for device in host.devices}
    if sum(a in own and b in own for a, b in named) < count * (count - 1) // 2:
        host.notes.append("pairs without a link of their own are taken to meet at the PCIe host bridge (PHB)")


def explicit_links(hosts: list[Host], values: object, path: str, catalog: Catalog) -> set[tuple[str, str]]:
    """Read a list of links over the defaults of the hosts and return the pairs it names, each at most once."""
    named: set[tuple[str, str]] = set()
    known = _Names(hosts)
    for position, value in enumerate(checks.sequence(values, path)):
        here = f"{path}[{position}]"
        entry = checks.mapping(value, here)
        checks.known_keys(entry, _LINK_KEYS, here)
        ends = _ends(known, entry, here)
        for number, a in enumerate(ends):
            for b in ends[number + 1 :]:
                pair = _pair(a, b)
                if pair in named:
                    raise InputError(f"a second link between {a} and {b}; give one", place=here)
                named.add(pair)
                _join(known, entry, a, b, here, catalog)
    return named


class _Names:
    """Every device and relay of some hosts by its full name, with its host."""

    def __init__(self, hosts: list[Host]) -> None:
        self.only = hosts[0].name if len(hosts) == 1 else None
        self.devices = {device.name: device for host in hosts for device in host.devices}
        self.homes = {part: host for host in hosts for part in _names(host)}


def _join(known: _Names, entry: Mapping[str, Any], a: str, b: str, path: str, catalog: Catalog) -> None:
    devices, home = known.devices, known.homes[a]
    numbers = link_numbers(entry, tuple(devices[end].kind for end in (a, b) if end in devices), path, catalog)
    home.links[_pair(a, b)] = None if numbers is None else numbers.between(a, b)
    if numbers is not None and numbers.code:
        for end in (a, b):
            remark = nvlink_remark(numbers.code, end, devices[end].kind) if end in devices else None
            home.notes += [remark] if remark else []


def _ends(known: _Names, entry: Mapping[str, Any], path: str) -> list[str]:
    if "between" in entry:
        if "a" in entry or "b" in entry:
            raise InputError("give either 'between' or 'a' and 'b'", place=path)
        names = checks.sequence(entry["between"], f"{path}.between")
        if len(names) < 2:
            raise InputError(f"expected at least two names, got {len(names)}", place=f"{path}.between")
        places = [f"{path}.between[{number}]" for number in range(len(names))]
    else:
        names = [checks.required(entry, "a", path), checks.required(entry, "b", path)]
        places = [f"{path}.a", f"{path}.b"]
    ends = [_component(known, checks.text(name, place), place) for name, place in zip(names, places, strict=True)]
    for number, end in enumerate(ends):
        if end in ends[:number]:
            raise InputError(f"a link must join different components, got {end} twice", place=places[number])
    return ends


def _component(known: _Names, name: str, path: str) -> str:
    """Return the full name of a device or relay; the host may be left out where there is one."""
    for full in (name, name if known.only is None else f"{known.only}/{name}"):
        if full in known.homes:
            return full
    have = ", ".join(sorted(known.homes)[:6])
    raise InputError(f"unknown device {name!r}; there are {have}{', …' if len(known.homes) > 6 else ''}", place=path)


def _names(host: Host) -> list[str]:
    return [device.name for device in host.devices] + [relay.name for relay in host.relays]


def link_numbers(
    entry: Mapping[str, Any], kinds: tuple[DeviceKind, ...], path: str, catalog: Catalog
) -> LinkNumbers | None:
    """Return the numbers of one link entry; None for a broken one (``kind: none``)."""
    given = {
        key: checks.number(entry[key], f"{path}.{key}", zero=key == "latency_s")
        for key in ("bandwidth_bytes_per_s", "latency_s")
        if key in entry
    }
    kind = entry.get("kind")
    count = checks.integer(entry.get("links", 1), f"{path}.links", maximum=_MOST_LINKS)
    if "links" in entry and (kind is None or kind == NONE or is_code(str(kind))):
        raise InputError("'links' counts links of a kind such as nvlink3; a code says its own number", place=path)
    if kind is None:
        if len(given) < 2:
            message = "a link needs a 'kind', or both 'bandwidth_bytes_per_s' and 'latency_s'"
            raise InputError(message, place=path)
        return LinkNumbers("custom", given["bandwidth_bytes_per_s"], given["latency_s"])
    if checks.text(kind, f"{path}.kind") == NONE:
        if given:
            raise InputError("a link of kind 'none' has no numbers; drop them or name a kind", place=path)
        return None
    numbers = _named_link(kind, kinds, count, f"{path}.kind", catalog)
    return LinkNumbers(
        numbers.kind,
        given.get("bandwidth_bytes_per_s", numbers.bandwidth_bytes_per_s),
        given.get("latency_s", numbers.latency_s),
        numbers.code if nvlink_count(kind) or kind in PCIE_CODES else None,
    )
