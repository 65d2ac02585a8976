"""Explanations of infeasibility: the sentences on cases worked out by hand, every figure re-solved by brute force."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import numpy as np
import pytest

from gpuplan.profiles.problems.hops import unit_hops
from gpuplan.profiles.problems.placement import DensePlacement, Timing
from gpuplan.solvers.placement import explain_fit
from gpuplan.solvers.placement.infeasible import (
    LargestFit,
    Shortage,
    bytes_up,
    explain_infeasible,
    largest_fit,
    more_on_each,
    more_on_one,
    shortages,
)
from gpuplan.solvers.placement.packing import Packing, without
from gpuplan.solvers.placement.reach import components
from gpuplan.units import GIB


def by_kind(problem: DensePlacement) -> dict[str, Shortage]:
    """Return the first shortage of each kind."""
    found: dict[str, Shortage] = {}
    for shortage in shortages(problem):
        found.setdefault(shortage.kind, shortage)
    return found


def test_packing_agrees_with_brute_force(brute_force: ModuleType, instances: ModuleType) -> None:
    """Fewest devices of any plan (0: none fits) on 400 random problems, with routes, limits and marks."""
    for problem in instances.random_problems(400, first_seed=9000, devices=(2, 5), layers=(4, 8)):
        plans = brute_force.enumerate_plans(problem)
        fewest = int(plans.devices.min()) if len(plans) else 0
        assert Packing(problem).fewest_devices() == fewest, problem.name


def test_short_in_total(instances: ModuleType) -> None:
    """Three layers of 10 GiB on two devices of 14 GiB: 2 GiB short; 6 more on each hold two layers on one of them."""
    problem = instances.make_problem(np.ones((2, 3)), 10 * GIB, 14 * GIB)
    assert explain_infeasible(problem) == (
        "2.0 GiB short in total: the layers need 30.0 GiB (weights 30.0 GiB), "
        "the room of all 2 devices together is 28.0 GiB",
        "it fits with 6.0 GiB more on each of the 2 devices",
        "or with 6.0 GiB more on g0 alone",
    )


def test_short_on_one_device_where_the_tied_copy_is_saved(instances: ModuleType) -> None:
    """Two layers of 15 with 10 saved on one device, devices of 19 and 5: 1 short alone, 6 short together."""
    problem = instances.make_problem(np.ones((2, 2)), 15, [19, 5], single_stage_saving_bytes=10.0)
    found = by_kind(problem)
    assert found["total"].amount == 1.0
    assert found["total"].sentence == (
        "1 B short on the largest device: the layers need 20 B on one (weights tied, 30 B on several), "
        "its room is 19 B; several devices together are 6 B short"
    )
    assert found["each"].amount == 1.0


def test_a_layer_that_fits_no_device(instances: ModuleType) -> None:
    """The embedding of 12 bytes on devices with 10 after the workspace: named, 2 short."""
    problem = instances.make_problem(np.ones((2, 3)), [12, 4, 4], 15, fixed_bytes=5.0)
    problem = dataclasses.replace(problem, layer_names=("embedding", "decoder", "head"))
    found = by_kind(problem)
    assert found["layer"].sentence == (
        "layer 0 (embedding, 12 B) fits no device; the most room is 10 B on g0, 2 B short"
    )
    assert (found["layer"].amount, found["layer"].layer) == (2.0, 0)
    # Two bytes more on both: embedding on one, the rest (8 of 12 bytes) on the other.
    assert found["each"].amount == 2.0
    assert "total" not in found


def test_many_large_layers_are_counted(instances: ModuleType) -> None:
    """Five layers too large: three are named, two counted."""
    reasons = explain_infeasible(instances.make_problem(np.ones((2, 5)), 20, 10))
    assert sum("fits no device" in reason for reason in reasons) == 3
    assert "(and 2 more layers)" in reasons[0]


def test_workspace_larger_than_every_device(instances: ModuleType) -> None:
    """A workspace of 20 on devices of 15: said first, with what would help."""
    found = by_kind(instances.make_problem(np.ones((2, 2)), 1, [15, 12], fixed_bytes=20.0))
    assert next(iter(found)) == "workspace"
    assert found["workspace"].amount == 5.0
    # Each needs 20 and a layer of 1 (6 and 9 more), or the first alone 20 + 2 (7 more).
    assert found["each"].amount == 7.0
    assert (found["one"].device, found["one"].amount) == (0, 7.0)


def test_device_limit_names_the_fewest(instances: ModuleType) -> None:
    """Six layers, two a device: three devices, and the limit is two."""
    found = by_kind(instances.make_problem(np.ones((4, 6)), 10, 20, max_devices=2))
    assert "total" not in found
    # Two devices with three layers each: 10 more on each.
    assert found["each"].amount == 10.0
    assert found["devices"].sentence == "the model needs 3 devices at least, and the device limit is 2"


def test_components_that_are_each_too_small(instances: ModuleType) -> None:
    """Two pairs without a route between them, each with room for two of three layers."""
    hops = np.full((4, 4), np.inf)
    hops[:2, :2] = hops[2:, 2:] = 0.0
    found = by_kind(instances.make_problem(np.ones((4, 3)), 10, [10, 10, 10, 12], hop_latency_s=hops))
    assert found["routes"].sentence == (
        "the devices fall into 2 groups without a route between them, and no group holds the model: "
        "the roomiest (g2, g3) has 22 B of the 30 B needed, 8 B short"
    )


def test_packing_loss(instances: ModuleType) -> None:
    """Three layers of 10 on two devices of 15: enough in total, five more bytes on one device pack them."""
    found = by_kind(instances.make_problem(np.ones((2, 3)), 10, 15))
    assert found["packing"].amount == 0.0
    assert "no cut into contiguous whole layers" in found["packing"].sentence
    assert found["each"].amount == 5.0
    assert found["one"].amount == 5.0


def test_marked_layers_stand_in_the_way(instances: ModuleType) -> None:
    """Four layers of 10, room for 20, 10 and 10: the last stage would hold an unmarked layer alone."""
    # 2 + 1 + 1 in any order of the devices leaves a stage with layer 0 or layer 3 alone, or layers 2, 3 alone each.
    marks = np.array([False, True, True, False])
    problem = instances.make_problem(np.ones((3, 4)), 10, [20, 10, 10], must_hold=marks)
    assert "marked" in by_kind(problem)


def test_kv_that_would_fit(instances: ModuleType) -> None:
    """Two layers of 10 and 1 byte a token, one device of 50: (50 − 20) / 2 = 15 tokens of the 40 asked for."""
    problem = instances.make_problem(np.ones((1, 2)), 10, 50, kv_bytes_per_token=1, tokens_per_micro_batch=40.0)
    assert largest_fit(problem).tokens_per_micro_batch == 15
    assert largest_fit(problem).share == 15 / 40
    assert "the KV of 15 tokens would fit where 40 are asked for" in explain_infeasible(problem)


def test_micro_batches_that_would_fit(instances: ModuleType) -> None:
    """The same with 3 micro-batches of 6 tokens: 20 + 2·6·M ≤ 50 holds for 2."""
    problem = instances.make_problem(
        np.ones((1, 2)), 10, 50, kv_bytes_per_token=1, tokens_per_micro_batch=6.0, micro_batches=3
    )
    assert largest_fit(problem).micro_batches == 2


def test_weights_alone_too_large(instances: ModuleType) -> None:
    """Where the weights do not fit, the KV that would is none, and the bytes missing are given."""
    problem = instances.make_problem(np.ones((1, 2)), 30, 50, kv_bytes_per_token=1, tokens_per_micro_batch=6.0)
    fit = largest_fit(problem)
    assert (fit.tokens_per_micro_batch, fit.weights_short_bytes) == (None, 10.0)


def test_as_many_micro_batches_as_stages(instances: ModuleType) -> None:
    """Two layers of 10 + 10·M, devices of 25: one stage needs 40, two stages of M = 2 need 30 each; M = 1 fits on 2."""
    problem = instances.make_problem(
        np.ones((2, 2)), 10, 25, kv_bytes_per_token=1, tokens_per_micro_batch=10.0, micro_batches="stages"
    )
    found = by_kind(problem)
    assert "1 micro-batch would fit, on 2 devices" in found["micro-batches"].sentence
    # 5 more bytes on each: two stages of 30.
    assert found["each"].amount == 5.0


def test_a_feasible_problem_has_nothing_to_explain(instances: ModuleType) -> None:
    """No sentences where a plan fits."""
    assert explain_infeasible(instances.make_problem(np.ones((2, 3)), 10, 20)) == ()


def test_amounts_in_sentences_are_enough() -> None:
    """Rounded up: adding what is printed is never too little."""
    assert bytes_up(72.01 * GIB) == "72.1 GiB"
    assert bytes_up(2 * GIB) == "2.0 GiB"
    assert bytes_up(1) == "1 B"


@pytest.mark.parametrize("first_seed", [0, 20_000])
def test_every_figure_is_true(first_seed: int, brute_force: ModuleType, instances: ModuleType) -> None:
    """On all infeasible ones of 150 random problems: each claim re-solved by brute force, and not one byte too much."""

    def fits(problem: DensePlacement, more: np.ndarray | float = 0.0, **changes: object) -> bool:
        changed = dataclasses.replace(problem, available_bytes=problem.available_bytes + more, **changes)
        return len(brute_force.enumerate_plans(changed)) > 0

    explained = 0
    for problem in instances.random_problems(150, first_seed=first_seed, devices=(2, 4), layers=(4, 7)):
        if fits(problem):
            assert shortages(problem) == ()
            continue
        explained += 1
        found = shortages(problem)
        assert found, problem.name
        assert all(shortage.kind != "proof" for shortage in found)
        needs = problem.memory_bytes + problem.tokens_per_micro_batch * problem.kv_bytes_per_token * (
            1 if problem.micro_batches == "stages" else problem.micro_batches
        )
        for shortage in found:
            amount = shortage.amount
            assert amount is not None or shortage.kind in ("routes", "rules")
            if shortage.kind == "each":
                assert fits(problem, amount), problem.name
                assert amount == 0 or not fits(problem, amount - 1)
            elif shortage.kind == "one":
                unit = np.eye(problem.num_devices)[shortage.device]
                assert fits(problem, amount * unit), problem.name
                assert not any(
                    fits(problem, (amount - 1) * np.eye(problem.num_devices)[d]) for d in range(problem.num_devices)
                )
            elif shortage.kind == "devices":
                unlimited = dataclasses.replace(problem, max_devices=None)
                assert fits(unlimited, max_devices=int(amount))
                assert not fits(unlimited, max_devices=int(amount) - 1)
            elif shortage.kind == "routes":
                assert fits(without(problem, routes=True)), problem.name
            elif shortage.kind == "rules":
                assert fits(without(problem, limit=True, marks=True, routes=True)), problem.name
            elif shortage.kind == "marked":
                assert fits(problem, must_hold=None), problem.name
            elif shortage.kind == "micro-batches":
                assert fits(problem, micro_batches=1), problem.name
            elif shortage.kind == "kv":
                assert fits(problem, tokens_per_micro_batch=amount), problem.name
                assert not fits(problem, tokens_per_micro_batch=amount + 1)
            elif shortage.kind == "layer":
                room = problem.available_bytes.max() - problem.fixed_bytes
                assert needs[shortage.layer] - room == amount > 0
            elif shortage.kind == "total":
                room = np.sort(np.maximum(problem.available_bytes - problem.fixed_bytes, 0))[::-1]
                whole = room[0] + problem.single_stage_saving_bytes
                most = max(room[: problem.max_devices].sum(), whole)
                assert needs.sum() - most == pytest.approx(amount)
                assert amount > 0
            elif shortage.kind == "packing":
                room = np.maximum(problem.available_bytes - problem.fixed_bytes, 0)
                assert room.sum() - needs.sum() == amount >= 0
    assert explained >= 20


def test_large_clusters_are_explained_quickly(instances: ModuleType) -> None:
    """64 devices of two sizes, 126 layers: the states are counts, so the bisection stays cheap."""
    import time

    problem = instances.make_problem(
        np.ones((64, 126)), 30 * GIB, np.where(np.arange(64) % 2 == 0, 40 * GIB, 50 * GIB), hop_latency_s=1e-5
    )
    started = time.perf_counter()
    found = by_kind(problem)
    assert time.perf_counter() - started < 5.0
    # 126·30 GiB = 3780 against 32·90 = 2880 GiB: 900 short. A device holds one layer of 30; two need 60: with 20
    # more the small ones hold two, too (64·2 ≥ 126); with less only the 32 large ones do (96 layers).
    assert found["total"].amount == 900 * GIB
    assert found["each"].amount == 20 * GIB


def test_many_sizes_are_decided_by_relaxations(instances: ModuleType) -> None:
    """40 devices of 40 sizes are too many states; the total, and the layers each can hold, still prove it."""
    # 60 layers of 100 bytes on rooms of 50..89 bytes: 6,000 − Σ(50..89) = 6,000 − 2,780 bytes short.
    problem = instances.make_problem(np.ones((40, 60)), 100, 50 + np.arange(40.0))
    assert Packing(problem).fewest_devices() is None
    assert Packing(problem).fits() is False
    found = by_kind(problem)
    assert set(found) == {"layer", "total"}
    assert found["total"].amount == 3220.0
    assert largest_fit(problem) == LargestFit(None, None, None, 3220.0)
    # Rooms of 160..199 bytes are 7,180 together, but hold one layer each: 40 of 60.
    tight = instances.make_problem(np.ones((40, 60)), 100, 160 + np.arange(40.0))
    assert Packing(tight).fits() is False
    assert by_kind(tight)["packing"].amount == 1180.0


def test_what_no_rule_decides_is_not_called_proven(instances: ModuleType) -> None:
    """Unlike rooms with 1 % to spare in total: the sentence says which proof is missing."""
    draw = np.random.default_rng(3)
    layers = draw.integers(50, 150, 120).astype(float)
    room = draw.uniform(0.5, 1.5, 40)
    problem = instances.make_problem(np.ones((40, 120)), layers, np.floor(room / room.sum() * layers.sum() * 1.01))
    assert Packing(problem).fits() is None
    sentence = by_kind(problem)["proof"].sentence
    assert "which of them is not proven: 40 devices of 36 sizes have too many combinations" in sentence


def test_quick_answers_are_never_wrong(brute_force: ModuleType, instances: ModuleType) -> None:
    """On 600 random problems a quick yes has a plan and a quick no has none; most are decided."""
    verdicts: list[bool] = []
    for problem in instances.random_problems(600, first_seed=9600, devices=(2, 5), layers=(4, 8)):
        packing = Packing(problem)
        fewest = packing.fewest_devices()
        quick = packing.fits_by_rules()
        # The saving of a single stage is looked at before the quick rules.
        if quick is not None and not problem.single_stage_saving_bytes:
            verdicts.append(quick)
            assert quick == (fewest > 0), problem.name
    assert len(verdicts) > 200
    assert 20 < sum(verdicts) < len(verdicts) - 20


def large_problem(instances: ModuleType, rooms: np.ndarray, layers: np.ndarray, hosts: int = 1, **fields: object):
    """Make a problem of thousands of devices; `hosts` groups without a route between them."""
    D, n = len(rooms), len(layers)
    home = np.arange(D) * hosts // D
    closed = np.where(np.eye(hosts, dtype=bool), 1e-3, np.inf)
    timing = Timing(np.ones((D, n)), unit_hops(home, closed, np.zeros((hosts, hosts))), np.ones(n))
    names = tuple(f"g{d}" for d in range(D))
    layer_names = tuple(f"layer{i}" for i in range(n))
    return DensePlacement(names, layer_names, rooms, np.ones(D), layers, np.zeros(n), timing, timing, **fields)


@pytest.mark.parametrize("devices", [1024, 4096])
def test_thousands_of_devices_are_explained(devices: int, instances: ModuleType) -> None:
    """What is short in total, a layer that fits nowhere, a device limit, routes; no D×D table is made."""
    draw = np.random.default_rng(0)
    alike, unlike = np.full(devices, 100.0), np.floor(draw.uniform(60.0, 100.0, devices))
    hundred = np.full(100, 60.0)
    huge = np.where(np.arange(100) == 7, 500.0, 10.0)
    # 100 layers of 200 bytes: no layer fits, and the 100 largest devices are short of 20,000 bytes.
    found = by_kind(large_problem(instances, unlike, np.full(100, 200.0)))
    assert found["total"].amount == 20_000 - np.sort(unlike)[::-1][:100].sum()
    assert found["layer"].amount == 200 - unlike.max()
    assert by_kind(large_problem(instances, alike, huge))["layer"].amount == 400.0
    # Each device holds one layer of 60 bytes, so 100 are needed.
    assert by_kind(large_problem(instances, alike, hundred, max_devices=70))["devices"].amount == 100.0
    short = by_kind(large_problem(instances, unlike, hundred, max_devices=50))
    assert short["total"].amount == 6_000 - np.sort(unlike)[::-1][:50].sum()
    # Groups of 64 devices hold 64 of the 100 layers.
    parts = by_kind(large_problem(instances, unlike, hundred, hosts=devices // 64))
    assert f"{devices // 64} groups without a route" in parts["routes"].sentence


def test_routes_by_unit_are_those_by_pair(instances: ModuleType) -> None:
    """Components, open hops and completeness are the same whether a table is by unit or by pair."""
    draw = np.random.default_rng(11)
    for _ in range(60):
        units, D = int(draw.integers(1, 5)), int(draw.integers(2, 8))
        home = draw.integers(0, units, D)
        latency = np.where(draw.random((units, units)) < 0.5, 1.0, np.inf)
        table = unit_hops(home, latency, np.zeros((units, units)))
        timing = Timing(np.ones((D, 3)), table, np.ones(3), table if draw.random() < 0.5 else None, 1.0)
        problem = instances.make_problem(np.ones((D, 3)), 1, 3)
        by_unit = dataclasses.replace(problem, latency=timing, cycle=timing)
        dense = dataclasses.replace(
            timing, hop=table.dense(), return_hop=None if timing.return_hop is None else table.dense()
        )
        by_pair = dataclasses.replace(problem, latency=dense, cycle=dense)
        first = sorted(components(by_unit), key=lambda part: part.devices)
        second = sorted(components(by_pair), key=lambda part: part.devices)
        assert [part.devices for part in first] == [part.devices for part in second]
        for one, other in zip(first, second, strict=True):
            assert one.complete == other.complete
            assert (one.open_hop == other.open_hop).all()


def test_helpers_return_none_when_nothing_helps(instances: ModuleType) -> None:
    """No layer is marked: no amount of memory makes a plan."""
    problem = instances.make_problem(np.ones((2, 3)), 10, 5, must_hold=np.zeros(3, dtype=bool))
    assert more_on_each(problem) is None
    assert more_on_one(problem) is None


def test_a_device_limit_among_unlike_devices_is_named_alone(instances: ModuleType) -> None:
    """1,024 devices of their own sizes each hold one layer of 60 bytes; 99 of them cannot hold 100 layers.

    The 99 largest have room enough in total, and too many combinations to count the fewest: the limit is the reason,
    and no rule that the problem does not have is blamed beside it.
    """
    rooms = np.floor(np.random.default_rng(3).uniform(70.0, 115.0, 1024))
    found = by_kind(large_problem(instances, rooms, np.full(100, 60.0), max_devices=99))
    assert set(found) == {"devices"}
    assert found["devices"].sentence == "the device limit of 99 stands in the way: on more devices the model fits"


def test_what_would_fit_keeps_to_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of time, the largest number known to fit is the answer, or none where not even 1 was tried."""
    now = iter([0.0, 0.5, 0.9, 2.0, 3.0])
    monkeypatch.setattr(explain_fit.time, "monotonic", lambda: next(now))
    # Of 1..15 those up to 11 fit: 1 is tried at 0 s, 8 at 0.5 s, 12 (too many) at 0.9 s; 2 s is past the second given.
    assert explain_fit._largest(15, lambda number: number <= 11, 1.0) == 8
    assert explain_fit._largest(15, lambda number: True, 1.0) is None
