"""Pairs of regions as relays, and label searches around ranges that are given."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.flow.given_labels import search_around
from gpuplan.solvers.flow.instance import instance_of
from gpuplan.solvers.flow.labels import Options, Range
from gpuplan.solvers.flow.maxflow import evaluate
from gpuplan.solvers.flow.prices import PriceMaster
from gpuplan.solvers.flow.relays import relay_placement
from gpuplan.solvers.limits import Budget, Limits


def budget() -> Budget:
    """Return a budget no test uses up."""
    return Budget(Limits(time_limit_s=600))


def twins(width: float) -> FlowProblem:
    """Return two regions of two nodes that pass 100 and nine that pass 20, a layer each; 6 layers."""
    side = np.repeat([0, 1], 11)
    links = np.where(side[:, None] == side[None, :], 1e5, width)
    np.fill_diagonal(links, 0.0)
    kinds = np.tile([*[0] * 2, *[1] * 9], 2)
    names = tuple(f"n{i}" for i in range(22))
    wide = np.full(22, 1e5)
    return FlowProblem(6, ("strong", "weak"), (np.array([100.0]), np.array([20.0])), names, kinds, links, wide, wide)


#: The twins' regions.
REGIONS = (range(11), range(11, 22))


def alone() -> list[list[NodeRange]]:
    """Return either region of the twins by itself: two weak nodes on three layers and three on one, so 40."""
    layers = (0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5)
    return [[NodeRange(node, x, x + 1) for node, x in zip(nodes, layers, strict=True)] for nodes in REGIONS]


def test_two_regions_take_turns() -> None:
    """Alone the regions pass 40 each; in turns 100, with two strong nodes and five weak ones on either side."""
    problem = twins(4.0)
    placement = relay_placement(problem, REGIONS, alone(), budget())
    # At 100 a region is worth 2 + 9/5 layers, both together 1.6 more than there are. Five senders with links of 4 to
    # five receivers hand over 20 each. Flows are tried in steps of half a per cent.
    assert 99.0 < evaluate(problem, placement)[0] <= 100.0
    assert len({item.node for item in placement}) == len(placement)
    assert {item.node in REGIONS[0] for item in placement if item.stop == 6} == {False}


def test_no_relay_over_links_too_narrow() -> None:
    """Over links of 0.5 nine nodes hand 40.5 to nine others: less than the 80 that the regions pass alone."""
    assert relay_placement(twins(0.5), REGIONS, alone(), budget()) == ()


def test_searches_around_given_ranges_cover_every_layer(flows: ModuleType) -> None:
    """What is found holds the given ranges, no more nodes than there are, and covers every layer with the target."""
    rng = np.random.default_rng(5)
    found = 0
    for problem in flows.random_problems(60, bind=False):
        instance = instance_of(problem)
        kind = int(rng.choice(problem.node_kinds))
        length = int(rng.integers(1, min(int(problem.most_layers[kind]), problem.num_layers) + 1))
        start = int(rng.integers(0, problem.num_layers - length + 1))
        given = (Range(kind, start, length),)
        target = max(int(instance.aggregate_bound() * 0.4), 1)
        prices = PriceMaster(instance, budget()).solve(target)
        outcome = search_around(instance, prices, given, Options(beam=500), budget())
        if outcome.answer != "found":
            continue
        found += 1
        assert given[0] in outcome.ranges
        assert (
            np.bincount([item.kind for item in outcome.ranges], minlength=len(instance.counts)) <= instance.counts
        ).all()
        covered = np.zeros(problem.num_layers, dtype=np.int64)
        for item in outcome.ranges:
            covered[item.start : item.start + item.layers] += instance.ticks[item.kind, item.layers]
        assert covered.min() >= target
    assert found > 10


def test_a_given_range_is_not_covered_twice() -> None:
    """Two nodes of two layers: with one given on the last two layers the other has the first two."""
    flow = twins(1.0)
    problem = FlowProblem(
        4, ("a",), (np.array([9.0, 5.0]),), ("x", "y"), np.zeros(2, dtype=np.int64), flow.link_tokens_per_s[:2, :2],
        np.full(2, 1e5), np.full(2, 1e5),
    )  # fmt: skip
    instance = instance_of(problem)
    target = int(instance.ticks[0, 2])
    prices = PriceMaster(instance, budget()).solve(target)
    outcome = search_around(instance, prices, (Range(0, 2, 2),), Options(), budget())
    assert outcome.answer == "found"
    assert sorted((item.start, item.layers) for item in outcome.ranges) == [(0, 2), (2, 2)]
    # With the middle given, one node cannot hold both ends.
    assert search_around(instance, prices, (Range(0, 1, 2),), Options(), budget()).answer == "missed"
