"""Baselines from the command line: listed, compared side by side, their models written, their failures told."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gpuplan.solvers.external import worker

FLOW = {
    "schema": "gpuplan/flow-problem/1",
    "num_layers": 2,
    "throughput_tokens_per_s": {"T4": [10.0, 4.0]},
    "nodes": [{"name": "n0", "kind": "T4"}, {"name": "n1", "kind": "T4"}],
    "links": [
        *({"from": "source", "to": name, "capacity_tokens_per_s": 100.0} for name in ("n0", "n1")),
        *({"from": name, "to": "sink", "capacity_tokens_per_s": 100.0} for name in ("n0", "n1")),
        {"from": "n0", "to": "n1", "capacity_tokens_per_s": 9.0},
    ],
}


@pytest.fixture
def problem(examples) -> Path:
    """Return the file of three unlike devices."""
    return examples / "three-unlike-devices" / "problem.json"


def test_solvers_of_every_problem_are_listed(run):
    """Placement, flow and batching solvers, each with what it is for and whether it is installed."""
    rows = json.loads(run("list", "solvers", "--format", "json").stdout)["solvers"]
    names = {
        kind: {row["name"] for row in rows if row["problem"] == kind} for kind in ("placement", "flow", "batching")
    }
    placement = {"milp-blocks", "milp-blocks-cbc", "milp-layers", "milp-layers-cbc", "cp-sat", "dp-naive", "even"}
    assert placement <= names["placement"]
    assert {"auto", "flow-milp", "petals"} <= names["flow"]
    assert {"auto", "fifo"} <= names["batching"]
    assert all(row["installed"] for row in rows)


def test_flow_solvers_are_compared(run, write):
    """Every flow solver on two nodes; the best passes 9 tokens/s, and every answer is verified."""
    write("flow.json", FLOW)
    document = json.loads(run("compare", "flow.json", "--format", "json").stdout)
    assert document["objective"] == "flow"
    rows = {row["name"]: row for row in document["solvers"]}
    assert rows["auto"]["objective"] == pytest.approx(9.0)
    assert rows["auto"]["bound_by"]
    assert all(row["verified"] for row in rows.values() if row["objective"] is not None)
    table = run("compare", "flow.json", "--solvers", "auto,petals")
    assert table.exit_code == 0
    assert "below best" in table.stdout


def test_how_a_bound_was_proven_is_shown(run, problem):
    """In the certificate, in the comparison and in the statistics."""
    outcome = run("solve", problem, "--solver", "milp-layers", "-o", "out.json", "--stats", "stats.json")
    assert "LP relaxation of the layer form" in " ".join(outcome.stdout.split())
    assert json.loads(Path("stats.json").read_text("utf-8"))["proof"].startswith("LP relaxation of the layer form")
    rows = json.loads(run("compare", problem, "--solvers", "dp,dp-naive,even", "--format", "json").stdout)["solvers"]
    assert rows[0]["bound_by"].startswith("exhaustive label search")
    assert rows[1]["bound_by"].startswith("every set of devices")
    assert rows[2]["bound_by"] is None


@pytest.mark.parametrize(
    ("solver", "name", "text"),
    [
        ("auto", "model.lp", "once_0"),
        ("milp-blocks-cbc", "model.mps", "once_0"),
        ("milp-layers", "model.lp", "layer_0"),
        ("cp-sat", "model.txt", "circuit"),
        ("auto", "model.txt", "circuit"),
        ("cp-sat", "model.lp", "once_0"),
    ],
)
def test_models_are_written_by_solver(run, problem, solver, name, text):
    """The solver's own model where it has one of that ending; else that of milp-blocks or cp-sat."""
    outcome = run("solve", problem, "--solver", solver, "--write-model", name, "-o", "out.json")
    assert outcome.exit_code == 0
    assert text in Path(name).read_text("utf-8")


def test_a_model_of_another_ending_is_refused(refused, problem):
    """With the endings that are known."""
    message = refused(2, "solve", problem, "--write-model", "model.xyz")
    assert "ending in .json, .lp, .mps, .pb or .txt" in message


def test_memory_limits_are_kept(run, refused, problem):
    """Refused in one sentence with exit 7, a row of its own in a comparison; an amount that is none is exit 2."""
    for solver in ("auto", "milp-blocks", "cp-sat", "dp-naive"):
        message = refused(7, "solve", problem, "--solver", solver, "--memory-limit", "100B")
        assert "--memory-limit is 100 B" in message
    assert "--memory-limit is 1.0 KiB" in refused(7, "map", "llama-3.1-8b", "8xl4", "--memory-limit", "1KiB")
    refused(2, "solve", problem, "--memory-limit", "much")
    arguments = ("--solvers", "even,milp-blocks", "--memory-limit", "1KiB", "--format", "json")
    rows = json.loads(run("compare", problem, *arguments).stdout)["solvers"]
    assert [row["status"] for row in rows] == ["feasible", "refused"]
    assert run("solve", problem, "--memory-limit", "8GiB", "-o", "out.json").exit_code == 0


def test_a_missing_back_end_asked_for_alone_is_exit_7(run, refused, problem, monkeypatch):
    """With the extra to install; beside others it is a row that says it is missing."""
    import importlib.util

    installed = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "ortools" else installed(name))
    alone = run("compare", problem, "--solvers", "cp-sat")
    assert alone.exit_code == 7
    assert "pip install ortools" in alone.stderr
    assert "pip install ortools" in refused(7, "solve", problem, "--solver", "cp-sat")
    rows = json.loads(run("compare", problem, "--solvers", "cp-sat,even", "--format", "json").stdout)["solvers"]
    assert [row["status"] for row in rows] == ["missing", "feasible"]


@pytest.mark.parametrize(
    ("code", "words"),
    [("import os; os.abort()", "crashed"), ("print('out of cheese', flush=True)", "printed what is no answer")],
)
def test_a_solver_that_breaks_is_a_failed_row(run, problem, monkeypatch, code, words):
    """A crash or garbage is told in one sentence, and the other paths still answer."""
    monkeypatch.setattr(worker, "_python", lambda: [sys.executable, "-c", code])
    outcome = run("compare", problem, "--solvers", "auto,milp-blocks,cp-sat,even", "--format", "json")
    assert outcome.exit_code == 0
    rows = {row["name"]: row for row in json.loads(outcome.stdout)["solvers"]}
    assert [rows[name]["status"] for name in ("auto", "even")] == ["optimal", "feasible"]
    for name in ("milp-blocks", "cp-sat"):
        assert rows[name]["status"] == "failed"
        assert words in rows[name]["note"]
    alone = run("compare", problem, "--solvers", "cp-sat")
    assert (alone.exit_code, words in alone.stderr) == (5, True)
    broken = run("solve", problem, "--solver", "milp-blocks")
    assert broken.exit_code == 5
    assert words in broken.stderr


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["milp-blocks", "milp-blocks-cbc", "milp-layers", "cp-sat"])
def test_ctrl_c_keeps_the_incumbent_of_external_solvers(solver, tmp_path, write, run):
    """After Ctrl-C the plan the search started from, or a better one, is written and verified; the exit code is 0."""
    draw = np.random.default_rng(4)
    cuts = [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30]
    sizes = draw.integers(40, 200, 30).astype(float)
    write("problem.json", hard_problem(draw, cuts, sizes))
    stages = [{"device": f"g{k}", "start": cuts[k], "stop": cuts[k + 1]} for k in range(12)]
    head = {"schema": "gpuplan/placement-solution/1", "status": "feasible", "objective": 1.0, "terms": {}}
    write("start.json", {**head, "bound": None, "gap": None, "solver": "by hand", "seed": 0, "stages": stages})
    words = ["--solver", solver, "--time-limit", "100", "--warm-start", "start.json", "-o", "end.json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuplan", "solve", "problem.json", "--write-model", "seen.json", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "seen.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(3.0)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "stopped by Ctrl-C" in stdout
    assert json.loads((tmp_path / "end.json").read_text("utf-8"))["status"] == "feasible"
    assert run("verify", "end.json", "--problem", "problem.json").exit_code == 0


def hard_problem(draw: np.random.Generator, cuts: list[int], sizes: np.ndarray) -> dict[str, object]:
    """Return the bottleneck of 12 unlike devices, each with room for its piece of 30 layers and 15 % more."""
    room = [1.15 * float(sizes[start:stop].sum()) for start, stop in itertools.pairwise(cuts)]
    compute = draw.uniform(0.5, 3.0, (12, 1)) * draw.uniform(0.5, 2.0, (1, 30))
    return {
        "schema": "gpuplan/placement-problem/1",
        "devices": [{"name": f"g{d}", "available_bytes": room[d]} for d in range(12)],
        "layers": [{"name": f"l{k}", "memory_bytes": sizes[k], "boundary_bytes": 4.0} for k in range(30)],
        "compute_s": compute.tolist(),
        "hop_latency_s": draw.uniform(0.0, 2.0, (12, 12)).tolist(),
        "hop_s_per_byte": draw.uniform(0.0, 0.1, (12, 12)).tolist(),
        "objective": {"name": "bottleneck"},
    }
