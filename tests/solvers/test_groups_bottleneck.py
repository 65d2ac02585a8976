"""The least bottleneck over groups by the search over caps: the best of all plans, islands one by one and by kind."""

from __future__ import annotations

from types import ModuleType

import pytest

from gpuplan.solvers.placement.groups import bottleneck as group_bottleneck
from gpuplan.solvers.placement.groups import solve as group_solve


def _compare(oracle: ModuleType, seed: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Hold one instance, hosts alike and not, by islands and by kinds, to the best of all plans; return how often."""
    held = 0
    for alike in (False, True):
        hosts = 2 + seed % 2 if alike else 2
        problem = oracle.random_problem(seed, hosts=hosts, per_host=2, alike=alike)
        if seed % 5 == 4:
            problem = problem.replace(objective="throughput", micro_batches_from_stages=True)
        plans = oracle.all_plans(problem, most_stages=6)
        for few in (1, 2):
            monkeypatch.setattr(group_solve, "FEW_ISLANDS", few)
            for uneven in (False, True):
                oracle.check(problem, plans, "throughput", uneven=uneven, solver="labels")
                held += 1
    return held


@pytest.mark.parametrize("seed", range(1000, 1010))
def test_caps_over_groups_equal_brute_force(oracle: ModuleType, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of one and two devices of two or three hosts, the return hop on or off, micro-batches by stages too."""
    searched: list[str] = []
    by_caps = group_bottleneck.by_caps

    def noted(session: object, *arguments: object) -> object:
        searched.append(type(session).__name__)
        return by_caps(session, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(group_bottleneck, "by_caps", noted)
    assert _compare(oracle, seed, monkeypatch) == 8
    assert "GroupSession" in searched


@pytest.mark.slow
def test_more_caps_over_groups_equal_brute_force(oracle: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on 150 more instances, 1,200 answers."""
    assert sum(_compare(oracle, seed, monkeypatch) for seed in range(1010, 1160)) == 1200
