"""Re-planning: what stays, what moves, and plans that do not go to and fro."""

from __future__ import annotations

import dataclasses

import pytest

from gpuplan.errors import UsageError
from gpuplan.plans.verify.deployment import verify_deployment
from gpuplan.profiles import Workload, load_model
from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.solvers import deploy
from gpuplan.topology import load_topology


def ask(model, topology, costs, **changes):
    """Return the problem: 2 → 2 tokens, batch 1, no reserve, one device a stage."""
    settings = {"tensor_parallel": (1,), "reserve_bytes": 0.0, **changes}
    return DeploymentProblem(model, topology, costs, Workload(1, 2, 2), **settings)


def without(topology, name):
    """Return the topology without a device."""
    return dataclasses.replace(
        topology,
        devices=tuple(device for device in topology.devices if device.name != name),
        components=tuple(part for part in topology.components if part.name != name),
        links=tuple(link for link in topology.links if name not in (link.a, link.b)),
    )


def places(plan):
    """Return where each replica stands, by name."""
    return {replica.name: replica.device_names for replica in plan.replicas}


def test_unchanged_cluster_keeps_the_plan(four_layers, two_hosts, ideal_costs):
    """Planned again with nothing changed, every replica stays and nothing moves."""
    problem = ask(four_layers, two_hosts, ideal_costs)
    first = deploy(problem).require_plan()
    again = deploy(problem, current=first)
    assert again.status == "optimal"
    assert places(again.require_plan()) == places(first)
    assert again.require_plan().changes.total_moved_bytes == 0.0
    assert verify_deployment(again.require_plan()).ok


@pytest.mark.parametrize(
    "changes",
    [{"objective": "throughput"}, {"objective": "cost", "demand_rps": 0.4}, {"tensor_parallel": (1, 2)}],
)
def test_every_objective_comes_to_rest(changes, four_layers, two_hosts, ideal_costs):
    """Three times from its own answer: the same replicas under the same names on the same devices."""
    problem = ask(four_layers, two_hosts, ideal_costs, **changes)
    first = plan = deploy(problem).require_plan()
    for _ in range(3):
        plan = deploy(problem, current=plan).require_plan()
        assert places(plan) == places(first)
        assert plan.changes.total_moved_bytes == 0.0
        assert plan.changes.appeared == plan.changes.disappeared == ()


def test_lost_device_moves_nothing_else(four_layers, two_hosts, ideal_costs):
    """When a device is gone its replica goes; the other three stay where they are under their names."""
    first = deploy(ask(four_layers, two_hosts, ideal_costs)).require_plan()
    smaller = without(two_hosts, "host0/gpu1")
    plan = deploy(ask(four_layers, smaller, ideal_costs), current=first).require_plan()
    assert plan.changes.kept == ("replica0", "replica2", "replica3")
    assert plan.changes.disappeared == ("replica1",)
    assert plan.changes.moved_bytes == {}
    assert verify_deployment(plan).ok


def test_new_device_loads_its_own_weights(four_layers, two_hosts, ideal_costs):
    """A device that comes back gets a replica of its own: 260 B of weights, and nobody else moves."""
    first = deploy(ask(four_layers, without(two_hosts, "host0/gpu1"), ideal_costs)).require_plan()
    plan = deploy(ask(four_layers, two_hosts, ideal_costs), current=first).require_plan()
    assert plan.changes.appeared == ("replica3",)
    assert plan.changes.moved_bytes == {"host0/gpu1": 260.0}
    assert len(plan.changes.kept) == 3
    assert verify_deployment(plan).ok


def test_moving_may_cost_more_than_it_gains(four_layers, two_hosts, ideal_costs):
    """The fourth replica gains 0.189 requests/s for 260 B: not worth it at 0.001 a byte, nor below the hysteresis."""
    first = deploy(ask(four_layers, without(two_hosts, "host0/gpu1"), ideal_costs)).require_plan()
    problem = ask(four_layers, two_hosts, ideal_costs)
    dear = deploy(problem, current=first, move_cost=0.001).require_plan()
    lazy = deploy(problem, current=first, hysteresis=0.5).require_plan()
    assert len(dear.replicas) == len(lazy.replicas) == 3
    assert "stays" in dear.changes.decision


def test_demand_to_and_fro_leaves_the_plan_alone(four_layers, two_hosts, ideal_costs):
    """Two demands within 5 % of each other, in turn: one change at most, then none."""
    # One device serves 0.18868 requests/s: 0.185 needs one, 0.190 needs two.
    plan = deploy(ask(four_layers, two_hosts, ideal_costs, objective="devices", demand_rps=0.185)).require_plan()
    seen = []
    for demand in (0.190, 0.185, 0.190, 0.185, 0.190):
        problem = ask(four_layers, two_hosts, ideal_costs, objective="devices", demand_rps=demand)
        plan = deploy(problem, current=plan).require_plan()
        assert verify_deployment(plan).ok
        seen.append(places(plan))
    assert all(own == seen[0] for own in seen)
    assert plan.metrics.devices_used == 2


def test_demand_that_falls_lets_devices_go(four_layers, two_hosts, ideal_costs):
    """A demand that falls by half lets replicas go and moves nothing."""
    problem = ask(four_layers, two_hosts, ideal_costs, objective="devices", demand_rps=0.7)
    first = deploy(problem).require_plan()
    plan = deploy(problem.replace(demand_rps=0.35), current=first).require_plan()
    assert len(first.replicas) == 4
    assert len(plan.replicas) == 2
    assert plan.changes.total_moved_bytes == 0.0


def test_replanning_over_pieces_of_islands():
    """On eight hosts a lost device takes its own replica with it and no other."""
    model, topology = load_model("llama-3.1-70b"), load_topology("8x-dgx-h100")
    problem = DeploymentProblem(model, topology, workload=Workload(64, 1024, 128))
    first = deploy(problem).require_plan()
    gone = next(replica for replica in first.replicas if "host3/gpu5" in replica.device_names)
    smaller = without(topology, "host3/gpu5")
    plan = deploy(problem.replace(topology=smaller), current=first).require_plan()
    assert plan.changes.disappeared == (gone.name,)
    assert set(plan.changes.moved_bytes) <= set(gone.device_names)
    assert verify_deployment(plan).ok


@pytest.mark.parametrize("option", [{"move_cost": -1.0}, {"hysteresis": float("nan")}, {"time_limit_s": 0.0}])
def test_options_out_of_range(option, four_layers, two_hosts, ideal_costs):
    """Negative costs, no number and no time are usage errors."""
    with pytest.raises(UsageError, match="expected"):
        deploy(ask(four_layers, two_hosts, ideal_costs), **option)


def test_a_deployment_of_something_else_is_refused(four_layers, two_hosts, ideal_costs):
    """What holds other weights, or stood on other kinds of devices, holds nothing that could stay."""
    current = deploy(ask(four_layers, two_hosts, ideal_costs)).require_plan()
    first, *rest = four_layers.layers
    heavier = dataclasses.replace(first, weight_bytes=first.weight_bytes + 1)
    with pytest.raises(UsageError, match=r"expected a current deployment of .* with weights in"):
        deploy(ask(dataclasses.replace(four_layers, layers=(heavier, *rest)), two_hosts, ideal_costs), current=current)
    gpu, *others = two_hosts.devices
    other = dataclasses.replace(gpu, kind=dataclasses.replace(gpu.kind, name="other"))
    topology = dataclasses.replace(two_hosts, devices=(other, *others))
    with pytest.raises(UsageError, match="host0/gpu0 is of kind other, got one where"):
        deploy(ask(four_layers, topology, ideal_costs), current=current)


def test_only_bytes_that_move_are_charged(four_layers, make_cluster, ideal_costs):
    """A new device takes the embedding (20 B) over from a pipeline of 260 B: 20 B are weighed against the gain."""
    members = [("a", 80.0, 500, 1.0), ("b", 160.0, 320, 1.0), ("c", 110.0, 250, 1.0)]
    topology = make_cluster([members], inside=(1e4, 0.001), outside=(1e3, 0.002))
    problem = DeploymentProblem(
        four_layers, topology, ideal_costs, Workload(2, 3, 4), tensor_parallel=(1,), reserve_bytes=0.0
    )
    first = deploy(problem.replace(topology=without(topology, "host0/gpu2")))
    # 1.9e-4 a byte: 20 B cost 0.0038 requests/s, less than the 0.0147 that are gained; 260 B would cost 0.049.
    settings = {"current": first.require_plan(), "hysteresis": 0.0}
    again = deploy(problem, move_cost=1.9e-4, **settings)
    assert again.require_plan().changes.total_moved_bytes == 20.0
    assert again.objective - first.objective > 20 * 1.9e-4
    assert verify_deployment(again.require_plan()).ok
    # At 1e-3 a byte even 20 B cost more than is gained: nothing moves.
    dear = deploy(problem, move_cost=1e-3, **settings)
    assert dear.objective == pytest.approx(first.objective)
    assert dear.require_plan().changes.total_moved_bytes == 0.0
