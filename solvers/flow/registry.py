"""Every flow solver by name: what it is, and what must be installed."""

from __future__ import annotations

from typing import Final

from gpuplan.solvers.registry import Kind, SolverEntry


def _entry(name: str, kind: Kind, doc: str, *requires: str) -> SolverEntry:
    return SolverEntry(name, kind, doc, objectives=(), home="gpuplan.solvers.flow", requires=requires)


#: Solvers of flow problems; they run through `gpuplan.solvers.flow.solve_flow`.
FLOW_ENTRIES: Final[tuple[SolverEntry, ...]] = (
    _entry("auto", "bounded", "configuration bound, label search; where links bind regions and annealing"),
    _entry("flow-milp", "bounded", "the published mixed-integer model, solved by HiGHS", "pulp", "scipy"),
    _entry("petals", "baseline", "nodes join where the model is served worst"),
    _entry("swarm", "baseline", "equal stages, nodes dealt out to the weakest"),
    _entry("separate-pipelines", "baseline", "every kind of node serves on its own"),
    _entry("homogeneous", "baseline", "full nodes in pipelines, one kind after the other"),
)


def list_flow_solvers() -> tuple[SolverEntry, ...]:
    """Return every solver of flow problems, `auto` first."""
    return FLOW_ENTRIES
