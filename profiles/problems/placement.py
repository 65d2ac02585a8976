"""The placement problem as plain numbers: what every placement solver reads (`gpuplan/placement-problem/1`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
ObjectiveName = Literal["latency", "bottleneck", "efficiency", "balanced", "cost", "kv-capacity"]


@dataclass(frozen=True, slots=True)
class Objective:
    """What to minimise; the weights matter to ``balanced`` only."""

    name: ObjectiveName = "latency"
    latency_weight: float = 10.0
    devices_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class HopTable:
    """Transfer times between devices: ``latency_s[d, e] + bytes·s_per_byte[d, e]``.

    latency_s, s_per_byte
        Shape (D, D); the diagonal is never read. A pair without a route has latency inf; its seconds per byte are 0
        in tables made by gpuplan, so that the sum is inf for any number of bytes (0 among them).
    """

    latency_s: FloatArray
    s_per_byte: FloatArray


def hop_table(latency_s: FloatArray, s_per_byte: FloatArray) -> HopTable:
    """Return a table whose pairs without a route are inf + 0·bytes, and whose diagonal is 0."""
    closed = ~(np.isfinite(latency_s) & np.isfinite(s_per_byte))
    np.fill_diagonal(closed, False)
    latency, per_byte = np.where(closed, np.inf, latency_s), np.where(closed, 0.0, s_per_byte)
    np.fill_diagonal(latency, 0.0)
    np.fill_diagonal(per_byte, 0.0)
    return HopTable(latency, per_byte)


@dataclass(frozen=True, slots=True)
class Timing:
    """One set of numbers a plan's time is summed (latency) or maximised (bottleneck) over.

    compute_s
        Shape (D, n).
    hop, boundary_bytes
        A cut after layer l costs ``hop.latency_s[d, e] + boundary_bytes[l]·hop.s_per_byte[d, e]``; shape (n,).
    return_hop, return_bytes
        The hop from the last stage to the first, or None when it costs nothing.
    """

    compute_s: FloatArray
    hop: HopTable
    boundary_bytes: FloatArray
    return_hop: HopTable | None = None
    return_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class DensePlacement:
    """D devices, n layers, every number a solver needs.

    Memory of a device holding layers a..b−1: ``fixed_bytes + Σ (memory_bytes + M·tokens_per_micro_batch·
    kv_bytes_per_token)``, less `single_stage_saving_bytes` when it holds all of them;
    it fits when that is at most ``available_bytes·(1 + 1e-12)``.

    Parameters
    ----------
    device_names, layer_names
        Length D and n.
    available_bytes, price_per_hour
        Shape (D,); a missing price is NaN.
    memory_bytes, kv_bytes_per_token
        Shape (n,).
    micro_batches
        M, or ``"stages"`` for as many as the plan has stages.
    latency
        Numbers of the latency (seconds of a whole request).
    cycle
        Numbers of the bottleneck (seconds of one decode step); the same object where they do not differ.
    max_devices
        Most devices a plan may use, or None.
    front
        Ask for the whole front over (latency, bottleneck, devices) instead of one objective.
    must_hold
        Shape (n,), bool, or None: every stage holds at least one marked layer (a runtime's constraint).
    """

    device_names: tuple[str, ...]
    layer_names: tuple[str, ...]
    available_bytes: FloatArray
    price_per_hour: FloatArray
    memory_bytes: FloatArray
    kv_bytes_per_token: FloatArray
    latency: Timing
    cycle: Timing
    tokens_per_micro_batch: float = 0.0
    micro_batches: int | Literal["stages"] = 1
    fixed_bytes: float = 0.0
    single_stage_saving_bytes: float = 0.0
    objective: Objective = Objective()
    max_devices: int | None = None
    front: bool = False
    must_hold: NDArray[np.bool_] | None = None
    name: str = ""

    @property
    def num_devices(self) -> int:
        """Number of devices D."""
        return len(self.device_names)

    @property
    def num_layers(self) -> int:
        """Number of layers n."""
        return len(self.layer_names)
