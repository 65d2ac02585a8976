"""The rates one device computes at: peaks by dtype with their fallbacks, bandwidth, efficiency, clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gpuplan.errors import InputError
from gpuplan.profiles.efficiency import Efficiency
from gpuplan.profiles.model import ModelProfile
from gpuplan.topology.graph import Device, DeviceKind

# A float dtype the device has no tensor peak for runs at the next wider one it has.
_WIDER = {
    "bf16": ("bf16", "fp16", "fp32"),
    "fp16": ("fp16", "bf16", "fp32"),
    "fp32": ("fp32",),
}


@dataclass(frozen=True, slots=True)
class DeviceRates:
    """What the roofline of one device reads.

    peak_flops_per_s
        Peak by operator dtype, fallbacks resolved, FLOP/s.
    memory_bandwidth_bytes_per_s
        Data-sheet peak, bytes/s.
    compute_efficiency, memory_efficiency, overhead_s
        η_f, η_b and seconds per operator.
    clock_factor
        φ of the power cap; scales compute and overhead, not the memory.
    """

    peak_flops_per_s: Mapping[str, float]
    memory_bandwidth_bytes_per_s: float
    compute_efficiency: float
    memory_efficiency: float
    overhead_s: float
    clock_factor: float


def device_rates(model: ModelProfile, device: Device, efficiency: Efficiency) -> DeviceRates:
    """Return the rates of `device` for every operator dtype of `model`.

    Raises
    ------
    InputError
        A peak or the bandwidth the model needs is missing, zero, negative or not finite.
    """
    kind = device.kind
    factors = efficiency.factors(kind)
    dtypes = dict.fromkeys(operator.dtype for layer in model.layers for operator in layer.operators)
    return DeviceRates(
        peak_flops_per_s={dtype: peak_flops_per_s(kind, dtype, model.activation_dtype) for dtype in dtypes},
        memory_bandwidth_bytes_per_s=_positive(kind, "memory bandwidth", kind.memory_bandwidth_bytes_per_s),
        compute_efficiency=factors.compute_efficiency,
        memory_efficiency=factors.memory_efficiency,
        overhead_s=factors.overhead_s,
        clock_factor=efficiency.power.clock_factor(device.power_cap_w, kind.power_w),
    )


def peak_flops_per_s(kind: DeviceKind, dtype: str, activation_dtype: str) -> float:
    """Return the peak an operator of `dtype` runs at on `kind`.

    Its own peak; else for bf16 that of fp16, then fp32 (for fp16: bf16, then fp32); else for a quantised dtype
    (fp8, int8, int4, mxfp4), whose weights are then widened on the fly, the activation dtype's.
    """
    candidates = (dtype, *_WIDER.get(dtype, _WIDER.get(activation_dtype, (activation_dtype,))))
    for candidate in candidates:
        if candidate in kind.flops_per_s:
            return _positive(kind, f"{candidate} peak", kind.flops_per_s[candidate])
    tried = ", ".join(dict.fromkeys(candidates))
    raise InputError(
        f"expected a peak FLOP/s of GPU kind {kind.name!r} for one of {tried}, got none; add it to the kind",
        source=kind.source or None,
    )


def _positive(kind: DeviceKind, what: str, value: float) -> float:
    if isinstance(value, bool) or not (math.isfinite(value) and value > 0.0):
        raise InputError(
            f"expected the {what} of GPU kind {kind.name!r} above 0, got {value!r}; mend the kind's data sheet",
            source=kind.source or None,
        )
    return float(value)
