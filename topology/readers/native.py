"""Reader of gpuplan's own YAML and JSON, ``gpuplan/topology/1``: written by hand, or normalised.

By hand a box of unequal GPUs takes ten lines; `docs/topology.md` lists every key. The normalised form (it has a key
``components``) is what `gpuplan.topology.topology_to_dict` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gpuplan.errors import InputError, UsageError
from gpuplan.topology import checks
from gpuplan.topology.catalog import Catalog, parse_kind
from gpuplan.topology.graph import Device, DeviceKind, Topology
from gpuplan.topology.link_numbers import LinkNumbers
from gpuplan.topology.readers.native_links import (
    NONE,
    Host,
    add_nics,
    add_nvswitch,
    default_links,
    explicit_links,
    link_numbers,
    remark_assumed,
)
from gpuplan.topology.replicate import fabric_numbers, join_hosts
from gpuplan.topology.serialize import check_schema, checked, is_normalised, read_normalised

_HOST_KEYS: Final = ("devices", "links", "default_link", "nvswitch", "nics", "nic_link", "rack")
_TOP_KEYS: Final = ("schema", "name", "comment", "kinds", "hosts", "fabric", *_HOST_KEYS)
_DEVICE_KEYS: Final = (
    "kind", "name", "count", "available_memory", "available_bytes", "power_cap_w", "price_per_hour", "excluded",
)  # fmt: skip
#: Counts beyond these are typing errors; refusing them keeps a slip from filling the memory.
_MOST_DEVICES: Final = 1024
_MOST_HOSTS: Final = 16384


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


def _read_hosts(top: Mapping[str, Any], catalog: Catalog, memory_fraction: float) -> list[Host]:
    described = top.get("hosts", 1)
    if not isinstance(described, (list, tuple)):
        count = checks.integer(described, "$.hosts", maximum=_MOST_HOSTS)
        return [_read_host(top, f"host{number}", "$", catalog, memory_fraction) for number in range(count)]
    for key in _HOST_KEYS:
        if key in top and key != "links":
            raise InputError(f"the key {key!r} belongs to each host when 'hosts' is a list", place=f"$.{key}")
    hosts: list[Host] = []
    for position, value in enumerate(checks.sequence(described, "$.hosts")):
        path = f"$.hosts[{position}]"
        entry = checks.mapping(value, path)
        checks.known_keys(entry, ("name", "count", *_HOST_KEYS), path)
        count = checks.integer(entry.get("count", 1), f"{path}.count", maximum=_MOST_HOSTS)
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


def _read_host(entry: Mapping[str, Any], name: str, path: str, catalog: Catalog, memory_fraction: float) -> Host:
    host = Host(name, path)
    values = checks.sequence(checks.required(entry, "devices", path), f"{path}.devices")
    rack = checks.text(entry["rack"], f"{path}.rack") if entry.get("rack") is not None else None
    for position, value in enumerate(values):
        _read_devices(host, value, f"{path}.devices[{position}]", catalog, memory_fraction, rack)
    if not host.devices:
        raise InputError("expected at least one device", place=f"{path}.devices")
    default_links(host, entry, catalog)
    add_nvswitch(host, entry, catalog)
    add_nics(host, entry, catalog)
    named = explicit_links([host], entry.get("links", []), f"{path}.links", catalog)
    remark_assumed(host, entry, named)
    return host


def _read_devices(
    host: Host, value: object, path: str, catalog: Catalog, memory_fraction: float, rack: str | None
) -> None:
    entry = checks.mapping(value, path)
    checks.known_keys(entry, _DEVICE_KEYS, path)
    try:
        kind = catalog.kind(checks.text(checks.required(entry, "kind", path), f"{path}.kind"))
    except UsageError as error:
        raise InputError(str(error), place=f"{path}.kind") from None
    count = checks.integer(entry.get("count", 1), f"{path}.count", maximum=_MOST_DEVICES)
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
        numbers = link_numbers(entry, (), path, catalog)
        if numbers is None or numbers.kind == "custom":
            return numbers
        _fabric_kind(catalog, numbers.kind, path)
        return numbers
    name = checks.text(value, path)
    return None if name == NONE else _fabric_kind(catalog, name, path)


def _fabric_kind(catalog: Catalog, name: str, path: str) -> LinkNumbers:
    try:
        return fabric_numbers(catalog, name)
    except UsageError as error:
        raise InputError(str(error), place=path) from None


def _assemble(
    name: str, hosts: list[Host], fabric: LinkNumbers | None, top: Mapping[str, Any], catalog: Catalog
) -> Topology:
    if isinstance(top.get("hosts", 1), (list, tuple)):
        explicit_links(hosts, top.get("links", []), "$.links", catalog)
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
