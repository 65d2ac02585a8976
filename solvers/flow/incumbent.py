"""The best placement so far and the bound so far, shared by the steps of a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gpuplan.plans.flow_solution import FlowSolution, NodeRange
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.flow.instance import Instance
from gpuplan.solvers.flow.labels import Range
from gpuplan.solvers.flow.maxflow import depth, evaluate, holders, some_flows
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.result import Report, Result, relative_gap

#: A plan is optimal when its bound is this close, relatively.
PROVEN = 1e-9


@dataclass(slots=True)
class Incumbent:
    """Best placement, upper bound (tokens/s) with how it was proven, and notes for a person.

    `single_layers` is the most layers that may be left to one node, or None; `order` is the order in which ranges of a
    kind are given to its nodes, None for that of the file. `failure` says how an external solver broke, if one did.
    """

    problem: FlowProblem
    instance: Instance
    budget: Budget
    bound: float = math.inf
    bound_kind: str = "none"
    single_layers: int | None = None
    value: float = 0.0
    solution: FlowSolution | None = None
    notes: list[str] = field(default_factory=list)
    order: Sequence[int] | None = None
    failure: str | None = None

    @property
    def closed(self) -> bool:
        """Whether value and bound meet."""
        return self.solution is not None and self.bound <= self.value * (1.0 + PROVEN)

    def offer(self, placement: Sequence[NodeRange], more: Callable[[], bool] | None = None) -> float:
        """Value a placement, keep it if it is the best so far; return its value (0 where it breaks a limit).

        With `more` a flow of few hops above the best so far is looked for as long as that says yes; 0 where none is.
        """
        limit = self.single_layers
        if limit is not None and holders(self.problem, placement).count(1) > limit:
            return 0.0
        above = 0.0 if more is None else self.value
        value, solution = evaluate(self.problem, placement, more or some_flows(self.budget.exhausted), above)
        if value > self.value:
            self.value, self.solution = value, _without_idle(self, solution)
            self.budget.report("search", self.value, self.bound)
        return value

    def lower_bound_to(self, bound: float, kind: str) -> None:
        """Take a proven upper bound, if it is lower."""
        if bound < self.bound:
            self.bound, self.bound_kind = bound, kind
            self.budget.report("bound", self.value or None, self.bound)

    def place(self, ranges: Sequence[Range]) -> list[NodeRange]:
        """Give ranges of kinds to nodes, in order."""
        free: dict[int, list[int]] = {}
        for node in range(self.problem.num_nodes) if self.order is None else self.order:
            free.setdefault(int(self.problem.node_kinds[node]), []).append(node)
        taken = dict.fromkeys(free, 0)
        placement = []
        for item in ranges:
            node = free[item.kind][taken[item.kind]]
            taken[item.kind] += 1
            placement.append(NodeRange(node, item.start, item.start + item.layers))
        return placement

    def result(self, solver: str, seed: int, reasons: Sequence[str] = ()) -> Result[FlowSolution]:
        """Return the answer with its certificate."""
        bound = None if math.isinf(self.bound) else max(self.bound, self.value)
        report = Report(
            solver,
            seed=seed,
            wall_time_s=self.budget.elapsed_s,
            work=self.budget.work,
            bound_kind=None if bound is None else self.bound_kind,
            options={} if self.single_layers is None else {"layers_on_one_node": self.single_layers},
            notes=tuple(self.notes),
            proof="" if bound is None else _PROOFS.get(self.bound_kind, ""),
            failure=self.failure,
        )
        if self.solution is None:
            status = "infeasible" if reasons else "no_solution"
            return Result(status, None, None, None if reasons else bound, None, report, reasons=tuple(reasons))  # type: ignore[arg-type]
        terms = solution_terms(self.problem, self.solution)
        if self.closed:
            return Result("optimal", self.solution, self.value, self.value, 0.0, report, terms=terms)
        gap = relative_gap(self.value, bound)
        return Result("feasible", self.solution, self.value, bound, gap, report, terms=terms)


#: How a kind of bound is proven, in a sentence.
_PROOFS = {
    "configuration bound": "a configuration bound (no mix of nodes pays for a higher flow in every layer at once)",
    "label search": "a label search over layers that ruled out every cover of a higher flow",
    "label search by regions": "a label search over layers and regions that ruled out every placement of a higher flow",
    "mixed-integer dual bound": "LP relaxation of the published model, branch and bound of HiGHS",
    "links of the source and the sink": "what the links of the source and of the sink let through",
    "branch and bound over placements": "branch and bound that met or ruled out every placement",
    "regions alone and the links between them": "what regions serve alone and what the links between them let through",
    "tokens·layers": "the tokens times layers of all nodes",
}


def _without_idle(incumbent: Incumbent, solution: FlowSolution) -> FlowSolution:
    """Leave out nodes that pass nothing, unless they are there so that a layer has a second holder."""
    if incumbent.single_layers is not None:
        return solution
    busy = {link.receiver for link in solution.flows}
    return FlowSolution(tuple(item for item in solution.placement if item.node in busy), solution.flows)


def solution_terms(problem: FlowProblem, solution: FlowSolution) -> dict[str, float]:
    """Return what a solution takes: nodes, hops in its longest chain, layers on one node alone."""
    return {
        "nodes": float(len(solution.placement)),
        "hops": float(depth(solution.placement, solution.flows)),
        "layers_on_one_node": float(holders(problem, solution.placement).count(1)),
    }
