"""Rules that systems use today on heterogeneous clusters: each gives a plan or says why not; no bound."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from gpuplan.errors import UsageError
from gpuplan.plans.flow_solution import FlowSolution, NodeRange
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.result import Result

#: A rule's ranges, or one sentence that says why there are none.
Outcome = tuple[NodeRange, ...] | str
Rule = Callable[[FlowProblem, int], Outcome]

#: Name of each baseline and the module whose `place` it is.
BASELINES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "petals": "petals",
        "swarm": "swarm",
        "separate-pipelines": "separate_pipelines",
        "homogeneous": "homogeneous",
    }
)


def rule(name: str) -> Rule:
    """Return a baseline's rule by name; UsageError for an unknown one."""
    if name not in BASELINES:
        raise UsageError(f"expected a baseline ({', '.join(BASELINES)}), got {name!r}")
    module = importlib.import_module(f"gpuplan.solvers.flow.baselines.{BASELINES[name]}")
    place: Rule = module.place
    return place


def run_baseline(name: str, incumbent: Incumbent, seed: int) -> Result[FlowSolution]:
    """Apply a rule and value its placement by its maximum flow; ``no_solution`` where it places or passes nothing."""
    outcome = rule(name)(incumbent.problem, seed)
    if isinstance(outcome, str):
        incumbent.notes.append(f"{name}: {outcome}")
    elif incumbent.offer(outcome) == 0.0:
        incumbent.notes.append(f"{name}: no tokens pass the placement of the rule")
    return incumbent.result(name, seed)
