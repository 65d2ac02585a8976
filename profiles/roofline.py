"""Analytic costs: a roofline per operator, summed over a layer.

For every operator::

    t = overhead_s/φ + max( flops / (peak[dtype]·η_f·φ),  bytes / (bandwidth·η_b) )

with flops and bytes as `gpuplan.profiles.model.Operator` defines them in a pass of

* prefill: N = b·s tokens (b for ``tokens="last"``), P = b·Σ_{i=1..s} min(i, w) pairs, Q = b·min(s, w) positions;
* decode at the mean context c = s + o/2: N = b, P = Q = b·min(c, w), with an operator's own FLOPs per pair for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles.costs import LayerTimes, Origin
from gpuplan.profiles.efficiency import Efficiency, shipped_efficiency
from gpuplan.profiles.model import ModelProfile, Operator
from gpuplan.profiles.rates import DeviceRates, device_rates
from gpuplan.profiles.workload import Workload
from gpuplan.topology.graph import Device

FloatArray = NDArray[np.float64]
_ORIGIN: Origin = "analytic"


@dataclass(frozen=True, slots=True)
class AnalyticCosts:
    """Times from data sheets: the hierarchical roofline, with efficiency factors per device family.

    Parameters
    ----------
    efficiency
        η_f, η_b, the overhead of an operator and the power rule; by default those shipped with gpuplan.

    Notes
    -----
    Complexity: O(operators) NumPy work a device; layers that share their operators are computed once.
    """

    efficiency: Efficiency = field(default_factory=shipped_efficiency)

    @property
    def sources(self) -> tuple[str, ...]:
        """Citations carried into a plan's provenance."""
        return self.efficiency.sources

    def layer_times(
        self, model: ModelProfile, device: Device, workload: Workload, *, tensor_parallel: int = 1
    ) -> LayerTimes:
        """Return the times of all layers of `model` on `device` (collectives not included).

        Raises
        ------
        InputError
            The device's data sheet lacks a number the model needs, or an operator holds no number.
        UsageError
            `tensor_parallel` is not a whole number of at least 1.
        """
        if isinstance(tensor_parallel, bool) or tensor_parallel < 1:
            raise UsageError(f"expected a tensor-parallel degree of at least 1, got {tensor_parallel!r}")
        rates = device_rates(model, device, self.efficiency)
        pieces = _Pieces.of(model)
        return LayerTimes(
            prefill_s=pieces.layer_seconds(_prefill(pieces, workload), rates, tensor_parallel),
            decode_s=pieces.layer_seconds(_decode(pieces, workload), rates, tensor_parallel),
            origin=tuple(_ORIGIN for _ in model.layers),
        )

    def to_inputs(
        self,
        model: ModelProfile,
        devices: tuple[Device, ...],
        workload: Workload | None = None,
        *,
        tensor_parallel: int = 1,
    ) -> dict[str, Any]:
        """Return the resolved coefficients of every device: with the formula above, all that its times need."""
        rates: dict[tuple[int, float | None], dict[str, Any]] = {}  # thousands of devices are of few kinds
        for device in devices:
            key = id(device.kind), device.power_cap_w
            if key not in rates:
                rates[key] = _plain(device_rates(model, device, self.efficiency))
        return {
            "source": "analytic",
            "devices": {device.name: dict(rates[id(device.kind), device.power_cap_w]) for device in devices},
            "sources": list(self.sources),
        }


def _plain(rates: DeviceRates) -> dict[str, Any]:
    return asdict(rates) | {"peak_flops_per_s": dict(rates.peak_flops_per_s)}


@dataclass(frozen=True, slots=True)
class _Pass:
    """Tokens N, query-key pairs P, FLOPs a pair, cached positions Q of every operator in a pass; shape (operators,)."""

    tokens: FloatArray
    pairs: FloatArray
    flops_per_pair: FloatArray
    positions: FloatArray


def _prefill(pieces: _Pieces, workload: Workload) -> _Pass:
    b, s = workload.batch, workload.prompt_tokens
    seen = np.minimum(float(s), pieces.window)
    # Σ_{i=1..s} min(i, w): a triangle up to the window, then full windows.
    pairs = b * (seen * (seen + 1.0) / 2.0 + (s - seen) * seen)
    return _Pass(np.where(pieces.last, float(b), float(b) * s), pairs, pieces.flops_per_pair, b * seen)


def _decode(pieces: _Pieces, workload: Workload) -> _Pass:
    seen = workload.batch * np.minimum(workload.mean_context, pieces.window)
    return _Pass(np.full(len(seen), float(workload.batch)), seen, pieces.decode_flops_per_pair, seen)


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The distinct operator sets of a model as columns; one row an operator.

    set_of_row, set_of_layer
        Which operator set a row and a layer belong to.
    window
        inf for full attention.
    log_missed
        log(1 − k/E), so that a share ``1 − exp(N·log_missed)`` of the weights is read; −inf (all) when dense.
    """

    set_of_row: NDArray[np.intp]
    set_of_layer: NDArray[np.intp]
    num_sets: int
    dtypes: tuple[str, ...]
    flops_per_token: FloatArray
    flops_per_pair: FloatArray
    decode_flops_per_pair: FloatArray
    weight_bytes: FloatArray
    bytes_per_token: FloatArray
    bytes_per_position: FloatArray
    window: FloatArray
    log_missed: FloatArray
    last: NDArray[np.bool_]
    sharded: NDArray[np.bool_]

    @classmethod
    def of(cls, model: ModelProfile) -> _Pieces:
        """Return the columns of `model`; layers holding one and the same tuple of operators share its rows."""
        numbers: dict[int, int] = {}
        sets: list[tuple[Operator, ...]] = []
        for layer in model.layers:
            if id(layer.operators) not in numbers:
                numbers[id(layer.operators)] = len(sets)
                sets.append(layer.operators)
        rows = [operator for operators in sets for operator in operators]
        return cls(
            set_of_row=np.repeat(np.arange(len(sets)), [len(operators) for operators in sets]),
            set_of_layer=np.array([numbers[id(layer.operators)] for layer in model.layers], dtype=np.intp),
            num_sets=len(sets),
            dtypes=tuple(operator.dtype for operator in rows),
            decode_flops_per_pair=np.array([_decode_flops_per_pair(row) for row in rows], dtype=np.float64),
            window=np.array([np.inf if row.window is None else row.window for row in rows]),
            log_missed=np.array([_log_missed(row) for row in rows]),
            last=np.array([row.tokens == "last" for row in rows], dtype=bool),
            sharded=np.array([row.sharded for row in rows], dtype=bool),
            **{name: np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in _COLUMNS},
        )

    def layer_seconds(self, work: _Pass, rates: DeviceRates, tensor_parallel: int) -> FloatArray:
        """Return the seconds of every layer; shape (n,)."""
        flops = self.flops_per_token * work.tokens + work.flops_per_pair * work.pairs
        touched = -np.expm1(work.tokens * self.log_missed)
        moved = (
            self.weight_bytes * touched + self.bytes_per_token * work.tokens + self.bytes_per_position * work.positions
        )
        share = np.where(self.sharded, float(tensor_parallel), 1.0)
        seconds = rates.overhead_s / rates.clock_factor + np.maximum(
            flops / share / _compute_rates(self.dtypes, rates),
            moved / share / (rates.memory_bandwidth_bytes_per_s * rates.memory_efficiency),
        )
        if not (np.isfinite(seconds).all() and (seconds >= 0.0).all()):
            raise InputError("expected finite FLOPs and bytes of at least 0 for every operator of the model profile")
        sums = np.bincount(self.set_of_row, weights=seconds, minlength=self.num_sets)
        return np.asarray(sums[self.set_of_layer], dtype=np.float64)


_COLUMNS = ("flops_per_token", "flops_per_pair", "weight_bytes", "bytes_per_token", "bytes_per_position")


def _decode_flops_per_pair(operator: Operator) -> float:
    own = operator.decode_flops_per_pair
    return operator.flops_per_pair if own is None else own


def _log_missed(operator: Operator) -> float:
    if operator.experts <= 0 or operator.experts_per_token >= operator.experts:
        return -np.inf
    return float(np.log1p(-operator.experts_per_token / operator.experts))


def _compute_rates(dtypes: tuple[str, ...], rates: DeviceRates) -> FloatArray:
    scale = rates.compute_efficiency * rates.clock_factor
    speeds: Mapping[str, float] = {dtype: peak * scale for dtype, peak in rates.peak_flops_per_s.items()}
    return np.array([speeds[dtype] for dtype in dtypes])
