"""Loading a cluster: a shipped name or a file in any known format, with the facts its text lacks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpuplan.errors import InputError, UsageError
from gpuplan.topology.catalog import Catalog, load_catalog
from gpuplan.topology.documents import parse_document, read_text
from gpuplan.topology.graph import Device, DeviceKind, Topology
from gpuplan.topology.naming import closest, unknown
from gpuplan.topology.readers.detect import detect
from gpuplan.topology.readers.gpu_info import GpuInfo, read_gpu_info
from gpuplan.topology.readers.native import read_native
from gpuplan.topology.readers.nvidia_smi import build_topology, parse_matrix
from gpuplan.topology.replicate import replicate

_RANGE = re.compile(r"^([0-9]+)(?:-([0-9]+))?$")


def load_topology(
    source: str | Path,
    *,
    gpu: str | Sequence[str] = (),
    gpu_info: str | Path | None = None,
    memory_fraction: float = 0.9,
    exclude: str | Sequence[str] = (),
    catalog: str | Path | None = None,
    hosts: int = 1,
    fabric: str | None = None,
) -> Topology:
    """Return the topology that a shipped name or a file stands for.

    Parameters
    ----------
    source
        Name of a shipped cluster, or path of a file; its format is detected from its content.
    gpu
        GPU kinds for a text that does not say them: ``"KIND"`` for all, ``"0-1=KIND"`` or ``"0,2=KIND"`` for some.
    gpu_info
        CSV of ``nvidia-smi --query-gpu=index,name,memory.total,memory.free,power.limit --format=csv``.
    memory_fraction
        Share of a GPU's memory that a plan may use where the source does not say, above 0 and at most 1.
    exclude
        Devices a plan may not use: ``host0/gpu3``, or ``gpu3`` where one host has it.
    catalog
        Folder with more kinds, links and clusters.
    hosts, fabric
        Copies of a one-host source, and the link kind that joins them.

    Raises
    ------
    UsageError
        A bad option, an unknown cluster name, GPU kind, device or fabric, or no kind for a text that has none.
    InputError
        A file that is missing or cannot be used.
    """
    gpu, exclude = ((value,) if isinstance(value, str) else value for value in (gpu, exclude))
    if not 0.0 < memory_fraction <= 1.0:
        raise UsageError(f"expected a memory fraction above 0 and at most 1, got {memory_fraction!r}")
    if fabric is None and hosts > 1:
        raise UsageError("several hosts need a fabric, for example --fabric infiniband-ndr")
    shelf = load_catalog(catalog)
    path, shipped = _find(source, shelf)
    try:
        topology = _read(path, gpu, gpu_info, memory_fraction, shelf)
    except InputError as error:
        raise error.at(str(path)) from None
    name = f"shipped cluster {path.stem}" if shipped else path.name
    topology = replace(topology, source=topology.source or name)
    topology = _without(topology, exclude)
    if hosts != 1 or fabric is not None:
        topology = replicate(topology, hosts, fabric or "", catalog=catalog)
    return topology


def topology_from_dict(
    document: Any, *, source: str | None = None, catalog: str | Path | None = None, memory_fraction: float = 0.9
) -> Topology:
    """Return the topology of a ``gpuplan/topology/1`` document in memory, normalised or written by hand.

    Raises
    ------
    InputError
        With `source` and the JSON path of what cannot be used.
    """
    try:
        return read_native(document, load_catalog(catalog), memory_fraction=memory_fraction)
    except InputError as error:
        raise error if source is None else error.at(source) from None


def _find(source: str | Path, catalog: Catalog) -> tuple[Path, bool]:
    """Return the file that `source` stands for, and whether it is one of the catalogue's clusters."""
    text = str(source)
    if not isinstance(source, Path) and text in catalog.clusters:
        return catalog.clusters[text], True
    path = Path(text)
    looks_like_path = bool(path.suffix) or "/" in text or "\\" in text or isinstance(source, Path)
    if text.strip() and path.is_dir():
        raise InputError("expected a topology file, got a folder", source=text)
    if text.strip() and (path.exists() or looks_like_path):
        return path, False
    raise UsageError(unknown("cluster", text, catalog.clusters))


def _read(
    path: Path, gpu: Sequence[str], gpu_info: str | Path | None, memory_fraction: float, catalog: Catalog
) -> Topology:
    content = read_text(path)
    if detect(content) == "nvidia-smi":
        return _read_smi(content, path, gpu, gpu_info, memory_fraction, catalog)
    for option, given in (("--gpu", bool(gpu)), ("--gpu-info", gpu_info is not None)):
        if given:
            raise UsageError(f"{option} is for texts that do not name their GPUs; {path.name} does, so leave it out")
    document = parse_document(content, str(path))
    return read_native(document, catalog, memory_fraction=memory_fraction, default_name=path.stem)


# ---------------------------------------------------------------------------------------------------- nvidia-smi text


def _read_smi(
    content: str,
    path: Path,
    gpu: Sequence[str],
    gpu_info: str | Path | None,
    memory_fraction: float,
    catalog: Catalog,
) -> Topology:
    matrix = parse_matrix(content)
    info = {} if gpu_info is None else read_gpu_info(gpu_info, catalog)
    kinds = _kinds(gpu, matrix.gpus, catalog)
    missing = [index for index in matrix.gpus if index not in kinds and index not in info]
    if missing:
        which = f"GPU{missing[0]}" if len(missing) < len(matrix.gpus) else "its GPUs"
        message = (
            f"{path.name} does not say what {which} {'is' if which != 'its GPUs' else 'are'}; name the kind with"
            " --gpu KIND (or --gpu 0-1=KIND), or give --gpu-info FILE"
        )
        raise UsageError(message)
    extra = sorted(set(info) - set(matrix.gpus))
    if extra:
        raise UsageError(f"--gpu-info describes GPU {extra[0]}, which {path.name} does not have")
    notes: list[str] = []

    def device_of(index: int) -> Device:
        return _smi_device(index, kinds.get(index), info.get(index), memory_fraction, notes)

    topology = build_topology(matrix, device_of, catalog, name=path.stem)
    return replace(topology, notes=(*notes, *topology.notes))


def _smi_device(
    index: int, kind: DeviceKind | None, info: GpuInfo | None, memory_fraction: float, notes: list[str]
) -> Device:
    name = f"host0/gpu{index}"
    if info is None:
        assert kind is not None  # checked by the caller, which names the option
        available = int(kind.memory_bytes * memory_fraction)
        return Device(name, "host0", index, kind, available, None, kind.price_per_hour)
    chosen = kind or info.kind
    if kind is not None and kind.name != info.kind.name:
        notes.append(f"GPU{index} is taken as {kind.name} (--gpu), although --gpu-info calls it {info.kind.name}")
    if abs(info.total_bytes - chosen.memory_bytes) > 0.05 * chosen.memory_bytes:
        notes.append(
            f"GPU{index} has {info.total_bytes} bytes of memory by --gpu-info, a {chosen.name} {chosen.memory_bytes}"
        )
    return Device(
        name, "host0", index, chosen, info.available_bytes(memory_fraction),
        replace(info, kind=chosen).power_cap_w(), chosen.price_per_hour,
    )  # fmt: skip


def _kinds(entries: Sequence[str], gpus: Sequence[int], catalog: Catalog) -> dict[int, DeviceKind]:
    """Return the kind of each GPU that the entries of ``--gpu`` name."""
    kinds: dict[int, DeviceKind] = {}
    common: DeviceKind | None = None
    for entry in entries:
        which, separator, name = entry.rpartition("=")
        kind = catalog.kind(name)
        if not separator:
            if common is not None:
                raise UsageError(f"--gpu names a kind for all GPUs twice ({common.name} and {kind.name}); name one")
            common = kind
            continue
        for index in _indices(which, entry, gpus):
            if index in kinds:
                raise UsageError(f"--gpu names GPU {index} twice; name it once")
            kinds[index] = kind
    return kinds if common is None else {index: kinds.get(index, common) for index in gpus}


def _indices(which: str, entry: str, gpus: Sequence[int]) -> list[int]:
    indices: list[int] = []
    for part in which.split(","):
        match = _RANGE.match(part.strip())
        if match is None:
            raise UsageError(f"expected --gpu KIND or --gpu 0-1=KIND, got {entry!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"expected a range such as 0-1, got {part.strip()!r} in --gpu {entry!r}")
        if first not in gpus or last not in gpus:
            raise UsageError(f"--gpu {entry!r} names GPUs that are not there; there are {gpus[0]}-{gpus[-1]}")
        indices += [index for index in gpus if first <= index <= last]
    return indices


# ------------------------------------------------------------------------------------------------------------ exclude


def _without(topology: Topology, exclude: Sequence[str]) -> Topology:
    """Return `topology` without some devices: they are neither used nor listed, and nothing routes through them."""
    if not exclude:
        return topology
    gone = {_full_name(topology, name) for name in exclude}
    devices = tuple(device for device in topology.devices if device.name not in gone)
    if not devices:
        raise UsageError("--exclude leaves no device; exclude fewer")
    components = tuple(part for part in topology.components if part.name not in gone)
    links = tuple(link for link in topology.links if link.a not in gone and link.b not in gone)
    return replace(topology, devices=devices, components=components, links=links)


def _full_name(topology: Topology, name: str) -> str:
    known = [device.name for device in topology.devices]
    if name in known:
        return name
    ends = [full for full in known if full.endswith(f"/{name}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UsageError(f"--exclude {name!r} is ambiguous; write one of {', '.join(ends[:8])}")
    near = closest(name, known) or known[:3]
    raise UsageError(f"--exclude names {name!r}, which is no device; did you mean {' or '.join(near)}?")
