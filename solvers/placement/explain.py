"""Why a plan looks so: what binds, what the next-best plans cost, and what would help.

Every figure is a value of a plan that was solved again and verified; a variant that cannot be answered within its
small limit, or whose plan does not verify, is left out and named in `Explanation.dropped`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from gpuplan.errors import GpuplanError
from gpuplan.solvers.placement.explain_limits import StageLimit, stage_limits
from gpuplan.solvers.placement.explain_variants import Variant, alternatives, improvements

if TYPE_CHECKING:
    from gpuplan.plans import DeviceMap
    from gpuplan.profiles import PlacementProblem
    from gpuplan.solvers.result import Result, Status

#: Seconds one variant, and all of them together, may take.
VARIANT_LIMIT_S = 2.0
TOTAL_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What a verified plan is worth."""

    latency_s: float
    bottleneck_s: float
    devices_used: int
    kv_capacity_tokens: int | None
    price_per_hour: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A variant's answer.

    what
        What is changed, the start of a sentence.
    status
        ``optimal`` and ``feasible`` answers carry `figures`, the others `reasons`.
    change
        Relative change of the explained plan's main figure (negative: smaller), None when infeasible.
    """

    key: str
    what: str
    status: Status
    figures: Figures | None
    change: float | None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """Facts about a plan, and the same as sentences.

    alternatives
        Other plans on the same machine.
    improvements
        The best plan on a changed machine, most helpful first.
    dropped
        Variants that were not answered within their limit.
    """

    objective: str
    figures: Figures
    limits: tuple[StageLimit, ...]
    alternatives: tuple[Answer, ...]
    improvements: tuple[Answer, ...]
    dropped: tuple[str, ...]
    sentences: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON values."""
        return asdict(self)


def explain(
    problem: PlacementProblem,
    result: Result[DeviceMap],
    *,
    variant_limit_s: float = VARIANT_LIMIT_S,
    total_limit_s: float = TOTAL_LIMIT_S,
    cancel: Callable[[], bool] | None = None,
) -> Explanation:
    """Explain the plan that answers `problem`.

    Parameters
    ----------
    problem
        The question.
    result
        Its answer; `Result.require_plan` raises when there is no plan.
    variant_limit_s, total_limit_s
        Seconds for one variant and for all.
    cancel
        Ends the search for variants when it returns True.
    """
    from gpuplan.solvers.placement.explain_words import sentences

    plan = result.require_plan()
    asker = _Asker(problem, plan, variant_limit_s, total_limit_s, cancel)
    limits = stage_limits(problem, plan)
    others = asker.ask_all(alternatives(problem, plan))
    better = asker.ask_all(improvements(problem, plan, limits))
    better.sort(key=lambda answer: _benefit(problem.objective_name, answer))
    facts = Explanation(
        objective=problem.objective_name,
        figures=asker.base,
        limits=limits,
        alternatives=tuple(others),
        improvements=tuple(better),
        dropped=tuple(asker.dropped),
        sentences=(),
    )
    return replace(facts, sentences=tuple(sentences(problem, result, facts)))


def _benefit(objective: str, answer: Answer) -> tuple[float, float]:
    """Return a key that puts the most helpful answer first."""
    change = answer.change or 0.0
    fewer = answer.figures.devices_used if answer.figures and objective == "efficiency" else 0
    return fewer, -change if objective == "kv-capacity" else change


class _Asker:
    """Solves and verifies variants within one total limit."""

    def __init__(
        self,
        problem: PlacementProblem,
        plan: DeviceMap,
        variant_limit_s: float,
        total_limit_s: float,
        cancel: Callable[[], bool] | None,
    ) -> None:
        self.base = figures(problem, plan)
        self.dropped: list[str] = []
        self._objective = problem.objective_name
        self._variant_limit_s = variant_limit_s
        self._ends = time.perf_counter() + total_limit_s
        self._cancel = cancel

    def ask_all(self, variants: Iterable[Variant]) -> list[Answer]:
        """Answer what can be answered; note the rest as dropped."""
        answers = []
        for variant in variants:
            answer = self._ask(variant)
            if answer is None:
                self.dropped.append(variant.what)
            else:
                answers.append(answer)
        return answers

    def _ask(self, variant: Variant) -> Answer | None:
        from gpuplan.plans import verify
        from gpuplan.solvers import solve

        limit_s = min(self._variant_limit_s, self._ends - time.perf_counter())
        if limit_s <= 0.0 or (self._cancel is not None and self._cancel()):
            return None
        try:
            result = solve(variant.problem, solver=variant.solver, time_limit_s=limit_s, cancel=self._cancel)
        except GpuplanError:  # a variant the solver cannot take says nothing about the plan
            return None
        if result.status == "infeasible" or (result.plan is None and variant.solver != "auto"):
            # A rule of thumb without a plan fails for a reason, not for lack of time.
            return Answer(variant.key, variant.what, result.status, None, None, result.reasons)
        if result.plan is None or not verify(result.plan).ok:
            return None
        worth = figures(variant.problem, result.plan)
        return Answer(variant.key, variant.what, result.status, worth, self._change(worth))

    def _change(self, worth: Figures) -> float | None:
        before, after = main_figure(self.base, self._objective), main_figure(worth, self._objective)
        return (after - before) / abs(before) if before else None


def figures(problem: PlacementProblem, plan: DeviceMap) -> Figures:
    """Return what `plan` is worth."""
    prices = [problem.topology.device(name).price_per_hour for name in plan.device_names]
    known = [price for price in prices if price is not None]
    return Figures(
        latency_s=plan.metrics.latency_s,
        bottleneck_s=plan.metrics.bottleneck_s,
        devices_used=plan.metrics.devices_used,
        kv_capacity_tokens=plan.metrics.kv_capacity_tokens,
        price_per_hour=sum(known) if len(known) == len(prices) else None,
    )


def main_figure(worth: Figures, objective: str) -> float:
    """Return the figure a person asked for with `objective`."""
    if objective == "throughput":
        return worth.bottleneck_s
    if objective == "cost":
        return worth.price_per_hour or 0.0
    if objective == "kv-capacity":
        return float(worth.kv_capacity_tokens or 0)
    return worth.latency_s
