"""How problems are answered: `solve`, `pareto`, `compare`, and the `Result` they return."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpuplan.solvers.limits import Budget, Limits, Progress
from gpuplan.solvers.result import Report, Result, Status, Value, relative_gap

if TYPE_CHECKING:
    from gpuplan.solvers.deployment.solve import deploy
    from gpuplan.solvers.placement.compare import compare
    from gpuplan.solvers.registry import SolverEntry, find_solver, list_solvers
    from gpuplan.solvers.solving import pareto, solve

_HOMES = {
    "SolverEntry": "gpuplan.solvers.registry",
    "compare": "gpuplan.solvers.placement.compare",
    "deploy": "gpuplan.solvers.deployment.solve",
    "find_solver": "gpuplan.solvers.registry",
    "list_solvers": "gpuplan.solvers.registry",
    "pareto": "gpuplan.solvers.solving",
    "solve": "gpuplan.solvers.solving",
}

__all__ = [
    "Budget",
    "Limits",
    "Progress",
    "Report",
    "Result",
    "SolverEntry",
    "Status",
    "Value",
    "compare",
    "deploy",
    "find_solver",
    "list_solvers",
    "pareto",
    "relative_gap",
    "solve",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'gpuplan.solvers' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
