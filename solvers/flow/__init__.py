"""Flow placement: which layers each node of a heterogeneous cluster holds, so that most tokens/s flow through it."""

from __future__ import annotations

from gpuplan.solvers.flow.registry import list_flow_solvers
from gpuplan.solvers.flow.search import FLOW_SOLVERS, solve_flow

__all__ = ["FLOW_SOLVERS", "list_flow_solvers", "solve_flow"]
