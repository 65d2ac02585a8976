"""The fluid bound: every layer of every request runs somewhere, on devices that hold what is in flight.

Replicas of one degree t, batch b and number of stages K in K₁..K₂ together serve R, on n_k devices of kind k, x_lk of
it layer l on kind k::

    Σ_k x_lk = R                                        each layer
    Σ_l t·c_lk/b·x_lk ≤ n_k,   Σ_{t,b,K} n_k ≤ N_k      each kind
    Σ_lk ((K₁/M + 1 − 1/M)·p_lk + (o − 1)·d_lk)/b·x_lk ≤ Σ_k n_k/t
    Σ_k n_k/t·(available_k − workspace − (weights + M·b·KV)/K₂) ≥ 0

p and d are a layer's prefill and decode step, c = p + (o − 1)·d; for tokens p = 0 and c = d. A stage serves at most b
requests in the time of its layers. The third row sums ``cycle ≥ Σ p + (M − 1)·p_k + (o − 1)·M·d_k`` over the stages of
each replica, the last one what its stages hold; with M = K, K₁/M is 1 and M/K₂ is 1. Nothing else of a replica is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.ceilings import Ceilings, Counts
from gpuplan.solvers.deployment.goal import Goal
from gpuplan.solvers.deployment.master import Programme, relaxed_duals, solve_programme

Floats = NDArray[np.float64]
#: Tolerance of the linear programme, relatively.
SLACK: Final = 1e-7
#: Numbers of stages that are told apart.
DEPTHS: Final = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 1 << 30))


class LateError(Exception):
    """The time is over before the programme stands."""


def fluid_prices(
    ceilings: Ceilings, goal: Goal, counts: Counts, over: Callable[[], bool] | None = None
) -> tuple[float | None, Floats | None]:
    """Return the bound, and the duals that prove it: of the kinds, of replicas (0), of devices, of the demand.

    The bound is None when there is no deployment at all, the duals when they are not known.

    Raises
    ------
    LateError
        `over` says so while the programme is made.
    """
    fleet, problem = ceilings.fleet, goal.problem
    programme = Programme()
    devices: list[list[int]] = [[] for _ in counts]
    rates: list[int] = []
    for degree in fleet.degrees:
        for batch in fleet.batches():
            if over is not None and over():
                raise LateError
            for least, most in DEPTHS:
                deepest = min(most, fleet.num_layers, sum(counts) // degree)
                if least <= deepest:
                    _add_class(programme, ceilings, goal, (degree, batch, least, deepest), devices, rates)
    if not rates:
        return None, None
    first = len(programme.rows)
    for columns, count in zip(devices, counts, strict=True):
        programme.row(dict.fromkeys(columns, 1.0), float(count))
    most = sum(counts) if problem.max_devices is None else problem.max_devices
    programme.row({column: 1.0 for columns in devices for column in columns}, float(most))
    if problem.demand_rps is not None:
        programme.row(dict.fromkeys(rates, -1.0 / problem.demand_rps), -1.0 + SLACK)
    solved = relaxed_duals(programme, maximise=goal.maximised)
    if solved is None:
        return _without_duals(programme, goal), None
    value, duals = solved
    if goal.maximised and value <= 0.0:
        return None, None
    own = duals[first:]
    return value * (1 + SLACK if goal.maximised else 1 - SLACK), np.insert(own, len(counts), 0.0)


def _without_duals(programme: Programme, goal: Goal) -> float | None:
    """Return the bound when the solver of linear programmes gave none."""
    outcome = solve_programme(programme, maximise=goal.maximised, integral=False)
    if outcome.infeasible or (goal.maximised and outcome.bound is not None and outcome.bound <= 0.0):
        return None
    if outcome.bound is None:  # no answer of the solver is no proof: nothing is ruled out
        return float("inf") if goal.maximised else 0.0
    return outcome.bound * (1 + SLACK if goal.maximised else 1 - SLACK)


def _add_class(
    programme: Programme,
    ceilings: Ceilings,
    goal: Goal,
    point: tuple[int, int, int, int],
    devices: list[list[int]],
    rates: list[int],
) -> None:
    """Add the replicas of one degree, batch and range of stages: their rate, devices and layers."""
    fleet, (degree, batch, least, most) = ceilings.fleet, point
    memory = fleet.memory(degree, batch)
    times = [layer_seconds(ceilings, k, degree, batch) for k in range(len(devices))]
    kinds = [
        k
        for k, own in enumerate(times)
        if own is not None and fleet.kinds[k].available_bytes * (1 + SLACK) >= memory.workspace
    ]
    if not kinds:
        return
    rooms = rooms_beyond(ceilings, kinds, degree, batch, most)
    if max(rooms) < 0.0:
        return
    seconds = np.concatenate([own for k in kinds if (own := times[k]) is not None])
    kinds_of_layers, amounts = np.unique(seconds, axis=1, return_counts=True)
    micro = fleet.problem.workload.micro_batches
    filling = 2.0 - 1.0 / least if fleet.problem.micro_batches_from_stages else (least - 1.0) / micro + 1.0
    together: dict[int, float] = {}
    rate = programme.column(1.0 if goal.maximised else 0.0)
    used = [programme.column(0.0 if goal.maximised else goal.weights[kind]) for kind in kinds]
    spent: list[dict[int, float]] = [{column: -1.0} for column in used]
    for layer, amount in enumerate(amounts):
        spread = {rate: float(amount)}
        for k in range(len(kinds)):
            share = programme.column(0.0)
            spread[share] = -1.0
            prefill, decode = (float(own) for own in kinds_of_layers[2 * k : 2 * k + 2, layer])
            spent[k][share] = degree * (prefill + decode) / batch
            together[share] = (filling * prefill + decode) / batch
        programme.row(spread, 0.0)
    for row in spent:
        programme.row(row, 0.0)
    programme.row({**together, **dict.fromkeys(used, -1.0 / degree)}, 0.0)
    programme.row({column: -room / degree / 2**30 for column, room in zip(used, rooms, strict=True)}, 0.0)
    rates.append(rate)
    for kind, column in zip(kinds, used, strict=True):
        devices[kind].append(column)


def layer_seconds(ceilings: Ceilings, kind: int, degree: int, batch: int, *, joined: bool = True) -> Floats | None:
    """Return seconds of each layer's prefill and of its o − 1 decode steps (0 and one step, for tokens), (2, n).

    None where the kind has no group of this degree. Without `joined` collectives are left out.
    """
    fleet = ceilings.fleet
    times = ceilings.units.best_times((kind,), degree, batch) if joined else fleet.kind_times(kind, degree, batch)
    if times is None:
        return None
    if ceilings.tokens:
        return np.stack([np.zeros_like(times.decode_s), times.decode_s])
    return np.stack([times.prefill_s, fleet.steps * times.decode_s])


def rooms_beyond(ceilings: Ceilings, kinds: list[int], degree: int, batch: int, most: int) -> list[float]:
    """Return the bytes that a group of each kind has beyond its share of a replica of `most` stages."""
    fleet, problem = ceilings.fleet, ceilings.fleet.problem
    memory = fleet.memory(degree, batch)
    weights, state = float(memory.weights[-1]) - memory.saving, batch * float(memory.kv[-1])
    share = weights / most + (
        state if problem.micro_batches_from_stages else problem.workload.micro_batches * state / most
    )
    return [fleet.kinds[kind].available_bytes * (1 + SLACK) - memory.workspace - share for kind in kinds]
