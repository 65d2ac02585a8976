"""``gpuplan profile`` and ``--costs``: from timed runs or tables to a plan whose file carries them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpuplan.profiles.fitting import Coefficients

TRUE = Coefficients((0.02, 1e-4, 0.0), (0.015, 2e-4, 1e-6))
TABLE = """schema: gpuplan/cost-table/1
name: bench
device_kind: l4-24gb
model: llama-3.1-8b
data: bench.csv
"""
ROWS = "covers,phase,tokens,batch,time\nlayer:decoder,prefill,1,,0.001\nlayer:decoder,prefill,4096,,0.09\n" + (
    "layer:decoder,decode,,1,0.0018\nlayer:decoder,decode,,8,0.002\n"
)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Write timed runs that the formula gives."""
    shapes = [(b, s, o) for b in (1, 4, 16) for s in (128, 512, 2048) for o in (16, 64, 256)]
    lines = [f"{b},{s},{o},{TRUE.time_s(b, s, o)!r}" for b, s, o in shapes]
    path = tmp_path / "runs.csv"
    path.write_text("batch,prompt,output,time\n" + "\n".join(lines))
    return path


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """Write a table of whole decoder layers on an L4."""
    (tmp_path / "bench.csv").write_text(ROWS)
    path = tmp_path / "bench.yaml"
    path.write_text(TABLE)
    return path


def test_from_timed_runs_to_a_verified_plan(run: Any, logs: Path) -> None:
    """Fit, plan with it, verify; the plan says that its times are fitted."""
    done = run("profile", "fit", logs, "--model", "llama-3.1-8b", "--gpu", "l4", "-o", "fit.json", "--plot", "fit.svg")
    assert done.exit_code == 0, done.stderr
    assert "wrote fit.json" in done.stdout
    assert Path("fit.svg").read_text().startswith("<svg")
    mapped = run("map", "llama-3.1-8b", "8xl4", "--costs", "fit.json", "-o", "plan.json")
    assert mapped.exit_code == 0, mapped.stderr
    assert "times 100% fitted" in " ".join(mapped.stdout.split())
    plan = json.loads(Path("plan.json").read_text())
    assert plan["provenance"]["fitted"] == 1.0
    assert plan["metrics"]["ttft_s"] == pytest.approx(TRUE.prefill_s(1, 1024), rel=1e-3)
    assert run("verify", "plan.json").exit_code == 0


def test_a_table_with_gaps_needs_leave(run: Any, refused: Callable[..., str], bench: Path) -> None:
    """Embedding and head are not in the table: an error with the mend, or the roofline when allowed."""
    message = refused(3, "map", "llama-3.1-8b", "8xl4", "--costs", bench)
    assert "expected a time of embedding_lookup" in message
    assert "--costs-fallback" in message
    mapped = run("map", "llama-3.1-8b", "8xl4", "--costs", bench, "--costs-fallback", "-o", "plan.json")
    assert mapped.exit_code == 0, mapped.stderr
    shares = json.loads(Path("plan.json").read_text())["provenance"]
    assert shares["measured"] > 0.5
    assert 0.0 < shares["analytic"] < 0.2
    assert run("verify", "plan.json").exit_code == 0


def test_beyond_a_table_needs_leave(run: Any, refused: Callable[..., str], bench: Path) -> None:
    """A batch of 16 where 8 were measured."""
    asked = ("map", "llama-3.1-8b", "8xl4", "--costs", bench, "--batch", "16", "--prompt", "128")
    assert "was measured for batch 1 to 8, asked for batch 16" not in refused(3, *asked)  # the embedding comes first
    done = run(*asked, "--costs-fallback", "--extrapolate", "-o", "plan.json")
    assert done.exit_code == 0, done.stderr
    costs = json.loads(Path("plan.json").read_text())["inputs"]["costs"]
    assert costs["classes"]["l4-24gb"]["layers"]["decoder"]["decode"][0]["origin"] == "extrapolated"
    assert run("verify", "plan.json").exit_code == 0


def test_pareto_and_compare_take_costs(run: Any, bench: Path) -> None:
    """The same option on the commands around map."""
    more = ("--costs", bench, "--costs-fallback", "--max-devices", "2")
    assert run("pareto", "llama-3.1-8b", "8xl4", *more).exit_code == 0
    done = run("compare", "llama-3.1-8b", "8xl4", *more, "--solvers", "auto,even", "--format", "json")
    assert done.exit_code == 0, done.stderr


def test_show(run: Any, bench: Path) -> None:
    """What was measured, over which sizes; the same as JSON."""
    shown = run("profile", "show", bench)
    assert shown.exit_code == 0
    assert "layer:decoder (prefill)" in shown.stdout
    document = json.loads(run("profile", "show", bench, "--format", "json").stdout)
    assert document["tables"][0]["series"][1]["axes"] == {"batch": [1.0, 8.0]}


def test_compare_two_sources(run: Any, bench: Path) -> None:
    """Errors by shape and a picture; shapes that one lacks are counted."""
    asked = ("profile", "compare", "analytic", bench, "--model", "llama-3.1-8b", "--gpu", "l4", "--plot", "x.svg")
    done = run(*asked, "--batches", "1,64", "--lengths", "512")
    assert done.exit_code == 0, done.stderr
    assert "prefill: median" in done.stdout
    assert Path("x.svg").read_text().count("<circle") == 2 + 2  # two marks and two of the legend
    report = json.loads(run(*asked, "--batches", "1,64", "--lengths", "512", "--format", "json").stdout)
    assert report["missing"] == 2  # 64 prompts of 512 tokens, and 64 sequences, were not measured
    row = next(row for row in report["rows"] if row["phase"] == "decode")
    assert row["second_s"] == pytest.approx(32 * 0.0018)


def test_links(run: Any, tmp_path: Path) -> None:
    """NCCL-tests output as it is pasted: latency, bandwidth, residuals."""
    times = {m: 10 + m / 2e4 for m in (1000, 10**6, 10**9)}
    text = "".join(f"  {m}  {m // 4}  float  {t}  1  1  0  {t}  1  1  0\n" for m, t in times.items())
    (tmp_path / "nccl.txt").write_text(text)
    done = run("profile", "fit", "nccl.txt", "--links", "--format", "json")
    assert done.exit_code == 0, done.stderr
    (link,) = json.loads(done.stdout)["links"]
    assert link["latency_s"] == pytest.approx(1e-5)
    assert link["bandwidth_bytes_per_s"] == pytest.approx(2e10)


def test_measure_writes_a_table_that_plans_read(run: Any, tmp_path: Path) -> None:
    """A tiny config measured on the CPU, shown again."""
    pytest.importorskip("torch")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128,
        "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "max_position_embeddings": 512,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    sizes = ("--max-tokens", "8", "--max-batch", "1", "--max-context", "16", "--device", "cpu", "--gpu", "l4")
    done = run("profile", "measure", "config.json", "-o", "mine.yaml", *sizes)
    assert done.exit_code == 0, done.stderr
    assert "device_kind: l4-24gb" in Path("mine.yaml").read_text()
    assert run("profile", "show", "mine.yaml").exit_code == 0
    mapped = run("map", "config.json", "8xl4", "--costs", "mine.yaml", "--prompt", "8", "--output", "2")
    assert mapped.exit_code == 0, mapped.stderr


def test_measure_without_torch(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 7 with the extra."""
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "gpuplan[measure]" in refused(7, "profile", "measure", "llama-3.1-8b", "-o", "x.yaml")


def test_aiconfigurator_that_is_not_installed(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 7 with the extra."""
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "aiconfigurator_core" else real(name, *more)
    )
    assert "gpuplan[aiconfigurator]" in refused(7, "map", "llama-3.1-8b", "dgx-a100", "--costs", "aiconfigurator")


TIMED = ("--model", "llama-3.1-8b", "--gpu", "l4")


@pytest.mark.parametrize(
    ("code", "words", "message"),
    [
        (2, ("profile", "fit", "runs.csv"), "name what was timed"),
        (2, ("profile", "fit", "runs.csv", *TIMED, "--column", "size=x"), "expected --column"),
        (3, ("profile", "fit", "none.csv", *TIMED), "found none"),
        (3, ("profile", "show", "none"), "found nothing"),
        (2, ("profile", "show", "analytic"), "profile compare analytic"),
        (2, ("profile", "compare", "analytic", "analytic", "--model", "llama-3.1-8b", "--gpu", "l4", "--batches", "x"),
         "--batches: expected whole numbers"),
        (2, ("profile", "compare", "analytic", "analytic", "--model", "llama-3.1-8b", "--gpu", "l99"), "l99"),
        (2, ("profile", "measure", "llama-3.1-8b", "-o", "x.csv"), "ends in .yaml"),
        (3, ("map", "llama-3.1-8b", "8xl4", "--costs", "none.yaml"), "found nothing"),
    ],
)  # fmt: skip
def test_bad_input(refused: Callable[..., str], logs: Path, code: int, words: tuple[str, ...], message: str) -> None:
    """One line, its exit code, nothing written."""
    assert message in refused(code, *words)
