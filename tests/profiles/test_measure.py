"""Measuring with PyTorch on a CPU: a tiny model's operators become a table that times the whole model."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from gpuplan.errors import SolverUnavailableError, UnsupportedError, UsageError
from gpuplan.profiles import ModelProfile, Workload, load_model, model_from_config
from gpuplan.profiles.measure import Sweep, measure, powers
from gpuplan.profiles.tables import TableCosts
from gpuplan.topology.graph import Device, DeviceKind

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128,
    "rms_norm_eps": 1e-5, "torch_dtype": "float32", "max_position_embeddings": 512,
}  # fmt: skip


def tiny() -> ModelProfile:
    """Return a Llama of two small layers in 32 bits."""
    return model_from_config(CONFIG, name="tiny")


def test_powers_end_at_the_most() -> None:
    """1, 2, 4, 8 and 10."""
    assert powers(10) == [1, 2, 4, 8, 10]
    assert powers(1) == [1]


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SolverUnavailableError, match=r"pip install 'gpuplan\[measure\]'"):
        measure(tiny())


def test_a_tiny_model_is_measured() -> None:
    """Every operator has times in range; the table times the model without a roofline."""
    pytest.importorskip("torch")
    seen: list[str] = []
    table = measure(tiny(), device="cpu", sweep=Sweep(16, 2, 64, repeats=1), on_progress=seen.append)
    assert table.device_kind == "cpu"
    assert {"qkv_proj", "attention", "lm_head"} <= set(seen)
    assert all((series.measured > 0.0).all() for series in table.series)
    kind = DeviceKind("cpu", "any", "cpu", 10**10, 1e10, {"fp32": 1e11}, 100.0, source="made up")
    times = TableCosts((table,)).layer_times(tiny(), Device("h/gpu0", "h", 0, kind, 10**9), Workload(2, 8, 16))
    assert (times.prefill_s > 0.0).all()
    assert set(times.by_origin or ()) <= {"measured", "interpolated"}


def test_quantised_models_are_not_measured() -> None:
    """Products of four bits need a runtime's kernels; their notes say so."""
    pytest.importorskip("torch")
    model = model_from_config(CONFIG, name="tiny", dtype="int4")
    table = measure(model, device="cpu", sweep=Sweep(2, 1, 16, repeats=1))
    assert any(note.startswith("qkv_proj: not measured") for note in table.notes)
    assert "qkv_proj" not in {series.name for series in table.series}


def test_sizes_are_checked() -> None:
    """Nothing below 1."""
    with pytest.raises(UsageError, match="expected max_batch of at least 1, got 0"):
        Sweep(max_batch=0)


def test_a_gpu_must_be_there() -> None:
    """Asking for CUDA without a device."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(UsageError, match="expected a CUDA device"):
        measure(tiny(), device="cuda")


def test_nothing_to_measure_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no operator can be run, that is said instead of an empty table."""
    pytest.importorskip("torch")
    monkeypatch.setattr("gpuplan.profiles.measure._unmeasurable", lambda operator, model: "of a test")
    with pytest.raises(UnsupportedError, match=r"no operator of llama-3\.1-8b can be measured"):
        measure(load_model("llama-3.1-8b"), device="cpu")
