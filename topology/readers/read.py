"""From a file's content to a topology: the format is detected, and what the file lacks is taken from the options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpuplan.errors import InputError, UsageError
from gpuplan.topology.catalog import Catalog
from gpuplan.topology.documents import parse_document, read_text
from gpuplan.topology.graph import Topology
from gpuplan.topology.hints import architecture_families, product_gpus
from gpuplan.topology.naming import unknown
from gpuplan.topology.readers.detect import Format, detect
from gpuplan.topology.readers.machine import Machine, build_machines
from gpuplan.topology.readers.native import Files, read_native
from gpuplan.topology.readers.nvidia_smi import build_topology, parse_matrix
from gpuplan.topology.readers.slurm import SwitchTree, read_slurm
from gpuplan.topology.replicate import fabric_numbers, join_hosts
from gpuplan.topology.told import Told, indices_of


@dataclass(frozen=True, slots=True)
class Reading:
    """Options that a reading may need; see `gpuplan.topology.load_topology`."""

    catalog: Catalog
    gpu: Sequence[str] = ()
    gpu_info: str | Path | None = None
    memory_fraction: float = 0.9
    fabric: str | None = None


def find_source(source: str | Path, catalog: Catalog, *, folder: Path | None = None) -> tuple[Path, bool]:
    """Return the file that `source` stands for, and whether it is one of the catalogue's clusters.

    Relative paths start at `folder` (the current one by default).
    """
    text = str(source)
    if not isinstance(source, Path) and text in catalog.clusters:
        return catalog.clusters[text], True
    path = Path(text) if folder is None else folder / text
    looks_like_path = bool(path.suffix) or "/" in text or "\\" in text or isinstance(source, Path)
    if "\x00" in text:
        raise UsageError(f"expected a path, got {text!r}")
    if text.strip() and path.is_dir():
        raise InputError("expected a topology file, got a folder", source=text)
    if text.strip() and (path.exists() or looks_like_path):
        return path, False
    raise UsageError(unknown("cluster", text, catalog.clusters))


def read_content(content: str, path: Path, options: Reading) -> tuple[Topology, Format]:
    """Return the topology of a text and the format it is in; `path` names it and is where its files are looked for."""
    form = detect(content)
    if form == "gpuplan":
        _refuse_options(options, path)
        document = parse_document(content, str(path))
        files = _files(path.parent, options)
        topology = read_native(
            document, options.catalog, memory_fraction=options.memory_fraction, default_name=path.stem, files=files
        )
        return topology, form
    told = Told(options.gpu, options.gpu_info, options.memory_fraction, options.catalog, path.name)
    if form == "nvidia-smi":
        matrix = parse_matrix(content)
        topology = build_topology(matrix, told.devices(matrix.gpus), options.catalog, name=path.stem)
    elif form == "nccl":
        topology = _read_nccl(content, told, path.stem)
    elif form == "hwloc":
        topology = _read_hwloc(content, told, path.stem)
    else:
        topology = _read_slurm(content, told, options, path.stem)
    return replace(topology, notes=tuple(dict.fromkeys((*told.notes, *topology.notes)))), form


def _refuse_options(options: Reading, path: Path) -> None:
    for option, given in (("--gpu", bool(options.gpu)), ("--gpu-info", options.gpu_info is not None)):
        if given:
            raise UsageError(f"{option} is for texts that do not name their GPUs; {path.name} does, so leave it out")


# ---------------------------------------------------------------------------------------------------------------- XML


def _read_nccl(content: str, told: Told, name: str) -> Topology:
    from gpuplan.topology.readers.nccl_xml import read_nccl

    machines = read_nccl(content)
    largest = max(machines, key=lambda machine: len(machine.gpus))
    hints = {gpu.index: gpu.architecture for gpu in largest.gpus if gpu.architecture}
    device_of = told.devices(
        [gpu.index for gpu in largest.gpus], architectures=hints, families=architecture_families()
    )  # fmt: skip
    topology = build_machines(machines, device_of, told.catalog, name=name)
    return _remarked(topology, any(machine.bonds for machine in machines))


def _read_hwloc(content: str, told: Told, name: str) -> Topology:
    from gpuplan.topology.readers.hwloc_xml import read_hwloc

    machine, product = read_hwloc(content)
    models = {gpu.index: gpu.model for gpu in machine.gpus}
    if not machine.gpus:
        models = _product_gpus(machine, product)
    topology = build_machines([machine], told.devices(sorted(models), models=models), told.catalog, name=name)
    return _remarked(topology, bool(machine.bonds))


def _product_gpus(machine: Machine, product: str) -> dict[int, str | None]:
    """Add the GPUs that a product is known to have although hwloc shows none; return their kinds by index."""
    from gpuplan.topology.readers.machine import Bridge, Gpu

    known = product_gpus(product)
    if known is None:
        message = "expected at least one GPU, got none; run lstopo --of xml on the GPU host, with its PCI devices"
        raise InputError(message, place="<topology>")
    kind, count = known
    socket = machine.sockets[0] if machine.sockets else Bridge("socket0", socket=True)
    machine.sockets = machine.sockets or [socket]
    machine.gpus = [Gpu(f"{number:04x}", socket) for number in range(count)]
    machine.number_gpus()
    machine.notes.append(f"the file shows no GPU; a {product.replace('_', ' ')} has {count} × {kind}")
    return dict.fromkeys(range(count), kind)


def _remarked(topology: Topology, bonded: bool) -> Topology:
    """Return `topology` with a remark when its GPUs can have NVLink or XGMI and the file shows none."""
    able = sorted({device.kind.name for device in topology.devices if device.kind.nvlink_links})
    if bonded or not able or topology.num_devices < 2:
        return topology
    note = (
        f"the file shows no NVLink or XGMI although {', '.join(able)} can have it; add it in a cluster description"
        " (file: …, nvswitch: …, or links) where the machine has it"
    )
    return replace(topology, notes=(*topology.notes, note))


# -------------------------------------------------------------------------------------------------------------- Slurm


def _read_slurm(content: str, told: Told, options: Reading, name: str) -> Topology:
    """Return hosts alike under the switches of a Slurm file; the options say what a host is and what the wires are."""
    tree = read_slurm(content)
    wanted = [entry for entry in options.gpu if "=" in entry]
    if not wanted or options.fabric is None:
        message = (
            f"{told.label} says how hosts are joined, not what they are; write a cluster description with"
            " 'hosts' and 'fabric: {file: …, kind: …}', or give both --gpu 0-7=KIND and a fabric"
        )
        raise UsageError(message)
    indices = sorted({index for entry in wanted for index in indices_of(entry.rpartition("=")[0], entry, None)})
    if indices != list(range(len(indices))):
        raise UsageError(f"expected --gpu to name the GPUs of a host from 0 on, got {', '.join(map(str, indices))}")
    device_of = told.devices(indices)
    devices = tuple(
        replace(device_of(host, index), rack=tree.rack_of(host)) for host in tree.nodes for index in indices
    )
    numbers = fabric_numbers(told.catalog, options.fabric)
    bare = Topology(name, devices, (), (), "", ("the GPUs of a host are taken to be joined by its NIC alone",))
    return join_hosts(bare, [], [], numbers, told.catalog, tree=tree)


# -------------------------------------------------------------------------------------- files of a cluster description


def _files(folder: Path, options: Reading) -> Files:
    """Return how a cluster description reads the files that it names."""

    def host(name: str, gpu: Sequence[str], gpu_info: str | None) -> Topology:
        path, _ = find_source(name, options.catalog, folder=folder)
        info = None if gpu_info is None else folder / gpu_info
        inner = replace(options, gpu=gpu, gpu_info=info, fabric=None)
        try:
            content = read_text(path)
            if detect(content) == "gpuplan":
                _refuse_options(inner, path)
                # No files of files: a description that named itself would never end.
                return read_native(
                    parse_document(content, str(path)), options.catalog,
                    memory_fraction=options.memory_fraction, default_name=path.stem,
                )  # fmt: skip
            return read_content(content, path, inner)[0]
        except InputError as error:
            raise error.at(str(path)) from None

    def fabric(name: str) -> SwitchTree:
        path = folder / name
        content = read_text(path)
        try:
            if detect(content) != "slurm":
                raise InputError("expected a Slurm topology.conf (SwitchName=… or BlockName=…)")
            return read_slurm(content)
        except InputError as error:
            raise error.at(str(path)) from None

    return Files(host, fabric)
