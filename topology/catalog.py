"""The catalogue: GPU kinds, link kinds and shipped clusters, from data files beside this module or a user's folder."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from gpuplan.errors import InputError, UsageError
from gpuplan.topology import checks
from gpuplan.topology.documents import parse_document, read_text
from gpuplan.topology.graph import DeviceKind
from gpuplan.topology.naming import resolve_kind, unknown
from gpuplan.units import DTYPE_BYTES

_DATA: Final = Path(__file__).resolve().parent / "data"
_KIND_KEYS: Final = frozenset(
    {
        "vendor", "family", "memory_bytes", "memory_bandwidth_bytes_per_s", "flops_per_s", "power_w", "price_per_hour",
        "pcie_bandwidth_bytes_per_s", "nvlink_links", "nvlink_bandwidth_bytes_per_s", "source",
    }
)  # fmt: skip
_LINK_CLASSES: Final = ("nvlink", "xgmi", "pcie", "fabric")


@dataclass(frozen=True, slots=True)
class LinkKind:
    """One kind of link.

    Parameters
    ----------
    name
        For example ``pcie4-node``, ``nvlink3``, ``infiniband-ndr``.
    family
        ``nvlink``, ``xgmi``, ``pcie`` or ``fabric``.
    bandwidth_bytes_per_s
        One direction, bytes/s; of one link where several are bundled (NVLink, XGMI).
    latency_s
        Latency of a message, s.
    gpu_families
        GPU families that carry this generation of NVLink or XGMI.
    hop_latency_s
        What every further switch of a fabric adds, s.
    """

    name: str
    family: str
    bandwidth_bytes_per_s: float
    latency_s: float
    gpu_families: tuple[str, ...] = ()
    hop_latency_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that has a name: GPU kinds, their driver names, link kinds, cluster files."""

    kinds: Mapping[str, DeviceKind]
    driver_names: Mapping[str, str]
    links: Mapping[str, LinkKind]
    clusters: Mapping[str, Path]

    def kind(self, name: str) -> DeviceKind:
        """Return the GPU kind that `name` (canonical, a prefix, or the driver's own name) stands for."""
        by_driver = self.driver_names.get(name.strip().lower())
        return self.kinds[by_driver or resolve_kind(name, tuple(self.kinds))]

    def link(self, name: str) -> LinkKind:
        """Return the link kind called `name`."""
        if name not in self.links:
            raise UsageError(unknown("link kind", name, self.links))
        return self.links[name]

    def pcie(self, code: str, generation: int) -> LinkKind:
        """Return the PCIe link a matrix code such as ``PHB`` stands for on a generation."""
        return self.links[f"pcie{generation}-{code.lower()}"]

    def scale_up(self, gpu_family: str) -> LinkKind | None:
        """Return the NVLink or XGMI generation of a GPU family, or None when it has none."""
        found = (link for link in self.links.values() if gpu_family in link.gpu_families)
        return next(found, None)


def parse_kind(name: str, value: object, path: str) -> DeviceKind:
    """Return the data sheet written at `path` of a document."""
    entry = checks.mapping(value, path)
    checks.known_keys(entry, _KIND_KEYS, path)
    flops = checks.mapping(checks.required(entry, "flops_per_s", path), f"{path}.flops_per_s")
    checks.known_keys(flops, DTYPE_BYTES, f"{path}.flops_per_s")
    if not flops:
        raise InputError("expected the FLOP/s of at least one dtype", place=f"{path}.flops_per_s")

    def number(key: str) -> float:
        return checks.number(checks.required(entry, key, path), f"{path}.{key}")

    def optional(key: str) -> float:
        return checks.number(entry.get(key, 0.0), f"{path}.{key}", zero=True)

    price = entry.get("price_per_hour")
    return DeviceKind(
        name=name,
        vendor=checks.text(entry.get("vendor", "unknown"), f"{path}.vendor"),
        family=checks.text(entry.get("family", "unknown"), f"{path}.family"),
        memory_bytes=checks.size(checks.required(entry, "memory_bytes", path), f"{path}.memory_bytes"),
        memory_bandwidth_bytes_per_s=number("memory_bandwidth_bytes_per_s"),
        flops_per_s={dtype: checks.number(rate, f"{path}.flops_per_s.{dtype}") for dtype, rate in flops.items()},
        power_w=number("power_w"),
        price_per_hour=None if price is None else checks.number(price, f"{path}.price_per_hour", zero=True),
        pcie_bandwidth_bytes_per_s=optional("pcie_bandwidth_bytes_per_s"),
        nvlink_links=checks.integer(entry.get("nvlink_links", 0), f"{path}.nvlink_links", minimum=0),
        nvlink_bandwidth_bytes_per_s=optional("nvlink_bandwidth_bytes_per_s"),
        source=entry["source"] if isinstance(entry.get("source"), str) else "",
    )


def _parse_link(name: str, value: object, path: str) -> LinkKind:
    entry = checks.mapping(value, path)
    checks.known_keys(entry, ("class", "bandwidth_bytes_per_s", "latency_s", "hop_latency_s", "families"), path)
    family = checks.required(entry, "class", path)
    if family not in _LINK_CLASSES:
        raise InputError(f"expected one of {', '.join(_LINK_CLASSES)}, got {family!r}", place=f"{path}.class")
    return LinkKind(
        name,
        family,
        checks.number(checks.required(entry, "bandwidth_bytes_per_s", path), f"{path}.bandwidth_bytes_per_s"),
        checks.number(checks.required(entry, "latency_s", path), f"{path}.latency_s", zero=True),
        tuple(checks.sequence(entry.get("families", []), f"{path}.families")),
        checks.number(entry.get("hop_latency_s", 0.0), f"{path}.hop_latency_s", zero=True),
    )


def _section(path: Path, schema: str, section: str) -> Mapping[str, Any]:
    """Return one section of a data file whose schema is right; nothing when the file is absent."""
    if not path.is_file():
        return {}
    document = checks.mapping(parse_document(read_text(path), str(path)), "$")
    checks.known_keys(document, ("schema", "name", "comment", section), "$")
    if document.get("schema") != schema:
        raise InputError(f"expected the schema {schema!r}, got {document.get('schema')!r}", place="$.schema")
    return checks.mapping(checks.required(document, section, "$"), f"$.{section}")


def _read_kinds(path: Path) -> tuple[dict[str, DeviceKind], dict[str, str]]:
    kinds, drivers = {}, {}
    for name, value in _section(path, "gpuplan/gpus/1", "kinds").items():
        place = f"$.kinds.{name}"
        entry = dict(checks.mapping(value, place))
        for driver_name in checks.sequence(entry.pop("driver_names", []), f"{place}.driver_names"):
            drivers[checks.text(driver_name, f"{place}.driver_names").lower()] = name
        kinds[name] = parse_kind(name, entry, place)
    return kinds, drivers


def _read_links(path: Path) -> dict[str, LinkKind]:
    section = _section(path, "gpuplan/links/1", "links")
    return {name: _parse_link(name, value, f"$.links.{name}") for name, value in section.items()}


def _read(folder: Path) -> Catalog:
    """Return the catalogue of one folder: ``gpus.yaml``, ``links.yaml``, ``clusters/*.yaml``, each optional."""
    gpus, link_file = folder / "gpus.yaml", folder / "links.yaml"
    try:
        kinds, drivers = _read_kinds(gpus)
    except InputError as error:
        raise error.at(str(gpus)) from None
    try:
        links = _read_links(link_file)
    except InputError as error:
        raise error.at(str(link_file)) from None
    files = sorted((folder / "clusters").glob("*.yaml")) + sorted((folder / "clusters").glob("*.json"))
    return Catalog(kinds, drivers, links, {path.stem: path for path in files})


@functools.cache
def shipped_catalog() -> Catalog:
    """Return the catalogue that comes with gpuplan (read once; its values never change)."""
    catalog = _read(_DATA)
    return Catalog(
        MappingProxyType(dict(catalog.kinds)),  # shared by every caller, so nobody may write to it
        MappingProxyType(dict(catalog.driver_names)),
        MappingProxyType(dict(catalog.links)),
        MappingProxyType(dict(catalog.clusters)),
    )


def load_catalog(folder: str | Path | None = None) -> Catalog:
    """Return the shipped catalogue, with the entries of a user's `folder` added over it.

    Raises
    ------
    UsageError
        The folder does not exist.
    InputError
        One of its files cannot be used.
    """
    shipped = shipped_catalog()
    if folder is None:
        return shipped
    if not Path(folder).is_dir():
        raise UsageError(f"expected a folder for the option --catalog, got {str(folder)!r}, which is none")
    own = _read(Path(folder))
    return Catalog(
        {**shipped.kinds, **own.kinds},
        {**shipped.driver_names, **own.driver_names},
        {**shipped.links, **own.links},
        {**shipped.clusters, **own.clusters},
    )


def device_kind(name: str, *, catalog: str | Path | None = None) -> DeviceKind:
    """Return the GPU kind that `name` stands for; see `gpuplan.topology.naming.resolve_kind` for what is accepted.

    >>> device_kind("h200").name
    'h200-sxm5-141gb'
    """
    return load_catalog(catalog).kind(name)


def list_kinds(*, catalog: str | Path | None = None) -> tuple[DeviceKind, ...]:
    """Return every GPU kind, in catalogue order."""
    return tuple(load_catalog(catalog).kinds.values())


def list_link_kinds(*, catalog: str | Path | None = None) -> tuple[LinkKind, ...]:
    """Return every link kind, in catalogue order."""
    return tuple(load_catalog(catalog).links.values())


def list_clusters(*, catalog: str | Path | None = None) -> tuple[str, ...]:
    """Return the names of the shipped clusters, and of those in a user's catalogue."""
    return tuple(sorted(load_catalog(catalog).clusters))
