"""What a file does not say of its GPUs and a person tells: kinds by ``--gpu``, kinds and memory by ``--gpu-info``."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from gpuplan.errors import UsageError
from gpuplan.topology.catalog import Catalog
from gpuplan.topology.graph import Device, DeviceKind
from gpuplan.topology.readers.gpu_info import GpuInfo, read_gpu_info

_RANGE: Final = re.compile(r"^([0-9]{1,6})(?:-([0-9]{1,6}))?$")


@dataclass(slots=True)
class Told:
    """Options that say what GPUs are, and what is to be remarked about them.

    Parameters
    ----------
    gpu
        ``"KIND"`` for all, ``"0-1=KIND"`` or ``"0,2=KIND"`` for some.
    gpu_info
        CSV of ``nvidia-smi --query-gpu=…``.
    memory_fraction
        Share of a GPU's memory that a plan may use where nothing says how much.
    catalog
        Where kinds come from.
    label
        Name of the file that is read, for messages.
    """

    gpu: Sequence[str]
    gpu_info: str | Path | None
    memory_fraction: float
    catalog: Catalog
    label: str
    notes: list[str] = field(default_factory=list)

    def devices(
        self,
        indices: Sequence[int],
        *,
        models: Mapping[int, str | None] | None = None,
        architectures: Mapping[int, str] | None = None,
        families: Mapping[str, Collection[str]] | None = None,
    ) -> Callable[[str, int], Device]:
        """Return what gives the device of a host and a GPU index.

        Parameters
        ----------
        indices
            GPU indices of a host, ascending; of the largest host where there are several.
        models
            Model names by GPU index, where the file has them.
        architectures, families
            What the file hints of a GPU's architecture (``sm 90``), and the GPU families each hint fits; used to check.

        Raises
        ------
        UsageError
            A GPU that neither the options nor the file name, or options for GPUs that are not there.
        """
        info = {} if self.gpu_info is None else read_gpu_info(self.gpu_info, self.catalog)
        extra = sorted(set(info) - set(indices))
        if extra:
            raise UsageError(f"--gpu-info describes GPU {extra[0]}, which {self.label} does not have")
        named = gpu_kinds(self.gpu, indices, self.catalog)
        found = self._found(models or {}, set(named) | set(info))
        self._require(indices, {**found, **named}, info, architectures or {}, families or {})
        for index, kind in named.items():
            if index in found and found[index].name != kind.name:
                self.notes.append(
                    f"GPU{index} is taken as {kind.name} (--gpu), although the file calls it {found[index].name}"
                )
        kinds = {**found, **named}
        self._check_architectures(kinds, info, architectures or {}, families or {})
        made = {index: self._device(index, kinds.get(index), info.get(index)) for index in indices}

        def device_of(host: str, index: int) -> Device:
            return replace(made[index], name=f"{host}/gpu{index}", host=host)

        return device_of

    def _found(self, models: Mapping[int, str | None], told: Collection[int]) -> dict[int, DeviceKind]:
        """Return the kinds the file itself names; an unknown model is an error only where nothing is told."""
        kinds: dict[int, DeviceKind] = {}
        for index, model in models.items():
            if not model:
                continue
            try:
                kinds[index] = self.catalog.kind(model)
            except UsageError:
                if index not in told:
                    message = (
                        f"{self.label} calls GPU {index} {model[:60]!r}, which the catalogue does not have; name a kind"
                        f" with --gpu {index}=KIND"
                    )
                    raise UsageError(message) from None
        return kinds

    def _require(
        self,
        indices: Sequence[int],
        kinds: Mapping[int, DeviceKind],
        info: Mapping[int, GpuInfo],
        architectures: Mapping[int, str],
        families: Mapping[str, Collection[str]],
    ) -> None:
        missing = [index for index in indices if index not in kinds and index not in info]
        if not missing:
            return
        which = f"GPU{missing[0]} is" if len(missing) < len(indices) else "its GPUs are"
        hint = architectures.get(missing[0], "")
        fitting = [kind.name for kind in self.catalog.kinds.values() if kind.family in families.get(hint, ())]
        likely = f" ({hint}: {', '.join(fitting[:4])}{', …' if len(fitting) > 4 else ''})" if fitting else ""
        message = (
            f"{self.label} does not say what {which}{likely}; name the kind with --gpu KIND (or --gpu 0-1=KIND),"
            " or give --gpu-info FILE"
        )
        raise UsageError(message)

    def _check_architectures(
        self,
        kinds: Mapping[int, DeviceKind],
        info: Mapping[int, GpuInfo],
        architectures: Mapping[int, str],
        families: Mapping[str, Collection[str]],
    ) -> None:
        seen: set[tuple[str, str]] = set()
        for index, hint in architectures.items():
            kind = kinds.get(index) or (info[index].kind if index in info else None)
            if kind is None or (kind.name, hint) in seen or kind.family in families.get(hint, (kind.family,)):
                continue
            seen.add((kind.name, hint))
            self.notes.append(
                f"GPU{index} has {hint} by the file, which is {' or '.join(sorted(families[hint]))}, and a {kind.name}"
                f" is {kind.family}; check the GPU kind"
            )

    def _device(self, index: int, kind: DeviceKind | None, info: GpuInfo | None) -> Device:
        if info is None:
            assert kind is not None  # checked by the caller, which names the option
            available = int(kind.memory_bytes * self.memory_fraction)
            return Device(f"gpu{index}", "", index, kind, available, None, kind.price_per_hour)
        chosen = kind or info.kind
        if kind is not None and kind.name != info.kind.name:
            message = f"GPU{index} is taken as {kind.name} (--gpu), although --gpu-info calls it {info.kind.name}"
            self.notes.append(message)
        if abs(info.total_bytes - chosen.memory_bytes) > 0.05 * chosen.memory_bytes:
            self.notes.append(
                f"GPU{index} has {info.total_bytes} bytes of memory by --gpu-info, a {chosen.name}"
                f" {chosen.memory_bytes}"
            )
        return Device(
            f"gpu{index}", "", index, chosen, info.available_bytes(self.memory_fraction),
            replace(info, kind=chosen).power_cap_w(), chosen.price_per_hour,
        )  # fmt: skip


def gpu_kinds(entries: Sequence[str], gpus: Sequence[int], catalog: Catalog) -> dict[int, DeviceKind]:
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
        for index in indices_of(which, entry, gpus):
            if index in kinds:
                raise UsageError(f"--gpu names GPU {index} twice; name it once")
            kinds[index] = kind
    return kinds if common is None else {index: kinds.get(index, common) for index in gpus}


def indices_of(which: str, entry: str, gpus: Sequence[int] | None) -> list[int]:
    """Return the GPU indices that ``0-1`` or ``0,2`` names, of those there are (None: of any)."""
    indices: list[int] = []
    for part in which.split(","):
        match = _RANGE.match(part.strip())
        if match is None:
            raise UsageError(f"expected --gpu KIND or --gpu 0-1=KIND, got {entry!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"expected a range such as 0-1, got {part.strip()!r} in --gpu {entry!r}")
        if gpus is None:
            if last >= 1024:
                raise UsageError(f"expected GPU indices below 1024, got {part.strip()!r} in --gpu {entry!r}")
            indices += range(first, last + 1)
            continue
        if first not in gpus or last not in gpus:
            raise UsageError(f"--gpu {entry!r} names GPUs that are not there; there are {gpus[0]}-{gpus[-1]}")
        indices += [index for index in gpus if first <= index <= last]
    return indices
