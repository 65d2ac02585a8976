"""Bounds that know of links: always above the optimum that trying every placement finds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest
from scipy.optimize import linprog

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.flow import solve_flow
from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.flow.instance import instance_of
from gpuplan.solvers.flow.link_bounds import crossing_capacity, tightened
from gpuplan.solvers.flow.maxflow import maximum_flow
from gpuplan.solvers.flow.regions import regions_of, search_regions
from gpuplan.solvers.limits import Budget, Limits

UNLIMITED = Limits(time_limit_s=None)
#: Rounding allowed when a bound is compared with an optimum.
BELOW = 1.0 - 1e-9


def narrow(problem: FlowProblem, rng: np.random.Generator) -> FlowProblem:
    """Return the problem with unlike, asymmetric, partly missing links: some free, some a few tokens/s."""
    shape = problem.link_tokens_per_s.shape
    links = np.exp(rng.uniform(0.0, 7.0, shape)) * (rng.random(shape) < 0.7)
    np.fill_diagonal(links, 0.0)
    ends = np.exp(rng.uniform(2.0, 7.0, (2, problem.num_nodes))) * (rng.random((2, problem.num_nodes)) < 0.85)
    return dataclasses.replace(problem, link_tokens_per_s=links, source_tokens_per_s=ends[0], sink_tokens_per_s=ends[1])


def test_caps_change_no_flow(flows: ModuleType) -> None:
    """A placement passes the same with throughputs capped by the links of its nodes; some caps are below T."""
    rng = np.random.default_rng(3)
    capped = 0
    for problem in flows.random_problems(150, bind=True, nodes=(3, 5)):
        problem = narrow(problem, rng)
        tight = tightened(problem)
        capped += tight is not problem
        for _ in range(4):
            spans = [choices[rng.integers(len(choices))] for choices in map(problem_options(flows, problem), range(99))]
            ranges = [NodeRange(i, *span) for i, span in enumerate(spans[: problem.num_nodes]) if span is not None]
            before, after = (maximum_flow(p, ranges).tokens_per_s for p in (problem, tight))
            assert after == pytest.approx(before, rel=1e-9, abs=1e-9)
    assert capped >= 100


def problem_options(flows: ModuleType, problem: FlowProblem):  # type: ignore[no-untyped-def]
    """Return the ranges of a node by its number, taken round."""
    return lambda node: flows.options(problem, node % problem.num_nodes)


def test_bounds_with_narrow_links_are_above_the_optimum(flows: ModuleType) -> None:
    """On random links, with and without a limit on hops or single holders, no reported bound is below the optimum."""
    rng = np.random.default_rng(4)
    checked = tighter = 0
    for seed, problem in enumerate(flows.random_problems(240, bind=True, nodes=(2, 3))):
        problem = narrow(problem, rng)
        best = flows.optimum(problem)
        # Little work: the search ends early, with the bound it has.
        result = solve_flow(problem, limits=Limits(time_limit_s=None, work_limit=30), seed=seed)
        if result.bound is not None:
            checked += 1
            assert result.bound >= best * BELOW, seed
            free = dataclasses.replace(
                problem,
                link_tokens_per_s=np.full_like(problem.link_tokens_per_s, 1e6),
                source_tokens_per_s=np.full(problem.num_nodes, 1e6),
                sink_tokens_per_s=np.full(problem.num_nodes, 1e6),
            )
            tighter += result.bound < solve_flow(free, limits=UNLIMITED).bound * (1.0 - 1e-6)
        if result.status == "infeasible":
            assert best == 0.0, seed
    assert checked >= 60
    assert tighter >= 20


def test_regions_alone_and_links_between_bound_the_optimum(flows: ModuleType) -> None:
    """What the parts of any partition reach alone, and the links between them, is never below the optimum."""
    rng = np.random.default_rng(5)
    parted = 0
    for seed, problem in enumerate(flows.random_problems(200, bind=True, nodes=(2, 3))):
        problem = narrow(problem, rng)
        best = flows.optimum(problem)
        split = int(rng.integers(1, problem.num_nodes))
        order = rng.permutation(problem.num_nodes).tolist()
        parts = [order[:split], order[split:]]
        alone = 0.0
        for nodes in parts:
            absent = np.ones(problem.num_nodes, dtype=bool)
            absent[nodes] = False
            links = problem.link_tokens_per_s.copy()
            source = np.where(absent, 0.0, problem.source_tokens_per_s)
            links[absent], links[:, absent] = 0.0, 0.0
            alone += flows.optimum(dataclasses.replace(problem, link_tokens_per_s=links, source_tokens_per_s=source))
        assert alone + crossing_capacity(problem, parts) >= best * BELOW, seed
        parted += best > 0.0
    assert parted >= 40


def test_regional_search_bounds_the_optimum(flows: ModuleType) -> None:
    """The bound that planning by region leaves, for regions joined by little, is valid and below the link-free one."""
    better = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        problem = flows.random_problem(rng, nodes=4, layers=4, kinds=1)
        links = np.full((4, 4), 1e6)
        links[:2, 2:], links[2:, :2] = rng.uniform(0.0, 4.0, (2, 2)), rng.uniform(0.0, 4.0, (2, 2))
        np.fill_diagonal(links, 0.0)
        problem = dataclasses.replace(problem, link_tokens_per_s=links)
        incumbent = Incumbent(problem, instance_of(problem), Budget(Limits(time_limit_s=None, work_limit=2_000)))
        top = incumbent.instance.bound_tokens(incumbent.instance.aggregate_bound())
        incumbent.lower_bound_to(top, "tokens·layers")
        regions = regions_of(problem, top)
        assert regions == [[0, 1], [2, 3]]
        search_regions(incumbent, regions, (), incumbent.instance.aggregate_bound(), seed)
        best = flows.optimum(problem)
        assert incumbent.value <= best * (1.0 + 1e-9)
        assert incumbent.bound >= best * BELOW, seed
        better += incumbent.bound_kind in ("regions alone and the links between them", "label search by regions")
    assert better >= 6


def test_narrow_node_by_hand() -> None:
    """Two nodes in a chain; the first can send 3 tokens/s to the other and has no sink: nothing passes more than 3."""
    problem = FlowProblem(
        4, ("a",), (np.array([30.0, 10.0]),), ("x", "y"), np.zeros(2, dtype=np.int64),
        np.array([[0.0, 3.0], [3.0, 0.0]]), np.array([1e3, 0.0]), np.array([0.0, 1e3]),
    )  # fmt: skip
    tight = tightened(problem)
    assert tight.num_kinds == 1
    # min(in, out): x takes 1e3 + 3 and sends max(0, 3); y takes 3 and sends 1e3. Rounded up by at most 1 %.
    assert 3.0 <= tight.throughput_tokens_per_s[0].max() <= 3.0 * 1.0101
    result = solve_flow(problem, limits=UNLIMITED)
    assert result.status == "optimal"
    assert result.objective == pytest.approx(3.0)


def path_optimum(flows: ModuleType, problem: FlowProblem, hops: int) -> float:
    """Return the best flow of any placement along paths of at most so many hops, by a linear programme over paths."""
    best = 0.0
    for least, placement in flows.by_coverage(problem):
        if least <= best:
            break
        best = max(best, path_flow(problem, placement, hops))
    return best


def path_flow(problem: FlowProblem, placement: Sequence[tuple[int, int] | None], hops: int) -> float:
    """Return the most that paths of at most so many hops carry: one variable a path, one row a node or link."""
    held = {node: span for node, span in enumerate(placement) if span is not None}
    paths: list[tuple[int, ...]] = []
    open_paths = [(node,) for node, span in held.items() if span[0] == 0]
    while open_paths:
        path = open_paths.pop()
        stop = held[path[-1]][1]
        if stop == problem.num_layers:
            paths.append(path)
        elif len(path) <= hops:
            open_paths += [(*path, node) for node, span in held.items() if span[0] <= stop < span[1]]
    if not paths:
        return 0.0
    rows, limits = [], []
    for node, span in held.items():
        rows.append([float(node in path) for path in paths])
        limits.append(problem.throughput_tokens_per_s[problem.node_kinds[node]][span[1] - span[0] - 1])
        rows += [[float(path[0] == node) for path in paths], [float(path[-1] == node) for path in paths]]
        limits += [problem.source_tokens_per_s[node], problem.sink_tokens_per_s[node]]
        for other in held:
            rows.append([float((node, other) in itertools.pairwise(path)) for path in paths])
            limits.append(problem.link_tokens_per_s[node, other])
    answer = linprog(-np.ones(len(paths)), A_ub=np.array(rows), b_ub=np.array(limits))
    return -float(answer.fun)


def test_bounds_with_few_hops_are_above_the_optimum(flows: ModuleType) -> None:
    """With a limit on hops, links wide or binding, value ≤ best flow along short paths ≤ bound."""
    solved = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        problem = flows.random_problem(rng, nodes=3, layers=int(rng.integers(2, 5)), kinds=2, bind=bool(seed % 2))
        for hops in (0, 1):
            best = path_optimum(flows, problem, hops)
            result = solve_flow(dataclasses.replace(problem, max_hops=hops), limits=UNLIMITED)
            if result.status == "infeasible":
                assert best == pytest.approx(0.0, abs=1e-9), seed
                continue
            solved += 1
            assert result.bound >= best * BELOW, seed
            assert result.objective is None or result.objective <= best * (1.0 + 1e-9), seed
    assert solved >= 40
