"""Topologies as documents: the normalised form of ``gpuplan/topology/1``.

Every number is inline, the data sheets of the kinds included, so a plan that embeds the document can be recomputed
without any catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

from gpuplan.errors import InputError
from gpuplan.topology import checks
from gpuplan.topology.catalog import parse_kind
from gpuplan.topology.graph import Component, Device, DeviceKind, Link, Role, Topology

SCHEMA: Final = "gpuplan/topology/1"
_KEYS: Final = frozenset({"schema", "name", "comment", "source", "kinds", "devices", "components", "links"})
_DEVICE_KEYS: Final = frozenset(
    {"name", "host", "index", "kind", "available_bytes", "power_cap_w", "price_per_hour", "rack"}
)
_LINK_KEYS: Final = frozenset({"a", "b", "kind", "bandwidth_bytes_per_s", "latency_s", "code"})
_RELAYS: Final = tuple(role for role in get_args(Role) if role != "device")


def topology_to_dict(topology: Topology) -> dict[str, Any]:
    """Return the normalised document of `topology`; `topology_from_dict` reads it back to an equal value.

    Devices stand under ``devices`` with the bytes a plan may use; ``components`` holds what relays; ``kinds`` the data
    sheets in use. Keys whose value is None are left out.
    """
    kinds = {device.kind.name: device.kind for device in topology.devices}
    document = {
        "schema": SCHEMA,
        "name": topology.name,
        "source": topology.source or None,
        "kinds": {name: _kind_to_dict(kinds[name]) for name in sorted(kinds)},
        "devices": [_device_to_dict(device) for device in topology.devices],
        "components": [
            _without_none({"name": component.name, "role": component.role, "host": component.host})
            for component in topology.components
            if component.role != "device"
        ],
        "links": [_link_to_dict(link) for link in topology.links],
    }
    return _without_none(document)


def _without_none(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value is not None}


def _kind_to_dict(kind: DeviceKind) -> dict[str, Any]:
    return _without_none(
        {
            "vendor": kind.vendor,
            "family": kind.family,
            "memory_bytes": kind.memory_bytes,
            "memory_bandwidth_bytes_per_s": kind.memory_bandwidth_bytes_per_s,
            "flops_per_s": dict(kind.flops_per_s),
            "power_w": kind.power_w,
            "price_per_hour": kind.price_per_hour,
            "pcie_bandwidth_bytes_per_s": kind.pcie_bandwidth_bytes_per_s,
            "nvlink_links": kind.nvlink_links,
            "nvlink_bandwidth_bytes_per_s": kind.nvlink_bandwidth_bytes_per_s,
            "source": kind.source,
        }
    )


def _device_to_dict(device: Device) -> dict[str, Any]:
    return _without_none(
        {
            "name": device.name,
            "host": device.host,
            "index": device.index,
            "kind": device.kind.name,
            "available_bytes": device.available_bytes,
            "power_cap_w": device.power_cap_w,
            "price_per_hour": device.price_per_hour,
            "rack": device.rack,
        }
    )


def _link_to_dict(link: Link) -> dict[str, Any]:
    return _without_none(
        {
            "a": link.a,
            "b": link.b,
            "kind": link.kind,
            "bandwidth_bytes_per_s": link.bandwidth_bytes_per_s,
            "latency_s": link.latency_s,
            "code": link.code,
        }
    )


def is_normalised(document: Mapping[str, Any]) -> bool:
    """Return whether `document` is in the normalised form (it lists its components)."""
    return "components" in document


def check_schema(document: Mapping[str, Any]) -> None:
    """Refuse a document of another kind or of an unknown version."""
    schema = checks.required(document, "schema", "$")
    if schema == SCHEMA:
        return
    if isinstance(schema, str) and schema.startswith("gpuplan/topology/"):
        message = f"unknown schema version {schema!r}; this gpuplan reads {SCHEMA!r}"
    else:
        message = f"expected the schema {SCHEMA!r}, got {checks.describe(schema)}"
    raise InputError(message, place="$.schema")


def read_normalised(document: Mapping[str, Any]) -> Topology:
    """Return the topology of a normalised document.

    Raises
    ------
    InputError
        Anything missing, unknown, out of range, duplicate or dangling, with its JSON path.
    """
    check_schema(document)
    checks.known_keys(document, _KEYS, "$")
    kinds = {
        name: parse_kind(name, value, f"$.kinds.{name}")
        for name, value in checks.mapping(checks.required(document, "kinds", "$"), "$.kinds").items()
    }
    devices = [
        _read_device(value, kinds, f"$.devices[{position}]")
        for position, value in enumerate(checks.sequence(checks.required(document, "devices", "$"), "$.devices"))
    ]
    relays = [
        _read_component(value, f"$.components[{position}]")
        for position, value in enumerate(checks.sequence(document["components"], "$.components"))
    ]
    components = [Component(device.name, "device", device.host) for device in devices] + relays
    links = [
        _read_link(value, f"$.links[{position}]")
        for position, value in enumerate(checks.sequence(checks.required(document, "links", "$"), "$.links"))
    ]
    name = checks.text(document.get("name", "topology"), "$.name")
    source = document.get("source") or ""
    if not isinstance(source, str):
        raise InputError(f"expected text, got {checks.describe(source)}", place="$.source")
    return checked(Topology(name, tuple(devices), tuple(components), tuple(links), source))


def checked(topology: Topology) -> Topology:
    """Return `topology` when its names are distinct, every link joins two of its components, and none appears twice."""
    if not topology.devices:
        raise InputError("expected at least one device", place="$.devices")
    seen: set[str] = set()
    for position, component in enumerate(topology.components):
        if component.name in seen:
            of_devices = position < len(topology.devices)
            place = f"$.devices[{position}]" if of_devices else f"$.components[{position - len(topology.devices)}]"
            raise InputError(f"the name {component.name!r} is taken; names must differ", place=f"{place}.name")
        seen.add(component.name)
    joined: set[tuple[str, str]] = set()
    for position, link in enumerate(topology.links):
        for key, end in (("a", link.a), ("b", link.b)):
            if end not in seen:
                raise InputError(f"unknown component {end!r}", place=f"$.links[{position}].{key}")
        pair = (min(link.a, link.b), max(link.a, link.b))
        if link.a == link.b:
            raise InputError(f"a link must join two components, got {link.a!r} twice", place=f"$.links[{position}]")
        if pair in joined:
            raise InputError(f"a second link between {link.a} and {link.b}; give one", place=f"$.links[{position}]")
        joined.add(pair)
    return topology


def _optional_number(entry: Mapping[str, Any], key: str, path: str, *, zero: bool = False) -> float | None:
    value = entry.get(key)
    return None if value is None else checks.number(value, f"{path}.{key}", zero=zero)


def _optional_text(entry: Mapping[str, Any], key: str, path: str) -> str | None:
    value = entry.get(key)
    return None if value is None else checks.text(value, f"{path}.{key}")


def _read_device(value: object, kinds: Mapping[str, DeviceKind], path: str) -> Device:
    entry = checks.mapping(value, path)
    checks.known_keys(entry, _DEVICE_KEYS, path)
    kind = checks.text(checks.required(entry, "kind", path), f"{path}.kind")
    if kind not in kinds:
        raise InputError(f"unknown kind {kind!r}; $.kinds has {', '.join(kinds) or 'none'}", place=f"{path}.kind")
    return Device(
        name=checks.text(checks.required(entry, "name", path), f"{path}.name"),
        host=checks.text(checks.required(entry, "host", path), f"{path}.host"),
        index=checks.integer(checks.required(entry, "index", path), f"{path}.index", minimum=0),
        kind=kinds[kind],
        available_bytes=checks.integer(checks.required(entry, "available_bytes", path), f"{path}.available_bytes"),
        power_cap_w=_optional_number(entry, "power_cap_w", path),
        price_per_hour=_optional_number(entry, "price_per_hour", path, zero=True),
        rack=_optional_text(entry, "rack", path),
    )


def _read_component(value: object, path: str) -> Component:
    entry = checks.mapping(value, path)
    checks.known_keys(entry, ("name", "role", "host"), path)
    role = checks.required(entry, "role", path)
    if role not in _RELAYS:
        raise InputError(f"expected one of {', '.join(_RELAYS)}, got {checks.describe(role)}", place=f"{path}.role")
    return Component(
        checks.text(checks.required(entry, "name", path), f"{path}.name"), role, _optional_text(entry, "host", path)
    )


def _read_link(value: object, path: str) -> Link:
    entry = checks.mapping(value, path)
    checks.known_keys(entry, _LINK_KEYS, path)

    def of(key: str) -> Any:
        return checks.required(entry, key, path)

    return Link(
        checks.text(of("a"), f"{path}.a"),
        checks.text(of("b"), f"{path}.b"),
        checks.text(of("kind"), f"{path}.kind"),
        checks.number(of("bandwidth_bytes_per_s"), f"{path}.bandwidth_bytes_per_s"),
        checks.number(of("latency_s"), f"{path}.latency_s", zero=True),
        _optional_text(entry, "code", path),
    )
