"""Links that bind: the compiled flow against its plain twin, regions, annealing."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from gpuplan.plans.flow_solution import NodeRange, flow_solution_to_dict
from gpuplan.plans.verify.flow import verify_flow_solution
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.flow import solve_flow
from gpuplan.solvers.flow.blocks import block_placements
from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.flow.instance import instance_of
from gpuplan.solvers.flow.maxflow import maximum_flow
from gpuplan.solvers.flow.regions import links_bind, regions_of
from gpuplan.solvers.limits import Budget, Limits


def two_regions(rng: np.random.Generator, nodes: int = 12) -> FlowProblem:
    """Return two regions of equal nodes, links between them slow."""
    side = np.arange(nodes) % 2
    links = np.where(side[:, None] == side[None, :], 1e5, 20.0)
    np.fill_diagonal(links, 0.0)
    table = (np.array([400.0, 190.0, 120.0, 80.0]) * rng.uniform(0.9, 1.1), np.array([150.0, 70.0]))
    wide = np.full(nodes, 1e5)
    names = tuple(f"n{i}" for i in range(nodes))
    return FlowProblem(8, ("big", "small"), table, names, rng.integers(0, 2, nodes), links, wide, wide)


def random_placement(flows: ModuleType, problem: FlowProblem, rng: np.random.Generator) -> list[tuple[int, int] | None]:
    """Return a random range for every node."""
    chosen = (flows.options(problem, node) for node in range(problem.num_nodes))
    return [choices[rng.integers(len(choices))] for choices in chosen]


def test_plain_flow_agrees_with_networkx(flows: ModuleType) -> None:
    """Dinic in plain Python gives NetworkX's maximum flow on random placements with random links."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        problem = flows.random_problem(rng, nodes=6, layers=5, kinds=3, bind=True)
        placement = random_placement(flows, problem, rng)
        ranges = [NodeRange(i, *span) for i, span in enumerate(placement) if span is not None]
        assert maximum_flow(problem, ranges).tokens_per_s == pytest.approx(flows.nx_flow(problem, placement), rel=1e-9)


@pytest.mark.slow
def test_compiled_flow_agrees_with_the_plain_one(flows: ModuleType) -> None:
    """The compiled twin gives the same flows."""
    from gpuplan.solvers.flow.anneal import arrays_of, compiled_flow

    rng = np.random.default_rng(2)
    for _ in range(300):
        problem = flows.random_problem(rng, nodes=7, layers=6, kinds=3, bind=True)
        placement = random_placement(flows, problem, rng)
        ranges = [NodeRange(i, *span) for i, span in enumerate(placement) if span is not None]
        start = np.array([0 if span is None else span[0] for span in placement])
        length = np.array([0 if span is None else span[1] - span[0] for span in placement])
        value = compiled_flow(arrays_of(problem), start, length)
        assert value == pytest.approx(maximum_flow(problem, ranges).tokens_per_s, rel=1e-9, abs=1e-9)


def test_cuts_by_regions_are_above_the_flow(flows: ModuleType) -> None:
    """The least cut by regions and layers is never below the flow of a placement, and is the coverage of one region."""
    from gpuplan.solvers.flow.anneal import arrays_of
    from gpuplan.solvers.flow.anneal_kernels import cheapest_cuts, crossings

    rng = np.random.default_rng(3)
    tighter = 0
    for _ in range(250):
        problem = flows.random_problem(rng, nodes=6, layers=5, kinds=2, bind=True)
        placement = random_placement(flows, problem, rng)
        ranges = [NodeRange(i, *span) for i, span in enumerate(placement) if span is not None]
        sides = rng.integers(0, 3, 6)
        regions = [np.flatnonzero(sides == side).tolist() for side in range(3)]
        start = np.array([0 if span is None else span[0] for span in placement])
        length = np.array([0 if span is None else span[1] - span[0] for span in placement])
        least = []
        for parts in ([r for r in regions if r], None):
            arrays = arrays_of(problem, parts)
            covered = np.zeros((5, arrays.num_regions))
            for i, (first, count) in enumerate(zip(start, length, strict=True)):
                covered[first : first + count, arrays.region[i]] += arrays.table[arrays.kinds[i], count]
            sets = 2**arrays.num_regions
            cross, holding, room = np.zeros((6, sets)), np.zeros(6, dtype=np.int64), np.zeros(arrays.num_regions)
            for x in range(6):
                crossings.py_func(
                    x, arrays.table, arrays.kinds, arrays.region, arrays.links, start, length, holding, room, cross
                )
            least.append(cheapest_cuts.py_func(covered, cross, np.zeros(sets), np.zeros(5)))
        flow = maximum_flow(problem, ranges).tokens_per_s
        assert least[0] >= flow * (1 - 1e-9)
        assert least[1] == pytest.approx(flows.coverage(problem, placement).min())
        tighter += least[0] < least[1] * (1 - 1e-9)
    assert tighter >= 20


def test_compiler_is_ended_when_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that compiles for too long is ended at the limit, and annealing does not start."""
    from gpuplan.solvers import compiling
    from gpuplan.solvers.flow.compiling import ANNEAL, Compilation

    fresh = compiling.KernelSet("flow", ANNEAL.dispatchers, ANNEAL.exercise)
    monkeypatch.setattr(fresh, "compiled", lambda: False)
    monkeypatch.setattr("gpuplan.solvers.flow.compiling.ANNEAL", fresh)
    monkeypatch.setattr(compiling, "COMMAND", ("-c", "import time; time.sleep(600)"))
    compilation = Compilation()
    assert not compilation.wait(Budget(Limits(time_limit_s=0.05)))
    compilation.stop()
    thread = fresh._preparation
    assert thread is not None
    thread.join(30.0)  # it ends with the process it waits for
    assert not thread.is_alive()
    assert not fresh.loaded()


def test_blocks_take_turns() -> None:
    """Two regions of a chain of four equal nodes each: one region after the other holds half the layers."""
    side = np.repeat([0, 1], 4)
    links = np.where(side[:, None] == side[None, :], 1e5, 30.0)
    np.fill_diagonal(links, 0.0)
    problem = FlowProblem(
        8, ("a",), (np.array([40.0]),), tuple("abcdefgh"), np.zeros(8, dtype=np.int64), links,
        np.full(8, 1e5), np.full(8, 1e5),
    )  # fmt: skip
    incumbent = Incumbent(problem, instance_of(problem), Budget(Limits(time_limit_s=None)))
    incumbent.lower_bound_to(40.0, "eight nodes of one layer each")
    found = list(block_placements(incumbent, [[0, 1, 2, 3], [4, 5, 6, 7]]))
    # Each region covers four layers with 40; the link between the fourth and the fifth node carries 30.
    assert max(incumbent.offer(placement) for placement in found) == pytest.approx(30.0)
    first = found[0]
    assert {item.node < 4 for item in first if item.start < 4} in ({True}, {False})


def test_regions_are_found() -> None:
    """Nodes of two regions with slow links between them make two components; wide links make none that bind."""
    problem = two_regions(np.random.default_rng(0))
    assert links_bind(problem, 1e9)
    assert regions_of(problem, 1e9) == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]
    # A flow of 10 tokens/s binds nowhere.
    assert not links_bind(problem, 10.0)


@pytest.mark.slow
def test_regions_and_annealing_give_verified_plans() -> None:
    """With binding links the answer is verified, its bound holds, and it beats every rule."""
    for seed in range(3):
        problem = two_regions(np.random.default_rng(seed))
        result = solve_flow(problem, limits=Limits(time_limit_s=None, work_limit=3_000_000), seed=seed)
        assert result.plan is not None
        assert verify_flow_solution(flow_solution_to_dict(result, problem), problem).ok
        assert result.bound >= result.objective
        for name in ("petals", "swarm", "separate-pipelines", "homogeneous"):
            other = solve_flow(problem, solver=name).objective
            assert other is None or other <= result.objective * (1 + 1e-9)
