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
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuplan.errors import SolverUnavailableError, UnsupportedError, UsageError
from gpuplan.plans.flow_solution import FlowSolution, NodeRange
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.result import Result

if TYPE_CHECKING:
    import pulp

#: Relative distance of value and bound at which a MILP counts as solved: its own rounding.
PROVEN = 1e-6
#: Switches the model may have.
MOST_SWITCHES = 60_000


def solve_milp(incumbent: Incumbent, seed: int) -> Result[FlowSolution]:
    """Solve the published model within the budget."""
    problem = incumbent.problem
    model = build_model(problem)
    values, bound = solve_model(model, incumbent.budget.remaining_s)
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


def build_model(problem: FlowProblem) -> pulp.LpProblem:
    """Return the published model of a problem."""
    if problem.max_hops is not None:
        raise UnsupportedError("flow-milp cannot limit hops; use auto, or drop max_hops")
    if np.count_nonzero(problem.link_tokens_per_s) > MOST_SWITCHES:
        raise UnsupportedError(f"flow-milp handles up to {MOST_SWITCHES} links between nodes; use auto")
    try:
        import pulp
    except ImportError:
        raise SolverUnavailableError("flow-milp needs PuLP; install it with: pip install pulp") from None
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
    for i, j in np.argwhere(problem.link_tokens_per_s > 0.0).tolist():
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


def solve_model(model: pulp.LpProblem, time_s: float) -> tuple[dict[str, float] | None, float | None]:
    """Return the best values by variable name (or None) and the upper bound (or None), by the HiGHS inside SciPy."""
    import pulp
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    variables = model.variables()
    number = {variable.name: at for at, variable in enumerate(variables)}
    entries: list[tuple[int, int, float]] = []
    lower, upper = [], []
    listed: Any = model.constraints
    for row, constraint in enumerate(listed() if callable(listed) else listed.values()):  # a dict before PuLP 3.3
        entries += [(row, number[variable.name], float(value)) for variable, value in constraint.items()]
        right = -float(constraint.constant)
        lower.append(-np.inf if constraint.sense == pulp.LpConstraintLE else right)
        upper.append(np.inf if constraint.sense == pulp.LpConstraintGE else right)
    rows, columns, values = (np.array(part) for part in zip(*entries, strict=True))
    gain = np.zeros(len(variables))
    for variable, value in (model.objective or {}).items():
        gain[number[variable.name]] = float(value)
    options: dict[str, Any] = {"mip_rel_gap": 1e-9, "disp": False}
    if np.isfinite(time_s):
        options["time_limit"] = max(time_s, 0.01)
    answer = milp(
        -gain,
        integrality=np.array([variable.cat == pulp.LpInteger for variable in variables]),
        bounds=Bounds(
            np.array([variable.lowBound for variable in variables], dtype=np.float64),
            np.array([variable.upBound for variable in variables], dtype=np.float64),
        ),
        constraints=LinearConstraint(csr_matrix((values, (rows, columns)), (len(lower), len(variables))), lower, upper),
        options=options,  # type: ignore[arg-type]
    )
    bound = None if answer.mip_dual_bound is None or not np.isfinite(answer.mip_dual_bound) else -answer.mip_dual_bound
    if answer.x is None:
        return None, bound
    return {variable.name: float(answer.x[at]) for at, variable in enumerate(variables)}, bound


def _placement(problem: FlowProblem, values: dict[str, float]) -> list[NodeRange]:
    ranges = []
    for i, kind in enumerate(problem.node_kinds.tolist()):
        start = round(values[f"start_{i}"])
        layers = sum(j for j in range(1, int(problem.most_layers[kind]) + 1) if values[f"held_{i}_{j}"] > 0.5)
        if layers:
            ranges.append(NodeRange(i, start, start + layers))
    return ranges
