"""Where in a table a pass of a model lies: the coordinates of an operator, cut in chunks where the table says so."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gpuplan.profiles.model import ModelProfile, Operator
from gpuplan.profiles.tables.series import Series
from gpuplan.profiles.workload import Workload
from gpuplan.units import DTYPE_BYTES

#: Linear maps whose outputs, not inputs, are as wide as the model.
_WRITES_HIDDEN = ("o_proj", "down_proj", "fc2", "dense")


@dataclass(frozen=True, slots=True)
class Step:
    """One pass: b sequences that prefill s tokens each, or decode one token each at context c."""

    phase: Literal["prefill", "decode"]
    batch: int
    prompt: int
    context: float


@dataclass(frozen=True, slots=True)
class Point:
    """A point to look up, and how many times its time counts."""

    count: int
    at: tuple[float, ...]


def steps(workload: Workload) -> tuple[Step, Step]:
    """Return the prefill and the decode pass at the mean context of a workload."""
    return (
        Step("prefill", workload.batch, workload.prompt_tokens, 0.0),
        Step("decode", workload.batch, 1, workload.mean_context),
    )


def points_of(
    series: Series, model: ModelProfile, operator: Operator | None, step: Step, tensor_parallel: int, chunk: int | None
) -> tuple[Point, ...] | None:
    """Return the points of `series` that time `operator` (None: a whole layer) in `step`; None where it cannot.

    * An axis ``prompt``: every sequence by itself, in chunks of at most `chunk` tokens where the series also has the
      axis ``context`` (the positions cached before the chunk); without an axis ``batch`` b times as much.
    * An axis ``tokens``: all sequences together, b·s tokens (b where the operator works on the last token of each),
      in chunks of at most `chunk`.
    * Neither: b sequences; without an axis ``batch`` b times as much.
    """
    if step.phase == "prefill" and operator is not None and _window_cuts(operator, step):
        return None
    shape = shape_of(model, operator, tensor_parallel)
    made: list[Point] = []
    for count, values in _pieces(series, operator, step, chunk):
        coordinates = {**shape, **values}
        if "experts" in series.axes:
            coordinates["experts"] = touched_share(operator, coordinates.get("tokens", float(step.batch)))
        if any(axis not in coordinates for axis in series.axes):
            return None
        made.append(Point(count, tuple(float(coordinates[axis]) for axis in series.axes)))
    return tuple(made)


def _pieces(
    series: Series, operator: Operator | None, step: Step, chunk: int | None
) -> Iterator[tuple[int, dict[str, float]]]:
    axes = series.axes
    sequences = 1 if "batch" in axes else step.batch
    if step.phase == "decode":
        together = "batch" in axes or "tokens" in axes
        context = step.context if operator is None or operator.window is None else min(step.context, operator.window)
        values = {"batch": float(step.batch), "tokens": float(step.batch), "context": context}
        yield (1 if together else step.batch), values
    elif "prompt" in axes:
        for size, start in _chunks(step.prompt, chunk if "context" in axes else None):
            yield sequences, {"batch": float(step.batch), "prompt": float(size), "context": float(start)}
    elif "tokens" in axes:
        last = operator is not None and operator.tokens == "last"
        total = step.batch if last else step.batch * step.prompt
        for count, size in _equal_chunks(total, None if last else chunk):
            yield count, {"batch": float(step.batch), "tokens": float(size)}
    else:
        yield sequences, {"batch": float(step.batch)}


def _chunks(total: int, chunk: int | None) -> Iterator[tuple[int, int]]:
    size = chunk or total
    for start in range(0, total, size):
        yield min(size, total - start), start


def _equal_chunks(total: int, chunk: int | None) -> Iterator[tuple[int, int]]:
    if chunk is None or total <= chunk:
        yield 1, total
        return
    yield total // chunk, chunk
    if total % chunk:
        yield 1, total % chunk


def _window_cuts(operator: Operator, step: Step) -> bool:
    # Tables hold full attention: a window that is shorter than the prompt makes less work than they timed.
    return operator.window is not None and operator.window < step.prompt


def touched_share(operator: Operator | None, tokens: float) -> float:
    """Return the distinct experts that N tokens are expected to choose, over the most they could.

    E·(1 − (1 − k/E)^N) / min(N·k, E) for k of E experts a token; 1 for one token.
    """
    if operator is None or operator.experts <= 0 or operator.experts_per_token >= operator.experts:
        return 1.0
    missed = tokens * math.log1p(-operator.experts_per_token / operator.experts)
    touched = -operator.experts * math.expm1(missed)
    return min(1.0, touched / min(tokens * operator.experts_per_token, operator.experts))


def shape_of(model: ModelProfile, operator: Operator | None, tensor_parallel: int) -> dict[str, float]:
    """Return the shape of an operator on one rank: n and k, or heads, kv_heads and head_dim; empty for others."""
    if operator is None:
        return {}
    if operator.flops_per_pair > 0.0:
        return _attention_shape(model, operator, tensor_parallel)
    return _product_shape(model, operator, tensor_parallel) or {}


def is_product(operator: Operator) -> bool:
    """Return whether an operator is a plain matrix product: weights, one FLOP pair an element, no experts."""
    return operator.flops_per_token > 0.0 and operator.flops_per_pair == 0.0 and operator.experts == 0


def _product_shape(model: ModelProfile, operator: Operator, tensor_parallel: int) -> dict[str, float] | None:
    """Return outputs n and inputs k of one rank: 2·n·k FLOPs a token, with the model's width one of the two."""
    if not is_product(operator):
        return None
    wide = float(model.hidden_size)
    other = operator.flops_per_token / (2.0 * wide)
    n, k = (wide, other) if operator.name in _WRITES_HIDDEN else (other, wide)
    if operator.sharded:
        n, k = (n, k / tensor_parallel) if operator.name in _WRITES_HIDDEN else (n / tensor_parallel, k)
    return {"n": n, "k": k}


def _attention_shape(model: ModelProfile, operator: Operator, tensor_parallel: int) -> dict[str, float]:
    """Return heads of one rank: 4·heads·dim FLOPs a pair, 2·kv_heads·dim·bytes a cached position."""
    dim = operator.flops_per_pair / (4.0 * model.num_attention_heads)
    kv_heads = operator.bytes_per_position / (2.0 * dim * DTYPE_BYTES[model.kv_dtype])
    return {
        "heads": model.num_attention_heads / tensor_parallel,
        "kv_heads": max(1.0, kv_heads / tensor_parallel),
        "head_dim": dim,
    }
