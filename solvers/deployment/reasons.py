"""Why there is no deployment: the smallest shortage a person can act on."""

from __future__ import annotations

import math

from gpuplan.solvers.deployment.bounds import counts_of_kinds, few_vectors, packed
from gpuplan.solvers.deployment.ceilings import Ceilings
from gpuplan.solvers.deployment.emptiness import reached_by_any
from gpuplan.solvers.deployment.fleet import Fleet
from gpuplan.solvers.deployment.fluid import fluid_prices
from gpuplan.solvers.deployment.goal import Goal
from gpuplan.solvers.limits import Budget
from gpuplan.units import format_bytes, format_seconds


def nowhere(fleet: Fleet, ceilings: Ceilings) -> tuple[str, ...]:
    """Return why no replica is possible at all: too few devices, too little memory, or an SLO out of reach."""
    if not fleet.degrees:
        largest, least = max(map(len, fleet.islands)), min(fleet.problem.tensor_parallel)
        return (f"no island has {least} devices for a stage; the largest has {largest}",)
    most = fleet.problem.max_devices
    if most is not None and most < fleet.degrees[0]:
        return (f"a stage takes {fleet.degrees[0]} devices at least, and the device limit is {most}",)
    few, slo = few_vectors(fleet), ceilings.slo
    reached = ceilings.reached if few else reached_by_any(ceilings, counts_of_kinds(fleet))
    promised = math.isfinite(slo.ttft_s) or math.isfinite(slo.token_s)
    if not (reached.fits and promised):
        return (_too_small(fleet),)
    sentences = []
    if reached.ttft_s > slo.ttft_s:
        sentences.append(
            f"no replica has its first token within {format_seconds(slo.ttft_s)}: the least TTFT any could have is"
            f" {format_seconds(reached.ttft_s)}"
        )
    if reached.token_s > slo.token_s:
        sentences.append(
            f"no replica keeps {format_seconds(slo.token_s)} between tokens: the least any could have is"
            f" {format_seconds(reached.token_s)}"
        )
    if not sentences and math.isinf(slo.ttft_s):
        sentences.append(f"no replica that memory allows keeps {format_seconds(slo.token_s)} between tokens")
    elif not sentences and math.isinf(slo.token_s):
        sentences.append(f"no replica that memory allows has its first token within {format_seconds(slo.ttft_s)}")
    elif not sentences:
        sentences.append(
            "no replica keeps to the TTFT and the time between tokens at once: the least there are, each by itself,"
            f" {format_seconds(reached.ttft_s)} and {format_seconds(reached.token_s)}"
        )
    return tuple(sentences)


def _too_small(fleet: Fleet) -> str:
    batch, name = fleet.batches()[0], fleet.model.name
    needs = []
    for degree in fleet.degrees:
        memory = fleet.memory(degree, batch)
        needs.append(degree * (float(memory.weights[-1]) - memory.saving + batch * float(memory.kv[-1])))
    most = fleet.problem.max_devices or len(fleet.devices)
    rooms = sorted((fleet.kinds[int(kind)].available_bytes for kind in fleet.kind_of), reverse=True)[:most]
    workspace = min(fleet.memory(degree, batch).workspace for degree in fleet.degrees)
    room = math.fsum(max(own - workspace, 0.0) for own in rooms)
    held = f"{name} needs {format_bytes(min(needs))} for weights and the KV of one batch of {batch}"
    if min(needs) > room:
        return f"{held}, {format_bytes(min(needs) - room)} more than the {len(rooms)} devices have free together"
    return f"{held}; the devices have {format_bytes(room)}, but no pipeline of them holds it stage by stage"


def beyond_demand(fleet: Fleet, ceilings: Ceilings, goal: Goal, budget: Budget) -> tuple[str, ...]:
    """Return why the demand is out of reach: the most requests/s that any deployment could serve."""
    problem = fleet.problem
    assert problem.demand_rps is not None
    counts = counts_of_kinds(fleet)
    free = Goal(fleet, problem.replace(objective="requests", demand_rps=None))
    if few_vectors(fleet):
        most = packed(ceilings, free, counts, None, budget).value
    else:
        most = fluid_prices(ceilings, free, counts)[0]
    if most is None or most >= problem.demand_rps:  # what proved it is closer than this
        return (f"no deployment serves {problem.demand_rps:g} requests/s",)
    return (f"the demand is {problem.demand_rps:g} requests/s, but no deployment serves more than {most:.6g}",)
