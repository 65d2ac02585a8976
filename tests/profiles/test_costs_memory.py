"""Workspace and stage memory against the formulas of the model page."""

from __future__ import annotations

import pytest

from gpuplan.profiles import KvState, Layer, ModelProfile, Workload, kv_bytes_per_token, stage_memory, workspace_bytes
from gpuplan.units import GIB


def layer(name: str, weight: int, kv: KvState, replicated: int = 0, ffn: int = 0) -> Layer:
    """Return a layer without operators."""
    return Layer(name, "decoder", (name,), weight, weight, replicated, kv, 2.0, ffn, ())


# hidden 4, vocabulary 10, fp16 activations; the widest active FFN is 6.
MODEL = ModelProfile(
    "toy", "Toy", "toy", 4, 10, 2, 2, "fp16", "fp16", "fp16",
    layers=(
        layer("full", 100, KvState(8.0, heads=2), replicated=20, ffn=6),
        layer("window", 60, KvState(8.0, window_tokens=5, heads=1), ffn=3),
        layer("state", 40, KvState(constant_bytes=24.0)),
    ),
    tied_bytes=30,
)  # fmt: skip


def test_workspace_formula() -> None:
    """Workspace is reserve + b·s·(4·hidden + 2·ffn)·α + b·vocab·4."""
    # b=2, s=3: 6·(16 + 12)·2 = 336; logits 2·10·4 = 80.
    assert workspace_bytes(MODEL, Workload(2, 3, 4), reserve_bytes=1000) == 1000 + 336 + 80
    # Two ranks halve FFN and vocabulary: 6·(16 + 6)·2 = 264; 40.
    assert workspace_bytes(MODEL, Workload(2, 3, 4), reserve_bytes=1000, tensor_parallel=2) == 1000 + 264 + 40


def test_workspace_stops_growing_at_the_chunk() -> None:
    """Prompts above 8192 tokens are prefilled in chunks; the default reserve is 1 GiB."""
    assert workspace_bytes(MODEL, Workload(1, 8192, 1)) == workspace_bytes(MODEL, Workload(1, 100_000, 1))
    assert workspace_bytes(MODEL, Workload(1, 8192, 1)) == GIB + 8192 * 28 * 2 + 40


def test_effective_kv_bytes_per_token() -> None:
    """κ for full attention, κ·min(T, w)/T for a window, σ/T for a constant state."""
    # T = 3 + 5 = 8: 8; 8·5/8 = 5; 24/8 = 3.
    assert [kv_bytes_per_token(item, Workload(2, 3, 5)) for item in MODEL.layers] == [8.0, 5.0, 3.0]


def test_stage_memory_counts_sequences_in_flight() -> None:
    """M·b sequences hold their KV; a stage with every layer holds a tied matrix once."""
    # q = 3·2 = 6 sequences of T = 8: 6·(64 + 40 + 24) = 768 bytes of KV.
    use = stage_memory(MODEL, 0, 3, Workload(2, 3, 5, micro_batches=3), reserve_bytes=0)
    assert use.weights_bytes == 200 - 30
    assert use.kv_bytes == 768
    assert use.total_bytes == use.weights_bytes + use.kv_bytes + use.workspace_bytes
    assert stage_memory(MODEL, 0, 2, Workload(2, 3, 5)).weights_bytes == 160


def test_stage_memory_under_tensor_parallelism() -> None:
    """Replicated weights stay whole, KV divides by min(t, heads)."""
    # full: 20 + 80/4 = 40 weights, 64/2 KV a sequence; window: 60/4 = 15 and 40.
    use = stage_memory(MODEL, 0, 2, Workload(1, 3, 5), tensor_parallel=4)
    assert use.weights_bytes == pytest.approx(55.0)
    assert use.kv_bytes == pytest.approx(72.0)
