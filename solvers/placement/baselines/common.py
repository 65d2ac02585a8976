"""What all baselines share: layer sizes as a rule sees them, the value of a plan, and the Result of a rule."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from gpuplan.errors import InputError, UnsupportedError
from gpuplan.plans.placement_solution import PlacementSolution, StageRange
from gpuplan.profiles.problems.placement import DensePlacement, FloatArray, Objective, ObjectiveName
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.placement.evaluate import Evaluation, broken_rule, evaluate, terms
from gpuplan.solvers.result import Report, Result, Value

#: A rule's stages, or one sentence that says why there are none.
Outcome = tuple[StageRange, ...] | str


def most_devices(problem: DensePlacement) -> int:
    """Devices a plan may use at most: D, n and the problem's limit."""
    limit = problem.num_devices if problem.max_devices is None else problem.max_devices
    return min(limit, problem.num_devices, problem.num_layers)


def stage_counts(problem: DensePlacement) -> range:
    """Numbers of stages that a plan may have, M micro-batches known for each."""
    return range(1, most_devices(problem) + 1)


def with_micro_batches(problem: DensePlacement, stages: int) -> DensePlacement:
    """Return the problem with M a number: `stages` where it says as many as the plan has stages."""
    if problem.micro_batches != "stages":
        return problem
    return dataclasses.replace(problem, micro_batches=stages)


def layer_bytes(problem: DensePlacement) -> FloatArray:
    """Weights and KV of every layer, bytes, shape (n,); M must be a number."""
    assert problem.micro_batches != "stages"
    tokens = problem.micro_batches * problem.tokens_per_micro_batch
    return problem.memory_bytes + tokens * problem.kv_bytes_per_token


def room_bytes(problem: DensePlacement) -> FloatArray:
    """Bytes of every device after the workspace, shape (D,), the tolerance of the memory rule included."""
    return problem.available_bytes * (1.0 + 1e-12) - problem.fixed_bytes


def stages_from_counts(devices: Sequence[int], counts: Sequence[int]) -> tuple[StageRange, ...]:
    """Return the stages that hold `counts` layers each, devices without layers left out."""
    ends = np.cumsum([0, *counts]).tolist()
    pairs = zip(devices, ends[:-1], ends[1:], strict=True)
    return tuple(StageRange(device, start, stop) for device, start, stop in pairs if stop > start)


def by_stage_count(problem: DensePlacement, rule: Callable[[DensePlacement], Outcome]) -> Outcome:
    """Apply a rule; with M = stages once per number of stages, until its plan has as many as were assumed."""
    if problem.micro_batches != "stages":
        return rule(problem)
    outcome: Outcome = "the rule has no plan whose micro-batches are as many as its stages"
    for stages in stage_counts(problem):
        outcome = rule(with_micro_batches(problem, stages))
        if not isinstance(outcome, str) and len(outcome) == stages:
            return outcome
    return outcome if isinstance(outcome, str) else "the rule's plan has fewer stages than micro-batches assumed"


def references(problem: DensePlacement, limits: Limits) -> tuple[float, int]:
    """Return (latency*, devices*) of the balanced objective, proven by the exact solver; UnsupportedError if not."""
    from gpuplan.solvers.solving import solve

    best = []
    names: tuple[ObjectiveName, ...] = ("latency", "efficiency")
    for name in names:
        asked = dataclasses.replace(problem, objective=Objective(name), front=False)
        seconds = limits.time_limit_s
        half = None if seconds is None else 0.5 * seconds  # two questions
        result = solve(asked, time_limit_s=half, memory_limit_bytes=limits.memory_limit_bytes, cancel=limits.cancel)
        if result.status != "optimal" or result.objective is None:
            raise UnsupportedError(f"the balanced objective needs a proven {name} optimum, and there is none in time")
        best.append(result.objective[0] if isinstance(result.objective, tuple) else result.objective)
    return best[0], round(best[1])


def check_prices(problem: DensePlacement) -> None:
    """Refuse the cost objective where a price is missing."""
    missing = np.flatnonzero(np.isnan(problem.price_per_hour))
    if missing.size:
        first = int(missing[0])
        raise InputError(
            f"the cost objective needs price_per_hour of every device, but {problem.device_names[first]} has none; "
            "give it a price",
            place=f"$.devices[{first}].price_per_hour",
        )


def balanced_parts(problem: DensePlacement, worth: Evaluation, latency_s: float, devices: float) -> dict[str, float]:
    """Return the reference values of the balanced objective and the two terms they make."""
    goal = problem.objective
    return {
        "latency_star_s": latency_s,
        "devices_star": float(devices),
        "latency_term": goal.latency_weight * (worth.latency_s / latency_s),
        "devices_term": goal.devices_weight * (worth.devices / devices),
    }


class Scorer:
    """Value of plans under the problem's objective; the balanced one's reference values are found once."""

    def __init__(self, problem: DensePlacement, limits: Limits) -> None:
        self.problem = problem
        self.limits = limits
        self._references: tuple[float, int] | None = None

    def value(self, worth: Evaluation) -> Value:
        """Return the objective value of a plan's figures."""
        name = self.problem.objective.name
        if name == "latency":
            return worth.latency_s
        if name == "bottleneck":
            return worth.bottleneck_s
        if name == "balanced":
            return self._balanced(worth)
        if name == "efficiency":
            return (float(worth.devices), worth.latency_s)
        if name == "cost":
            check_prices(self.problem)
            return (worth.price_per_hour, worth.latency_s)
        tokens = worth.kv_capacity_tokens
        if tokens is None:
            raise InputError("the kv-capacity objective needs layers with KV, but kv_bytes_per_token is 0 everywhere")
        return (-float(tokens), worth.latency_s)

    def terms(self, stages: Sequence[StageRange]) -> dict[str, float]:
        """Return a plan's figures by name, the reference values of the balanced objective among them."""
        stars: dict[str, float] = {}
        if self.problem.objective.name == "balanced":
            latency_s, devices = self._stars()
            stars = balanced_parts(self.problem, evaluate(self.problem, stages), latency_s, devices)
        return {**terms(self.problem, stages), **stars}

    def _stars(self) -> tuple[float, int]:
        if self._references is None:
            self._references = references(self.problem, self.limits)
        return self._references

    def _balanced(self, worth: Evaluation) -> float:
        latency_s, devices = self._stars()
        if latency_s == 0.0:
            raise InputError("the balanced objective divides by the least latency, which is 0; give the layers times")
        parts = balanced_parts(self.problem, worth, latency_s, devices)
        return parts["latency_term"] + parts["devices_term"]

    def sort_key(self, worth: Evaluation) -> tuple[float, ...]:
        """Return the value as a tuple, ties broken by latency."""
        value = self.value(worth)
        return value if isinstance(value, tuple) else (value, worth.latency_s)


def refuse_front(problem: DensePlacement, name: str) -> None:
    """Refuse a problem that asks for the front."""
    if problem.front:
        raise UnsupportedError(f"{name} gives one plan, not a front; ask for one objective, or use the exact solver")


def finish(
    problem: DensePlacement,
    name: str,
    outcome: Outcome,
    limits: Limits,
    *,
    started: float,
    seed: int = 0,
    work: int = 0,
) -> Result[PlacementSolution]:
    """Turn a rule's outcome into a Result: checked, priced, without a bound."""
    if not isinstance(outcome, str):
        broken = broken_rule(problem, outcome)
        if broken is not None:
            outcome = f"the rule's plan breaks a limit: {broken}"
    report = Report(name, seed=seed, wall_time_s=time.perf_counter() - started, work=work)
    if isinstance(outcome, str):
        return Result("no_solution", None, None, None, None, report, reasons=(f"{name}: {outcome}",))
    scorer = Scorer(problem, limits)
    value = scorer.value(evaluate(problem, outcome))
    return Result("feasible", PlacementSolution(outcome), value, None, None, report, terms=scorer.terms(outcome))


def run_rule(
    problem: DensePlacement, name: str, rule: Callable[[DensePlacement], Outcome], limits: Limits, seed: int
) -> Result[PlacementSolution]:
    """Run a rule of linear time that needs no chance; the limits are for the balanced objective's references."""
    refuse_front(problem, name)
    started = time.perf_counter()
    return finish(problem, name, by_stage_count(problem, rule), limits, started=started, seed=seed)
