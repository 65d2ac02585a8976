"""`flow-milp`: the published mixed-integer model, solved by HiGHS, as a baseline with an honest bound.

Per node i: start s_i, b_ij = 1 when it holds j layers (or none at all), stop e_i = s_i + Σ_j j·b_ij ≤ L. Per link
a flow f and a switch d, f ≤ capacity·d; big-M rows let d be 1 only where tokens may pass:

    s_j ≤ e_i + L·(1−d_ij)          e_i + 1 ≤ e_j + (L+1)·(1−d_ij)
    s_i ≤ L·(1−d_source,i)          L − e_i ≤ L·(1−d_i,sink)

Flow is conserved at nodes and at most Σ_j T(j)·b_ij; the flow out of the source is maximised.

The model is built with PuLP, so that it can be written to a file, and solved by the HiGHS inside SciPy, whose bound can
be read (that of PuLP's CBC stands only in its log). Big-M rows make the bound weak: on the published instances it stays
tens of times above the optimum for hours.

References
----------
Mei et al., *Helix: Serving large language models over heterogeneous GPUs and network via max-flow*, ASPLOS 2025,
section 4.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuplan.errors import UnsupportedError, UsageError
from gpuplan.plans.flow_solution import FlowSolution, NodeRange
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.external.build import Builder, OutOfTimeError
from gpuplan.solvers.external.isolated import solve_isolated
from gpuplan.solvers.external.linear import memory_estimate
from gpuplan.solvers.external.pulp_models import import_pulp
from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.limits import Budget, refuse_memory
from gpuplan.solvers.result import Result

if TYPE_CHECKING:
    import pulp

#: Relative distance of value and bound at which a MILP counts as solved: its own rounding.
PROVEN = 1e-6
#: Links made between two looks at the clock.
LOOK = 100
#: Switches the model may have.
MOST_SWITCHES = 60_000


def solve_milp(incumbent: Incumbent, seed: int) -> Result[FlowSolution]:
    """Solve the published model within the budget."""
    problem = incumbent.problem
    try:
        model = build_model(problem, incumbent.budget.exhausted)
        values, bound, failure = solve_model(model, incumbent.budget, seed)
    except OutOfTimeError:
        return incumbent.result("flow-milp", seed)
    if failure:
        incumbent.failure = failure
    if bound is not None:
        incumbent.lower_bound_to(max(bound, 0.0), "mixed-integer dual bound")
    if values is not None:
        incumbent.offer(_placement(problem, values))
    if incumbent.bound <= incumbent.value * (1.0 + PROVEN):
        incumbent.bound = max(incumbent.value, 0.0)
    return incumbent.result("flow-milp", seed)


def write_model(problem: FlowProblem, path: str | os.PathLike[str]) -> None:
    """Write the published model of a problem as ``.lp`` or ``.mps``.

    Raises
    ------
    UsageError
        For another suffix.
    UnsupportedError
        For a limit on hops, or more links than the model takes.
    SolverUnavailableError
        Without PuLP.
    """
    name = os.fspath(path)
    if name.lower().endswith(".lp"):
        build_model(problem).writeLP(name)
    elif name.lower().endswith(".mps"):
        build_model(problem).writeMPS(name)
    else:
        raise UsageError(f"expected a model file ending in .lp or .mps, got {name!r}")


def build_model(problem: FlowProblem, out_of_time: Callable[[], bool] | None = None) -> pulp.LpProblem:
    """Return the published model of a problem; OutOfTimeError when `out_of_time`, asked now and then, says so."""
    if problem.max_hops is not None:
        raise UnsupportedError("flow-milp cannot limit hops; use auto, or drop max_hops")
    if np.count_nonzero(problem.link_tokens_per_s) > MOST_SWITCHES:
        raise UnsupportedError(f"flow-milp handles up to {MOST_SWITCHES} links between nodes; use auto")
    pulp = import_pulp()
    model = pulp.LpProblem("flow_placement", pulp.LpMaximize)
    make = getattr(model, "add_variable", pulp.LpVariable)  # PuLP before 3.3 has the class alone
    layers, table, kinds = problem.num_layers, problem.throughput_table(), problem.node_kinds.tolist()
    nodes = range(problem.num_nodes)
    most = table.max(axis=1)
    start = [make(f"start_{i}", 0, layers - 1, pulp.LpInteger) for i in nodes]
    held = [
        {j: make(f"held_{i}_{j}", cat=pulp.LpBinary) for j in range(1, int(problem.most_layers[k]) + 1)}
        for i, k in enumerate(kinds)
    ]
    stop = [start[i] + pulp.lpSum(j * b for j, b in held[i].items()) for i in nodes]
    flow_in: list[list[Any]] = [[] for _ in nodes]
    flow_out: list[list[Any]] = [[] for _ in nodes]

    def link(name: str, capacity: float) -> tuple[Any, Any]:
        flow = make(f"flow_{name}", 0, capacity)
        switch = make(f"open_{name}", cat=pulp.LpBinary)
        model.addConstraint(flow <= capacity * switch, f"only_when_open_{name}")
        return flow, switch

    sourced = []
    for i in nodes:
        if problem.source_tokens_per_s[i] > 0.0:
            flow, switch = link(f"source_{i}", float(min(problem.source_tokens_per_s[i], most[kinds[i]])))
            model.addConstraint(start[i] <= layers * (1 - switch), f"starts_first_{i}")
            flow_in[i].append(flow)
            sourced.append(flow)
        if problem.sink_tokens_per_s[i] > 0.0:
            flow, switch = link(f"{i}_sink", float(min(problem.sink_tokens_per_s[i], most[kinds[i]])))
            model.addConstraint(layers - stop[i] <= layers * (1 - switch), f"stops_last_{i}")
            flow_out[i].append(flow)
    for number, (i, j) in enumerate(np.argwhere(problem.link_tokens_per_s > 0.0).tolist()):
        if out_of_time is not None and number % LOOK == 0 and out_of_time():
            raise OutOfTimeError
        capacity = float(min(problem.link_tokens_per_s[i, j], most[kinds[i]], most[kinds[j]]))
        flow, switch = link(f"{i}_{j}", capacity)
        model.addConstraint(start[j] <= stop[i] + layers * (1 - switch), f"no_gap_{i}_{j}")
        model.addConstraint(stop[i] + 1 <= stop[j] + (layers + 1) * (1 - switch), f"goes_on_{i}_{j}")
        flow_out[i].append(flow)
        flow_in[j].append(flow)
    for i in nodes:
        model.addConstraint(pulp.lpSum(held[i].values()) <= 1, f"one_range_{i}")
        model.addConstraint(stop[i] <= layers, f"within_{i}")
        model.addConstraint(pulp.lpSum(flow_in[i]) == pulp.lpSum(flow_out[i]), f"conserved_{i}")
        passed = pulp.lpSum(float(table[kinds[i], j]) * b for j, b in held[i].items())
        model.addConstraint(pulp.lpSum(flow_in[i]) <= passed, f"passes_{i}")
    model.setObjective(pulp.lpSum(sourced))
    return model


def solve_model(
    model: pulp.LpProblem, budget: Budget, seed: int = 0
) -> tuple[dict[str, float] | None, float | None, str]:
    """Return the best values by variable name (or None), the upper bound (or None) and what failed, by HiGHS.

    HiGHS runs in a process of its own, with a hard limit; a cancel hands back its best so far.
    """
    pulp = import_pulp()
    variables = model.variables()
    number = {variable.name: at for at, variable in enumerate(variables)}
    builder = Builder(stop=budget.exhausted)
    for variable in variables:  # all of them start at 0
        builder.add(variable.name, float(variable.upBound), integer=variable.cat == pulp.LpInteger)
    listed: Any = model.constraints
    for constraint in listed() if callable(listed) else listed.values():  # a dict before PuLP 3.3
        right = -float(constraint.constant)
        low = -np.inf if constraint.sense == pulp.LpConstraintLE else right
        high = np.inf if constraint.sense == pulp.LpConstraintGE else right
        terms = [(number[variable.name], float(value)) for variable, value in constraint.items()]
        builder.row(constraint.name or f"r{len(builder.rows)}", terms, low, high)
    builder.cost = [(number[variable.name], -float(value)) for variable, value in (model.objective or {}).items()]
    built, limits = builder.build(), budget.limits
    refuse_memory("flow-milp", memory_estimate(built.num_variables, built.num_rows, builder.entries), limits)
    seconds = None if np.isinf(budget.remaining_s) else max(budget.remaining_s, 0.01)
    answer = solve_isolated("highs", built, seconds, threads=limits.threads, seed=seed, cancel=limits.cancel)
    bound = -answer.bound if np.isfinite(answer.bound) else None
    failure = answer.note if answer.status == "failed" else ""
    if answer.x is None:
        return None, bound, failure
    return {variable.name: float(answer.x[at]) for at, variable in enumerate(variables)}, bound, failure


def _placement(problem: FlowProblem, values: dict[str, float]) -> list[NodeRange]:
    ranges = []
    for i, kind in enumerate(problem.node_kinds.tolist()):
        start = round(values[f"start_{i}"])
        layers = sum(j for j in range(1, int(problem.most_layers[kind]) + 1) if values[f"held_{i}_{j}"] > 0.5)
        if layers:
            ranges.append(NodeRange(i, start, start + layers))
    return ranges
