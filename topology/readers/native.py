"""Reader of gpuplan's own YAML and JSON, ``gpuplan/topology/1``: written by hand, or normalised.

By hand a box of unequal GPUs takes ten lines; `docs/topology.md` lists every key. The normalised form (it has a key
``components``) is what `gpuplan.topology.topology_to_dict` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gpuplan.errors import InputError, UsageError
from gpuplan.topology import checks
from gpuplan.topology.catalog import Catalog, parse_kind
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
from gpuplan.topology.replicate import fabric_numbers, join_hosts
from gpuplan.topology.serialize import check_schema, checked, is_normalised, read_normalised

_HOST_KEYS: Final = ("devices", "links", "default_link", "nvswitch", "nics", "nic_link", "rack")
_TOP_KEYS: Final = ("schema", "name", "comment", "kinds", "hosts", "fabric", *_HOST_KEYS)
_DEVICE_KEYS: Final = (
    "kind", "name", "count", "available_memory", "available_bytes", "power_cap_w", "price_per_hour", "excluded",
)  # fmt: skip
_LINK_KEYS: Final = ("between", "a", "b", "kind", "links", "bandwidth_bytes_per_s", "latency_s")
_NONE: Final = "none"


@dataclass(slots=True)
class _Host:
    """One host while it is read: its devices (excluded ones too), relays, links by pair, names of excluded devices."""

    name: str
    path: str
    devices: list[Device] = field(default_factory=list)
    relays: list[Component] = field(default_factory=list)
    links: dict[tuple[str, str], Link | None] = field(default_factory=dict)
    excluded: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def read_native(
    document: object, catalog: Catalog, *, memory_fraction: float = 0.9, default_name: str = "topology"
) -> Topology:
    """Return the topology of a ``gpuplan/topology/1`` document in either form.

    Parameters
    ----------
    document
        Plain values, as YAML or JSON gives them.
    catalog
        Where GPU and link kinds come from.
    memory_fraction
        Share of a kind's memory that a plan may use where the document does not say.
    default_name
        Name where the document has none.

    Raises
    ------
    InputError
        With the JSON path of what cannot be used.
    """
    top = checks.mapping(document, "$")
    check_schema(top)
    if is_normalised(top):
        return read_normalised(top)
    checks.known_keys(top, _TOP_KEYS, "$")
    kinds = {
        name: parse_kind(name, value, f"$.kinds.{name}")
        for name, value in checks.mapping(top.get("kinds", {}), "$.kinds").items()
    }
    shelf = Catalog({**catalog.kinds, **kinds}, catalog.driver_names, catalog.links, catalog.clusters)
    hosts = _read_hosts(top, shelf, memory_fraction)
    fabric = _read_fabric(top, shelf, len(hosts))
    return _assemble(checks.text(top.get("name", default_name), "$.name"), hosts, fabric, top, shelf)


# ------------------------------------------------------------------------------------------------------------- hosts


def _read_hosts(top: Mapping[str, Any], catalog: Catalog, memory_fraction: float) -> list[_Host]:
    described = top.get("hosts", 1)
    if not isinstance(described, (list, tuple)):
        count = checks.integer(described, "$.hosts")
        return [_read_host(top, f"host{number}", "$", catalog, memory_fraction) for number in range(count)]
    for key in _HOST_KEYS:
        if key in top and key != "links":
            raise InputError(f"the key {key!r} belongs to each host when 'hosts' is a list", place=f"$.{key}")
    hosts: list[_Host] = []
    for position, value in enumerate(checks.sequence(described, "$.hosts")):
        path = f"$.hosts[{position}]"
        entry = checks.mapping(value, path)
        checks.known_keys(entry, ("name", "count", *_HOST_KEYS), path)
        count = checks.integer(entry.get("count", 1), f"{path}.count")
        for number in range(count):
            name = _host_name(entry, path, number if count > 1 else None, len(hosts))
            hosts.append(_read_host(entry, name, path, catalog, memory_fraction))
    if not hosts:
        raise InputError("expected at least one host", place="$.hosts")
    names = [host.name for host in hosts]
    for host in hosts:
        if names.count(host.name) > 1:
            raise InputError(f"the host name {host.name!r} appears twice; names must differ", place=f"{host.path}.name")
    return hosts


def _host_name(entry: Mapping[str, Any], path: str, number: int | None, position: int) -> str:
    if "name" not in entry:
        return f"host{position}"
    name = checks.text(entry["name"], f"{path}.name")
    if "/" in name:
        raise InputError(f"expected a host name without '/', got {name!r}", place=f"{path}.name")
    return name if number is None else f"{name}{number}"


def _read_host(entry: Mapping[str, Any], name: str, path: str, catalog: Catalog, memory_fraction: float) -> _Host:
    host = _Host(name, path)
    values = checks.sequence(checks.required(entry, "devices", path), f"{path}.devices")
    rack = checks.text(entry["rack"], f"{path}.rack") if entry.get("rack") is not None else None
    for position, value in enumerate(values):
        _read_devices(host, value, f"{path}.devices[{position}]", catalog, memory_fraction, rack)
    if not host.devices:
        raise InputError("expected at least one device", place=f"{path}.devices")
    _default_links(host, entry, catalog)
    _nvswitch(host, entry, catalog)
    _nics(host, entry, catalog)
    if path != "$" or not isinstance(entry.get("hosts", 1), (list, tuple)):
        _explicit_links([host], entry.get("links", []), f"{path}.links", catalog)
    return host


def _read_devices(
    host: _Host, value: object, path: str, catalog: Catalog, memory_fraction: float, rack: str | None
) -> None:
    entry = checks.mapping(value, path)
    checks.known_keys(entry, _DEVICE_KEYS, path)
    try:
        kind = catalog.kind(checks.text(checks.required(entry, "kind", path), f"{path}.kind"))
    except UsageError as error:
        raise InputError(str(error), place=f"{path}.kind") from None
    count = checks.integer(entry.get("count", 1), f"{path}.count")
    if count > 1 and "name" in entry:
        raise InputError("a name stands for one device; drop the name or the count", place=f"{path}.name")
    available = _available(entry, kind, path, memory_fraction)
    cap = checks.number(entry["power_cap_w"], f"{path}.power_cap_w") if "power_cap_w" in entry else None
    price = entry.get("price_per_hour", kind.price_per_hour)
    for _ in range(count):
        index = len(host.devices)
        own = checks.text(entry.get("name", f"gpu{index}"), f"{path}.name").removeprefix(f"{host.name}/")
        full = f"{host.name}/{own}"
        if any(device.name == full for device in host.devices):
            raise InputError(f"the device name {own!r} appears twice; names must differ", place=f"{path}.name")
        host.devices.append(
            Device(
                full, host.name, index, kind, available, cap,
                None if price is None else checks.number(price, f"{path}.price_per_hour", zero=True), rack,
            )
        )  # fmt: skip
        if checks.boolean(entry.get("excluded", False), f"{path}.excluded"):
            host.excluded.add(full)


def _available(entry: Mapping[str, Any], kind: DeviceKind, path: str, memory_fraction: float) -> int:
    given = [key for key in ("available_memory", "available_bytes") if key in entry]
    if not given:
        return int(kind.memory_bytes * memory_fraction)
    if len(given) == 2:
        raise InputError("give one of 'available_memory' and 'available_bytes'", place=path)
    available = checks.size(entry[given[0]], f"{path}.{given[0]}")
    if available > kind.memory_bytes:
        message = f"{available} bytes are more than the {kind.memory_bytes} bytes of a {kind.name}"
        raise InputError(message, place=f"{path}.{given[0]}")
    return available


# ------------------------------------------------------------------------------------------------------------- links


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a <= b else (b, a)


def _default_links(host: _Host, entry: Mapping[str, Any], catalog: Catalog) -> None:
    """Join every two devices by ``default_link``; without it through the host bridge, unless an NVSwitch does."""
    code = entry.get("default_link")
    if code is None:
        if entry.get("nvswitch") is not None or len(host.devices) < 2:
            return
        if not entry.get("links"):
            host.notes.append("no links are given: GPUs of a host are taken to meet at the PCIe host bridge (PHB)")
        code = "PHB"
    path = f"{host.path}.default_link"
    checks.text(code, path)
    if code == _NONE:
        return
    for position, a in enumerate(host.devices):
        for b in host.devices[position + 1 :]:
            numbers = _named_link(code, (a.kind, b.kind), 1, path, catalog)
            host.links[_pair(a.name, b.name)] = numbers.between(a.name, b.name)


def _nvswitch(host: _Host, entry: Mapping[str, Any], catalog: Catalog) -> None:
    """Join every device to one NVSwitch by so many links; half of an NVLink's latency each way."""
    value = entry.get("nvswitch")
    if value is None:
        return
    count = checks.integer(value, f"{host.path}.nvswitch")
    switch = f"{host.name}/nvswitch0"
    host.relays.append(Component(switch, "nvswitch", host.name))
    for device in host.devices:
        remark = nvlink_remark(f"NV{count}", device.name, device.kind)
        host.notes += [remark] if remark else []
        numbers = from_code(catalog, f"NV{count}", (device.kind,)).halved()
        host.links[_pair(device.name, switch)] = numbers.between(device.name, switch)


def _nics(host: _Host, entry: Mapping[str, Any], catalog: Catalog) -> None:
    """Add NICs: one next to each device (``per_device``), or so many that every device reaches."""
    value, path = entry.get("nics", 0), f"{host.path}.nics"
    code = checks.text(entry.get("nic_link", "PXB" if value == "per_device" else "PHB"), f"{host.path}.nic_link")
    if code not in PCIE_CODES:
        raise InputError(f"expected one of {', '.join(PCIE_CODES)}, got {code!r}", place=f"{host.path}.nic_link")
    if isinstance(value, str) and value != "per_device":
        raise InputError(f"expected a number of NICs or per_device, got {value!r}", place=path)
    count = len(host.devices) if value == "per_device" else checks.integer(value, path, minimum=0)
    for number in range(count):
        nic = f"{host.name}/nic{number}"
        host.relays.append(Component(nic, "nic", host.name))
        for device in [host.devices[number]] if value == "per_device" else host.devices:
            numbers = from_code(catalog, code, (device.kind,))
            host.links[_pair(device.name, nic)] = numbers.between(device.name, nic)


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


def _explicit_links(hosts: list[_Host], values: object, path: str, catalog: Catalog) -> None:
    """Read a list of links over the defaults of the hosts; a pair may be named once."""
    named: set[tuple[str, str]] = set()
    for position, value in enumerate(checks.sequence(values, path)):
        here = f"{path}[{position}]"
        entry = checks.mapping(value, here)
        checks.known_keys(entry, _LINK_KEYS, here)
        ends = _ends(hosts, entry, here)
        for number, a in enumerate(ends):
            for b in ends[number + 1 :]:
                pair = _pair(a, b)
                if pair in named:
                    raise InputError(f"a second link between {a} and {b}; give one", place=here)
                named.add(pair)
                _join(hosts, entry, a, b, here, catalog)


def _join(hosts: list[_Host], entry: Mapping[str, Any], a: str, b: str, path: str, catalog: Catalog) -> None:
    devices = {device.name: device for host in hosts for device in host.devices}
    home = next(host for host in hosts if a.startswith(f"{host.name}/"))
    numbers = _link_numbers(entry, tuple(devices[end].kind for end in (a, b) if end in devices), path, catalog)
    home.links[_pair(a, b)] = None if numbers is None else numbers.between(a, b)
    if numbers is not None and numbers.code:
        for end in (a, b):
            remark = nvlink_remark(numbers.code, end, devices[end].kind) if end in devices else None
            home.notes += [remark] if remark else []


def _ends(hosts: list[_Host], entry: Mapping[str, Any], path: str) -> list[str]:
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
    ends = [_component(hosts, checks.text(name, place), place) for name, place in zip(names, places, strict=True)]
    for number, end in enumerate(ends):
        if end in ends[:number]:
            raise InputError(f"a link must join different components, got {end} twice", place=places[number])
    return ends


def _component(hosts: list[_Host], name: str, path: str) -> str:
    """Return the full name of a device or relay; the host may be left out where there is one."""
    known = {part for host in hosts for part in _names(host)}
    for full in (name, f"{hosts[0].name}/{name}" if len(hosts) == 1 else name):
        if full in known:
            return full
    have = ", ".join(sorted(known)[:6])
    raise InputError(f"unknown device {name!r}; there are {have}{', …' if len(known) > 6 else ''}", place=path)


def _names(host: _Host) -> list[str]:
    return [device.name for device in host.devices] + [relay.name for relay in host.relays]


def _link_numbers(
    entry: Mapping[str, Any], kinds: tuple[DeviceKind, ...], path: str, catalog: Catalog
) -> LinkNumbers | None:
    """Return the numbers of one link entry; None for a broken one (``kind: none``)."""
    given = {
        key: checks.number(entry[key], f"{path}.{key}", zero=key == "latency_s")
        for key in ("bandwidth_bytes_per_s", "latency_s")
        if key in entry
    }
    kind = entry.get("kind")
    count = checks.integer(entry.get("links", 1), f"{path}.links")
    if "links" in entry and (kind is None or kind == _NONE or is_code(str(kind))):
        raise InputError("'links' counts links of a kind such as nvlink3; a code says its own number", place=path)
    if kind is None:
        if len(given) < 2:
            message = "a link needs a 'kind', or both 'bandwidth_bytes_per_s' and 'latency_s'"
            raise InputError(message, place=path)
        return LinkNumbers("custom", given["bandwidth_bytes_per_s"], given["latency_s"])
    if checks.text(kind, f"{path}.kind") == _NONE:
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


# ------------------------------------------------------------------------------------------------------------ fabric


def _read_fabric(top: Mapping[str, Any], catalog: Catalog, hosts: int) -> LinkNumbers | None:
    if "fabric" not in top:
        if hosts > 1:
            message = "several hosts need the key 'fabric', for example infiniband-ndr (none leaves them apart)"
            raise InputError(message, place="$")
        return None
    value, path = top["fabric"], "$.fabric"
    if isinstance(value, Mapping):
        entry = checks.mapping(value, path)
        checks.known_keys(entry, ("kind", "bandwidth_bytes_per_s", "latency_s"), path)
        numbers = _link_numbers(entry, (), path, catalog)
        if numbers is None or numbers.kind == "custom":
            return numbers
        _fabric_kind(catalog, numbers.kind, path)
        return numbers
    name = checks.text(value, path)
    return None if name == _NONE else _fabric_kind(catalog, name, path)


def _fabric_kind(catalog: Catalog, name: str, path: str) -> LinkNumbers:
    try:
        return fabric_numbers(catalog, name)
    except UsageError as error:
        raise InputError(str(error), place=path) from None


def _assemble(
    name: str, hosts: list[_Host], fabric: LinkNumbers | None, top: Mapping[str, Any], catalog: Catalog
) -> Topology:
    if isinstance(top.get("hosts", 1), (list, tuple)):
        _explicit_links(hosts, top.get("links", []), "$.links", catalog)
    excluded = {device for host in hosts for device in host.excluded}
    devices = tuple(device for host in hosts for device in host.devices if device.name not in excluded)
    if not devices:
        raise InputError("every device is excluded; keep at least one", place="$.devices")
    links = [
        link
        for host in hosts
        for link in host.links.values()
        if link is not None and link.a not in excluded and link.b not in excluded
    ]
    relays = [relay for host in hosts for relay in host.relays]
    notes = tuple(dict.fromkeys(note for host in hosts for note in host.notes))
    bare = Topology(name, devices, (), (), "", notes)
    return checked(join_hosts(bare, relays, links, fabric if len(hosts) > 1 else None, catalog))
