"""Which tensor-parallel degrees a problem may ask for: what the model can be cut into, and what a runtime accepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gpuplan.errors import UsageError
from gpuplan.profiles.collectives import allowed_degrees, check_degree
from gpuplan.profiles.model import ModelProfile

Degrees = tuple[int, ...] | Literal["auto"]

#: Runtimes a plan can be made for, and whether each of their stages must hold a decoder layer.
RUNTIMES = {
    "accelerate": False,
    "llama-cpp": False,
    "megatron": False,
    "sglang": True,
    "tensorrt-llm": True,
    "vllm": True,
}
#: Runtimes that cut layers over several devices, all stages alike.
_TENSOR_PARALLEL_RUNTIMES = ("megatron", "sglang", "tensorrt-llm", "vllm")


def checked_degrees(model: ModelProfile, degrees: Sequence[int] | Literal["auto"]) -> Degrees:
    """Return the degrees asked for, each once and in order; UsageError for one that the model does not allow."""
    if degrees == "auto":
        return "auto"
    if isinstance(degrees, str) or not degrees:
        raise UsageError(f"expected tensor-parallel degrees such as (1, 2, 4) or 'auto', got {degrees!r}")
    for degree in degrees:
        if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
            raise UsageError(f"expected tensor-parallel degrees of at least 1, got {degree!r}")
        check_degree(model, degree, max(64, *degrees))
    return tuple(sorted(set(degrees)))


def check_runtime_degrees(runtime: str | None, degrees: Degrees, *, uneven: bool) -> None:
    """Refuse what a runtime cannot hold: several devices a stage, or stages of different degrees."""
    if runtime is None:
        return
    if runtime not in _TENSOR_PARALLEL_RUNTIMES and degrees not in ("auto", (1,)):
        raise UsageError(
            f"expected one device a stage with {runtime}, which does not cut layers over devices, got degrees"
            f" {', '.join(map(str, degrees))}; plan for vllm or sglang, or with tensor-parallel degree 1"
        )
    if uneven:
        raise UsageError(
            f"expected stages of one tensor-parallel degree with {runtime}, which takes no others, got uneven stages;"
            " leave uneven tensor parallelism out"
        )


def degrees_within(model: ModelProfile, degrees: Degrees, runtime: str | None, largest: int) -> tuple[int, ...]:
    """Return the degrees to try where the largest island has `largest` devices."""
    if degrees != "auto":
        return tuple(degree for degree in degrees if degree <= largest)
    if runtime is not None and runtime not in _TENSOR_PARALLEL_RUNTIMES:
        return (1,)
    return allowed_degrees(model, largest)
