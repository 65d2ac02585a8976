"""Helpers of the flow tests, as fixtures: random small problems and an oracle that tries every placement."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def flows() -> ModuleType:
    """Give `random_problem`, `optimum`, `nx_flow` and friends (`oracle.py` beside the tests)."""
    name = "gpuplan_flow_tests_oracle"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("oracle.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
