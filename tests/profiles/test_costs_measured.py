"""The roofline against published measurements of whole decoder layers; the figures of docs/costs.md come from here."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpuplan.profiles import AnalyticCosts, ModelProfile, Workload, load_model
from gpuplan.topology import device_kind
from gpuplan.topology.graph import Device

pytestmark = pytest.mark.shared_data


def device(kind: str) -> Device:
    """Return one uncapped device."""
    return Device("host0/gpu0", "host0", 0, device_kind(kind), 10**11)


def decoder_layer(name: str, *, attention: bool = True) -> ModelProfile:
    """Return a model of one decoder layer, with or without its attention kernel."""
    model = load_model(name)
    layer = model.layers[1]
    operators = tuple(operator for operator in layer.operators if attention or operator.name != "attention")
    return replace(model, layers=(replace(layer, operators=operators),))


def prefill_s(model: ModelProfile, kind: str, tokens: int) -> float:
    """Return the predicted prefill of one layer."""
    return float(AnalyticCosts().layer_times(model, device(kind), Workload(1, tokens, 1)).prefill_s[0])


def decode_s(model: ModelProfile, kind: str, batch: int, context: int) -> float:
    """Return the predicted decode step of one layer at `context` (s + o/2 with o = 2)."""
    return float(AnalyticCosts().layer_times(model, device(kind), Workload(batch, context - 1, 2)).decode_s[0])


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


KERNELS = (
    "input_layernorm", "attn_pre_proj", "attn_rope", "attn_post_proj", "post_attention_layernorm",
    "mlp_up_proj", "mlp_act", "mlp_down_proj", "add",
)  # fmt: skip
HELIX = [("t4", "t4-16gb"), ("l4", "l4-24gb"), ("v100", "v100-sxm2-16gb"), ("a100", "a100-sxm4-40gb")]


@pytest.mark.parametrize(("folder", "kind"), HELIX)
@pytest.mark.parametrize(("table", "tolerance"), [("decode_bs2time", 0.10), ("prompt_bs2time", 0.25)])
def test_whole_layers_of_llama_2_70b(shared_data: Path, folder: str, kind: str, table: str, tolerance: float) -> None:
    """Helix: milliseconds of one layer of Llama-2-70B by batch (decode) or prompt tokens, rounded to 0.1 and 1 ms."""
    model = decoder_layer("llama-2-70b")
    errors = []
    for line in (shared_data / f"helix/model_manager/llama2_70b/{folder}/{table}.csv").read_text().split():
        count, milliseconds = (float(cell) for cell in line.split(","))
        if count > (16 if table == "decode_bs2time" else 5000) or count == 0:
            continue
        predicted = (
            decode_s(model, kind, int(count), 576) if table == "decode_bs2time" else prefill_s(model, kind, int(count))
        )
        errors.append(predicted * 1e3 / milliseconds - 1.0)
    assert errors
    assert np.max(np.abs(errors)) < tolerance


@pytest.mark.parametrize(("gpu", "kind"), [("a100", "a100-sxm4-80gb"), ("h100", "h100-sxm5-80gb")])
@pytest.mark.parametrize(("folder", "name"), [("Llama-2-70b-hf", "llama-2-70b"), ("Llama-2-7b-hf", "llama-2-7b")])
def test_layers_without_attention(shared_data: Path, gpu: str, kind: str, folder: str, name: str) -> None:
    """Vidur: every kernel of a layer but attention, 1 to 4096 tokens; worst near the ridge, 128-256 tokens.

    The factors are a compromise with newer kernels on the same devices, up to a fifth faster in prefill.
    """
    model = decoder_layer(name, attention=False)
    errors = {}
    for row in rows(shared_data / f"vidur/profiling/compute/{gpu}/meta-llama/{folder}/mlp.csv"):
        tokens = int(row["num_tokens"])
        if row["num_tensor_parallel_workers"] == "1" and tokens not in errors:
            measured = sum(float(row[f"time_stats.{kernel}.median"]) for kernel in KERNELS) * 1e-3
            errors[tokens] = prefill_s(model, kind, tokens) / measured - 1.0
    assert len(errors) > 50
    assert abs(np.median(list(errors.values()))) < 0.15
    assert all(abs(errors[tokens]) < 0.10 for tokens in (1, 8))  # decode
    assert all(abs(errors[tokens]) < 0.14 for tokens in (2048, 4096))
    assert np.mean(np.abs(list(errors.values()))) < 0.17


@pytest.mark.parametrize(("folder", "kind"), [("RTX4090", "rtx-4090-24gb"), ("RTXPRO6000", "rtx-pro-6000-96gb")])
def test_whole_layers_of_llama_3_8b(shared_data: Path, folder: str, kind: str) -> None:
    """LLMServingSim: dense kernels plus attention of one layer of Llama-3.1-8B under vLLM, decode and prefill."""
    base = shared_data / f"llmservingsim/profiler/perf/{folder}/meta-llama/Llama-3.1-8B/bf16/tp1"
    model = decoder_layer("llama-3.1-8b")
    dense: dict[int, float] = {}
    weights = {
        "qkv_proj": 1,
        "rotary_emb": 1,
        "o_proj": 1,
        "gate_up_proj": 1,
        "act_fn": 1,
        "down_proj": 1,
        "layernorm": 2,
    }
    for row in rows(base / "dense.csv"):
        tokens = int(row["tokens"])
        dense[tokens] = dense.get(tokens, 0.0) + weights.get(row["layer"], 0) * float(row["time_us"]) * 1e-6
    attention = {
        tuple(int(row[key]) for key in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")): float(row["time_us"])
        for row in rows(base / "attention.csv")
    }
    for batch, context in ((1, 256), (1, 4096), (16, 1024), (64, 1024), (64, 4096), (128, 1024)):
        measured = dense[batch] + attention[0, 0, batch, context] * 1e-6
        assert decode_s(model, kind, batch, context) == pytest.approx(measured, rel=0.13)
    for tokens in (256, 512, 1024, 2048):
        measured = dense[tokens] + attention[tokens, 0, 0, 0] * 1e-6
        assert prefill_s(model, kind, tokens) == pytest.approx(measured, rel=0.20)
