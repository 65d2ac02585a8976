"""The adapter to aiconfigurator-core: its tables read by shape; what is said where it is not installed."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from gpuplan.errors import SolverUnavailableError, UsageError
from gpuplan.profiles import Workload, load_model
from gpuplan.profiles.aiconfigurator import aiconfigurator_source, read_system
from gpuplan.profiles.cost_sources import load_costs
from gpuplan.topology import device_kind
from gpuplan.topology.graph import Device

INSTALLED = importlib.util.find_spec("aiconfigurator_core") is not None


def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the package look absent."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_absent_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, through every way in."""
    no_package(monkeypatch)
    with pytest.raises(SolverUnavailableError, match=r"pip install 'gpuplan\[aiconfigurator\]'"):
        load_costs(["aiconfigurator"], kinds=["a100-sxm4-80gb"])


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a package of a few rows in its layout: an A100 under vLLM 0.9 and 0.14."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    root = tmp_path / "aiconfigurator_core"
    gemm = [(m, n, k, 1e-3 * (1 + m) * n) for m in (1, 8) for n in (4096, 6144) for k in (4096, 16384)]
    tables: dict[str, dict[str, list[Any]]] = {
        "gemm/vllm/0.14.0/gemm_perf": {
            "gemm_dtype": ["bfloat16"] * len(gemm),
            **{name: [row[i] for row in gemm] for i, name in enumerate(("m", "n", "k", "latency"))},
        },
        "attention/vllm/0.14.0/context_attention_perf": _attention([(1, 1, 0, 2.0), (1, 16, 0, 3.0)]),
        "attention/vllm/0.14.0/generation_attention_perf": _attention([(1, 1, 15, 0.5), (1, 1, 31, 0.7)]),
    }
    tables["gemm/vllm/0.9.0/gemm_perf"] = tables["gemm/vllm/0.14.0/gemm_perf"]
    for name, columns in tables.items():
        path = root / "systems/data/a100_sxm" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(arrow.table(columns), path)
    spec = importlib.machinery.ModuleSpec("aiconfigurator_core", None, is_package=True)
    spec.submodule_search_locations = [str(root)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return root


def _attention(rows: list[tuple[int, int, int, float]]) -> dict[str, list[Any]]:
    """Return rows (batch, new, past, ms) of 32 heads of 128 over 8 KV heads."""
    names = ("batch_size", "isl", "step", "latency")
    fixed = {
        "num_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "attn_dtype": "bfloat16",
        "kv_cache_dtype": "bfloat16",
    }  # fmt: skip
    return {
        **{name: [row[i] for row in rows] for i, name in enumerate(names)},
        **{name: [value] * len(rows) for name, value in fixed.items()},
    }


def test_the_newest_version_is_read(small: Path) -> None:
    """0.14 is newer than 0.9; milliseconds become seconds; the context of a step is new and past tokens."""
    table = read_system("a100-sxm4-80gb")
    assert table.software == "vllm 0.14.0"
    assert [series.name for series in table.series] == ["gemm", "attention (prefill)", "attention (decode)"]
    assert table.series[2].points[:, -1].tolist() == [16.0, 32.0]
    assert table.series[2].seconds == pytest.approx([0.5e-3, 0.7e-3])


def test_versions_backends_and_kinds_are_checked(small: Path) -> None:
    """An unknown one names what there is."""
    with pytest.raises(UsageError, match=r"aiconfigurator has vllm 0\.14\.0, 0\.9\.0 for a100_sxm, asked for 3"):
        read_system("a100-sxm4-80gb", "vllm", "3")
    with pytest.raises(UsageError, match="expected one of the backends vllm, sglang, trtllm, got 'x'"):
        read_system("a100-sxm4-80gb", "x")
    with pytest.raises(UsageError, match="name another backend"):
        read_system("a100-sxm4-80gb", "sglang")
    with pytest.raises(UsageError, match="asked for t4-16gb; name another cost source"):
        aiconfigurator_source("aiconfigurator", ["t4-16gb"])


def test_the_roofline_fills_in_what_is_element_wise(small: Path) -> None:
    """Products and attention come from the tables, norms and the lookup from the roofline."""
    costs = load_costs(["aiconfigurator"], kinds=["a100-sxm4-80gb"])
    gpu = Device("h/gpu0", "h", 0, device_kind("a100-sxm4-80gb"), 10**10)
    inputs = costs.to_inputs(load_model("llama-3.1-8b"), (gpu,), Workload(1, 8, 16))
    terms = inputs["classes"]["a100-sxm4-80gb"]["layers"]["decoder"]["prefill"]
    origins = {term["covers"][0]: term["origin"] for term in terms}
    assert origins["norms"] == "analytic"
    assert origins["attention"] == "interpolated"
    # 6144 outputs and 4096 inputs at 8 tokens is a row: 1e-3·9·6144 ms.
    product = next(term for term in terms if term["covers"] == ["qkv_proj"])
    assert product["at"] == [6144.0, 4096.0, 8.0]
    assert product["origin"] == "measured"
    assert product["entries"][0][-1] == pytest.approx(1e-6 * 9 * 6144)


@pytest.mark.skipif(not INSTALLED, reason="aiconfigurator-core is not installed")
@pytest.mark.parametrize("kind", ["a100-sxm4-80gb", "h100-sxm5-80gb"])
def test_the_real_data_time_llama(kind: str) -> None:
    """Llama 3.1 8B on the real tables: a decode step between the weights' time at full bandwidth and twice it."""
    gpu = Device("h/gpu0", "h", 0, device_kind(kind), 10**10)
    model = load_model("llama-3.1-8b")
    times = load_costs(["aiconfigurator"], kinds=[kind]).layer_times(model, gpu, Workload(1, 1024, 128))
    least = model.weight_bytes / gpu.kind.memory_bandwidth_bytes_per_s
    assert least < times.decode_s.sum() < 2 * least
