"""Batches from the command line: plans, solutions, comparisons, refusals and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]

TABLE = "id,arrival_s,prompt_tokens,output_tokens,slo_s\n" + "".join(
    f"r{i},{i / 10},{50 + 10 * i},{5 + 3 * (i % 4)},{4 if i % 2 else ''}\n" for i in range(20)
)


@pytest.fixture
def files(tmp_path: Path, executors_document: dict[str, Any], problem_document: dict[str, Any]) -> Path:
    """Return a folder with requests, executors and a problem."""
    (tmp_path / "requests.csv").write_text(TABLE, encoding="utf-8")
    (tmp_path / "executors.json").write_text(json.dumps(executors_document), encoding="utf-8")
    (tmp_path / "problem.json").write_text(json.dumps(problem_document), encoding="utf-8")
    return tmp_path


def refused(outcome: Result, code: int) -> str:
    """Check a refusal: the exit code, nothing on stdout, one line of error; return that line."""
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("note: ")]
    assert outcome.exit_code == code, outcome.stderr
    assert outcome.stdout == ""
    assert len(lines) == 1, outcome.stderr
    return lines[0]


def test_plan_verify_and_views(gpuplan: Run, files: Path) -> None:
    """A plan is shown, written and verified; the timeline is drawn."""
    outcome = gpuplan(
        "batch", "requests.csv", "--executors", "executors.json", "--policy", "edf", "-o", "b.json", "--plot", "t.svg"
    )
    assert outcome.exit_code == 0, outcome.stderr
    for word in ("20 requests in", "by edf", "makespan", "padding", "deadlines kept", "e1 │"):
        assert word in outcome.stdout
    assert gpuplan("verify", "b.json").exit_code == 0
    assert (files / "t.svg").read_text("utf-8").count("<title>") > 1
    plan = json.loads((files / "b.json").read_text("utf-8"))
    assert plan["schema"] == "gpuplan/batch-plan/1"
    assert plan["inputs"]["problem"]["objective"]["padding"] == 0.001
    assert plan["name"] == "requests.csv"


def test_parquet_plans(gpuplan: Run, files: Path) -> None:
    """A plan ending in .parquet is Parquet and verifies all the same."""
    pytest.importorskip("pyarrow")
    arguments = ("batch", "requests.csv", "--executors", "executors.json", "--policy", "sjf", "-o", "b.parquet")
    assert gpuplan(*arguments).exit_code == 0
    assert (files / "b.parquet").read_bytes()[:4] == b"PAR1"
    assert gpuplan("verify", "b.parquet").exit_code == 0


def test_tampered_plan_is_refused(gpuplan: Run, files: Path) -> None:
    """A shaved finish ends in exit 6 and names the field."""
    gpuplan("batch", "requests.csv", "--executors", "executors.json", "--policy", "sjf", "-o", "b.json")
    plan = json.loads((files / "b.json").read_text("utf-8"))
    plan["batches"][0]["finish_s"] -= 0.01
    (files / "b.json").write_text(json.dumps(plan), encoding="utf-8")
    outcome = gpuplan("verify", "b.json")
    assert outcome.exit_code == 6
    assert "$.batches[0].finish_s" in outcome.stderr


def test_json_is_the_plan_alone(gpuplan: Run, files: Path) -> None:
    """With --format json stdout is one document: the plan, with what was asked for."""
    outcome = gpuplan(
        *("batch", "requests.csv", "--executors", "executors.json", "--policy", "slo-odbs-paper", "--format", "json"),
        *("--weights", "latency=2,padding=0.5", "--set", "threshold=500", "--set", "sign=plus", "--ignore-arrivals"),
        *("--max-batch", "2", "--slo-s", "9"),
    )
    assert outcome.exit_code == 0, outcome.stderr
    plan = json.loads(outcome.stdout)
    problem = plan["inputs"]["problem"]
    assert problem["objective"] == {
        "latency": 2.0,
        "makespan": 0.0,
        "padding": 0.5,
        "violation": 0.0,
        "deadlines": "soft",
    }
    assert [own["max_batch"] for own in plan["executors"]] == [2, 2]
    assert "arrival_s" not in problem["requests"]
    assert sorted(set(problem["requests"]["deadline_s"])) == [4.0, 9.0]
    assert plan["result"]["options"]["threshold"] == 500
    assert plan["result"]["options"]["sign"] == "plus"


def test_solve_and_verify_a_problem(gpuplan: Run, files: Path) -> None:
    """`solve` prints the solution; `verify` takes it with its problem and not without."""
    outcome = gpuplan("solve", "problem.json", "--solver", "sjf")
    assert outcome.exit_code == 0, outcome.stderr
    assert json.loads(outcome.stdout)["schema"] == "gpuplan/batching-solution/1"
    assert gpuplan("solve", "problem.json", "--solver", "sjf", "-o", "s.json").exit_code == 0
    assert gpuplan("verify", "s.json", "--problem", "problem.json").exit_code == 0
    assert "--problem PROBLEM" in refused(gpuplan("verify", "s.json"), 2)


def test_a_problem_with_hard_deadlines_nobody_can_meet(gpuplan: Run, files: Path) -> None:
    """Request c arrives at its deadline: exit 4, the document says infeasible and why, and nothing is written."""
    document = json.loads((files / "problem.json").read_text("utf-8"))
    document["objective"]["deadlines"] = "hard"
    (files / "hard.json").write_text(json.dumps(document), encoding="utf-8")
    outcome = gpuplan("solve", "hard.json", "--solver", "edf", "-o", "s.json", "--format", "json")
    assert outcome.exit_code == 4
    answer = json.loads(outcome.stdout)
    assert answer["status"] == "infeasible"
    assert "request c by" in answer["reasons"][0]
    assert not (files / "s.json").exists()


def test_refused_methods_are_rows_of_a_comparison(gpuplan: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method whose conditions fail is a row `refused` that says why; the others still answer."""
    from gpuplan.solvers.batching.policies import edf

    monkeypatch.setattr(edf, "supports", lambda problem: "it takes no arrivals; use fifo", raising=False)
    outcome = gpuplan("compare", "problem.json", "--solvers", "edf,fifo", "--format", "json")
    assert outcome.exit_code == 0, outcome.stderr
    rows = json.loads(outcome.stdout)["solvers"]
    assert [row["status"] for row in rows] == ["refused", "feasible"]
    assert "it takes no arrivals; use fifo" in rows[0]["note"]
    assert gpuplan("solve", "problem.json", "--solver", "edf").exit_code == 7


def test_the_problem_of_a_plan_can_be_written(gpuplan: Run, files: Path) -> None:
    """--write-model writes a problem that `solve` takes, to the same value."""
    plan = gpuplan(
        *("batch", "requests.csv", "--executors", "executors.json", "--policy", "edf"),
        *("--write-model", "p.json", "--format", "json"),
    )
    solved = gpuplan("solve", "p.json", "--solver", "edf")
    assert json.loads(solved.stdout)["objective"] == json.loads(plan.stdout)["result"]["objective"]


def test_compare_requests(gpuplan: Run, files: Path) -> None:
    """Policies side by side on requests and on a problem file, all verified."""
    arguments = ("compare", "requests.csv", "--executors", "executors.json", "--solvers", "fifo,sjf,s3")
    outcome = gpuplan(*arguments, "--format", "json")
    assert outcome.exit_code == 0, outcome.stderr
    rows = json.loads(outcome.stdout)["solvers"]
    assert [(row["name"], row["verified"]) for row in rows] == [("fifo", True), ("sjf", True), ("s3", True)]
    assert "multi-bin" in gpuplan("compare", "problem.json", "--solvers", "multi-bin,edf").stdout


def test_hard_deadlines(gpuplan: Run, files: Path) -> None:
    """A deadline that nobody can meet: exit 4 with the request and by how much; relaxed, a plan."""
    (files / "late.csv").write_text("id,prompt_tokens,output_tokens,slo_s\nq,100,101,0.5\nok,1,1,9\n", "utf-8")
    arguments = ("batch", "late.csv", "--executors", "executors.json", "--policy", "edf", "--deadlines", "hard")
    # alone: 0.02 + 0.002 + 100·(0.01 + 0.0002) + 1e-7·(100·100 + 101·50) = 1.043505 s, 0.543505 s late
    line = refused(gpuplan(*arguments, "-o", "b.json"), 4)
    assert "request q by 0.543505 s" in line
    assert "--relax-deadlines" in line
    assert not (files / "b.json").exists()
    outcome = gpuplan(*arguments, "--relax-deadlines", "-o", "b.json")
    assert outcome.exit_code == 0, outcome.stderr
    plan = json.loads((files / "b.json").read_text("utf-8"))
    assert (plan["unmet"], plan["metrics"]["violations"]) == (["q"], 1)
    assert gpuplan("verify", "b.json").exit_code == 0


def test_requests_that_fit_nowhere(gpuplan: Run, files: Path) -> None:
    """A request larger than every executor is named; the rest is planned only when asked for."""
    (files / "big.csv").write_text("id,prompt_tokens,output_tokens\nbig,4000,1\nok,1,1\n", "utf-8")
    arguments = ("batch", "big.csv", "--executors", "executors.json", "--policy", "fifo")
    assert "got big (4001 tokens)" in refused(gpuplan(*arguments), 3)
    outcome = gpuplan(*arguments, "--skip-unservable")
    assert outcome.exit_code == 0
    assert "left out" in outcome.stderr
    assert "1 request in 1 batch" in outcome.stdout


def test_predictions_replace_lengths(gpuplan: Run, files: Path) -> None:
    """Planned with predicted outputs of 7 for everyone."""
    (files / "p.csv").write_text("id,predicted_output_tokens\n" + "".join(f"r{i},7\n" for i in range(20)), "utf-8")
    outcome = gpuplan(
        *("batch", "requests.csv", "--executors", "executors.json", "--predictions", "p.csv"),
        *("--policy", "fifo", "--format", "json"),
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert {batch["output_tokens"] for batch in json.loads(outcome.stdout)["batches"]} == {7}


def test_milliseconds_are_warned_of(gpuplan: Run, files: Path) -> None:
    """Service levels that look like milliseconds are planned, with a warning."""
    (files / "ms.csv").write_text("prompt_tokens,output_tokens,slo_s\n1,1,30000\n", "utf-8")
    outcome = gpuplan("batch", "ms.csv", "--executors", "executors.json", "--policy", "fifo")
    assert outcome.exit_code == 0
    assert "warning: slo_s looks like milliseconds" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("problem.json", "--executors", "executors.json"), 2, "use gpuplan solve problem.json"),
        (("requests.csv",), 2, "expected either --plan PLAN or --executors FILE, got none"),
        (("requests.csv", "--executors", "executors.json", "--plan", "p.json"), 2, "got both"),
        (("none.csv", "--executors", "executors.json"), 3, "found none"),
        (("requests.csv", "--executors", "none.json"), 3, "found none"),
        (("requests.csv", "--executors", "problem.json"), 3, "expected executors, time and objective only"),
        (("requests.csv", "--executors", "executors.json", "--policy", "fito"), 2, "did you mean fifo"),
        (("requests.csv", "--executors", "executors.json", "--weights", "speed=1"), 2, "no term is called 'speed'"),
        (("requests.csv", "--executors", "executors.json", "--weights", "latency=-1"), 2, "at least 0 for latency"),
        (("requests.csv", "--executors", "executors.json", "--column", "prompt_tokens"), 2, "expected NAME=VALUE"),
        (("requests.csv", "--executors", "executors.json", "--column", "id=nope"), 3, "expected the column 'nope'"),
        (("requests.csv", "--executors", "executors.json", "--policy", "s3", "--set", "bins=2"), 2, "no option 'bins'"),
        (("requests.csv", "--executors", "executors.json", "-o", "nowhere/b.json"), 2, "there is no folder"),
    ],
)
def test_refusals(arguments: tuple[str, ...], code: int, message: str, gpuplan: Run, files: Path) -> None:
    """Each bad argument or file is one line with its exit code, and nothing is written."""
    before = sorted(path.name for path in files.iterdir())
    assert message in refused(gpuplan("batch", *arguments), code)
    assert sorted(path.name for path in files.iterdir()) == before


def test_the_journey_from_map_to_batches(gpuplan: Run, files: Path) -> None:
    """A plan of `map` runs the batches: times fitted to it, KV room recomputed, everything verified."""
    mapped = gpuplan(
        *("map", "llama-3.1-8b", "dgx-a100", "--batch", "8", "--prompt", "300", "--output", "20"), "-o", "plan.json"
    )
    assert mapped.exit_code == 0, mapped.stderr
    outcome = gpuplan(
        *("batch", "requests.csv", "--plan", "plan.json", "--max-batch", "8", "--policy", "sjf", "-o", "b.json")
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert "worst residual" in outcome.stderr
    plan = json.loads((files / "b.json").read_text("utf-8"))
    assert [own["name"] for own in plan["executors"]] == ["e0"]
    assert plan["provenance"]["model"] == json.loads((files / "plan.json").read_text("utf-8"))["model"]["name"]
    assert gpuplan("verify", "b.json").exit_code == 0


@pytest.mark.shared_data
def test_azure_conversations(gpuplan: Run, files: Path, shared_data: Path) -> None:
    """The Azure 2023 conversation trace (19,366 requests), with and without its arrivals, verified."""
    trace = shared_data / "traces" / "azure2023" / "AzureLLMInferenceTrace_conv.csv"
    document = json.loads((files / "executors.json").read_text("utf-8"))
    document["executors"] = [{"name": "e0", "kv_capacity_tokens": 100_000, "max_batch": 32}]
    (files / "one.json").write_text(json.dumps(document), encoding="utf-8")
    for more in ((), ("--ignore-arrivals",)):
        arguments = ("batch", trace, "--executors", "one.json", "--policy", "multi-bin", "-o", "b.json", *more)
        assert gpuplan(*arguments).exit_code == 0
        assert gpuplan("verify", "b.json").exit_code == 0
