"""What a config's ``quantization_config`` says about weight bytes.

Read are fp8 (DeepSeek's and FBGEMM's), GPTQ, AWQ, bitsandbytes, MXFP4 and compressed-tensors.
Scales (and zero points) are counted where the section gives the size of their blocks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from gpuplan.errors import InputError
from gpuplan.profiles.architectures.fields import ConfigFields, describe

_MEND = "give the dtype of the weights with --dtype instead"
_IGNORE_LISTS = ("modules_to_not_convert", "ignore", "ignored_layers", "llm_int8_skip_modules", "exclude_modules")


@dataclass(frozen=True, slots=True)
class Scales:
    """Scales stored with a quantised matrix: `block_bytes` for every block of `rows` outputs × `columns` inputs.

    ``columns = 0`` means the whole row of inputs.
    """

    rows: int
    columns: int
    block_bytes: float

    def bytes_for(self, inputs: int, outputs: int) -> float:
        """Return the bytes of the scales of an outputs×inputs matrix."""
        across = 1 if self.columns == 0 else math.ceil(inputs / self.columns)
        return math.ceil(outputs / self.rows) * across * self.block_bytes


@dataclass(frozen=True, slots=True)
class Quantization:
    """Dtype of the linear weights, their scales, and which modules are left out."""

    dtype: str
    scales: Scales | None = None
    kept: re.Pattern[str] | None = None


def read_quantization(section: ConfigFields, *, lenient: bool = False) -> Quantization | None:
    """Return what a ``quantization_config`` says, or None when it leaves the weights as they are.

    `lenient` returns None for a method that is not known: the caller has a dtype of its own.
    """
    try:
        found = _read_method(section)
    except InputError:
        if lenient:
            return None
        raise
    if found is None:
        return None
    names = [name for field in _IGNORE_LISTS for name in section.strings(field)]
    return Quantization(found[0], found[1], _pattern(names))


def _read_method(section: ConfigFields) -> tuple[str, Scales | None] | None:
    method = (section.text("quant_method") or "").lower().replace("_", "-")
    if method in ("fp8", "fbgemm-fp8"):
        return "fp8", _fp8_scales(section)
    if method in ("gptq", "awq", "auto-round"):
        return _grouped(section)
    if method == "mxfp4":
        return "mxfp4", None  # its shared scales are part of the dtype's 4.25 bits
    if method in ("bitsandbytes", "") and ("load_in_4bit" in section.config or "load_in_8bit" in section.config):
        return _bitsandbytes(section)
    if method == "compressed-tensors":
        return _compressed_tensors(section)
    if method == "modelopt" and (section.text("quant_algo") or "").upper() == "FP8":
        return "fp8", None
    raise section.error(
        "expected one of fp8, fbgemm_fp8, gptq, awq, auto-round, bitsandbytes, mxfp4, compressed-tensors, "
        f"got {describe(section.config.get('quant_method'))}; {_MEND}",
        "quant_method",
    )


def _fp8_scales(section: ConfigFields) -> Scales | None:
    """Return one fp32 scale a block (DeepSeek: 128×128), or None: one scale a matrix weighs nothing."""
    block = section.integers("weight_block_size")
    if not block:
        return None
    if len(block) != 2 or 0 in block:
        raise section.error("expected two whole numbers of at least 1; correct the config", "weight_block_size")
    return Scales(block[0], block[1], 4.0)


def _grouped(section: ConfigFields) -> tuple[str, Scales]:
    """GPTQ and AWQ: a fp16 scale and a packed zero point for every group of inputs."""
    bits = section.integer("bits", "w_bit")
    group = _group_size(section, "group_size" if "group_size" in section.config else "q_group_size")
    return _integer_dtype(section, bits, "bits"), Scales(1, group, 2 + bits / 8)


def _bitsandbytes(section: ConfigFields) -> tuple[str, Scales] | None:
    """4 bit: a scale per 64 weights (fp32, or 8 bit and an fp32 per 256 of them); 8 bit: an fp32 scale a row."""
    if section.boolean("load_in_4bit", False):
        double = section.boolean("bnb_4bit_use_double_quant", False)
        return "int4", Scales(1, 64, 1 + 4 / 256 if double else 4.0)
    if section.boolean("load_in_8bit", False):
        return "int8", Scales(1, 0, 4.0)
    return None


def _compressed_tensors(section: ConfigFields) -> tuple[str, Scales | None] | None:
    groups = section.section("config_groups")
    weights = [] if groups is None else [_group_weights(groups, name) for name in groups.config]
    found = [_compressed_weights(fields) for fields in weights if fields is not None]
    if not found:
        return None
    if any(other != found[0] for other in found):
        raise section.error(f"expected one format for all weights, got several; {_MEND}", "config_groups")
    return found[0]


def _group_weights(groups: ConfigFields, name: str) -> ConfigFields | None:
    group = groups.section(name)
    return None if group is None else group.section("weights")


def _compressed_weights(weights: ConfigFields) -> tuple[str, Scales | None]:
    bits = weights.integer("num_bits")
    kind = weights.text("type") or "int"
    if kind == "float":
        if bits != 8:
            raise weights.error(f"expected 8 bits for float weights, got {bits}; {_MEND}", "num_bits")
        dtype = "fp8"
    else:
        dtype = _integer_dtype(weights, bits, "num_bits")
    group = _group_size(weights, "group_size")
    strategy = weights.text("strategy")
    if group == 0 and strategy not in ("channel", "group"):
        return dtype, None
    return dtype, Scales(1, group, 2.0 if weights.boolean("symmetric", True) else 2 + bits / 8)


def _integer_dtype(section: ConfigFields, bits: int, name: str) -> str:
    if bits not in (4, 8):
        raise section.error(f"expected 4 or 8 bits, got {bits}; {_MEND}", name)
    return f"int{bits}"


def _group_size(section: ConfigFields, name: str) -> int:
    """Return inputs per group; 0 for the whole row (written -1, or left out)."""
    if section.config.get(name) == -1:
        return 0
    return section.optional_integer(name, minimum=0) or 0


def _pattern(names: Iterable[str]) -> re.Pattern[str] | None:
    """Return a pattern that finds the listed modules (or whole parts of their dotted names) in a module's name.

    Entries are names, globs, or regular expressions marked ``re:`` (compressed-tensors).
    """
    parts = []
    for name in names:
        if name.startswith("re:"):
            parts.append(f"^(?:{name[3:]})")
        else:
            glob = re.escape(name).replace(r"\*", ".*")
            parts.append(rf"(?:^|\.){glob}(?:\.|$)")
    return re.compile("|".join(parts)) if parts else None
