"""Times of layers, recomputed from the operators and coefficients a plan embeds.

For every operator of a layer::

    t = overhead/φ + max( flops / (peak·η_f·φ), bytes / (bandwidth·η_b) )      both divided by the degree if sharded
    flops = flops_per_token·N + flops_per_pair·P          (decode_flops_per_pair in decoding, where it is given)
    bytes = weight_bytes·touched + bytes_per_token·N + bytes_per_position·Q,   touched = 1 − (1 − k/E)^N for experts
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of b sequences: `new_tokens` each, the query-key pairs and cached positions a window leaves."""

    batch: int
    new_tokens: int
    context: float
    decoding: bool

    def pairs(self, window: int | None) -> float:
        """Return the query-key pairs of all sequences: Σ min(i, w) over the prompt, or min(c, w) in decoding."""
        if self.decoding:
            return self.batch * _seen(self.context, window)
        whole = self.new_tokens if window is None else min(self.new_tokens, window)
        return self.batch * (whole * (whole + 1) / 2 + (self.new_tokens - whole) * whole)

    def positions(self, window: int | None) -> float:
        """Return the cached positions read by all sequences."""
        return self.batch * _seen(self.context, window)

    def tokens(self, operator: Mapping[str, Any]) -> int:
        """Return the tokens an operator works on: all new ones, or the last of each sequence."""
        return self.batch if operator.get("tokens", "all") == "last" else self.batch * self.new_tokens


def prefill_pass(workload: Mapping[str, Any]) -> Pass:
    """Return the pass over the prompts."""
    return Pass(workload["batch"], workload["prompt_tokens"], workload["prompt_tokens"], decoding=False)


def decode_pass(workload: Mapping[str, Any]) -> Pass:
    """Return the decode step at the mean context s + o/2."""
    return Pass(workload["batch"], 1, workload["prompt_tokens"] + workload["output_tokens"] / 2, decoding=True)


def layer_seconds(
    operators: Sequence[Mapping[str, Any]], device: Mapping[str, Any], step: Pass, degree: int = 1
) -> float:
    """Return the seconds of a layer shared by `degree` devices; KeyError names a dtype the device has no peak for."""
    return math.fsum(_operator_seconds(operator, device, step, degree) for operator in operators)


def _operator_seconds(operator: Mapping[str, Any], device: Mapping[str, Any], step: Pass, degree: int) -> float:
    window, tokens = operator.get("window"), step.tokens(operator)
    flops = operator.get("flops_per_token", 0.0) * tokens + _pair_flops(operator, step) * step.pairs(window)
    moved = (
        operator.get("weight_bytes", 0.0) * _touched(operator, tokens)
        + operator.get("bytes_per_token", 0.0) * tokens
        + operator.get("bytes_per_position", 0.0) * step.positions(window)
    )
    share = degree if operator.get("sharded", True) else 1
    clock = device["clock_factor"]
    peak = device["peak_flops_per_s"][operator["dtype"]] * device["compute_efficiency"] * clock
    bandwidth = device["memory_bandwidth_bytes_per_s"] * device["memory_efficiency"]
    return float(device["overhead_s"] / clock + max(flops / share / peak, moved / share / bandwidth))


def _pair_flops(operator: Mapping[str, Any], step: Pass) -> float:
    own = operator.get("decode_flops_per_pair") if step.decoding else None
    return float(operator.get("flops_per_pair", 0.0) if own is None else own)


def _touched(operator: Mapping[str, Any], tokens: int) -> float:
    experts, chosen = operator.get("experts", 0), operator.get("experts_per_token", 0)
    if experts <= 0 or chosen >= experts:
        return 1.0
    return float(1.0 - (1.0 - chosen / experts) ** tokens)


def _seen(context: float, window: int | None) -> float:
    return context if window is None else min(context, window)
