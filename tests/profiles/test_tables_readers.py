"""Published layouts: what their files say, number by number, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from gpuplan.errors import InputError
from gpuplan.profiles import Workload, load_model
from gpuplan.profiles.tables import CostTable, Series, TableCosts
from gpuplan.profiles.tables.readers import load_cost_source
from gpuplan.topology import device_kind
from gpuplan.topology.graph import Device

SIM = "llmservingsim/profiler/perf/RTX4090/meta-llama/Llama-3.1-8B/bf16"
MOE = "llmservingsim/profiler/perf/RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16"


def series(table: CostTable, name: str) -> Series:
    """Return the series of a name."""
    return next(item for item in table.series if item.name == name)


def measured_at(found: Series, *at: float) -> float:
    """Return the measured seconds of one row."""
    return float(next(t for p, t in zip(found.points, found.measured, strict=True) if tuple(p) == at))


@pytest.mark.shared_data
def test_llmservingsim(shared_data: Path) -> None:
    """A variant folder: engine, chunk, kernels summed into operators, attention split by pass."""
    (table,) = load_cost_source(shared_data / SIM).tables
    assert (table.model, table.device_kind, table.tensor_parallel) == ("llama-3.1-8b", "rtx-4090-24gb", 1)
    assert (table.chunk_tokens, table.software) == (2048, "vLLM 0.19.0, CUDA 12.8")
    with (shared_data / SIM / "tp1/dense.csv").open() as stream:
        rows = {(row["layer"], row["tokens"]): float(row["time_us"]) for row in csv.DictReader(stream)}
    # Two norms and the rotary embedding a layer.
    expected = 2 * rows["layernorm", "64"] + rows["rotary_emb", "64"]
    assert measured_at(series(table, "norms"), 64) == pytest.approx(expected * 1e-6)
    assert measured_at(series(table, "attention (decode)"), 1, 16) == pytest.approx(9.31067e-6)
    assert series(table, "attention (prefill)").axes == ("prompt", "context")


@pytest.mark.shared_data
def test_llmservingsim_experts(shared_data: Path) -> None:
    """Experts touched become the share of what the tokens could touch: 8 of 2·8, 16 of 2·8."""
    tables = load_cost_source(shared_data / MOE).tables
    assert [table.tensor_parallel for table in tables] == [1, 2]
    found = series(tables[0], "router+experts")
    assert measured_at(found, 2, 0.5) == pytest.approx(56.1917e-6)
    assert measured_at(found, 2, 1.0) == pytest.approx(134.976e-6)


@pytest.mark.shared_data
def test_a_whole_model_from_one_table(shared_data: Path) -> None:
    """Llama 3.1 8B on an RTX 4090 needs no roofline: a step at batch 1 in 15 to 20 ms, 2048 tokens in 0.2 s."""
    costs = TableCosts(load_cost_source(shared_data / SIM).tables)
    gpu = Device("h/gpu0", "h", 0, device_kind("rtx-4090-24gb"), 10**10)
    times = costs.layer_times(load_model("llama-3.1-8b"), gpu, Workload(1, 2048, 128))
    assert 0.015 < times.decode_s.sum() < 0.020
    assert 0.17 < times.prefill_s.sum() < 0.25
    assert set(times.by_origin or ()) == {"measured", "interpolated"}


@pytest.mark.shared_data
def test_vidur_linear_layers(shared_data: Path) -> None:
    """One table a degree; medians in ms; norms with the rotary embedding and the residual."""
    tables = load_cost_source(shared_data / "vidur/profiling/compute/a100/meta-llama/Llama-2-70b-hf").tables
    assert [table.tensor_parallel for table in tables] == [1, 2, 4, 8]
    assert (tables[0].model, tables[0].device_kind) == ("llama-2-70b", "a100-sxm4-80gb")
    # The first row of the file and its repetition at 4096 tokens, tp 1: down projection about 8.06 ms.
    assert measured_at(series(tables[0], "down_proj"), 4096) == pytest.approx(8.06e-3, rel=0.01)
    assert len(series(tables[0], "qkv_proj").points) == 259


@pytest.mark.shared_data
def test_vidur_attention(shared_data: Path) -> None:
    """The model follows from its heads and width, the device from the file's name."""
    (table,) = load_cost_source(shared_data / "vidur/history/a100_attention.csv").tables
    assert (table.model, table.device_kind, table.tensor_parallel) == ("llama-2-70b", "a100-sxm4-80gb", 2)
    assert measured_at(series(table, "attention (decode)"), 1, 32) == pytest.approx(0.016e-3)


@pytest.mark.shared_data
@pytest.mark.parametrize("model", ["llama1_30b", "llama2_70b"])
@pytest.mark.parametrize(
    ("machine", "kind", "degree"),
    [
        ("a100", "a100-sxm4-40gb", 1), ("v100", "v100-sxm2-16gb", 1), ("l4", "l4-24gb", 1), ("l4x2", "l4-24gb", 2),
        ("t4", "t4-16gb", 1), ("t4x2", "t4-16gb", 2), ("t4x4", "t4-16gb", 4),
    ],
)  # fmt: skip
def test_helix(shared_data: Path, model: str, machine: str, kind: str, degree: int) -> None:
    """Every machine's folder: whole decoder layers; the row of 0 tokens is no measurement."""
    (table,) = load_cost_source(shared_data / "helix/model_manager" / model / machine).tables
    assert (table.device_kind, table.tensor_parallel) == (kind, degree)
    assert [one.axes for one in table.series] == [("tokens",), ("batch",)]
    assert all(one.points.min() > 0.0 for one in table.series)


@pytest.mark.shared_data
def test_helix_smooths_with_a_notice(shared_data: Path) -> None:
    """The A100's decode times fall from 2.5 ms at 100 to 2 ms at 120 sequences."""
    (table,) = load_cost_source(shared_data / "helix/model_manager/llama2_70b/a100").tables
    decode = series(table, "layer:decoder (decode)")
    assert (measured_at(decode, 100), measured_at(decode, 120)) == (pytest.approx(2.5e-3), pytest.approx(2e-3))
    assert any("smoothed to a monotone curve" in note for note in table.all_notes())


@pytest.mark.shared_data
def test_splitwise(shared_data: Path) -> None:
    """Whole models become fits: two models, two devices, degrees 2, 4, 8; power-capped runs are left out."""
    fits = load_cost_source(shared_data / "splitwise/perf_model.csv").fits
    assert {(fit.model, fit.device_kind, fit.tensor_parallel) for fit in fits} == {
        *((model, kind, 8) for model in ("bloom-176b", "llama-2-70b") for kind in ("a100-sxm4-80gb", "h100-sxm5-80gb")),
        *(("llama-2-70b", kind, degree) for kind in ("a100-sxm4-80gb", "h100-sxm5-80gb") for degree in (2, 4)),
    }
    assert all(fit.median_error is not None and fit.median_error < 0.15 for fit in fits)


@pytest.mark.shared_data
def test_distserve(shared_data: Path) -> None:
    """Milliseconds become seconds, (constant, context, batch) becomes (d0, d1, d2), in two regimes."""
    fits = load_cost_source(shared_data / "distserve/profiler-a100-80g.vllm.json").fits
    fit = next(fit for fit in fits if (fit.model, fit.tensor_parallel) == ("opt-13b", 1))
    assert fit.prefill == pytest.approx((22.052e-3, 0.14051e-3, 8.0766e-9), rel=1e-4)
    assert [regime.max_batch for regime in fit.regimes] == [94, None]
    assert fit.regimes[0].decode == pytest.approx((23.475e-3, 0.060727e-3, 0.00059293e-3), rel=1e-4)


@pytest.mark.shared_data
def test_distserve_negative_coefficients_are_fitted_away(shared_data: Path) -> None:
    """OPT-66B at degree 2 has −7.1e-6 ms per squared token; without it its times move by at most 2 %."""
    fits = load_cost_source(shared_data / "distserve/profiler-a100-80g.vllm.json").fits
    fit = next(fit for fit in fits if (fit.model, fit.tensor_parallel) == ("opt-66b", 2))
    assert min(fit.prefill) >= 0.0
    assert "by at most 1.7%" in fit.notes[0]


@pytest.mark.shared_data
def test_a_manifest_tells_what_a_layout_does_not(shared_data: Path, tmp_path: Path) -> None:
    """Helix' A100 table read for the 80 GB board, under a folder name that says nothing."""
    shutil.copytree(shared_data / "helix/model_manager/llama2_70b/a100", tmp_path / "times")
    document = {
        "schema": "gpuplan/cost-table/1", "layout": "helix", "data": "times", "device_kind": "a100-sxm4-80gb",
        "model": "llama-2-70b",
    }  # fmt: skip
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(document))
    (table,) = load_cost_source(tmp_path / "x.yaml").tables
    assert (table.model, table.device_kind) == ("llama-2-70b", "a100-sxm4-80gb")


def files(folder: Path, **texts: str) -> Path:
    """Write files into a folder; ``__`` stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_helix_machines_must_be_known(tmp_path: Path) -> None:
    """A folder called nothing in particular."""
    folder = files(tmp_path / "llama2_70b" / "mystery", decode_bs2time__csv="1,2\n")
    with pytest.raises(InputError, match=r"expected a machine that gpuplan knows .*; name its device in a manifest"):
        load_cost_source(folder)


def test_helix_lines_are_two_numbers(tmp_path: Path) -> None:
    """A line of text, with its number."""
    folder = files(tmp_path / "llama2_70b" / "t4", decode_bs2time__csv="1,2\nmany,3\n")
    with pytest.raises(InputError, match="line 2: expected two numbers, got 'many,3'"):
        load_cost_source(folder)


def test_llmservingsim_needs_its_columns(tmp_path: Path) -> None:
    """A dense.csv without times."""
    folder = files(
        tmp_path / "RTX4090" / "Llama-3.1-8B" / "tp1", dense__csv="layer,tokens\nqkv_proj,1\n",
        attention__csv="a\n1\n", per_sequence__csv="a\n1\n",
    )  # fmt: skip
    with pytest.raises(InputError, match="expected a column 'time_us'"):
        load_cost_source(folder)


def test_an_unknown_device_or_model_is_asked_for(tmp_path: Path) -> None:
    """Names that say nothing: the mend is a manifest."""
    folder = files(tmp_path / "gpu" / "model" / "tp1", dense__csv="a\n1\n", attention__csv="a\n1\n")
    with pytest.raises(InputError, match=r"expected a model that gpuplan knows .* name it in a manifest with model"):
        load_cost_source(folder)


def test_distserve_entries_are_three_numbers(tmp_path: Path) -> None:
    """Two coefficients where three belong, with the path."""
    names = ("prefill", "decoding_smallbs", "decoding_largebs")
    entry = json.dumps({"decoding_large_small_bs_threshold": 95, **{name: [1, 2] for name in names}})
    path = (
        files(tmp_path, **{"profiler-a100-80g__x__json": f'{{"opt-13b": {{"1": {entry}}}}}'})
        / "profiler-a100-80g.x.json"
    )
    with pytest.raises(InputError, match="expected three finite numbers"):
        load_cost_source(path)
