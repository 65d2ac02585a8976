"""The exact solver against brute force: every objective, the whole front, both engines."""

from __future__ import annotations

from types import ModuleType

import pytest

ENGINES = ("dp", "labels")


def test_every_hand_solved_optimum_is_found(
    exact_checks: ModuleType, brute_force: ModuleType, instances: ModuleType
) -> None:
    """Problems solved on paper: same optima and fronts, by both engines."""
    for case in instances.HAND_SOLVED:
        assert exact_checks.check_everything(case.problem, brute_force, ENGINES) >= 8


@pytest.mark.parametrize("block", range(4))
def test_random_problems_equal_brute_force(
    exact_checks: ModuleType, brute_force: ModuleType, instances: ModuleType, block: int
) -> None:
    """The first 200 of the 2,000 random small problems (the rest is marked slow)."""
    for problem in instances.random_problems(50, first_seed=50 * block):
        assert exact_checks.check_everything(problem, brute_force, ENGINES) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("block", range(18))
def test_more_random_problems_equal_brute_force(
    exact_checks: ModuleType, brute_force: ModuleType, instances: ModuleType, block: int
) -> None:
    """The other 1,800 random small problems: every objective and the whole front, by both engines."""
    for problem in instances.random_problems(100, first_seed=200 + 100 * block):
        assert exact_checks.check_everything(problem, brute_force, ENGINES) >= 8


def test_twin_hosts_equal_brute_force(exact_checks: ModuleType, brute_force: ModuleType) -> None:
    """Classes of several devices and twin hosts, whose symmetry both engines cut, lose no optimum."""
    for seed in range(40):
        assert exact_checks.check_everything(exact_checks.twin_hosts(seed), brute_force, ENGINES) >= 8


@pytest.mark.slow
def test_more_twin_hosts_equal_brute_force(exact_checks: ModuleType, brute_force: ModuleType) -> None:
    """The same on 200 more."""
    for seed in range(40, 240):
        assert exact_checks.check_everything(exact_checks.twin_hosts(seed), brute_force, ENGINES) >= 8
