"""Measuring on this machine: a short sweep over a model's operators with PyTorch, as a cost table.

Every distinct operator of the model is run on synthetic data at growing sizes: matrix products and element-wise work
over tokens, attention over prompts, and over batches and contexts in decoding. Sizes grow until one run takes longer
than the limit; what was not reached is left to the table's range. Weights are allocated one operator at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuplan.errors import SolverUnavailableError, UnsupportedError, UsageError
from gpuplan.profiles.model import ModelProfile, Operator
from gpuplan.profiles.tables.coordinates import is_product, shape_of
from gpuplan.profiles.tables.series import Phase, Series, series_from_rows
from gpuplan.profiles.tables.table import CostTable, model_shape
from gpuplan.units import DTYPE_BYTES

if TYPE_CHECKING:
    import torch

#: What times a thunk: seconds of one run.
Timer = Callable[[Callable[[], Any]], float]


@dataclass(frozen=True, slots=True)
class Sweep:
    """How far to measure.

    Parameters
    ----------
    max_tokens, max_batch, max_context
        Largest sizes; powers of two up to them are run.
    limit_s
        A series stops growing after a size that takes longer, s.
    repeats
        Runs of each size after one to warm up; the fastest counts, the one that others on the machine disturbed least.
    """

    max_tokens: int = 2048
    max_batch: int = 16
    max_context: int = 4096
    limit_s: float = 0.5
    repeats: int = 5

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_batch", "max_context", "repeats"):
            if getattr(self, name) < 1:
                raise UsageError(f"expected {name} of at least 1, got {getattr(self, name)}")


def measure(
    model: ModelProfile,
    *,
    device_kind: str | None = None,
    device: str | None = None,
    sweep: Sweep | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> CostTable:
    """Measure the operators of `model` on a local device and return their table.

    Parameters
    ----------
    model
        Its operators in 16 or 32 bits are measured; quantised ones, which need a runtime's own kernels, are left out
        with a note.
    device_kind
        The kind the table is for; ``cpu`` by default on a CPU, needed on a GPU.
    device
        ``cpu`` or ``cuda``; by default CUDA where there is one.
    sweep
        How far to measure.
    on_progress
        Called with the name of each series before it runs.

    Raises
    ------
    SolverUnavailableError
        PyTorch is not installed.
    UnsupportedError
        No operator of the model can be measured.
    """
    torch = _torch()
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if place == "cuda" and not torch.cuda.is_available():
        raise UsageError("expected a CUDA device to measure on, found none; use --device cpu")
    if place == "cuda" and device_kind is None:
        raise UsageError(f"name the kind of {torch.cuda.get_device_name()} with --gpu KIND (gpuplan list gpus)")
    bench = _Bench(torch, place, sweep or Sweep(), on_progress or (lambda _: None))
    notes: list[str] = []
    series = tuple(_series(bench, model, notes))
    if not series:
        raise UnsupportedError(f"no operator of {model.name} can be measured with plain PyTorch: {'; '.join(notes)}")
    return CostTable(
        name=f"{model.name} on this machine",
        device_kind=device_kind or "cpu",
        series=series,
        model=model.name,
        shape=model_shape(model),
        dtype=model.dtype,
        software=f"PyTorch {torch.__version__.partition('+')[0]}"
        + (f", CUDA {torch.version.cuda}" if place == "cuda" else f", CPU, {torch.get_num_threads()} threads"),
        source="gpuplan profile measure",
        notes=tuple(dict.fromkeys(notes)),
    )


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise SolverUnavailableError(
            "measuring needs PyTorch, which is not installed; pip install 'gpuplan[measure]'"
        ) from None
    return torch


class _Bench:
    """Runs thunks on one device and times them."""

    def __init__(self, torch: Any, place: str, sweep: Sweep, progress: Callable[[str], None]) -> None:
        self.torch = torch
        self.place = place
        self.sweep = sweep
        self.progress = progress

    def tensor(self, *shape: int, dtype: str) -> torch.Tensor:
        """Return random numbers of a shape on the device."""
        made: torch.Tensor = self.torch.randn(*shape, dtype=self.dtype(dtype), device=self.place)
        return made

    def dtype(self, name: str) -> Any:
        """Return PyTorch's dtype of ours."""
        return {"bf16": self.torch.bfloat16, "fp16": self.torch.float16, "fp32": self.torch.float32}[name]

    def seconds(self, run: Callable[[], Any]) -> float:
        """Return the seconds of the fastest run after one to warm up."""
        run()
        return min(self._once(run) for _ in range(self.sweep.repeats))

    def _once(self, run: Callable[[], Any]) -> float:
        self._wait()
        start = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.place == "cuda":
            self.torch.cuda.synchronize()

    def grow(self, sizes: Iterable[int], make: Callable[[int], Callable[[], Any]]) -> Iterator[tuple[int, float]]:
        """Yield sizes with their seconds until one takes longer than the limit or does not fit."""
        for size in sizes:
            try:
                with self.torch.inference_mode():
                    seconds = self.seconds(make(size))
            except (self.torch.OutOfMemoryError, MemoryError):
                return
            yield size, seconds
            if seconds > self.sweep.limit_s:
                return


def powers(most: int) -> list[int]:
    """Return 1, 2, 4, … up to `most`, and `most` itself.

    >>> powers(6)
    [1, 2, 4, 6]
    """
    sizes = [1 << i for i in range(most.bit_length()) if 1 << i <= most]
    return sizes if sizes[-1] == most else [*sizes, most]


def _series(bench: _Bench, model: ModelProfile, notes: list[str]) -> Iterator[Series]:
    seen: set[Operator] = set()
    for layer in model.layers:
        for operator in layer.operators:
            if operator in seen:
                continue
            seen.add(operator)
            why = _unmeasurable(operator, model)
            if why:
                notes.append(f"{operator.name}: not measured, {why}")
                continue
            bench.progress(operator.name)
            yield from _measured(bench, model, operator)


def _unmeasurable(operator: Operator, model: ModelProfile) -> str | None:
    if operator.dtype not in ("bf16", "fp16", "fp32"):
        return f"{operator.dtype} needs a runtime's own kernels"
    if operator.weight_bytes and is_product(operator):
        held = operator.weight_bytes / (operator.flops_per_token / 2.0)
        if held < 0.9 * DTYPE_BYTES[operator.dtype]:
            return "its weights are quantised, which needs a runtime's own kernels"
    if operator.experts > 0:
        return "experts need a runtime's fused kernels"
    if operator.flops_per_pair > 0.0:
        shape = shape_of(model, operator, 1)
        whole = all(
            float(shape[axis]).is_integer() and shape[axis] >= 1.0 for axis in ("heads", "kv_heads", "head_dim")
        )
        if not whole or shape["heads"] % shape["kv_heads"]:
            return "its attention is not grouped-query attention"
    return None


def _measured(bench: _Bench, model: ModelProfile, operator: Operator) -> Iterator[Series]:
    if operator.flops_per_pair > 0.0:
        yield from _attention(bench, model, operator)
    elif is_product(operator):
        yield from _over_tokens(bench, operator, _product(bench, model, operator))
    else:
        yield from _over_tokens(bench, operator, _elementwise(bench, operator))


def _over_tokens(bench: _Bench, operator: Operator, make: Callable[[int], Callable[[], Any]]) -> Iterator[Series]:
    last = operator.tokens == "last"
    rows = [list(row) for row in bench.grow(powers(bench.sweep.max_batch if last else bench.sweep.max_tokens), make)]
    if rows:
        yield series_from_rows([operator.name], "both", ["batch" if last else "tokens"], rows)


def _product(bench: _Bench, model: ModelProfile, operator: Operator) -> Callable[[int], Callable[[], Any]]:
    shape = shape_of(model, operator, 1)
    n, k = round(shape["n"]), round(shape["k"])
    weight = bench.tensor(n, k, dtype=operator.dtype)

    def make(tokens: int) -> Callable[[], Any]:
        inputs = bench.tensor(tokens, k, dtype=operator.dtype)
        return lambda: bench.torch.nn.functional.linear(inputs, weight)

    return make


def _elementwise(bench: _Bench, operator: Operator) -> Callable[[int], Callable[[], Any]]:
    # As many bytes read and written as the operator moves: half in, half out.
    elements = max(1, round(operator.bytes_per_token / DTYPE_BYTES[operator.dtype] / 2.0))

    def make(tokens: int) -> Callable[[], Any]:
        inputs = bench.tensor(tokens, elements, dtype=operator.dtype)
        outputs = bench.torch.empty_like(inputs)
        return lambda: bench.torch.mul(inputs, 1.5, out=outputs)

    return make


def _attention(bench: _Bench, model: ModelProfile, operator: Operator) -> Iterator[Series]:
    shape = shape_of(model, operator, 1)
    heads, kv_heads, width = (round(shape[axis]) for axis in ("heads", "kv_heads", "head_dim"))

    def run(batch: int, new: int, seen: int, causal: bool) -> Callable[[], Any]:
        query = bench.tensor(batch, heads, new, width, dtype=operator.dtype)
        key, value = (bench.tensor(batch, kv_heads, seen, width, dtype=operator.dtype) for _ in range(2))
        attend = bench.torch.nn.functional.scaled_dot_product_attention
        return lambda: attend(query, key, value, is_causal=causal, enable_gqa=heads != kv_heads)

    longest = min(bench.sweep.max_tokens, operator.window or bench.sweep.max_tokens)
    prefill = [list(row) for row in bench.grow(powers(longest), lambda s: run(1, s, s, True))]
    yield from _some(operator, "prefill", ["prompt"], prefill)
    decode: list[list[float]] = []
    contexts = [c for c in powers(bench.sweep.max_context) if c == 1 or c >= 16]
    for batch in powers(bench.sweep.max_batch):
        decode += [[batch, c, t] for c, t in bench.grow(contexts, lambda c, b=batch: run(b, 1, c, False))]  # type: ignore[misc]
    yield from _some(operator, "decode", ["batch", "context"], decode)


def _some(operator: Operator, phase: Phase, axes: list[str], rows: list[list[float]]) -> Iterator[Series]:
    if rows:
        yield series_from_rows([operator.name], phase, axes, rows)
