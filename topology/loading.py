"""Loading a cluster: a shipped name or a file in any known format, with the facts its text lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpuplan.errors import InputError, UsageError
from gpuplan.topology.catalog import load_catalog
from gpuplan.topology.documents import read_text
from gpuplan.topology.graph import Topology
from gpuplan.topology.naming import closest
from gpuplan.topology.readers.native import read_native
from gpuplan.topology.readers.read import Reading, find_source, read_content
from gpuplan.topology.replicate import replicate


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
        Copies of a one-host source, and the link kind that joins them (also what the wires of a Slurm file carry).

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
    path, shipped = find_source(source, shelf)
    try:
        options = Reading(shelf, gpu, gpu_info, memory_fraction, fabric)
        topology, form = read_content(read_text(path), path, options)
    except InputError as error:
        raise error.at(str(path)) from None
    name = f"shipped cluster {path.stem}" if shipped else path.name
    topology = replace(topology, source=topology.source or name)
    topology = _without(topology, exclude)
    if form == "slurm" and hosts != 1:
        raise UsageError("a Slurm file names its hosts; leave the number of hosts out")
    if form != "slurm" and (hosts != 1 or fabric is not None):
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
