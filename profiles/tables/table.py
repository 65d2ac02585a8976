"""A cost table: measured series with what they were measured on."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from gpuplan.profiles.model import ModelProfile
from gpuplan.profiles.tables.series import Series, smoothing_note
from gpuplan.topology.graph import Device

#: Dtypes that tables do not tell apart: two bytes, one and the same peak.
_TWO_BYTES = ("bf16", "fp16")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What must agree for times of one model to be those of another.

    `experts` is 0 for dense models; `dtype` and `kv_dtype` are names, with bf16 and fp16 the same.
    """

    hidden_size: int
    heads: int
    kv_heads: int
    ffn_active: int
    experts: int
    dtype: str
    kv_dtype: str

    def matches(self, other: ModelShape) -> bool:
        """Return whether times measured on one hold for the other."""
        return self._key() == other._key()

    def _key(self) -> tuple[object, ...]:
        dtypes = tuple("16-bit" if dtype in _TWO_BYTES else dtype for dtype in (self.dtype, self.kv_dtype))
        return self.hidden_size, self.heads, self.kv_heads, self.ffn_active, self.experts, dtypes


def model_shape(model: ModelProfile) -> ModelShape:
    """Return the shape of a model's decoder layers (the largest, where they differ)."""
    operators = [operator for layer in model.layers for operator in layer.operators]
    return ModelShape(
        hidden_size=model.hidden_size,
        heads=model.num_attention_heads,
        kv_heads=model.num_kv_heads,
        ffn_active=max(layer.ffn_active for layer in model.layers),
        experts=max((operator.experts for operator in operators), default=0),
        dtype=model.dtype,
        kv_dtype=model.kv_dtype,
    )


@functools.cache
def shipped_shape(name: str) -> ModelShape | None:
    """Return the shape of a shipped model, or None when none has that name."""
    from gpuplan.profiles.models_io import list_models, load_model

    return model_shape(load_model(name)) if name in list_models() else None


@dataclass(frozen=True, slots=True, eq=False)
class CostTable:
    """Times measured on one kind of device.

    Parameters
    ----------
    name
        For messages and provenance.
    device_kind
        The kind as ``gpuplan list gpus`` names it.
    series
        The measured functions.
    model
        Name of the model measured; None for tables by shape alone (matrix products, attention by heads).
    shape
        Its shape; None: that of the shipped model of this name.
    tensor_parallel
        Degree t at which the times were taken; they are those of one rank. Kernels by shape alone hold at any.
    dtype
        Dtype of weights and activations of a table by shape.
    power_cap_w
        Cap under which it was measured, or None.
    chunk_tokens
        Most new tokens of one pass: longer prefills were (or are to be) run in chunks of it; None: in one go.
    software, source
        What ran, and a citation.
    notes
        What reading it assumed or changed.
    """

    name: str
    device_kind: str
    series: tuple[Series, ...]
    model: str | None = None
    shape: ModelShape | None = None
    tensor_parallel: int = 1
    dtype: str = "bf16"
    power_cap_w: float | None = None
    chunk_tokens: int | None = None
    software: str = ""
    source: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def citation(self) -> str:
        """One line for a plan's provenance."""
        parts = [self.name, f"measured on {self.device_kind}"]
        if self.tensor_parallel > 1:
            parts.append(f"tensor-parallel {self.tensor_parallel}")
        return ", ".join([*parts, *(text for text in (self.software, self.source) if text)])

    def all_notes(self) -> tuple[str, ...]:
        """Return `notes` and what smoothing changed."""
        return (*self.notes, *(note for note in map(smoothing_note, self.series) if note is not None))

    def refusal(self, model: ModelProfile, device: Device, tensor_parallel: int) -> str | None:
        """Return why the table does not hold for a model on a device, or None when it does."""
        if device.kind.name != self.device_kind:
            return f"was measured on {self.device_kind}"
        if tensor_parallel != self.tensor_parallel and not self._by_shape_alone():
            return f"was measured at tensor-parallel {self.tensor_parallel}, not {tensor_parallel}"
        if _effective_cap(device) != self.power_cap_w:
            under = "without a power cap" if self.power_cap_w is None else f"at {self.power_cap_w:g} W"
            return f"was measured {under}"
        return self._other_model(model)

    def _by_shape_alone(self) -> bool:
        """Return whether all of it is kernels by shape: those of one rank are looked up at the rank's own shape."""
        shaped = (("heads" in series.axes) or {"n", "k"} <= set(series.axes) for series in self.series)
        return self.model is None and self.tensor_parallel == 1 and all(shaped)

    def _other_model(self, model: ModelProfile) -> str | None:
        if self.model is None:
            alike = self.dtype == model.dtype or {self.dtype, model.dtype} <= set(_TWO_BYTES)
            return None if alike else f"was measured in {self.dtype}, not {model.dtype}"
        shape = self.shape or shipped_shape(self.model)
        own = model_shape(model)
        if shape is None:
            return None if self.model == model.name else f"was measured on {self.model}"
        if shape.matches(own):
            return None
        return f"was measured on {self.model}" if self.model != model.name else f"was measured with {shape}, not {own}"


def _effective_cap(device: Device) -> float | None:
    cap = device.power_cap_w
    return None if cap is None or cap >= device.kind.power_w else cap
