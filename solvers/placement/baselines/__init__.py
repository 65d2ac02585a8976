"""Rules that people and runtimes use today, to compare with: each gives a plan or says why it has none, no bound.

Every rule respects the memory of the devices, the device limit and the layers every stage must hold; where its plan
breaks one of them the rule says so and does not repair it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from gpuplan.errors import UsageError
from gpuplan.plans.placement_solution import PlacementSolution
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.result import Result

Baseline = Callable[[DensePlacement, Limits, int], Result[PlacementSolution]]

#: Name of each baseline and the module whose `solve` it is.
BASELINES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "even": "even",
        "memory": "memory",
        "accelerate-sequential": "accelerate_sequential",
        "accelerate-balanced": "accelerate_balanced",
        "bgs": "best_first",
        "published": "published",
        "random": "random_plans",
    }
)


def baseline(name: str) -> Baseline:
    """Return the solver of a baseline by name; UsageError for an unknown one."""
    if name not in BASELINES:
        raise UsageError(f"expected a baseline ({', '.join(BASELINES)}), got {name!r}")
    module = importlib.import_module(f"gpuplan.solvers.placement.baselines.{BASELINES[name]}")
    solve: Baseline = module.solve
    return solve
