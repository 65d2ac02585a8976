"""Two cost sources on the same shapes: how far apart their times are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gpuplan.errors import InputError
from gpuplan.profiles.costs import CostProfile
from gpuplan.profiles.model import ModelProfile
from gpuplan.profiles.workload import Workload
from gpuplan.topology.graph import Device

BATCHES = (1, 4, 16, 64)
LENGTHS = (128, 256, 512, 1024, 2048)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One shape in two sources.

    Parameters
    ----------
    phase
        ``prefill`` of `batch` prompts of `length` tokens, or ``decode`` of `batch` sequences at context `length`.
    first_s, second_s
        Time of the model's decoder layers, s.
    """

    phase: str
    batch: int
    length: int
    first_s: float
    second_s: float

    @property
    def difference(self) -> float:
        """(second − first) / first."""
        return self.second_s / self.first_s - 1.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """All shapes both sources have a time for, and how many one of them lacks."""

    rows: tuple[Comparison, ...]
    missing: int
    reason: str

    def differences(self, phase: str) -> list[float]:
        """Return the relative differences of a phase."""
        return [row.difference for row in self.rows if row.phase == phase]

    def median(self, phase: str) -> float | None:
        """Return the median absolute relative difference of a phase, or None without a shape."""
        values = self.differences(phase)
        return float(np.median(np.abs(values))) if values else None

    def worst(self, phase: str) -> float | None:
        """Return the largest absolute relative difference of a phase."""
        values = self.differences(phase)
        return float(np.max(np.abs(values))) if values else None


def compare_costs(
    first: CostProfile,
    second: CostProfile,
    model: ModelProfile,
    device: Device,
    *,
    batches: Sequence[int] = BATCHES,
    lengths: Sequence[int] = LENGTHS,
    tensor_parallel: int = 1,
) -> Agreement:
    """Return the times of the decoder layers in both sources, over batches and lengths.

    Embedding and head are left out: many sources do not time them. A shape that one source refuses is counted, not
    guessed.
    """
    from dataclasses import replace

    decoders = replace(model, layers=tuple(layer for layer in model.layers if layer.kind == "decoder"))
    rows: list[Comparison] = []
    missing, reason = 0, ""
    for phase, batch, length in _shapes(batches, lengths):
        # At context c = s + o/2 with o = 2; the shortest prompt is one token.
        point = Workload(batch, length, 1) if phase == "prefill" else Workload(batch, max(1, length - 1), 2)
        try:
            pair = [_seconds(costs, phase, decoders, device, point, tensor_parallel) for costs in (first, second)]
        except InputError as error:
            missing, reason = missing + 1, reason or str(error)
            continue
        rows.append(Comparison(phase, batch, length, *pair))
    return Agreement(tuple(rows), missing, reason)


def _shapes(batches: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    for phase in ("prefill", "decode"):
        for batch in batches:
            for length in lengths:
                yield phase, batch, length


def _seconds(
    costs: CostProfile, phase: str, model: ModelProfile, device: Device, point: Workload, tensor_parallel: int
) -> float:
    times = costs.layer_times(model, device, point, tensor_parallel=tensor_parallel)
    return float((times.prefill_s if phase == "prefill" else times.decode_s).sum())
