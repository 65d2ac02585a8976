"""Limits on hops: small clusters are solved with proof, and a chain that exists is found."""

from __future__ import annotations

import dataclasses
import itertools
from types import ModuleType

import numpy as np
import pytest

from gpuplan.plans.flow_solution import NodeRange, flow_solution_to_dict
from gpuplan.plans.verify.flow import verify_flow_solution
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.flow import solve_flow
from gpuplan.solvers.flow.chains import dealt_out, short_chain
from gpuplan.solvers.flow.exact import count_placements, search_exactly, twins_of
from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.flow.instance import instance_of
from gpuplan.solvers.flow.maxflow import evaluate, maximum_flow, short_flow
from gpuplan.solvers.limits import Budget, Limits

UNLIMITED = Limits(time_limit_s=None)


def hop_optimum(flows: ModuleType, problem: FlowProblem, hops: int) -> float:
    """Return the best flow of chains of at most so many hops.

    Such chains are those whose links all lead to higher levels, for nodes on levels 0 to `hops` in some way; the more
    levels are taken the more links there are.
    """
    levels = [
        np.array(level)
        for level in itertools.product(range(hops + 1), repeat=problem.num_nodes)
        if len(set(level)) == min(hops + 1, problem.num_nodes)
    ]
    upward = [np.where(at[:, None] < at[None, :], problem.link_tokens_per_s, 0.0) for at in levels]
    levelled = [dataclasses.replace(problem, link_tokens_per_s=links) for links in upward]
    best = 0.0
    for least, placement in flows.by_coverage(problem):
        if least <= best:
            break
        if flows.nx_flow(problem, placement) > best:
            best = max(best, *(flows.nx_flow(case, placement) for case in levelled))
    return best


def check_against_every_placement(flows: ModuleType, seeds: range) -> int:
    """Hold answers to the optimum; return how many have a plan."""
    solved = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        nodes, layers = int(rng.integers(2, 5)), int(rng.integers(2, 6))
        problem = flows.random_problem(rng, nodes=nodes, layers=layers, kinds=2, bind=bool(seed % 3))
        hops = int(rng.integers(0, min(nodes, 3)))
        best = hop_optimum(flows, problem, hops)
        limited = dataclasses.replace(problem, max_hops=hops)
        result = solve_flow(limited, limits=UNLIMITED)
        chain = short_chain(limited)
        assert (chain == []) == (best == 0.0), seed
        if not chain:
            assert result.status == "infeasible", seed
            continue
        assert evaluate(limited, chain)[0] > 0.0, seed
        assert result.status == "optimal", seed
        assert result.objective == pytest.approx(best, rel=1e-9), seed
        assert verify_flow_solution(flow_solution_to_dict(result, limited), limited).ok, seed
        solved += 1
    return solved


def test_few_hops_are_solved(flows: ModuleType) -> None:
    """Of 30 tiny clusters, links wide or binding, each is solved as trying every placement and every level does."""
    assert check_against_every_placement(flows, range(30)) >= 15


@pytest.mark.slow
def test_few_hops_are_solved_on_hundreds(flows: ModuleType) -> None:
    """The same on 270 more."""
    assert check_against_every_placement(flows, range(1000, 1270)) >= 130


def line(layers: int, count: int, hops: int | None) -> FlowProblem:
    """Return nodes that hold one or two layers, each linked to the next; source into the first, sink at the last."""
    links = np.zeros((count, count))
    links[np.arange(count - 1), np.arange(1, count)] = 5.0
    ends = np.zeros((2, count))
    ends[0, 0] = ends[1, -1] = 5.0
    table = (np.array([8.0, 4.0]),)
    names, kinds = tuple(f"n{i}" for i in range(count)), np.zeros(count, dtype=np.int64)
    return FlowProblem(layers, ("a",), table, names, kinds, links, ends[0], ends[1], hops)


def test_the_only_chain_is_found() -> None:
    """Thirteen nodes in a line hold 20 layers with 12 hops, each one or two of them; with 11 hops they do not."""
    # Seven of the thirteen hold two layers and pass 4, less than the links' 5.
    result = solve_flow(line(20, 13, 12), limits=Limits(time_limit_s=None, work_limit=1))
    assert result.objective == pytest.approx(4.0)
    assert result.terms["hops"] == 12
    result = solve_flow(line(20, 13, 11), limits=Limits(time_limit_s=None, work_limit=1))
    assert result.status == "infeasible"
    assert result.reasons == ("no chain of nodes of at most 11 hops holds all layers: proven by search",)


def test_a_chain_passes_over_nodes_that_lead_nowhere() -> None:
    """Chains meet no node twice, and leave a layer for the node that reaches the sink."""
    # 0 → 1 → 0 → 1 would hold four layers: the search must see that 0 and 1 are used up, and go on to 2.
    links = np.array([[0.0, 9.0, 0.0], [9.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    ends = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    names, kinds = ("x", "y", "z"), np.zeros(3, dtype=np.int64)
    problem = FlowProblem(4, ("a",), (np.array([3.0, 2.0]),), names, kinds, links, ends[0], ends[1], 2)
    assert short_chain(problem) == [NodeRange(0, 0, 2), NodeRange(1, 2, 3), NodeRange(2, 3, 4)]
    assert short_chain(dataclasses.replace(problem, max_hops=1)) == []
    assert short_chain(dataclasses.replace(problem, num_layers=7)) == []


def test_other_nodes_are_dealt_out_to_the_stages_of_a_chain() -> None:
    """Six nodes of up to two layers, three layers, one hop: a stage of two layers and one of one, 16 tokens/s."""
    # Nodes 0 and 1 are the chain: layers 0-1 at 4, layer 2 at 8. The others go to the weaker stage each, the first at a
    # tie: (4, 8), (8, 8), (12, 8), (12, 16), (16, 16).
    wide, names = np.full(6, 1e3), tuple(f"n{i}" for i in range(6))
    links, kinds = 1e3 * (1.0 - np.eye(6)), np.zeros(6, dtype=np.int64)
    problem = FlowProblem(3, ("a",), (np.array([8.0, 4.0]),), names, kinds, links, wide, wide, 1)
    chain = short_chain(problem)
    assert chain == [NodeRange(0, 0, 2), NodeRange(1, 2, 3)]
    placement = dealt_out(problem, chain)
    assert sorted(item.node for item in placement) == list(range(6))
    assert sorted((item.start, item.stop) for item in placement) == [(0, 2)] * 4 + [(2, 3)] * 2
    assert evaluate(problem, placement)[0] == pytest.approx(16.0)


def test_links_are_left_out_for_shorter_chains() -> None:
    """A flow of 10 takes two hops; with one hop a link must carry nothing, and the best choice leaves 6."""
    # a holds layer 0, b layers 0-1, c 1-2, d 2. a → c (6), a → b (4) → d: the chain a, b, d has two hops.
    links = np.zeros((4, 4))
    links[0, 2], links[0, 1], links[1, 3] = 6.0, 4.0, 10.0
    table = (np.array([10.0, 6.0]),)
    ends = np.array([[10.0, 0.0, 0.0, 0.0], [0.0, 0.0, 10.0, 10.0]])
    kinds = np.zeros(4, dtype=np.int64)
    problem = FlowProblem(3, ("a",), table, ("a", "b", "c", "d"), kinds, links, ends[0], ends[1], 1)
    placement = [NodeRange(0, 0, 1), NodeRange(1, 0, 2), NodeRange(2, 1, 3), NodeRange(3, 2, 3)]
    assert maximum_flow(problem, placement).tokens_per_s == pytest.approx(10.0)
    flow = short_flow(problem, placement, lambda: True)
    assert flow is not None
    assert flow.tokens_per_s == pytest.approx(6.0)
    assert short_flow(problem, placement, lambda: True, above=6.0) is None
    assert evaluate(problem, placement)[0] == pytest.approx(6.0)


def test_twins_change_nothing(flows: ModuleType) -> None:
    """Nodes with the same links are twins, placements that differ by them count once, and no optimum is lost."""
    rng = np.random.default_rng(3)
    fewer = 0
    for _ in range(25):
        problem = flows.random_problem(rng, nodes=4, layers=4, kinds=2, bind=True)
        half = np.array([0, 0, 1, 1])
        links = rng.uniform(5, 200, (2, 2))[half[:, None], half[None, :]] * (1.0 - np.eye(4))
        ends = rng.uniform(30, 400, (2, 2))[:, half]
        problem = dataclasses.replace(
            problem, link_tokens_per_s=links, source_tokens_per_s=ends[0], sink_tokens_per_s=ends[1]
        )
        kinds = problem.node_kinds
        same = [0, 0 if kinds[0] == kinds[1] else 1, 2, 2 if kinds[2] == kinds[3] else 3]
        assert twins_of(problem).tolist() == same
        choices = [len(flows.options(problem, node)) for node in range(4)]
        fewer += count_placements(problem) < np.prod(choices)
        incumbent = Incumbent(problem, instance_of(problem), Budget(UNLIMITED))
        assert search_exactly(incumbent)
        assert incumbent.value == pytest.approx(flows.optimum(problem), rel=1e-9)
    assert fewer >= 12


def test_links_that_bind_are_searched_with_few_hops() -> None:
    """Ten nodes, a layer each, and wide links in five pairs only: annealing finds the pairs, which pass 50."""
    nodes = np.random.default_rng(0).permutation(10)
    links = np.where(np.eye(10, dtype=bool), 0.0, 1.0)
    links[nodes[:5], nodes[5:]] = 10.0
    names, wide = tuple(f"n{i}" for i in range(10)), np.full(10, 10.0)
    kinds = np.zeros(10, dtype=np.int64)
    problem = FlowProblem(2, ("a",), (np.array([10.0]),), names, kinds, links, wide, wide, 1)
    result = solve_flow(problem, limits=Limits(time_limit_s=60))
    assert result.status == "optimal"
    assert result.objective == pytest.approx(50.0)
    assert result.terms["hops"] == 1
