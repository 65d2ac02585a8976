"""A deployment as a flow problem: nodes of t devices hold layer ranges that may overlap, tokens take any way through.

A node with k layers passes ``T(k) = b / (the slowest k consecutive layers' decode step)`` tokens/s at batch b, for k up
to what fits its memory wherever the range lies. A link passes ``1 / (boundary bytes · s/byte)`` tokens/s over the route
of its slowest pair of ranks; source and sink never bind. Latency and the sharing of links by routes are not counted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import UsageError
from gpuplan.plans.flow_solution import FlowSolution
from gpuplan.profiles.collectives import rank_pairs
from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.deployment.fleet import Fleet
from gpuplan.solvers.flow import solve_flow
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.result import Result

Floats = NDArray[np.float64]
#: Degrees that are solved, the most promising first.
MOST_SOLVED = 2
#: Rounds in which the number of micro-batches settles.
ROUNDS = 20


@dataclass(frozen=True, slots=True)
class FlowPlan:
    """A flow problem made of a deployment problem, how it was made, and its answer."""

    problem: FlowProblem
    degree: int
    batch: int
    micro_batches: int
    result: Result[FlowSolution]


def deploy_flow(problem: DeploymentProblem, *, limits: Limits | None = None, seed: int = 0) -> FlowPlan:
    """Place overlapping layer ranges on the devices of a cluster so that most tokens/s flow through them.

    Parameters
    ----------
    problem
        Its objective has to be ``throughput``; degrees and batches are tried as for replicas. SLOs, limits on devices
        and replicas, and demands do not apply.

    Raises
    ------
    UsageError
        The problem asks for something that a flow does not have.
    """
    _check(problem)
    fleet, budget = Fleet(problem), Budget(limits or Limits())
    candidates = sorted(_candidates(fleet), key=lambda made: (-made[0], made[1]))
    if not candidates:
        raise UsageError("expected a device that holds a layer at some batch, got none; flow needs larger memory")
    best: FlowPlan | None = None
    left = min(len(candidates), MOST_SOLVED)
    for _, degree, batch in candidates[:MOST_SOLVED]:
        made, micro = flow_problem(fleet, degree, batch)
        share = None if math.isinf(budget.remaining_s) else max(budget.remaining_s / left, 0.05)
        own = dataclasses.replace(budget.limits, time_limit_s=share)
        plan = FlowPlan(made, degree, batch, micro, solve_flow(made, limits=own, seed=seed))
        if best is None or _flow(plan) > _flow(best):
            best = plan
        left -= 1
        if budget.exhausted():
            break
    assert best is not None
    return best


def _check(problem: DeploymentProblem) -> None:
    asked = {
        "an objective other than throughput": problem.objective != "throughput",
        "an SLO": problem.ttft_slo_s is not None or problem.tpot_slo_s is not None,
        "a limit on devices or replicas": problem.max_devices is not None or problem.max_replicas is not None,
    }
    for what, there in asked.items():
        if there:
            raise UsageError(f"expected a flow to maximise tokens/s and nothing else, got {what}; leave it out")


def _flow(plan: FlowPlan) -> float:
    value = plan.result.objective
    return value if isinstance(value, float) else -1.0


def _candidates(fleet: Fleet) -> list[tuple[float, int, int]]:
    """Return (promise, degree, batch) of the best batch at every degree: layers passed per second over the layers."""
    found = []
    for degree in fleet.degrees:
        best: tuple[float, int, int] | None = None
        for batch in fleet.batches():
            tables, kinds, _ = _throughput(fleet, degree, batch)
            if not kinds:
                continue
            most = [
                max((k + 1) * rate for k, rate in enumerate(tables[kind])) if tables[kind] else 0.0 for kind in kinds
            ]
            held = sum(len(tables[kind]) for kind in kinds)
            promise = math.fsum(most) / fleet.num_layers if held >= fleet.num_layers else 0.0
            if promise > 0.0 and (best is None or promise > best[0]):
                best = promise, degree, batch
        if best is not None:
            found.append(best)
    return found


def flow_problem(fleet: Fleet, degree: int, batch: int) -> tuple[FlowProblem, int]:
    """Return the flow problem of nodes of `degree` devices at a batch, and the micro-batches in flight."""
    groups = nodes(fleet, degree)
    tables, kinds, micro = _throughput(fleet, degree, batch)
    names = [f"{fleet.kinds[kind].device.kind.name}-{kind}" for kind in range(len(fleet.kinds))]
    used = sorted(set(kinds))
    free = math.fsum(max(tables[kind], default=0.0) for kind in kinds)
    ends = np.full(len(groups), free)
    problem = FlowProblem(
        num_layers=fleet.num_layers,
        kind_names=tuple(names[kind] for kind in used),
        throughput_tokens_per_s=tuple(np.array(tables[kind]) for kind in used),
        node_names=tuple("+".join(fleet.devices[d].name for d in group) for group in groups),
        node_kinds=np.array([used.index(kind) for kind in kinds], dtype=np.int64),
        link_tokens_per_s=_links(fleet, groups, batch),
        source_tokens_per_s=ends,
        sink_tokens_per_s=ends.copy(),
        name=f"{fleet.model.name} on {fleet.problem.topology.name}, tp {degree}, batch {batch}",
    )
    return problem, micro


def nodes(fleet: Fleet, degree: int) -> list[tuple[int, ...]]:
    """Return groups of `degree` neighbours of one kind and island; devices left over are not used."""
    found = []
    for members in fleet.islands:
        kinds = sorted({int(fleet.kind_of[d]) for d in members})
        for kind in kinds:
            same = [d for d in members if int(fleet.kind_of[d]) == kind]
            found += [tuple(same[i : i + degree]) for i in range(0, len(same) - degree + 1, degree)]
    return sorted(found)


def _throughput(fleet: Fleet, degree: int, batch: int) -> tuple[dict[int, list[float]], list[int], int]:
    """Return T(1), T(2), … by kind, the kind of each node, and the micro-batches in flight.

    With M the number of stages, it is that of the shortest chain that nodes of most layers could form.
    """
    groups = nodes(fleet, degree)
    kinds = [int(fleet.kind_of[group[0]]) for group in groups]
    fixed = not fleet.problem.micro_batches_from_stages
    micro = fleet.problem.workload.micro_batches if fixed else 1
    tables: dict[int, list[float]] = {}
    for _ in range(ROUNDS):
        tables = {kind: _table(fleet, groups[kinds.index(kind)], kind, batch, micro) for kind in sorted(set(kinds))}
        longest = max((len(row) for row in tables.values()), default=0)
        needed = math.ceil(fleet.num_layers / longest) if longest else micro
        if fixed or needed <= micro:
            break
        micro = needed
    return tables, kinds, micro


def _table(fleet: Fleet, group: tuple[int, ...], kind: int, batch: int, micro: int) -> list[float]:
    memory = fleet.memory(len(group), batch)
    seconds = np.concatenate([[0.0], np.cumsum(fleet.group_times(group, batch).decode_s)])
    need = memory.weights + micro * batch * memory.kv
    room = fleet.kinds[kind].available_bytes - memory.workspace
    row = []
    for k in range(1, fleet.num_layers + 1):
        if float((need[k:] - need[:-k]).max()) > room:
            break
        row.append(batch / float((seconds[k:] - seconds[:-k]).max()))
    return row


def _links(fleet: Fleet, groups: Sequence[tuple[int, ...]], batch: int) -> Floats:
    """Return tokens/s between nodes: what the slowest pair of ranks passes on; 0 without a route."""
    table, boundary = fleet.hops(batch).decode, float(fleet.boundary.max())
    found = np.zeros((len(groups), len(groups)))
    for i, here in enumerate(groups):
        for j, there in enumerate(groups):
            if i != j:
                pairs = rank_pairs(len(here), len(there))
                slowness = max(table.numbers(here[a], there[b])[1] for a, b in pairs)
                found[i, j] = 1.0 / (slowness * boundary) if 0.0 < slowness < math.inf else 0.0
    return found
