"""Which dtype each part of a model has.

`dtype` is the dtype of the decoder layers' linear weight matrices. Embedding, norms, biases, routers, LM head,
activations and boundaries stay in the config's dtype, the KV cache too unless it is given one of its own.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from gpuplan.errors import UsageError
from gpuplan.profiles.architectures.fields import ConfigFields, describe
from gpuplan.profiles.architectures.quantization import Quantization, Scales, read_quantization
from gpuplan.units import DTYPE_BYTES

_CONFIG_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}


@dataclass(frozen=True, slots=True)
class Precision:
    """Dtypes of a model.

    Parameters
    ----------
    weight
        Of the decoder layers' linear weights.
    activation
        Of activations, boundaries and all other weights.
    kv
        Of the KV cache.
    scales
        Quantisation scales stored beside each weight matrix, or None.
    kept
        Matches module names whose weights the quantisation leaves in the activation dtype, or None.
    """

    weight: str
    activation: str
    kv: str
    scales: Scales | None = None
    kept: re.Pattern[str] | None = None

    @property
    def activation_bytes(self) -> float:
        """Bytes of one activation element."""
        return DTYPE_BYTES[self.activation]

    @property
    def kv_bytes(self) -> float:
        """Bytes of one KV cache element."""
        return DTYPE_BYTES[self.kv]

    def weight_dtype(self, module: str) -> str:
        """Return the dtype of the linear weights of `module`."""
        return self.activation if self.kept is not None and self.kept.search(module) else self.weight

    def compute_dtype(self, weight_dtype: str) -> str:
        """Return the dtype whose compute peak applies: fp8 weights use fp8 units, all others the activation's."""
        return "fp8" if weight_dtype == "fp8" else self.activation

    def matrix_bytes(self, module: str, inputs: int, outputs: int) -> float:
        """Return the bytes of an outputs×inputs weight matrix, its quantisation scales included."""
        dtype = self.weight_dtype(module)
        size = inputs * outputs * DTYPE_BYTES[dtype]
        if self.scales is not None and dtype == self.weight:
            size += self.scales.bytes_for(inputs, outputs)
        return size


def known_dtype(name: str, option: str) -> str:
    """Return `name` when it is a dtype of this project, else raise `UsageError`."""
    if name not in DTYPE_BYTES:
        raise UsageError(f"expected {option} to be one of {', '.join(DTYPE_BYTES)}, got {name!r}")
    return name


def read_precision(
    fields: ConfigFields, outer: ConfigFields, *, dtype: str | None = None, kv_dtype: str | None = None
) -> Precision:
    """Return the dtypes a config and the two options ask for.

    Parameters
    ----------
    fields, outer
        The config of the language model, and the whole file's (the same unless there is a ``text_config``).
    dtype, kv_dtype
        ``--dtype`` and ``--kv-dtype``; None takes them from the config.

    Notes
    -----
    A `dtype` other than the config's own describes different weights: the config's scales and exceptions go.
    """
    activation = _config_dtype(fields) or _config_dtype(outer) or "bf16"
    if dtype is not None:
        known_dtype(dtype, "dtype")
    quantization = _read_quantization(fields, outer, dtype)
    kv = activation if kv_dtype is None else known_dtype(kv_dtype, "kv_dtype")
    if quantization is None or (dtype is not None and dtype != quantization.dtype):
        return Precision(dtype or activation, activation, kv)
    return Precision(quantization.dtype, activation, kv, quantization.scales, quantization.kept)


def read_state_bytes(fields: ConfigFields) -> float:
    """Return the bytes of one element of a recurrent state: ``mamba_ssm_dtype``, fp32 where the config names none.

    fp32 is what the runtimes keep by default, whatever the activations are: errors of a state add up.
    """
    return DTYPE_BYTES[_config_dtype(fields, ("mamba_ssm_dtype", "mamba_ssm_cache_dtype")) or "fp32"]


def _config_dtype(fields: ConfigFields, names: tuple[str, ...] = ("torch_dtype", "dtype")) -> str | None:
    for name in names:
        text = fields.text(name)
        if text is None or text == "auto":
            continue
        short = _CONFIG_DTYPES.get(text.removeprefix("torch."), text)
        if short not in ("fp32", "bf16", "fp16"):
            raise fields.error(
                f"expected bfloat16, float16 or float32, got {describe(text)}; the config's dtype is that of the "
                "activations, give quantised weights with --dtype",
                name,
            )
        return short
    return None


def _read_quantization(fields: ConfigFields, outer: ConfigFields, dtype: str | None) -> Quantization | None:
    section = fields.section("quantization_config") or outer.section("quantization_config")
    section = section or outer.section("compression_config")
    return None if section is None else read_quantization(section, lenient=dtype is not None)


def whole_bytes(size: float) -> int:
    """Return bytes rounded up to a whole number (4-bit weights may leave half a byte)."""
    return math.ceil(size)
