"""Plans how large language models run on real GPUs: device maps with a proof of how good they are.

The names below are the package's face; the rest lives in `gpuplan.topology`, `gpuplan.profiles`, `gpuplan.plans`
and `gpuplan.solvers`. They load on first use, so ``import gpuplan`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpuplan.errors import (
    GpuplanError,
    InfeasibleError,
    InputError,
    NoSolutionError,
    SolverUnavailableError,
    UnsupportedError,
    UsageError,
    VerificationError,
)

if TYPE_CHECKING:
    from gpuplan.plans import DeviceMap, export, load_plan, save_plan, verify
    from gpuplan.plans.deployment import Deployment
    from gpuplan.plans.deployment_io import load_deployment, save_deployment
    from gpuplan.profiles import AnalyticCosts, ModelProfile, PlacementProblem, Workload, load_model, load_problem
    from gpuplan.profiles.problems.deployment import DeploymentProblem
    from gpuplan.solvers import Result, compare, deploy, pareto, solve
    from gpuplan.topology import Topology, load_topology

__version__ = "0.1.0"

_HOMES = {
    "AnalyticCosts": "gpuplan.profiles",
    "Deployment": "gpuplan.plans.deployment",
    "DeploymentProblem": "gpuplan.profiles.problems.deployment",
    "DeviceMap": "gpuplan.plans",
    "ModelProfile": "gpuplan.profiles",
    "PlacementProblem": "gpuplan.profiles",
    "Result": "gpuplan.solvers",
    "Topology": "gpuplan.topology",
    "Workload": "gpuplan.profiles",
    "compare": "gpuplan.solvers",
    "deploy": "gpuplan.solvers",
    "export": "gpuplan.plans",
    "load_deployment": "gpuplan.plans.deployment_io",
    "load_model": "gpuplan.profiles",
    "load_plan": "gpuplan.plans",
    "load_problem": "gpuplan.profiles",
    "load_topology": "gpuplan.topology",
    "pareto": "gpuplan.solvers",
    "save_deployment": "gpuplan.plans.deployment_io",
    "save_plan": "gpuplan.plans",
    "solve": "gpuplan.solvers",
    "verify": "gpuplan.plans",
}

__all__ = [
    "AnalyticCosts",
    "Deployment",
    "DeploymentProblem",
    "DeviceMap",
    "GpuplanError",
    "InfeasibleError",
    "InputError",
    "ModelProfile",
    "NoSolutionError",
    "PlacementProblem",
    "Result",
    "SolverUnavailableError",
    "Topology",
    "UnsupportedError",
    "UsageError",
    "VerificationError",
    "Workload",
    "__version__",
    "compare",
    "deploy",
    "export",
    "load_deployment",
    "load_model",
    "load_plan",
    "load_problem",
    "load_topology",
    "pareto",
    "save_deployment",
    "save_plan",
    "solve",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'gpuplan' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
