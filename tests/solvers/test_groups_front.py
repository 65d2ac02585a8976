"""Fronts over groups whose cuts hand over messages of unequal size: every point has the seconds of its plan."""

from __future__ import annotations

import dataclasses
import random
from types import ModuleType

import pytest

from gpuplan.profiles import PlacementProblem
from gpuplan.solvers import pareto
from gpuplan.topology import Link


def _unequal(oracle: ModuleType, seed: int) -> PlacementProblem:
    """Return an instance whose cuts hand over messages between a hundredth of the largest and the largest.

    Every second one joins two hosts by two links: at 60 bytes the first takes 1.0 s and the second 0.3 s, at 0.6 bytes
    0.01 s and 0.3 s, so that the slowest pair of ranks depends on the cut.
    """
    problem: PlacementProblem = oracle.random_problem(seed, per_host=2)
    draw = random.Random(seed)
    if seed % 2:
        inside = [link for link in problem.topology.links if "net" not in (link.a, link.b)]
        links = (*inside, _joined(0, 60.0, 0.001), _joined(1, 1e4, 0.3))
        parts = tuple(part for part in problem.topology.components if part.name != "net")
        problem = problem.replace(topology=dataclasses.replace(problem.topology, links=links, components=parts))
    layers = [
        dataclasses.replace(
            layer, boundary_bytes_per_token=layer.boundary_bytes_per_token * draw.choice([0.01, 0.3, 1])
        )
        for layer in problem.model.layers
    ]
    return problem.replace(model=dataclasses.replace(problem.model, layers=tuple(layers)))


def _joined(gpu: int, bandwidth: float, latency: float) -> Link:
    return Link(f"h0/gpu{gpu}", f"h1/gpu{gpu}", "ethernet", bandwidth, latency)


def test_points_have_their_own_seconds_and_proofs_hold(oracle: ModuleType) -> None:
    """Each point is a plan at its own price; a front called complete is the one of all plans."""
    complete = changed = 0
    for seed in range(600, 640):
        problem = _unequal(oracle, seed)
        plans = oracle.all_plans(problem)
        known = [(plan.latency, plan.bottleneck, plan.devices) for plan in plans]
        for uneven in (False, True):
            allowed = plans if uneven else [plan for plan in plans if plan.uniform]
            result = pareto(problem.replace(uneven_tensor_parallel=uneven))
            if not allowed:
                assert result.status == "infeasible"
                continue
            points = [(p.latency_s, p.bottleneck_s, p.devices) for p in result.require_plan().points]
            for point in points:
                assert any(point == pytest.approx(figures, rel=1e-9) for figures in known), seed
            if result.status == "optimal":
                complete += 1
                assert [pytest.approx(figures, rel=1e-9) for figures in oracle.front_of(allowed)] == points, seed
            changed += result.status != "optimal"
            assert result.report.proof
    assert complete > 20
    assert changed > 0


def test_a_front_ends_with_its_limit(oracle: ModuleType) -> None:
    """With work for one question alone the plan found is the front, and nothing is said to be complete."""
    stopped = 0
    for seed in range(600, 610):
        problem = _unequal(oracle, seed)
        whole, first = pareto(problem), pareto(problem, work_limit=1)
        if whole.plan is None or len(whole.plan.points) < 2:
            continue
        assert first.status in ("feasible", "no_solution"), seed
        assert first.report.work < whole.report.work, seed
        stopped += first.plan is not None
    assert stopped > 0
