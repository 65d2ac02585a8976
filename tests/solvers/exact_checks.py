"""Comparing the exact solver with the oracle, shared by the exact tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Objective, ObjectiveName, Timing
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement.dense import objective_value, solve_dense, solve_front
from gpuplan.solvers.placement.effort import KEY_BITS, Effort, Settings
from gpuplan.solvers.placement.evaluate import broken_rule
from gpuplan.solvers.placement.objectives import METHODS
from gpuplan.solvers.placement.outcome import Outcome
from gpuplan.solvers.placement.query import EngineName, Session
from gpuplan.solvers.placement.tables import class_tables
from gpuplan.solvers.result import Value

TOLERANCE = 1e-9


def objectives(problem: DensePlacement) -> Iterator[ObjectiveName]:
    """Objectives the problem has the numbers for."""
    yield from ("latency", "bottleneck", "efficiency", "balanced")
    if not np.isnan(problem.price_per_hour).any():
        yield "cost"
    if problem.kv_bytes_per_token.any():
        yield "kv-capacity"


def under(problem: DensePlacement, name: ObjectiveName) -> DensePlacement:
    """Return the problem under another objective."""
    return replace(problem, objective=Objective(name))


def same(first: Any, second: Any) -> bool:
    """Whether two values (numbers or pairs) agree to 1e-9 relative."""
    a, b = np.atleast_1d(np.asarray(first, dtype=float)), np.atleast_1d(np.asarray(second, dtype=float))
    return a.shape == b.shape and bool((np.abs(a - b) <= TOLERANCE * np.abs(b)).all())


def check_everything(problem: DensePlacement, oracle: ModuleType, engines: Sequence[EngineName]) -> int:
    """Every objective and the front equal the oracle's, with every engine; return how many answers that were."""
    plans = oracle.enumerate_plans(problem)
    answers = 0
    for engine in engines:
        for name in objectives(problem):
            check_objective(under(problem, name), oracle, plans, engine)
            answers += 1
        check_front(problem, oracle, plans, engine)
        answers += 1
    return answers


def check_objective(problem: DensePlacement, oracle: ModuleType, plans: Any, engine: EngineName) -> None:
    """One objective: status, value, plan."""
    name = problem.objective.name
    expected = oracle.optimum(problem, name, plans)
    result = solve_dense(problem, Limits(), engine=engine)
    place = (problem.name, name, engine)
    if expected is None:
        assert result.status == "infeasible", place
        return
    assert result.status == "optimal", place
    assert result.gap == 0.0, place
    assert result.bound == result.objective, place
    assert same(result.objective, expected), (*place, result.objective, expected)
    assert broken_rule(problem, result.require_plan().stages) is None, place
    if name == "bottleneck":
        pair = solve_dense(problem, Limits(), engine=engine, latency_second=True)
        second = oracle.optimum(problem, "throughput", plans)[1]
        assert pair.status == "optimal", (*place, "latency second")
        assert same(pair.objective[0], expected), (*place, pair.objective, expected)  # type: ignore[index]
        assert pair.terms["latency_s"] <= second * (1 + TOLERANCE), (*place, "latency second")


def check_front(problem: DensePlacement, oracle: ModuleType, plans: Any, engine: EngineName) -> None:
    """Compare the whole front, points in any order of ties."""
    expected = sorted(oracle.front(problem, plans), key=lambda point: (point[2], point[1]))
    result = solve_front(problem, Limits(), engine=engine)
    if not expected:
        assert result.status == "infeasible", problem.name
        return
    points = [(point.latency_s, point.bottleneck_s, point.devices) for point in result.require_plan().points]
    points.sort(key=lambda point: (point[2], point[1]))
    assert result.status == "optimal", problem.name
    assert same(np.array(points).ravel(), np.array(expected).ravel()), (problem.name, engine, points, expected)
    for point in result.require_plan().points:
        assert broken_rule(problem, point.stages) is None, problem.name


def run_with(
    problem: DensePlacement, ladder: tuple[Effort, ...] | None, key_bits: int = KEY_BITS
) -> tuple[Outcome, Value | None]:
    """Solve with the large engine at a set effort; return the outcome and the value of its plan."""
    tables = class_tables(problem, with_price=problem.objective.name == "cost")
    session = Session(tables, "labels", Budget(Limits()), Settings(1, ladder, key_bits))
    outcome = METHODS[problem.objective.name](session, None)
    if outcome.path is None:
        return outcome, None
    return outcome, objective_value(problem, tables.to_stages(outcome.path), outcome.extra)


def check_bound(
    problem: DensePlacement, optimum: Value | None, ladder: tuple[Effort, ...] | None, key_bits: int = KEY_BITS
) -> str:
    """Check that a truncated run claims no more than is true (plan ≥ optimum ≥ bound); return its status."""
    outcome, value = run_with(problem, ladder, key_bits)
    place = (problem.name, problem.objective.name, ladder, key_bits)
    if outcome.status == "infeasible":
        assert optimum is None, place
    if value is None:
        return outcome.status
    assert optimum is not None, place
    if outcome.status == "optimal":
        assert same(value, optimum), (*place, value, optimum)
        return outcome.status
    first, best = np.atleast_1d(value)[0], np.atleast_1d(optimum)[0]
    if problem.objective.name != "balanced":  # measured by optima that a truncated run does not know
        assert first >= best - TOLERANCE * abs(best), place
    if outcome.bound is not None:
        bound = np.atleast_1d(outcome.bound)
        assert bound[0] <= best + TOLERANCE * abs(best), (*place, outcome.bound, optimum)
        if isinstance(optimum, tuple) and abs(bound[0] - best) <= TOLERANCE * abs(best):
            assert bound[1] <= optimum[1] * (1 + TOLERANCE), (*place, outcome.bound, optimum)
    return outcome.status


def twin_hosts(seed: int) -> DensePlacement:
    """Two to four hosts of equal shape, their devices unlike or alike: classes, twin hosts, returns by host."""
    rng = np.random.default_rng([77, seed])
    hosts, size = [(2, 2), (3, 2), (2, 3), (4, 1), (3, 1)][seed % 5]
    num, n = hosts * size, int(rng.integers(4, 11))
    kinds = rng.integers(0, 2, hosts) if rng.random() < 0.4 else np.zeros(hosts, dtype=np.int64)
    place = np.tile(rng.integers(1, 3, size) if rng.random() < 0.5 else np.ones(size, dtype=np.int64), hosts)
    host, kind = np.repeat(np.arange(hosts), size), np.repeat(kinds, size)
    compute = rng.uniform(0.5, 2.0, (2, 3, n))
    memory = rng.integers(1, 4, n).astype(float)
    room = (np.array([3.0, 5.0])[kind] + place) * memory.sum() / num * rng.uniform(0.35, 0.8)
    scale = float(rng.choice([0.1, 1.0, 3.0]))
    near, far = rng.uniform(0.0, 0.3) * scale, rng.uniform(0.3, 1.0) * scale

    def hops() -> HopTable:
        together = host[:, None] == host[None, :]
        return HopTable(np.where(together, near, far), np.where(together, 0.1, 0.4) * rng.uniform())

    boundary = rng.integers(0, 3, n).astype(float)
    table = hops()
    back = table if rng.random() < 0.6 else None
    latency = Timing(compute[kind, place], table, boundary, back, 1.0)
    cycle = latency
    if rng.random() < 0.5:
        cycle = Timing(compute[kind, place] * rng.uniform(0.5, 1.5, n), hops(), boundary, back, 2.0)
    return DensePlacement(
        tuple(f"g{d}" for d in range(num)),
        tuple(f"layer{i}" for i in range(n)),
        room,
        np.array([1.0, 2.0])[kind],
        memory,
        rng.integers(0, 2, n).astype(float),
        latency,
        cycle,
        max_devices=None if rng.random() < 0.7 else 3,
        name=f"twin-hosts-{seed}",
    )
