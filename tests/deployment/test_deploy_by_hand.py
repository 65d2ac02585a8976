"""Deployments small enough to work out by hand: two hosts of two devices, four layers."""

from __future__ import annotations

import dataclasses

import pytest

from gpuplan.errors import UsageError
from gpuplan.plans.verify.deployment import verify_deployment
from gpuplan.profiles import Workload
from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.solvers import deploy

# 2 prompt and 2 output tokens, batch 1, devices of 100 B/s. Embedding 20 B, two layers of 100 B, head 40 B, KV 1 B a
# token and layer. Prefill: 0.2 + 2·(1 + 0.02) + 0.4 = 2.64 s; decode at context 3: 0.2 + 2·(1 + 0.03) + 0.4 = 2.66 s.
# One device, one micro-batch: 1/(2.64 + 2.66) requests/s.
ALONE = 1 / 5.3


def ask(model, topology, costs, **changes):
    """Return the problem: 2 → 2 tokens, batch 1, no reserve, one device a stage."""
    settings = {"tensor_parallel": (1,), "reserve_bytes": 0.0, **changes}
    return DeploymentProblem(model, topology, costs, Workload(1, 2, 2), **settings)


def shrunk(topology, available):
    """Return the topology with other memory in its devices, in order."""
    devices = zip(topology.devices, available, strict=True)
    return dataclasses.replace(
        topology, devices=tuple(dataclasses.replace(own, available_bytes=room) for own, room in devices)
    )


def test_one_replica_on_each_device(four_layers, two_hosts, ideal_costs):
    """Where the model fits a device, four replicas beat every pipeline: 4/5.3 requests/s, proven."""
    # Memory of one: 260 + KV 2·4 + workspace (1·2·(4·2 + 2·3)·2 + 1·4·4) = 340 of 400 B.
    result = deploy(ask(four_layers, two_hosts, ideal_costs))
    assert result.status == "optimal"
    assert result.objective == pytest.approx(4 * ALONE, rel=1e-9)
    plan = result.require_plan()
    assert [replica.device_names for replica in plan.replicas] == [
        ("host0/gpu0",),
        ("host0/gpu1",),
        ("host1/gpu0",),
        ("host1/gpu1",),
    ]
    assert plan.metrics.ttft_s.worst == pytest.approx(2.64)
    assert plan.metrics.token_interval_s.mean == pytest.approx(2.66)
    assert plan.metrics.price_per_hour == 4.0


def test_pipelines_stay_in_their_host(four_layers, two_hosts, ideal_costs):
    """With 250 B a device a replica needs two; both replicas keep to one host."""
    # Stages 0-1 | 2-3, M = 2. Hops inside a host: prefill 0.002 + 20/1e4 = 0.004, decode 0.003, return 0.0024 s.
    # TTFT 1.22 + 0.004 + 1.42 = 2.644; slowest prefill 1.42; interval 2·(1.43 + 0.0024) = 2.8648.
    result = deploy(ask(four_layers, shrunk(two_hosts, [250] * 4), ideal_costs))
    assert result.objective == pytest.approx(2 * 2 / (2.644 + 1.42 + 2.8648), rel=1e-9)
    plan = result.require_plan()
    assert [replica.device_names for replica in plan.replicas] == [
        ("host0/gpu0", "host0/gpu1"),
        ("host1/gpu0", "host1/gpu1"),
    ]
    assert verify_deployment(plan).ok


@pytest.mark.parametrize("stages", [True, False])
def test_one_output_token_needs_no_decode_step(stages, four_layers, two_hosts, ideal_costs):
    """Then prefill alone counts, also where some splits do not fit (0 steps of what is infinite are no number)."""
    # As above: TTFT 2.644 and, with two micro-batches, once more the slowest prefill, 1.42.
    problem = ask(four_layers, shrunk(two_hosts, [250] * 4), ideal_costs, micro_batches_from_stages=stages)
    result = deploy(dataclasses.replace(problem, workload=Workload(1, 2, 1)))
    expected = 2 * 2 / (2.644 + 1.42) if stages else 2 / 2.644
    assert (result.status, result.objective) == ("optimal", pytest.approx(expected, rel=1e-9))


def test_demand_takes_the_fewest_devices(four_layers, two_hosts, ideal_costs):
    """0.3 requests/s need two devices: one serves 0.189."""
    result = deploy(ask(four_layers, two_hosts, ideal_costs, objective="devices", demand_rps=0.3))
    assert (result.status, result.objective, result.bound) == ("optimal", 2.0, 2.0)


def test_demand_takes_the_cheapest_devices(four_layers, make_cluster, ideal_costs):
    """One device of 200 B/s for 5 an hour is dearer than two of 100 B/s for 2 each."""
    hosts = [[("fast", 200.0, 400, 5.0), ("slow", 100.0, 400, 2.0), ("slow", 100.0, 400, 2.0)]]
    topology = make_cluster(hosts, inside=(1e4, 0.001), outside=(1e3, 0.002))
    cheapest = deploy(ask(four_layers, topology, ideal_costs, objective="cost", demand_rps=0.37))
    fewest = deploy(ask(four_layers, topology, ideal_costs, objective="devices", demand_rps=0.37))
    assert (cheapest.objective, fewest.objective) == (4.0, 1.0)


def test_demand_out_of_reach(four_layers, two_hosts, ideal_costs):
    """A demand above what four devices serve is infeasible, and the most there is is named."""
    result = deploy(ask(four_layers, two_hosts, ideal_costs, objective="devices", demand_rps=1.0))
    assert result.status == "infeasible"
    assert "no deployment serves more than 0.754717" in result.reasons[0]


def test_model_that_fits_nowhere(four_layers, two_hosts, ideal_costs):
    """Too little memory in all devices together is said in bytes."""
    # 260 B of weights + 2·4 B of KV, and 90 − 72 = 18 B free on each of four devices.
    result = deploy(ask(four_layers, shrunk(two_hosts, [90] * 4), ideal_costs))
    assert result.status == "infeasible"
    assert "196 B more than the 4 devices have free together" in result.reasons[0]


def test_stages_larger_than_what_there_is(four_layers, two_hosts, make_cluster, ideal_costs):
    """A degree above every island or above the device limit is a proof in one sentence."""
    singles = make_cluster([[("a", 100.0, 400, 1.0)]] * 2, inside=(1e4, 0.001), outside=(1e3, 0.002))
    apart = deploy(ask(four_layers, singles, ideal_costs, tensor_parallel=(2,)))
    assert apart.reasons == ("no island has 2 devices for a stage; the largest has 1",)
    capped = deploy(ask(four_layers, two_hosts, ideal_costs, tensor_parallel=(2,), max_devices=1))
    assert (apart.status, capped.status) == ("infeasible", "infeasible")
    assert capped.reasons == ("a stage takes 2 devices at least, and the device limit is 1",)


def test_promise_out_of_reach(four_layers, two_hosts, ideal_costs):
    """A TTFT that no replica has is infeasible, with the least there is."""
    result = deploy(ask(four_layers, two_hosts, ideal_costs, ttft_slo_s=1.0))
    assert result.status == "infeasible"
    assert "the least TTFT any could have is 2.64 s" in result.reasons[0]


def test_shared_link_holds_replicas_back(four_layers, make_cluster, ideal_costs):
    """Two replicas whose hops share a link of 5 B/s serve 5/30 requests/s together: 30 B a request cross it."""
    # Only the devices of host1 and host2 hold layers 2-3 (220 B), so both of host0 lead a pipeline over the network.
    # A hop takes 4 s of a prefill and 2 s of a decode step: alone each serves 0.109 requests/s, two overdraw the link.
    hosts = [[("even", 100.0, 210, 1.0)] * 2, [("even", 100.0, 250, 1.0)], [("even", 100.0, 250, 1.0)]]
    topology = make_cluster(hosts, inside=(1e4, 0.0), outside=(5.0, 0.0))
    result = deploy(ask(four_layers, topology, ideal_costs))
    plan = result.require_plan()
    assert result.objective == pytest.approx(5 / 30, rel=1e-6)
    assert max(link.utilization for link in plan.links) == pytest.approx(1.0, rel=1e-6)
    assert any("links hold some replicas below" in note for note in result.report.notes)
    assert result.bound > result.objective
    assert verify_deployment(plan).ok


def test_tensor_parallel_pairs(four_layers, two_hosts, ideal_costs):
    """Degree 2 halves the layers' times: one prefill of half of 2.64 s and the rings."""
    # Rings of t = 2 move m·β + 2·α: α = 0.002 s, β = 1e-4 s/B. Prefill: layers 2·2 of 2·2·2 = 8 B, embedding one,
    # head 1·4·4 = 16 B: 5·(8e-4 + 0.004) + 16e-4 + 0.004 = 0.0296 s; TTFT 1.32 + 0.0296.
    result = deploy(ask(four_layers, two_hosts, ideal_costs, tensor_parallel=(2,)))
    plan = result.require_plan()
    assert [replica.shape for replica in plan.replicas] == ["tp 2 × pp 1"] * 2
    assert plan.metrics.ttft_s.worst == pytest.approx(1.32 + 0.0296, rel=1e-9)
    assert verify_deployment(plan).ok


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "speed"},
        {"objective": "devices"},
        {"demand_rps": 1.0},
        {"ttft_slo_s": -1.0},
        {"max_replicas": 0},
        {"reserve_bytes": float("nan")},
        {"runtime": "tgi"},
        {"tensor_parallel": (3,)},
    ],
)
def test_questions_that_are_refused(changes, four_layers, two_hosts, ideal_costs):
    """Values out of range, unknown names and demands without an objective are usage errors."""
    with pytest.raises(UsageError, match="expected"):
        ask(four_layers, two_hosts, ideal_costs, **changes)
