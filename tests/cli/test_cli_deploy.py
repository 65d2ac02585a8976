"""``gpuplan deploy`` from the command line."""

from __future__ import annotations

import json

import pytest

SMALL = ("deploy", "llama-3.1-8b", "8xl4", "--tensor-parallel", "1,2")


def test_deploy_verify_export(run, tmp_path):
    """A deployment is written, verified, exported a server a replica, and planned again from itself."""
    outcome = run(*SMALL, "-o", "d.json")
    assert outcome.exit_code == 0, outcome.stderr
    assert "optimal: no better deployment exists" in outcome.stdout
    assert "tp 2 × pp 1" in outcome.stdout.replace("\N{NO-BREAK SPACE}", " ")
    assert run("verify", "d.json").exit_code == 0
    text = run("export", "d.json", "--to", "vllm").stdout
    assert text.count("vllm serve") == text.count("# replica") > 1
    assert run("export", "d.json", "--to", "vllm", "-o", "serve.sh").exit_code == 0
    assert (tmp_path / "serve-replica0.sh").read_text("utf-8").startswith("export CUDA")
    again = run(*SMALL, "--current", "d.json")
    assert "the current deployment stays" in again.stdout


def test_json_is_one_document(run):
    """With --format json stdout holds the deployment and nothing else."""
    outcome = run(*SMALL, "--format", "json", "--demand-rps", "5")
    document = json.loads(outcome.stdout)
    assert document["schema"] == "gpuplan/deployment/1"
    assert document["inputs"]["options"]["objective"] == {"name": "devices", "demand_rps": 5.0}
    assert document["metrics"]["requests_per_s"] >= 5.0


def test_infeasible_says_why(run):
    """A model too large ends with 4, one line, and the reasons in JSON."""
    outcome = run("deploy", "llama-3.1-405b", "8xl4", "--format", "json")
    assert outcome.exit_code == 4
    assert "more than the 8 devices have free together" in outcome.stderr
    assert json.loads(outcome.stdout)["status"] == "infeasible"


@pytest.mark.parametrize(
    ("code", "options"),
    [
        (2, ("--objective", "speed")),
        (2, ("--objective", "devices")),
        (2, ("--demand-rps", "-1")),
        (2, ("--batch", "0")),
        (2, ("--move-cost", "nan")),
        (2, ("--tensor-parallel", "5")),
        (2, ("--for", "tgi")),
        (3, ("--current", "missing.json")),
        (4, ("--ttft-slo", "0.000001")),
        (4, ("--demand-rps", "1000")),
    ],
)
def test_refusals(code, options, refused):
    """Bad values, missing files and questions without an answer end with one line and a code of their own."""
    assert refused(code, *SMALL, *options)
