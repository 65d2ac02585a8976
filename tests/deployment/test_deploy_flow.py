"""Deployments planned as flows."""

from __future__ import annotations

import pytest

from gpuplan.errors import UsageError
from gpuplan.plans.flow_solution import flow_solution_to_dict
from gpuplan.plans.verify.flow import verify_flow_solution
from gpuplan.profiles import Workload
from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.solvers.deployment.flow import deploy_flow


def ask(model, topology, costs, **changes):
    """Return the problem: 2 → 2 tokens, batch 1, no reserve, one device a stage, most tokens/s."""
    settings = {"objective": "throughput", "tensor_parallel": (1,), "reserve_bytes": 0.0, **changes}
    return DeploymentProblem(model, topology, costs, Workload(1, 2, 2), **settings)


def test_every_device_holds_everything(four_layers, two_hosts, ideal_costs):
    """Where the model fits a device, four nodes with all layers pass 4/2.66 tokens/s."""
    # One decode step of all four layers takes 0.2 + 2·1.03 + 0.4 = 2.66 s.
    plan = deploy_flow(ask(four_layers, two_hosts, ideal_costs))
    assert plan.result.status == "optimal"
    assert plan.result.objective == pytest.approx(4 / 2.66, rel=1e-9)
    document = flow_solution_to_dict(plan.result, plan.problem)
    assert verify_flow_solution(document, plan.problem).ok


def test_ranges_follow_the_memory(four_layers, two_hosts, ideal_costs):
    """T(k) is that of the slowest k layers, and a node holds no more than fits wherever its range lies."""
    plan = deploy_flow(ask(four_layers, two_hosts, ideal_costs, tensor_parallel=(2,)))
    # A pair halves 2.66 s and adds rings: α = 0.002 s, β = 1e-4 s/B; 5 of 4 B and the head's 16 B in a decode step.
    rings = 5 * (4e-4 + 0.004) + 16e-4 + 0.004
    assert [len(row) for row in plan.problem.throughput_tokens_per_s] == [4]
    assert plan.problem.throughput_tokens_per_s[0][3] == pytest.approx(1 / (1.33 + rings), rel=1e-9)
    assert plan.problem.node_names == ("host0/gpu0+host0/gpu1", "host1/gpu0+host1/gpu1")


def test_what_a_flow_does_not_have(four_layers, two_hosts, ideal_costs):
    """Promises and limits on devices are refused."""
    with pytest.raises(UsageError, match="an SLO"):
        deploy_flow(ask(four_layers, two_hosts, ideal_costs, tpot_slo_s=1.0))


def test_flow_from_the_command_line(tmp_path, monkeypatch):
    """The command writes a solution and the problem it answers; verify holds them together."""
    from click.testing import CliRunner

    from gpuplan.cli.main import cli

    monkeypatch.chdir(tmp_path)
    words = ["deploy", "llama-3.1-8b", "3-unlike", "--method", "flow", "--batch", "8", "-o", "flow.json"]
    outcome = CliRunner().invoke(cli, words)
    assert outcome.exit_code == 0, outcome.stderr
    outcome = CliRunner().invoke(cli, ["verify", "flow.json", "--problem", "flow.problem.json"])
    assert outcome.exit_code == 0, outcome.stderr
    assert CliRunner().invoke(cli, [*words[:5], "--demand-rps", "2"]).exit_code == 2
