"""A plan of tensor-parallel groups from the command line: mapped, verified, exported, batched on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def plan(run: Any, tmp_path: Path) -> Path:
    """Return the file of a plan of two stages of two devices; Llama-3.1-8B fits neither of them alone."""
    path = tmp_path / "plan.json"
    options = ("--tensor-parallel", "2", "--dtype", "fp32", "--objective", "throughput")
    outcome = run("map", "llama-3.1-8b", "8xl4", *options, "-o", path)
    assert outcome.exit_code == 0, outcome.stderr
    return path


def test_plan_holds(run: Any, plan: Path) -> None:
    """Stages of two devices of one degree, verified from the file alone."""
    document = json.loads(plan.read_text(encoding="utf-8"))
    assert {stage["tensor_parallel"] for stage in document["stages"]} == {2}
    assert document["inputs"]["options"]["tensor_parallel"] == [2]
    assert run("verify", plan).exit_code == 0
    document["stages"][0]["prefill_s"] *= 0.5  # as if the two needed no all-reduce
    plan.write_text(json.dumps(document), encoding="utf-8")
    outcome = run("verify", plan)
    assert outcome.exit_code == 6
    assert "$.stages[0].prefill_s" in outcome.stderr


def test_plan_is_exported(run: Any, plan: Path) -> None:
    """VLLM's sizes are the plan's; a runtime of one device a stage refuses it."""
    stages = len(json.loads(plan.read_text(encoding="utf-8"))["stages"])
    for runtime, size in (("vllm", "--tensor-parallel-size 2"), ("tensorrt-llm", "tensor_parallel_size: 2")):
        outcome = run("export", plan, "--to", runtime)
        assert outcome.exit_code == 0, outcome.stderr
        assert size in outcome.stdout
    assert f"--pipeline-parallel-size {stages}" in run("export", plan, "--to", "vllm").stdout
    assert run("export", plan, "--to", "llama-cpp").exit_code == 7


def test_plan_serves_batches(run: Any, plan: Path, tmp_path: Path) -> None:
    """Batches and iteration parameters rest on the groups' times."""
    (tmp_path / "requests.csv").write_text("id,prompt_tokens,output_tokens\na,128,16\nb,256,32\n", encoding="utf-8")
    outcome = run("batch", "requests.csv", "--plan", plan, "-o", "batches.json")
    assert outcome.exit_code == 0, outcome.stderr
    assert run("verify", "batches.json").exit_code == 0
    outcome = run("iteration", "requests.csv", "--plan", plan, "--tpot-slo-s", "1", "--format", "json")
    assert outcome.exit_code == 0, outcome.stderr
    assert json.loads(outcome.stdout)["max_sequences"] >= 1


def test_runtimes_are_listed(run: Any) -> None:
    """Every runtime has a line."""
    rows = json.loads(run("list", "runtimes", "--format", "json").stdout)["runtimes"]
    assert [row["name"] for row in rows] == [
        "accelerate", "deepspeed", "llama-cpp", "megatron", "sglang", "tensorrt-llm", "vllm",
    ]  # fmt: skip


def test_models_of_groups_are_written_and_plans_started_from(run: Any, plan: Path, tmp_path: Path) -> None:
    """One model of all sizes as .lp, none as .json; a plan of groups is a start, refused where its sizes differ."""
    asked = ("map", "llama-3.1-8b", "8xl4", "--dtype", "fp32", "--objective", "throughput", "--tensor-parallel", "1,2")
    model = tmp_path / "groups.lp"
    outcome = run(*asked, "--uneven-tensor-parallel", "--write-model", model, "--warm-start", plan)
    assert outcome.exit_code == 0, outcome.stderr
    assert "shared_0" in model.read_text(encoding="utf-8")
    refused = run(*asked, "--write-model", tmp_path / "groups.json")
    assert refused.exit_code == 2
    assert "knows stages of single devices" in refused.stderr
    other = run("map", "llama-3.1-8b", "8xl4", "--dtype", "fp32", "--tensor-parallel", "4", "--warm-start", plan)
    assert other.exit_code == 2
    assert "a stage has 2 devices, and 4 were asked for" in other.stderr
