"""Reader of gpuplan's own YAML and JSON, ``gpuplan/topology/1``: written by hand, or normalised.

By hand a box of unequal GPUs takes ten lines; `docs/topology.md` lists every key. The normalised form (it has a key
``components``) is what `gpuplan.topology.topology_to_dict` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    copy_host,
    default_links,
    explicit_links,
    host_of_topology,
    link_numbers,
    remark_assumed,
)
from gpuplan.topology.readers.slurm import SwitchTree
from gpuplan.topology.replicate import fabric_numbers, join_hosts
from gpuplan.topology.serialize import check_schema, checked, is_normalised, read_normalised

_HOST_KEYS: Final = (
    "devices", "file", "gpu", "gpu_info", "links", "default_link", "nvswitch", "nics", "nic_link", "rack", "racks",
)  # fmt: skip
_TOP_KEYS: Final = ("schema", "name", "comment", "kinds", "hosts", "fabric", "rack_fabric", *_HOST_KEYS)
_DEVICE_KEYS: Final = (
    "kind", "name", "count", "available_memory", "available_bytes", "power_cap_w", "price_per_hour", "excluded",
)  # fmt: skip
#: Counts beyond these are typing errors; refusing them keeps a slip from filling the memory.
_MOST_DEVICES: Final = 1024
_MOST_HOSTS: Final = 16384
_MOST_IN_ALL: Final = 65536
_MOST_LINKS: Final = 1 << 21


@dataclass(frozen=True, slots=True)
class Files:
    """How a description reads the files that it names.

    Parameters
    ----------
    host
        Gives the topology of a host file from its name, the entries of ``gpu`` and the name of a ``gpu_info`` file.
    fabric
        Gives the switches of a Slurm file.
    """

    host: Callable[[str, Sequence[str], str | None], Topology]
    fabric: Callable[[str], SwitchTree]


def read_native(
    document: object,
    catalog: Catalog,
    *,
    memory_fraction: float = 0.9,
    default_name: str = "topology",
    files: Files | None = None,
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
    files
        How files named in the document are read; None refuses them.

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
    context = _Context(shelf, memory_fraction, files)
    tree = _read_tree(top, files)
    hosts = _read_hosts(top if tree is None or "hosts" in top else {**top, "hosts": len(tree.nodes)}, context)
    if tree is not None:
        _place_in(tree, hosts)
    fabric = _read_fabric(top, shelf, len(hosts))
    rack_fabric = _read_rack_fabric(top, shelf, hosts)
    return _assemble(checks.text(top.get("name", default_name), "$.name"), hosts, fabric, top, shelf, tree, rack_fabric)


# ------------------------------------------------------------------------------------------------------------- hosts


@dataclass(frozen=True, slots=True)
class _Context:
    """What every host is read with."""

    catalog: Catalog
    memory_fraction: float
    files: Files | None


def _read_hosts(top: Mapping[str, Any], context: _Context) -> list[Host]:
    described = top.get("hosts", 1)
    if not isinstance(described, (list, tuple)):
        count = checks.integer(described, "$.hosts", maximum=_MOST_HOSTS)
        return _copies(top, "$", [f"host{number}" for number in range(count)], context, 0)
    for key in _HOST_KEYS:
        if key in top and key != "links":
            raise InputError(f"the key {key!r} belongs to each host when 'hosts' is a list", place=f"$.{key}")
    hosts: list[Host] = []
    racks = 0
    for position, value in enumerate(checks.sequence(described, "$.hosts")):
        path = f"$.hosts[{position}]"
        entry = checks.mapping(value, path)
        checks.known_keys(entry, ("name", "count", *_HOST_KEYS), path)
        count = checks.integer(entry.get("count", 1), f"{path}.count", maximum=_MOST_HOSTS)
        names = [_host_name(entry, path, number if count > 1 else None, len(hosts) + number) for number in range(count)]
        hosts += _copies(entry, path, names, context, racks)
        if sum(len(host.devices) for host in hosts) > _MOST_IN_ALL:
            raise InputError(f"expected at most {_MOST_IN_ALL} devices in all, got more", place=path)
        racks += _racks(entry, path, count)
    if not hosts:
        raise InputError("expected at least one host", place="$.hosts")
    seen: set[str] = set()
    twice = {host.name for host in hosts if host.name in seen or seen.add(host.name)}  # type: ignore[func-returns-value]
    for host in hosts:
        if host.name in twice:
            raise InputError(f"the host name {host.name!r} appears twice; names must differ", place=f"{host.path}.name")
    return hosts


def _racks(entry: Mapping[str, Any], path: str, count: int) -> int:
    """Return the number of racks that the copies of a host are spread over, 0 where the entry does not say."""
    if "racks" not in entry:
        return 0
    if entry.get("rack") is not None:
        raise InputError("give one of 'rack' (the name of one) and 'racks' (a number)", place=f"{path}.racks")
    return checks.integer(entry["racks"], f"{path}.racks", maximum=count)


def _copies(
    entry: Mapping[str, Any], path: str, names: Sequence[str], context: _Context, first_rack: int
) -> list[Host]:
    """Return the host of an entry under each name, in order over its racks; it is read once."""
    racks = _racks(entry, path, len(names))
    places = [f"rack{first_rack + number * racks // len(names)}" if racks else None for number in range(len(names))]
    first = _read_host(entry, names[0], path, context, places[0])
    for what, parts, most in (("devices", first.devices, _MOST_IN_ALL), ("links", first.links, _MOST_LINKS)):
        count = len(parts) * len(names)
        if count > most:
            raise InputError(f"expected at most {most} {what} in all, got {count}; check the counts", place=path)
    return [first] + [copy_host(first, name, rack) for name, rack in zip(names[1:], places[1:], strict=True)]


def _host_name(entry: Mapping[str, Any], path: str, number: int | None, position: int) -> str:
    if "name" not in entry:
        return f"host{position}"
    name = checks.text(entry["name"], f"{path}.name")
    if "/" in name:
        raise InputError(f"expected a host name without '/', got {name!r}", place=f"{path}.name")
    return name if number is None else f"{name}{number}"


def _read_host(entry: Mapping[str, Any], name: str, path: str, context: _Context, rack: str | None) -> Host:
    if entry.get("rack") is not None:
        rack = checks.text(entry["rack"], f"{path}.rack")
    if "file" in entry:
        host = _host_of_file(entry, name, path, context, rack)
    else:
        for key in ("gpu", "gpu_info"):
            if key in entry:
                raise InputError(f"the key {key!r} tells what the GPUs of a 'file' are", place=f"{path}.{key}")
        host = _host_of_devices(entry, name, path, context, rack)
    add_nvswitch(host, entry, context.catalog)
    add_nics(host, entry, context.catalog)
    named = explicit_links([host], entry.get("links", []), f"{path}.links", context.catalog)
    if "file" not in entry:
        remark_assumed(host, entry, named)
    return host


def _own_links(top: Mapping[str, Any]) -> bool:
    """Return whether the links of a document are those of its one host, not links between hosts."""
    return not isinstance(top.get("hosts", 1), (list, tuple))


def _host_of_devices(
    entry: Mapping[str, Any], name: str, path: str, context: _Context, rack: str | None
) -> Host:  # fmt: skip
    host = Host(name, path)
    values = checks.sequence(checks.required(entry, "devices", path), f"{path}.devices")
    for position, value in enumerate(values):
        _read_devices(host, value, f"{path}.devices[{position}]", context, rack)
    if not host.devices:
        raise InputError("expected at least one device", place=f"{path}.devices")
    default_links(host, entry, context.catalog)
    return host


def _host_of_file(
    entry: Mapping[str, Any], name: str, path: str, context: _Context, rack: str | None
) -> Host:  # fmt: skip
    """Return the host that another file (or a shipped cluster of one host) describes."""
    for key in ("devices", "default_link"):
        if key in entry:
            raise InputError(f"give one of 'file' and {key!r}: the file says it", place=f"{path}.{key}")
    file = checks.text(entry["file"], f"{path}.file")
    gpu = entry.get("gpu", [])
    told = [gpu] if isinstance(gpu, str) else [
        checks.text(value, f"{path}.gpu[{number}]") for number, value in enumerate(checks.sequence(gpu, f"{path}.gpu"))
    ]  # fmt: skip
    info = checks.text(entry["gpu_info"], f"{path}.gpu_info") if "gpu_info" in entry else None
    if context.files is None:
        raise InputError(f"a description in memory has no folder where {file!r} could be", place=f"{path}.file")
    try:
        topology = context.files.host(file, told, info)
    except UsageError as error:
        raise InputError(str(error), place=f"{path}.file") from None
    if len(topology.hosts) != 1:
        message = f"expected a file of one host, got {len(topology.hosts)} hosts in {file}"
        raise InputError(message, place=f"{path}.file")
    return host_of_topology(topology, name, path, rack)


def _read_devices(host: Host, value: object, path: str, context: _Context, rack: str | None) -> None:
    catalog = context.catalog
    entry = checks.mapping(value, path)
    checks.known_keys(entry, _DEVICE_KEYS, path)
    try:
        kind = catalog.kind(checks.text(checks.required(entry, "kind", path), f"{path}.kind"))
    except UsageError as error:
        raise InputError(str(error), place=f"{path}.kind") from None
    count = checks.integer(entry.get("count", 1), f"{path}.count", maximum=_MOST_DEVICES)
    if count > 1 and "name" in entry:
        raise InputError("a name stands for one device; drop the name or the count", place=f"{path}.name")
    available = _available(entry, kind, path, context.memory_fraction)
    cap = checks.number(entry["power_cap_w"], f"{path}.power_cap_w") if "power_cap_w" in entry else None
    price = entry.get("price_per_hour", kind.price_per_hour)
    if len(host.devices) + count > _MOST_DEVICES:
        raise InputError(f"expected at most {_MOST_DEVICES} devices in a host, got more", place=f"{path}.count")
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
        if hosts > 1 and "rack_fabric" not in top:
            message = "several hosts need the key 'fabric', for example infiniband-ndr (none leaves them apart)"
            raise InputError(message, place="$")
        return None
    value, path = top["fabric"], "$.fabric"
    if isinstance(value, Mapping):
        entry = checks.mapping(value, path)
        checks.known_keys(entry, ("kind", "bandwidth_bytes_per_s", "latency_s", "file"), path)
        numbers = link_numbers({key: entry[key] for key in entry if key != "file"}, (), path, catalog)
        if numbers is None or numbers.kind == "custom":
            return numbers
        _fabric_kind(catalog, numbers.kind, path)
        return numbers
    name = checks.text(value, path)
    return None if name == NONE else _fabric_kind(catalog, name, path)


def _read_tree(top: Mapping[str, Any], files: Files | None) -> SwitchTree | None:
    """Return the switches of ``fabric: {file: …}``, or None where the document names no file."""
    fabric = top.get("fabric")
    if not isinstance(fabric, Mapping) or "file" not in fabric:
        return None
    file = checks.text(fabric["file"], "$.fabric.file")
    if files is None:
        raise InputError(f"a description in memory has no folder where {file!r} could be", place="$.fabric.file")
    return files.fabric(file)


def _place_in(tree: SwitchTree, hosts: list[Host]) -> None:
    """Give the hosts the names and racks of a Slurm file: by name where all are in it, else in its order."""
    if len(hosts) != len(tree.nodes):
        message = (
            f"the Slurm file has {len(tree.nodes)} hosts, the description {len(hosts)}; leave 'hosts' out or agree"
        )
        raise InputError(message, place="$.fabric.file")
    names = [host.name for host in hosts]
    by_name = set(names) == set(tree.nodes)
    for position, host in enumerate(hosts):
        name = host.name if by_name else tree.nodes[position]
        hosts[position] = copy_host(host, name, tree.rack_of(name))


def _read_rack_fabric(top: Mapping[str, Any], catalog: Catalog, hosts: list[Host]) -> LinkNumbers | None:
    if "rack_fabric" not in top:
        return None
    path = "$.rack_fabric"
    numbers = _fabric_kind(catalog, checks.text(top["rack_fabric"], path), path)
    if not numbers.kind.startswith("nvlink"):
        raise InputError(f"expected a kind of NVLink, got {numbers.kind!r}; it joins the devices of a rack", place=path)
    if any(device.rack is None for host in hosts for device in host.devices):
        raise InputError("the devices of a rack are joined, but a host has no rack; say 'rack' or 'racks'", place=path)
    return numbers


def _fabric_kind(catalog: Catalog, name: str, path: str) -> LinkNumbers:
    try:
        return fabric_numbers(catalog, name)
    except UsageError as error:
        raise InputError(str(error), place=path) from None


def _assemble(
    name: str,
    hosts: list[Host],
    fabric: LinkNumbers | None,
    top: Mapping[str, Any],
    catalog: Catalog,
    tree: SwitchTree | None,
    rack_fabric: LinkNumbers | None,
) -> Topology:
    if not _own_links(top):
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
    joins = fabric if len(hosts) > 1 else None
    return checked(join_hosts(bare, relays, links, joins, catalog, tree=tree, rack_fabric=rack_fabric))
