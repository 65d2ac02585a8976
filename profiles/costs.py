"""The interface every cost source answers: analytic, measured, fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.model import ModelProfile
from gpuplan.profiles.workload import Workload
from gpuplan.topology.graph import Device

Origin = Literal["measured", "interpolated", "extrapolated", "fitted", "analytic"]


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Times of every layer of a model on one device.

    prefill_s, decode_s
        Seconds to prefill b·s tokens, and of one decode step at the mean context; shape (n,).
    origin
        Where the numbers come from, one tag a layer; length n. A layer of mixed origin has the tag of its part that is
        farthest from a measurement.
    by_origin
        Seconds of every layer (prefill, decode) by tag, adding up to the times; shape (n,) each. None: every layer is
        wholly what its tag says.
    """

    prefill_s: NDArray[np.float64]
    decode_s: NDArray[np.float64]
    origin: tuple[Origin, ...]
    by_origin: Mapping[Origin, tuple[NDArray[np.float64], NDArray[np.float64]]] | None = None


class CostProfile(Protocol):
    """Times per device, layer and workload.

    They depend on the device's kind and power cap alone: devices that share both get the very same numbers, whatever
    their names, so exchangeable devices stay exchangeable and a problem asks once for all of them.
    """

    @property
    def sources(self) -> tuple[str, ...]:
        """Citations carried into a plan's provenance."""
        ...

    def layer_times(
        self, model: ModelProfile, device: Device, workload: Workload, *, tensor_parallel: int = 1
    ) -> LayerTimes:
        """Return the times of all layers of `model` on `device` (collectives not included)."""
        ...

    def to_inputs(
        self,
        model: ModelProfile,
        devices: tuple[Device, ...],
        workload: Workload | None = None,
        *,
        tensor_parallel: int = 1,
    ) -> dict[str, Any]:
        """Return what a plan of `workload` embeds so that its times can be recomputed from the file alone.

        Sources whose coefficients hold for every workload take none. `tensor_parallel` is how many devices share the
        stages of `devices`.
        """
        ...
