"""What must hold whatever the numbers: relabelling, monotonicity, scaling, determinism."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gpuplan.profiles.problems.placement import DensePlacement, HopTable, ObjectiveName, Timing
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.placement.dense import solve_dense, solve_front

Change = Callable[[DensePlacement, np.random.Generator], DensePlacement]
HELD: tuple[ObjectiveName, ...] = ("latency", "bottleneck", "efficiency")


def _each_timing(problem: DensePlacement, change: Callable[[Timing], Timing], **more: Any) -> DensePlacement:
    latency = change(problem.latency)
    cycle = latency if problem.cycle is problem.latency else change(problem.cycle)
    return replace(problem, latency=latency, cycle=cycle, **more)


def more_memory(problem: DensePlacement, rng: np.random.Generator) -> DensePlacement:
    """One device gets half as much memory again."""
    room = problem.available_bytes.copy()
    room[rng.integers(len(room))] *= 1.5
    return replace(problem, available_bytes=room)


def faster_link(problem: DensePlacement, rng: np.random.Generator) -> DensePlacement:
    """One pair of devices hands over in half the time, in every table."""
    a, b = rng.choice(problem.num_devices, 2, replace=False)

    def halved(table: HopTable) -> HopTable:
        tables = [table.latency_s.copy(), table.s_per_byte.copy()]
        for values in tables:
            values[a, b] *= 0.5
            values[b, a] *= 0.5
        return HopTable(*tables)

    def change(timing: Timing) -> Timing:
        back = None if timing.return_hop is None else halved(timing.return_hop)
        return replace(timing, hop=halved(timing.hop), return_hop=back)

    return _each_timing(problem, change)


def one_more_device(problem: DensePlacement, rng: np.random.Generator) -> DensePlacement:
    """Let a copy of some device join, with links of its own."""
    twin = int(rng.integers(problem.num_devices))
    order = [*range(problem.num_devices), twin]
    links = rng.uniform(0.0, 2.0, len(order))

    def grown(table: HopTable) -> HopTable:
        latency = table.latency_s[np.ix_(order, order)]
        latency[-1, :] = latency[:, -1] = links
        return HopTable(latency, table.s_per_byte[np.ix_(order, order)])

    def change(timing: Timing) -> Timing:
        back = None if timing.return_hop is None else grown(timing.return_hop)
        return replace(timing, compute_s=timing.compute_s[order], hop=grown(timing.hop), return_hop=back)

    names = (*problem.device_names, "one-more")
    room, price = problem.available_bytes[order], problem.price_per_hour[order]
    return _each_timing(problem, change, device_names=names, available_bytes=room, price_per_hour=price)


@pytest.mark.parametrize("change", [more_memory, faster_link, one_more_device])
def test_better_hardware_worsens_nothing(exact_checks: ModuleType, instances: ModuleType, change: Change) -> None:
    """Latency, bottleneck and efficiency never rise, and every front point keeps a point at least as good."""
    rng = np.random.default_rng(5)
    for problem in instances.random_problems(25, first_seed=9000, devices=(2, 5), layers=(4, 9)):
        better = change(problem, rng)
        for name in HELD:
            before = solve_dense(exact_checks.under(problem, name), Limits())
            after = solve_dense(exact_checks.under(better, name), Limits())
            if before.plan is None:
                continue
            assert after.plan is not None, (problem.name, name)
            old, new = np.atleast_1d(before.objective), np.atleast_1d(after.objective)
            assert tuple(new) <= tuple(old * (1 + 1e-9)), (problem.name, name, old, new)
        _check_fronts(problem, better)


def _check_fronts(problem: DensePlacement, better: DensePlacement) -> None:
    before, after = solve_front(problem, Limits()), solve_front(better, Limits())
    if before.plan is None:
        return
    points = [(p.latency_s, p.bottleneck_s, p.devices) for p in after.require_plan().points]
    for p in before.plan.points:
        limit = np.array([p.latency_s, p.bottleneck_s, p.devices]) * (1 + 1e-9)
        assert any((np.array(point) <= limit).all() for point in points), (problem.name, p)


def test_relabelling_changes_no_optimum(exact_checks: ModuleType, instances: ModuleType) -> None:
    """Devices in another order: same optima by both engines."""
    for k, problem in enumerate(instances.random_problems(25, first_seed=9100)):
        order = np.random.default_rng(k).permutation(problem.num_devices)
        other = instances.relabel(problem, order)
        for name in exact_checks.objectives(problem):
            first = solve_dense(exact_checks.under(problem, name), Limits(), engine="dp")
            second = solve_dense(exact_checks.under(other, name), Limits(), engine="labels")
            assert first.status == second.status, (problem.name, name)
            if first.plan is not None:
                assert exact_checks.same(first.objective, second.objective), (problem.name, name)


def test_scaled_times_scale_the_latency(exact_checks: ModuleType, instances: ModuleType) -> None:
    """All times twice as long: latency and bottleneck twice as long, devices and balance unchanged."""

    def doubled(timing: Timing) -> Timing:
        def twice(table: HopTable | None) -> HopTable | None:
            return None if table is None else HopTable(2.0 * table.latency_s, 2.0 * table.s_per_byte)

        hop = twice(timing.hop)
        assert hop is not None
        return replace(timing, compute_s=2.0 * timing.compute_s, hop=hop, return_hop=twice(timing.return_hop))

    factors = {"latency": 2.0, "bottleneck": 2.0, "balanced": 1.0}
    for problem in instances.random_problems(20, first_seed=9200):
        for name, factor in factors.items():
            before = solve_dense(exact_checks.under(problem, name), Limits())
            after = solve_dense(exact_checks.under(_each_timing(problem, doubled), name), Limits())
            if before.plan is not None:
                assert exact_checks.same(after.objective, factor * before.objective), (problem.name, name)


def test_the_same_question_gets_the_same_answer(exact_checks: ModuleType, instances: ModuleType) -> None:
    """Two runs agree to the last bit, plans included, by every engine and work limit."""
    for problem in instances.random_problems(10, first_seed=9300):
        for engine in ("dp", "labels", "beam"):
            for work_limit in (None, 50):
                limits = Limits(None, work_limit)
                first, again = (solve_dense(problem, limits, engine=engine) for _ in range(2))
                assert (first.status, first.plan, first.objective, first.bound) == (
                    again.status,
                    again.plan,
                    again.objective,
                    again.bound,
                )
