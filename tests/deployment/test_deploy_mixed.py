"""Deployments over hosts of unlike kinds: replicas over unequal pieces, and how close they come to the bound."""

from __future__ import annotations

import numpy as np
import pytest

from gpuplan.plans.verify.deployment import verify_deployment
from gpuplan.profiles import Workload, load_model
from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.solvers import deploy
from gpuplan.solvers.deployment.weighing import _multipliers
from gpuplan.topology import device_kind


@pytest.fixture(scope="module")
def three_kinds(make_cluster):
    """Six hosts of four devices each, two of a kind: H100, A100 and L4 on PCIe."""
    import dataclasses

    names = ["h100-pcie-80gb", "a100-pcie-40gb", "l4-24gb"]
    rows = [[(name, 1.0, int(0.9 * device_kind(name).memory_bytes), 1.0)] * 4 for name in names for _ in range(2)]
    drawn = make_cluster(rows, inside=(25e9, 1e-6), outside=(12.5e9, 5e-6))
    devices = tuple(dataclasses.replace(own, kind=device_kind(own.kind.name)) for own in drawn.devices)
    return dataclasses.replace(drawn, devices=devices)


@pytest.mark.slow
def test_replicas_over_unequal_pieces(three_kinds):
    """70B over three kinds: a replica over unequal pieces is found that no equal ones match; its gap is known."""
    problem = DeploymentProblem(
        load_model("llama-3.1-70b"), three_kinds, workload=Workload(32, 1024, 128), tensor_parallel=(1,)
    )
    result = deploy(problem)
    assert any("unequal pieces" in note for note in result.report.notes)
    assert result.gap is not None
    assert result.gap < 0.6  # 0.3 where the machine has nothing else to do
    assert str(verify_deployment(result.require_plan())) == "every number and constraint holds"


def test_foremost_of_each_group(monkeypatch):
    """Of each group the rows of most merit come first, the same number of each."""
    from gpuplan.solvers.deployment import pricing

    monkeypatch.setattr(pricing, "AT_ONCE", 4)
    rows, groups = np.arange(5), np.array([1, 0, 1, 0, 1])
    found = pricing._foremost(rows, groups, np.array([1.0, 2.0, 5.0, 3.0, 4.0]))
    assert found.tolist() == [3, 1, 2, 4]


def test_multipliers_make_a_layer_cost_the_same():
    """Kind a holds 2 layers for 1, kind b 4 for 3: at the multiplier 1 a layer costs 1 on both.

    With 0.5 more for the seconds of a layer on a: (1 + 3)/2 + 0.5 = (3 + 3)/4 + 1 = 2.5 at 3, with 1 more on b.
    """
    prices, holds = np.array([1.0, 3.0]), np.array([[2.0, 4.0]])
    found = _multipliers(prices, holds, np.array([[0.5, 1.0]]))
    assert any(multiplier[0] == pytest.approx(1.0) for multiplier in found)
    assert any(multiplier[0] == pytest.approx(3.0) for multiplier in found)


@pytest.mark.parametrize("time_limit_s", [1e-9, 0.05])
def test_a_limit_that_comes_at_once_leaves_an_answer(time_limit_s, three_kinds):
    """Without time for a search there is a bound, and a plan only with it."""
    problem = DeploymentProblem(load_model("llama-3.1-8b"), three_kinds, workload=Workload(8, 1024, 128))
    result = deploy(problem, time_limit_s=time_limit_s)
    assert result.status in ("feasible", "no_solution")
    assert result.bound is not None
    if result.plan is not None:
        assert verify_deployment(result.plan).ok
        assert result.bound >= result.objective
