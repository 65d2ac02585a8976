"""Searches by regions: never below what flows, exact on cases by hand, and sharp on clusters of three regions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gpuplan.plans.flow_solution import NodeRange, flow_solution_to_dict
from gpuplan.plans.verify.flow import verify_flow_solution
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.profiles.problems.flow_io import load_flow_problem
from gpuplan.solvers.flow import solve_flow
from gpuplan.solvers.flow.blocks import block_placements
from gpuplan.solvers.flow.crossing import Crossing
from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.flow.instance import Items, instance_of
from gpuplan.solvers.flow.labels import Options
from gpuplan.solvers.flow.maxflow import evaluate
from gpuplan.solvers.flow.views import View, views_of
from gpuplan.solvers.limits import Budget, Limits


def budget() -> Budget:
    """Return a budget no test uses up."""
    return Budget(Limits(time_limit_s=600))


def parted(rng: np.random.Generator, nodes: int, most: int = 3) -> list[list[int]]:
    """Return the nodes in random parts, each with one node at least."""
    part = rng.integers(0, min(most, nodes), nodes)
    return [np.flatnonzero(part == p).tolist() for p in np.unique(part)]


def joined_inside(problem: FlowProblem, parts: Sequence[Sequence[int]]) -> FlowProblem:
    """Return the problem with links inside parts that cannot bind."""
    part = np.zeros(problem.num_nodes, dtype=np.int64)
    for at, nodes in enumerate(parts):
        part[list(nodes)] = at
    links = np.where(part[:, None] == part[None, :], 1e6, problem.link_tokens_per_s)
    np.fill_diagonal(links, 0.0)
    return dataclasses.replace(problem, link_tokens_per_s=links)


def answer(view: View, tokens_per_s: float) -> str:
    """Return what the complete search of a view says of a target."""
    target = max(int(tokens_per_s / view.instance.tokens_per_tick), 1)
    outcome, _ = view.search(target, Options(), budget())
    assert outcome.answer in ("found", "impossible")
    return outcome.answer


def small_cases(flows: ModuleType, count: int) -> Iterator[tuple[FlowProblem, list[list[int]], float]]:
    """Yield small problems with slow links between random parts, and their optima by trying every placement."""
    for seed, problem in enumerate(flows.random_problems(count, bind=True)):
        rng = np.random.default_rng(10_000 + seed)
        parts = parted(rng, problem.num_nodes)
        case = joined_inside(problem, parts) if seed % 2 else problem
        yield case, parts, flows.optimum(case)


@pytest.mark.slow
def test_no_view_rules_out_what_flows(flows: ModuleType) -> None:
    """What some placement passes is possible in every view; the strongest mostly rules out what is just above."""
    told, slow_inside_only_between = 0, 0
    for seed, (problem, parts, best) in enumerate(small_cases(flows, 1200)):
        for view in views_of(problem, parts, budget()):
            if best > 0.0:
                assert answer(view, best * (1.0 - 1e-9)) == "found", (seed, best)
        if seed % 2 and best > 0.0:
            slow_inside_only_between += 1
            told += answer(view, best * 1.0001) == "impossible"
    # Where only links between parts are slow, regions are nearly all there is to know.
    assert told > 0.75 * slow_inside_only_between


@pytest.mark.slow
def test_rho_is_above_the_flow_of_every_placement(flows: ModuleType) -> None:
    """Followed along a placement, ρ never falls below its flow, and is that flow in one region of wide links."""
    rng = np.random.default_rng(5)
    equal, single = 0, 0
    for seed in range(400):
        problem = flows.random_problem(rng, nodes=5, layers=5, kinds=2, bind=True)
        parts = parted(rng, 5) if seed % 4 else [list(range(5))]
        problem = joined_inside(problem, parts)
        if len(parts) == 1:
            wide = np.full(5, 1e6)
            problem = dataclasses.replace(problem, source_tokens_per_s=wide, sink_tokens_per_s=wide)
        view = views_of(problem, parts, budget())[-1]
        chosen = [flows.options(problem, node) for node in range(5)]
        placement = [choices[rng.integers(len(choices))] for choices in chosen]
        flow = flows.nx_flow(problem, placement)
        reached = followed(view, placement)
        assert reached >= flow * (1.0 - 1e-9)
        single += len(parts) == 1
        equal += len(parts) == 1 and reached == pytest.approx(flow, rel=1e-9, abs=1e-6)
    assert equal == single >= 100  # cover = flow, every time


def followed(view: View, placement: Sequence[tuple[int, int] | None]) -> float:
    """Return what ρ says of a placement, boundary by boundary."""
    instance = view.instance
    top = int(instance.ticks.max(axis=1) @ instance.counts)
    kind, layers = np.nonzero(instance.ticks)
    items = Items(top, np.minimum(instance.ticks[kind, layers], top), kind, layers)
    crossing = Crossing(view.problem, view.parts, items, instance.tokens_per_tick)

    def row(nodes: list[int]) -> np.ndarray:
        found = np.zeros(len(kind), dtype=np.int64)
        for node in nodes:
            span = placement[node]
            assert span is not None
            found += (kind == view.problem.node_kinds[node]) & (layers == span[1] - span[0])
        return found

    held = [(node, span) for node, span in enumerate(placement) if span is not None]
    boundaries = range(view.problem.num_layers + 1)
    ended = [row([node for node, span in held if span[1] == layer]) for layer in boundaries]
    stay = [row([node for node, span in held if span[0] < layer < span[1]]) for layer in boundaries]
    start = [row([node for node, span in held if span[0] == layer]) for layer in boundaries]
    rows = np.stack([*ended, *stay, *start])
    rho = crossing.from_source(start[0][None])
    for layer in boundaries[1:-1]:
        rho = crossing.step(rho, rows, *(np.array([at * len(boundaries) + layer]) for at in range(3)))
    return instance.tokens(int(crossing.to_sink(rho, ended[-1][None])[0]))


def test_a_target_beyond_double_precision_is_not_rounded_down() -> None:
    """A node of 2⁵³ + 1 ticks lets as many flow over wide links: one less would rule out what is possible."""
    target, wide = 2**53 + 1, np.full(2, 1e300)
    links = np.array([[0.0, 1e300], [1e300, 0.0]])
    problem = FlowProblem(2, ("a", "b"), (np.ones(1), np.ones(1)), ("x", "y"), np.array([0, 1]), links, wide, wide)
    items = Items(target, np.array([target, target]), np.array([0, 1]), np.array([1, 1]))
    crossing = Crossing(problem, (0, 1), items, 1.0)
    rows = np.array([[1, 0], [0, 0], [0, 1]])
    rho = crossing.from_source(rows[:1])
    assert rho.tolist() == [[target, 0, target]]
    rho = crossing.step(rho, rows, np.array([0]), np.array([1]), np.array([2]))
    assert rho.tolist() == [[0, target, target]]
    assert crossing.to_sink(rho, rows[2:]).tolist() == [target]


def chain_of_two_regions() -> tuple[FlowProblem, list[list[int]]]:
    """Return one big node beside three small ones, every link between them 30 tokens/s.

    Four layers. The big node holds up to two and passes 100; a small one passes 100 with one layer, 40 with two.
    With the big node on layers 0-1 and all small ones on 2-3 each of these gets 30: 90 of their 120. With a small one
    beside the big node the two left pass 80. Fewer receivers of one layer each get 30 each, 60 at most. The big node
    last is the same backwards, and small ones alone leave two layers to one of them: 40. So 90; with wide links 100.
    """
    links = np.full((4, 4), 30.0)
    links[1:, 1:] = 1e4
    np.fill_diagonal(links, 0.0)
    table = (np.array([100.0, 100.0]), np.array([100.0, 40.0]))
    wide = np.full(4, 1e4)
    kinds = np.array([0, 1, 1, 1], dtype=np.int64)
    names = ("big", "s0", "s1", "s2")
    return FlowProblem(4, ("big", "small"), table, names, kinds, links, wide, wide), [[0], [1, 2, 3]]


def test_one_node_has_few_partners(flows: ModuleType) -> None:
    """A single node's links bound what leaves its region, as worked out by hand and by every placement."""
    problem, parts = chain_of_two_regions()
    assert flows.optimum(problem) == pytest.approx(90.0)
    view = views_of(problem, parts, budget())[-1]
    assert answer(view, 90.0) == "found"
    assert answer(view, 90.01) == "impossible"
    held = [NodeRange(0, 0, 2), NodeRange(1, 2, 4), NodeRange(2, 2, 4), NodeRange(3, 2, 4)]
    assert evaluate(problem, held)[0] == pytest.approx(90.0)


def test_views_tell_each_region_from_the_rest() -> None:
    """Three regions make three views of two parts and one of three; five are told apart as four at most."""
    problem, _ = chain_of_two_regions()
    views = views_of(problem, [[0], [1], [2, 3]], budget())
    assert [len(set(view.parts)) for view in views] == [2, 2, 2, 3]
    names = tuple(f"n{i}" for i in range(5))
    five = dataclasses.replace(
        problem,
        node_names=names,
        node_kinds=np.array([0, 1, 1, 1, 1], dtype=np.int64),
        link_tokens_per_s=np.full((5, 5), 30.0) - 30.0 * np.eye(5),
        source_tokens_per_s=np.full(5, 1e4),
        sink_tokens_per_s=np.full(5, 1e4),
    )
    assert max(len(set(view.parts)) for view in views_of(five, [[i] for i in range(5)], budget())) == 4


def three_regions(shared_data: Path) -> tuple[FlowProblem, list[list[int]]]:
    """Return the published 24 nodes in three regions, 12.5 MB/s between any two nodes of different ones."""
    problem = load_flow_problem(shared_data / "helix" / "instances" / "single24-70b.json")
    number = {name.lower(): kind for kind, name in enumerate(problem.kind_names)}
    machines = ["a100"] * 4 + ["l4"] * 2 + ["t4"] * 8 + ["l4"] * 6 + ["t4"] * 4
    parts = [list(range(4)), list(range(4, 14)), list(range(14, 24))]
    part = np.repeat([0, 1, 2], [4, 10, 10])
    fast = problem.link_tokens_per_s.max()
    links = np.where(part[:, None] == part[None, :], fast, 12.5e6 / 16384.0)
    np.fill_diagonal(links, 0.0)
    kinds = np.array([number[machine] for machine in machines], dtype=np.int64)
    return dataclasses.replace(problem, node_kinds=kinds, link_tokens_per_s=links), parts


def test_three_regions_are_decided_in_a_moment(shared_data: Path) -> None:
    """With slow links four A100s of nine layers are the best there is: no flow above what one of them passes."""
    problem, parts = three_regions(shared_data)
    a100 = problem.kind_names.index(next(name for name in problem.kind_names if name.lower() == "a100"))
    nine = float(problem.throughput_tokens_per_s[a100][8])
    view = views_of(problem, parts, budget())[-1]
    assert answer(view, nine * (1.0 + 1e-6)) == "impossible"
    outcome, _ = view.search(int(nine / view.instance.tokens_per_tick), Options(300, 1.1, 20, 0.05), budget())
    assert outcome.answer == "found"


@pytest.mark.slow
def test_three_regions_are_proven(shared_data: Path) -> None:
    """The whole search meets that bound with a verified placement."""
    problem, _ = three_regions(shared_data)
    result = solve_flow(problem, limits=Limits(time_limit_s=150))
    assert result.status == "optimal"
    assert result.objective == pytest.approx(1754.3818895649893, rel=1e-9)
    assert result.report.bound_kind == "label search by regions"
    assert verify_flow_solution(flow_solution_to_dict(result, problem), problem).ok


def test_a_region_far_weaker_than_the_rest() -> None:
    """Twelve nodes of 100 tokens/s, a layer each, beside two of 1: a flow of all is more ticks than a weak region has.

    Four layers on twelve nodes pass 300; the weak ones could add 1 on two layers, which is no more over all four.
    """
    side = np.repeat([0, 1], [12, 2])
    links = np.where(side[:, None] == side[None, :], 1e4, 0.5)
    np.fill_diagonal(links, 0.0)
    names, wide = tuple(f"n{i}" for i in range(14)), np.full(14, 1e4)
    table = (np.array([100.0]), np.array([1.0]))
    problem = FlowProblem(4, ("strong", "weak"), table, names, side.astype(np.int64), links, wide, wide)
    incumbent = Incumbent(problem, instance_of(problem), budget(), bound=300.0)
    placements = block_placements(incumbent, [list(range(12)), [12, 13]])
    assert max(evaluate(problem, placement)[0] for placement in placements) == pytest.approx(300.0)
