"""Helpers of the solver tests, as fixtures: the brute-force oracle and the instances."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _load(name: str, folder: Path = Path(__file__).parent) -> ModuleType:
    """Load a helper module that stands beside the tests (tests are no package), or in another folder."""
    full_name = f"gpuplan_solver_tests_{name}"
    if full_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(full_name, folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full_name] = module
        spec.loader.exec_module(module)
    return sys.modules[full_name]


@pytest.fixture(scope="session")
def brute_force() -> ModuleType:
    """Give the oracle: `enumerate_plans`, `optimum`, `front`, `evaluate`."""
    return _load("brute_force")


@pytest.fixture(scope="session")
def instances() -> ModuleType:
    """Give random small problems (`random_problem`, `random_problems`) and hand-solved ones (`HAND_SOLVED`)."""
    return _load("instances")


@pytest.fixture(scope="session")
def exact_checks() -> ModuleType:
    """Give the comparisons of the exact solver with the oracle."""
    return _load("exact_checks")


@pytest.fixture(scope="session")
def hierarchies() -> ModuleType:
    """Give the small random clusters with a hierarchy: `random_hierarchy`, `one_number_off`."""
    return _load("hierarchies")


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """Give the brute force over plans of groups: `random_problem`, `all_plans`, `check`."""
    return _load("test_groups_oracle")


@pytest.fixture(scope="session")
def clusters() -> ModuleType:
    """Give the generator of the placement benchmarks: `cluster`."""
    return _load("placement_instances", BENCHMARKS)


@pytest.fixture(scope="session")
def racks_benchmark() -> ModuleType:
    """Give the benchmark's hierarchical clusters: `racks`."""
    return _load("placement_clusters", BENCHMARKS)
