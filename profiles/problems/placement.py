"""The placement problem as plain numbers: what every placement solver reads (`gpuplan/placement-problem/1`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import InputError
from gpuplan.profiles.problems.hops import FloatArray, Hops, HopTable, UnitHops, check_hops, hop_table

__all__ = [
    "DensePlacement",
    "FloatArray",
    "HopTable",
    "Hops",
    "Objective",
    "ObjectiveName",
    "Timing",
    "UnitHops",
    "hop_table",
]

ObjectiveName = Literal["latency", "bottleneck", "efficiency", "balanced", "cost", "kv-capacity"]


@dataclass(frozen=True, slots=True)
class Objective:
    """What to minimise; the weights matter to ``balanced`` only."""

    name: ObjectiveName = "latency"
    latency_weight: float = 10.0
    devices_weight: float = 1.0


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
    hop: Hops
    boundary_bytes: FloatArray
    return_hop: Hops | None = None
    return_bytes: float = 0.0


def _expect(name: str, values: NDArray[Any], shape: tuple[int, ...], *, holes: float | None = None) -> None:
    """Refuse another shape, and values that are neither finite numbers of at least 0 nor `holes` (NaN or inf)."""
    if values.shape != shape:
        raise InputError(f"expected {name} of shape {shape}, got {values.shape}")
    if _plainly_good(values, holes):
        return
    good = np.isfinite(values) & (values >= 0.0)
    if holes is not None:
        good |= np.isnan(values) if np.isnan(holes) else np.isposinf(values)
    if not good.all():
        raise InputError(f"expected finite numbers of at least 0 in {name}, got {float(values[~good].flat[0])!r}")


def _plainly_good(values: NDArray[Any], holes: float | None) -> bool:
    """Return whether a look at the extremes suffices: at least 0, no NaN, inf only where it is a hole."""
    if not values.size or not values.min() >= 0.0:  # a NaN is the least of its array
        return False
    return bool(values.max() < np.inf) or (holes is not None and bool(np.isposinf(holes)))


def _expect_timing(name: str, timing: Timing, D: int, n: int) -> None:
    _expect(f"{name}.compute_s", timing.compute_s, (D, n))
    _expect(f"{name}.boundary_bytes", timing.boundary_bytes, (n,))
    _expect(f"{name}.return_bytes", np.asarray(timing.return_bytes), ())
    hops = {"hop": timing.hop} | ({} if timing.return_hop is None else {"return_hop": timing.return_hop})
    for part, table in hops.items():
        if table.home.shape != (D,):
            raise InputError(f"expected {name}.{part}.home of shape {(D,)}, got {table.home.shape}")
        columns = table.unit_latency_s, table.unit_s_per_byte
        units = D if isinstance(table, HopTable) else len(columns[0])
        if all(values.shape == (units, units) and _plainly_good(values, np.inf) for values in columns):
            continue
        for column, (values, shape) in check_hops(table, D).items():
            _expect(f"{name}.{part}.{column}", values, shape, holes=np.inf)


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

    def __post_init__(self) -> None:
        D, n = self.num_devices, self.num_layers
        _expect("available_bytes", self.available_bytes, (D,))
        _expect("price_per_hour", self.price_per_hour, (D,), holes=np.nan)
        for name in ("memory_bytes", "kv_bytes_per_token"):
            _expect(name, getattr(self, name), (n,))
        _expect_timing("latency", self.latency, D, n)
        if self.cycle is not self.latency:
            _expect_timing("cycle", self.cycle, D, n)
        for name in ("tokens_per_micro_batch", "fixed_bytes", "single_stage_saving_bytes"):
            _expect(name, np.asarray(getattr(self, name)), ())
        if self.must_hold is not None and self.must_hold.shape != (n,):
            raise InputError(f"expected must_hold of shape {(n,)}, got {self.must_hold.shape}")
        if len(set(self.device_names)) != D:
            raise InputError("expected distinct device names, got one twice")

    @property
    def num_devices(self) -> int:
        """Number of devices D."""
        return len(self.device_names)

    @property
    def num_layers(self) -> int:
        """Number of layers n."""
        return len(self.layer_names)
