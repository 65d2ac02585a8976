"""Explanations: facts are values of plans solved again and verified, and sentences only write them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import gpuplan
from gpuplan.solvers.placement.explain import explain
from gpuplan.solvers.placement.explain_limits import stage_limits
from gpuplan.solvers.placement.explain_variants import with_faster_route, with_memory, with_twin
from gpuplan.units import GIB


def _problem(model: str, cluster: str, **options: object) -> gpuplan.PlacementProblem:
    return gpuplan.PlacementProblem(gpuplan.load_model(model), gpuplan.load_topology(cluster), **options)


@pytest.fixture(scope="module")
def large():
    """Return Llama-3.1-70B on eight A100s for latency, its result and explanation."""
    problem = _problem("llama-3.1-70b", "dgx-a100")
    result = gpuplan.solve(problem)
    return problem, result, explain(problem, result)


@pytest.fixture(scope="module")
def fast():
    """Return the same for throughput: all eight devices are used."""
    problem = _problem("llama-3.1-70b", "dgx-a100", objective="throughput")
    result = gpuplan.solve(problem)
    return problem, result, explain(problem, result)


def test_limits_follow_from_the_plan(large):
    """Free bytes are available less used; a stage is full when its smaller neighbour layer does not fit."""
    _, result, facts = large
    for limit, stage in zip(facts.limits, result.plan.stages, strict=True):
        assert limit.device == stage.devices[0]
        assert limit.free_bytes == stage.memory.available_bytes - stage.memory.used_bytes
        assert limit.memory_full == (limit.next_layer_bytes > limit.free_bytes)
    # A decoder layer of a 70B Llama: 855,654,400 parameters in bf16; 1152 tokens of 4 KiB KV.
    assert facts.limits[0].next_layer_bytes == 855_654_400 * 2 + 1152 * 4096
    assert any(limit.memory_full for limit in facts.limits)


def test_decoding_one_sequence_is_bound_by_memory(large):
    """One token reads every weight (bandwidth); a prompt of 1,024 tokens multiplies them (compute)."""
    _, _, facts = large
    assert {limit.decode_bound for limit in facts.limits} == {"memory bandwidth"}
    assert {limit.prefill_bound for limit in facts.limits} == {"compute"}


def test_kv_room_is_the_plans_capacity(large):
    """The least KV room over stages is the plan's KV capacity."""
    _, result, facts = large
    rooms = [limit.kv_room_tokens for limit in facts.limits]
    assert int(min(rooms)) == result.plan.metrics.kv_capacity_tokens


def test_one_stage_has_no_next_layer():
    """A plan of one stage holds everything: no layer could be added."""
    problem = _problem("llama-3.1-8b", "dgx-a100")
    (limit,) = stage_limits(problem, gpuplan.solve(problem).plan)
    assert limit.next_layer_bytes is None
    assert not limit.memory_full
    assert limit.hop_share == 0.0


def test_alternatives_are_solved_again(fast):
    """One fewer device: the explained figure is the optimum under that limit."""
    problem, result, facts = fast
    fewer = next(answer for answer in facts.alternatives if answer.key == "fewer_devices")
    again = gpuplan.solve(problem.replace(max_devices=7)).require_plan()
    assert fewer.figures.bottleneck_s == pytest.approx(again.metrics.bottleneck_s, rel=1e-9)
    base = result.plan.metrics.bottleneck_s
    assert fewer.change == pytest.approx((again.metrics.bottleneck_s - base) / base, rel=1e-9)
    assert fewer.change > 0


def test_even_split_is_the_baseline(fast):
    """The even split is that of the baseline solver."""
    problem, _, facts = fast
    even = next(answer for answer in facts.alternatives if answer.key == "even")
    plan = gpuplan.solve(problem, solver="even").require_plan()
    assert even.figures.bottleneck_s == pytest.approx(plan.metrics.bottleneck_s, rel=1e-9)


def test_impossible_alternatives_carry_their_reason(large):
    """A single A100 does not hold 131 GiB of weights: proven, with the solver's reason."""
    _, _, facts = large
    single = next(answer for answer in facts.alternatives if answer.key == "single_device")
    assert single.status == "infeasible"
    assert single.figures is None
    assert single.reasons
    assert any(f"A single device is impossible: {single.reasons[0].rstrip('.')}" in line for line in facts.sentences)


def test_improvements_never_worsen(large, fast):
    """More memory, a faster route and one more device never make a proven optimum worse; the best stands first."""
    for _, _, facts in (large, fast):
        changes = [answer.change for answer in facts.improvements]
        assert changes == sorted(changes)
        assert all(change <= 1e-9 for change in changes)


def test_one_more_device_helps_throughput(fast):
    """A ninth A100 shortens the bottleneck, and that is the first advice."""
    _, _, facts = fast
    assert facts.improvements[0].key == "one_more_device"
    assert facts.improvements[0].figures.devices_used == 9
    assert any(line.startswith("What would help most: one more a100-sxm4-80gb") for line in facts.sentences)


def test_every_figure_of_the_sentences_is_a_fact(fast):
    """The sentence of one fewer device writes the fact's own figures."""
    from gpuplan.units import format_seconds

    _, _, facts = fast
    fewer = next(answer for answer in facts.alternatives if answer.key == "fewer_devices")
    line = next(line for line in facts.sentences if line.startswith("One fewer device (7)"))
    assert f"a bottleneck of {format_seconds(fewer.figures.bottleneck_s)}" in line
    assert f"{fewer.change * 100:.1f} %" in line


def test_without_time_everything_is_dropped(large):
    """With no time for variants none is claimed: each is named as not answered."""
    problem, result, _ = large
    facts = explain(problem, result, total_limit_s=0.0)
    assert facts.alternatives == facts.improvements == ()
    assert facts.dropped
    assert "Not answered within the time allowed" in facts.sentences[-1]


def test_cancel_ends_the_variants(large):
    """A cancelled explanation keeps what it has."""
    problem, result, _ = large
    assert explain(problem, result, cancel=lambda: True).alternatives == ()


def test_variants_that_do_not_verify_are_dropped(large, monkeypatch):
    """A plan the verifier refuses is never quoted."""
    problem, result, _ = large
    monkeypatch.setattr("gpuplan.plans.verify", lambda plan: gpuplan.plans.Verification((object(),)))
    facts = explain(problem, result)
    assert all(answer.figures is None for answer in (*facts.alternatives, *facts.improvements))


@pytest.mark.parametrize("objective", ["efficiency", "balanced", "kv-capacity", "cost"])
def test_every_objective_is_explained(objective):
    """Each objective has sentences about its own figure."""
    topology = gpuplan.load_topology("8xl4")
    priced = replace(topology, devices=tuple(replace(device, price_per_hour=0.7) for device in topology.devices))
    model = gpuplan.load_model("llama-3-70b", dtype="fp8")
    problem = gpuplan.PlacementProblem(model, priced, objective=objective)
    facts = explain(problem, gpuplan.solve(problem))
    words = {"kv-capacity": "KV capacity", "cost": "price", "efficiency": "latency", "balanced": "latency"}
    assert any(words[objective] in line for line in facts.sentences)
    assert json.loads(json.dumps(facts.to_dict()))["objective"] == objective


def test_more_memory_changes_one_device():
    """Memory beyond the data sheet comes with a kind of its own, so that the plan embeds both."""
    topology = gpuplan.load_topology("dgx-a100")
    name = topology.devices[3].name
    changed = with_memory(topology, name, 200 * GIB)
    assert changed.device(name).available_bytes == 200 * GIB
    assert changed.device(name).kind.memory_bytes == 200 * GIB
    assert changed.device(name).kind.name != topology.devices[0].kind.name
    assert changed.devices[0] is topology.devices[0]


def test_faster_route_changes_its_links_only():
    """Links on the route get twice the bandwidth and half the latency, the others stay."""
    from gpuplan.topology import route

    topology = gpuplan.load_topology("mixed-3090-4090-a100")
    a, b, c = (device.name for device in topology.devices[:3])
    before = route(topology, a, b, 1e6)
    faster = with_faster_route(topology, before.components)
    after = route(faster, a, b, 1e6)
    assert after.bandwidth_bytes_per_s == 2 * before.bandwidth_bytes_per_s
    assert after.latency_s == pytest.approx(before.latency_s / 2)
    untouched = [link for link in topology.links if not {link.a, link.b} <= set(before.components)]
    assert all(link in faster.links for link in untouched)
    assert c not in before.components


@pytest.mark.parametrize("cluster", ["dgx-a100", "dgx-1-v100", "2x-dgx-h100", "mixed-3090-4090-a100"])
def test_a_twin_has_its_siblings_routes(cluster):
    """One more device reaches every other device as its twin does, and its twin by a direct or relayed route."""
    from gpuplan.topology import route

    topology = gpuplan.load_topology(cluster)
    twin = topology.devices[0]
    grown = with_twin(topology, twin)
    new = grown.devices[-1]
    assert (new.kind, new.host, new.available_bytes) == (twin.kind, twin.host, twin.available_bytes)
    assert new.name not in {device.name for device in topology.devices}
    for other in topology.devices[1:]:
        mine, its = route(grown, new.name, other.name, 1e6), route(topology, twin.name, other.name, 1e6)
        # The twin may relay nothing, so the new device is never better off than the twin was.
        assert mine.transfer_s(1e6) == pytest.approx(its.transfer_s(1e6))
    assert route(grown, new.name, twin.name, 1e6).latency_s > 0


def test_explanation_on_the_command_line(run):
    """--explain prints sentences under the plan, and in JSON stands beside the plan under ``explanation``."""
    outcome = run("map", "llama-3.1-70b", "dgx-a100", "--explain")
    assert "• Memory binds on host0/gpu" in outcome.stdout
    document = json.loads(run("map", "llama-3.1-70b", "dgx-a100", "--explain", "--format", "json").stdout)
    assert document["explanation"]["sentences"]
    del document["explanation"]
    assert gpuplan.verify(document).ok
