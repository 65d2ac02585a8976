"""`gpuplan iteration`, `gpuplan predict` and `gpuplan batch --epsilon`, as a user types them."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from click.testing import CliRunner

from gpuplan.cli.main import cli

EXECUTORS = {
    "schema": "gpuplan/batching-problem/1",
    "executors": [
        {"name": "e0", "kv_capacity_tokens": 8000, "max_batch": 16},
        {"name": "e1", "kv_capacity_tokens": 4000, "max_batch": 4},
    ],
    "time": {
        "prefill_fixed_s": 0.005,
        "prefill_s_per_token": 1e-5,
        "step_fixed_s": 0.01,
        "step_s_per_sequence": 1e-4,
        "step_s_per_context_token": 0.0,
    },
    "objective": {"latency": 1.0, "makespan": 0.0, "padding": 0.0, "violation": 0.0},
}
needs_sklearn = pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the program in a folder with requests, executors and predictions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    rng = np.random.default_rng(0)
    rows = [(i, int(rng.integers(20, 300)), int(rng.integers(5, 200))) for i in range(40)]
    table = "id,prompt_tokens,output_tokens\n" + "".join(f"{i},{s},{o}\n" for i, s, o in rows)
    (tmp_path / "requests.csv").write_text(table, encoding="utf-8")
    (tmp_path / "executors.json").write_text(json.dumps(EXECUTORS), encoding="utf-8")
    samples = "".join(f"{i},{o};{o + 20};{2 * o}\n" for i, _, o in rows)
    (tmp_path / "predictions.csv").write_text("id,samples\n" + samples, encoding="utf-8")

    def invoke(*args):
        outcome = CliRunner().invoke(cli, [str(arg) for arg in args])
        if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
            raise outcome.exception
        return outcome

    return invoke


def _iteration(run, *more):
    return run("iteration", "requests.csv", "--executors", "executors.json", "--tpot-slo-s", "0.02", *more)


def test_parameters_are_shown(run):
    """The table names sequences, tokens, admission and order."""
    outcome = _iteration(run)
    assert outcome.exit_code == 0, outcome.stderr
    for words in ("parameters for e0", "sequences at most", "tokens an iteration", "admission limit", "queue order"):
        assert words in outcome.stdout


def test_json_is_one_document(run):
    """Stdout holds the parameters alone; the fullest iteration is within the target."""
    outcome = _iteration(run, "--format", "json")
    document = json.loads(outcome.stdout)
    assert document["iteration_s"] <= 0.02
    assert document["max_sequences"] <= 16
    assert document["token_budget"] > document["max_sequences"]


def test_engine_line_on_stdout_or_in_a_file(run, tmp_path):
    """`--to` prints what to paste, -o writes it."""
    outcome = _iteration(run, "--to", "vllm", "--model", "meta/x")
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout.startswith("vllm serve meta/x")
    written = _iteration(run, "--to", "vllm", "--model", "meta/x", "-o", "serve.sh")
    assert written.exit_code == 0, written.stderr
    assert (tmp_path / "serve.sh").read_text("utf-8") == outcome.stdout


def test_another_executor_and_predictions(run):
    """e1 is smaller; predicted outputs are longer, so fewer requests are admitted."""
    first = json.loads(_iteration(run, "--format", "json").stdout)
    second = json.loads(_iteration(run, "--format", "json", "--executor", "e1").stdout)
    third = json.loads(_iteration(run, "--format", "json", "--predictions", "predictions.csv").stdout)
    assert second["max_sequences"] <= 4
    assert third["admission_limit"] < first["admission_limit"]


@pytest.mark.parametrize(
    ("code", "args", "words"),
    [
        (2, ("--executor", "e9"), "no executor is called 'e9'; known are e0, e1"),
        (2, ("--to", "vlm"), "did you mean 'vllm'?"),
        (2, ("-o", "x.sh"), "name it with --to"),
        (2, ("--format", "json", "--to", "vllm"), "both print to stdout"),
        (2, ("--plan", "plan.json"), "either --plan PLAN or --executors FILE, got both"),
        (3, ("--predictions", "requests.csv"), "expected one column out of predicted_output_tokens"),
    ],
)
def test_wrong_options_are_refused(run, code, args, words):
    """One line on stderr, nothing on stdout."""
    outcome = _iteration(run, *args)
    assert outcome.exit_code == code, outcome.stderr
    assert words in outcome.stderr
    assert outcome.stdout == ""


def test_a_target_too_tight_is_infeasible(run):
    """Exit 4 with the step that one sequence takes."""
    outcome = run("iteration", "requests.csv", "--executors", "executors.json", "--tpot-slo-s", "0.001")
    assert outcome.exit_code == 4
    assert "takes 0.0101 s, over the TPOT target" in outcome.stderr


def test_batch_under_a_chance_constraint(run, tmp_path):
    """The plan is written, verifies, and the notes say what to expect."""
    outcome = run(
        "batch", "requests.csv", "--executors", "executors.json", "--predictions", "predictions.csv",
        "--epsilon", "0.05", "--policy", "sjf", "-o", "plan.json",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.stderr
    assert "expected objective" in outcome.stderr
    assert "KV overflow: at most" in outcome.stderr
    assert run("verify", "plan.json").exit_code == 0


def test_epsilon_needs_predictions(run):
    """Known lengths do not overflow."""
    outcome = run("batch", "requests.csv", "--executors", "executors.json", "--epsilon", "0.05")
    assert outcome.exit_code == 2
    assert "name them with --predictions FILE" in outcome.stderr


def test_bad_buckets_are_refused(run, tmp_path):
    """Edges are whole numbers that rise."""
    outcome = _iteration(run, "--predictions", "predictions.csv", "--buckets", "8,x")
    assert outcome.exit_code == 2
    assert "--buckets: expected rising edges such as 8,16,32, got '8,x'" in outcome.stderr


@needs_sklearn
def test_predict_writes_what_batch_takes(run, tmp_path):
    """Train on the table, predict requests without outputs, plan with the result."""
    (tmp_path / "new.csv").write_text("id,prompt_tokens\n100,50\n101,250\n", encoding="utf-8")
    outcome = run("predict", "requests.csv", "new.csv", "-o", "out.csv", "--format", "json")
    assert outcome.exit_code == 0, outcome.stderr
    report = json.loads(outcome.stdout)
    assert report["training_requests"] == 30
    assert report["trained"]["requests"] == 10
    (tmp_path / "asked.csv").write_text("id,prompt_tokens,output_tokens\n100,50,1\n101,250,1\n", encoding="utf-8")
    planned = run("batch", "asked.csv", "--executors", "executors.json", "--predictions", "out.csv", "--policy", "fifo")
    assert planned.exit_code == 0, planned.stderr


def test_predict_without_scikit_learn_names_the_extra(run, monkeypatch):
    """Exit 7, one sentence."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else real(name, *rest)
    )
    outcome = run("predict", "requests.csv")
    assert outcome.exit_code == 7
    assert "pip install 'gpuplan[predict]'" in outcome.stderr


def test_predict_needs_both_or_neither(run):
    """REQUESTS and -o go together."""
    outcome = run("predict", "requests.csv", "requests.csv")
    assert outcome.exit_code == 2
    assert "expected both REQUESTS and -o FILE" in outcome.stderr
