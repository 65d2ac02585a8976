"""``gpuplan solve`` and ``verify`` on flow problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gpuplan.cli.main import cli


def two_nodes() -> dict[str, Any]:
    """Return two layers on two nodes.

    Each passes 10 tokens/s with one layer and 4 with both: in a row they pass 10 (the link allows 9), side by side 8.
    """
    names = ("n0", "n1")
    links = [{"from": "source", "to": name, "capacity_tokens_per_s": 100.0} for name in names]
    links += [{"from": name, "to": "sink", "capacity_tokens_per_s": 100.0} for name in names]
    links += [{"from": "n0", "to": "n1", "capacity_tokens_per_s": 9.0}]
    return {
        "schema": "gpuplan/flow-problem/1",
        "num_layers": 2,
        "throughput_tokens_per_s": {"T4": [10.0, 4.0]},
        "nodes": [{"name": name, "kind": "T4"} for name in names],
        "links": links,
    }


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    """Return the file of the two nodes."""
    path = tmp_path / "flow.json"
    path.write_text(json.dumps(two_nodes()), encoding="utf-8")
    return path


def test_solved_and_verified(problem: Path, tmp_path: Path) -> None:
    """The chain passes 9 tokens/s, the capacity of its link, and the verifier agrees."""
    out = tmp_path / "solution.json"
    done = CliRunner().invoke(cli, ["solve", str(problem), "-o", str(out)])
    assert done.exit_code == 0, done.output
    solution = json.loads(out.read_text(encoding="utf-8"))
    assert solution["objective"] == pytest.approx(9.0, rel=1e-9)
    assert solution["placement"] == {"n0": {"start": 0, "stop": 1}, "n1": {"start": 1, "stop": 2}}
    assert CliRunner().invoke(cli, ["verify", str(out), "--problem", str(problem)]).exit_code == 0


def test_raised_objective_is_found(problem: Path, tmp_path: Path) -> None:
    """A solution that claims more than its flow ends in exit 6."""
    out = tmp_path / "solution.json"
    CliRunner().invoke(cli, ["solve", str(problem), "-o", str(out)])
    solution = json.loads(out.read_text(encoding="utf-8"))
    solution["objective"] = solution["bound"] = 9.5
    out.write_text(json.dumps(solution), encoding="utf-8")
    done = CliRunner().invoke(cli, ["verify", str(out), "--problem", str(problem)])
    assert done.exit_code == 6
    assert "$.objective" in done.output


def test_no_cover_is_infeasible(problem: Path, tmp_path: Path) -> None:
    """Two nodes of one layer each cannot hold three layers: exit 4, nothing written."""
    document = two_nodes() | {"num_layers": 3, "throughput_tokens_per_s": {"T4": [10.0]}}
    problem.write_text(json.dumps(document), encoding="utf-8")
    out = tmp_path / "solution.json"
    done = CliRunner().invoke(cli, ["solve", str(problem), "-o", str(out)])
    assert done.exit_code == 4
    assert not out.exists()


def test_link_to_nowhere_is_refused(problem: Path) -> None:
    """An unknown node is bad input, named by its place."""
    document = two_nodes()
    document["links"][4]["to"] = "n7"
    problem.write_text(json.dumps(document), encoding="utf-8")
    done = CliRunner().invoke(cli, ["solve", str(problem)])
    assert done.exit_code == 3
    assert "$.links[4].to" in done.output


def test_limits_on_depth_and_single_holders(problem: Path, tmp_path: Path) -> None:
    """Without hops, or with two holders for every layer, the nodes work side by side: 4 + 4 tokens/s."""
    for option in (("--max-hops", "0"), ("--max-single-share", "0")):
        out = tmp_path / "solution.json"
        done = CliRunner().invoke(cli, ["solve", str(problem), *option, "-o", str(out)])
        assert done.exit_code == 0, done.output
        assert json.loads(out.read_text(encoding="utf-8"))["objective"] == pytest.approx(8.0, rel=1e-9)
        assert CliRunner().invoke(cli, ["verify", str(out), "--problem", str(problem)]).exit_code == 0


def test_wider_limit_than_the_problem_is_refused(problem: Path) -> None:
    """A limit on hops above the problem's own is a usage error."""
    problem.write_text(json.dumps(two_nodes() | {"max_hops": 1}), encoding="utf-8")
    done = CliRunner().invoke(cli, ["solve", str(problem), "--max-hops", "2"])
    assert done.exit_code == 2
    assert "allows no more than 1" in done.output


def test_flow_limits_are_for_flow_problems(tmp_path: Path) -> None:
    """On a placement problem the limits are refused rather than ignored."""
    path = tmp_path / "placement.json"
    path.write_text(json.dumps({"schema": "gpuplan/placement-problem/1"}), encoding="utf-8")
    done = CliRunner().invoke(cli, ["solve", str(path), "--max-hops", "2"])
    assert done.exit_code == 2
    assert "for flow problems" in done.output


def test_published_model_is_written(problem: Path, tmp_path: Path) -> None:
    """``--write-model`` writes the mixed-integer model as .lp, the problem as .json, and refuses other suffixes."""
    model, copy = tmp_path / "model.lp", tmp_path / "copy.json"
    assert CliRunner().invoke(cli, ["solve", str(problem), "--write-model", str(model)]).exit_code == 0
    assert "flow_0_1" in model.read_text(encoding="utf-8")
    assert CliRunner().invoke(cli, ["solve", str(problem), "--write-model", str(copy)]).exit_code == 0
    assert json.loads(copy.read_text(encoding="utf-8"))["schema"] == "gpuplan/flow-problem/1"
    assert CliRunner().invoke(cli, ["solve", str(problem), "--write-model", str(tmp_path / "m.txt")]).exit_code == 2


def test_flow_solvers_side_by_side(problem: Path) -> None:
    """``compare`` runs the search and the rules on a flow problem, every answer verified."""
    done = CliRunner().invoke(cli, ["compare", str(problem), "--solvers", "auto,petals,swarm", "--format", "json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["solvers"]
    assert [row["name"] for row in rows] == ["auto", "petals", "swarm"]
    assert rows[0]["objective"] == pytest.approx(9.0, rel=1e-9)
