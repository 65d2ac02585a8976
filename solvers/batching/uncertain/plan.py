"""Plans for uncertain outputs: no batch overflows more often than ε, the expected objective as low as can be found.

Two kinds of plans compete, judged by their expected cost:

* **quantile** plans: every request is given its output at one level (its median, its 90 % quantile, …) and any solver
  plans those; batches that break the chance constraint are cut. Low levels pad little and overflow more.
* **expected** plans (one kind of executor, no deadlines that count): requests in a few orders, cut where the expected
  cost of the batches is least among those that keep the constraint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gpuplan.errors import InputError, UsageError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.lengths import Lengths
from gpuplan.profiles.problems.batching import BatchingProblem, FloatArray, IntArray, Requests
from gpuplan.solvers.batching.answer import missed_rows
from gpuplan.solvers.batching.exact import loops as exact_loops
from gpuplan.solvers.batching.exact.additive import coefficients, deadlines_count, equal_arrivals
from gpuplan.solvers.batching.exact.speed import fast
from gpuplan.solvers.batching.heuristics.assign import assign
from gpuplan.solvers.batching.heuristics.bands import Bands
from gpuplan.solvers.batching.sequence import schedule
from gpuplan.solvers.batching.solve import solve_batching
from gpuplan.solvers.batching.uncertain import loops
from gpuplan.solvers.batching.uncertain.caps import Cap, CapCost, best_caps
from gpuplan.solvers.batching.uncertain.chance import ChanceConstraint, repaired, widest
from gpuplan.solvers.batching.uncertain.expected import Expected, expected_padding_tokens, expected_terms
from gpuplan.solvers.batching.uncertain.overflow import Memory, Overflow
from gpuplan.solvers.limits import Limits

#: Levels tried by default.
LEVELS: Final = (0.5, 0.75, 0.9, 0.99)
#: Points of the grid of lengths an expected plan is cut on at most; between two, lengths count as the longer one.
_GRID: Final = 48


@dataclass(frozen=True, slots=True)
class Candidate:
    """One plan that was tried: its name, expected objective and standard error, s, and batches."""

    name: str
    expected_s: float
    standard_error_s: float
    batches: int


@dataclass(frozen=True, slots=True, eq=False)
class UncertainPlan:
    """The best plan found, and what is known about it.

    Parameters
    ----------
    problem
        The problem it is a plan of: outputs at `level`.
    solution
        Its batches; their times are those of `problem`.
    name, level
        How it was made, and the level its outputs stand for.
    expected
        The expected objective.
    overflow
        How likely each batch is to outgrow its KV cache.
    expected_padding_tokens
        Expected padding of all batches.
    caps
        The best cap on the outputs of each batch, where costs of caps were given.
    candidates
        All plans tried.
    """

    problem: BatchingProblem
    solution: BatchSolution
    name: str
    level: float
    expected: Expected
    overflow: tuple[Overflow, ...]
    expected_padding_tokens: float
    caps: tuple[Cap, ...]
    candidates: tuple[Candidate, ...]

    @property
    def worst_overflow(self) -> float:
        """The largest probability of overflow of a batch."""
        return max((item.probability for item in self.overflow), default=0.0)

    @property
    def expected_overflows(self) -> float:
        """How many batches overflow on average, at most."""
        return float(sum(item.probability for item in self.overflow))


def plan_uncertain(
    problem: BatchingProblem,
    lengths: Lengths,
    *,
    epsilon: float = 0.01,
    memory: Memory = "sum",
    levels: Sequence[float] = LEVELS,
    solver: str = "auto",
    cap_cost: CapCost | None = None,
    limits: Limits | None = None,
    seed: int = 0,
    **options: Any,
) -> UncertainPlan:
    """Return the plan with the least expected objective among those that keep the chance constraint.

    Parameters
    ----------
    problem
        Its outputs are not used; `lengths` says what they may be.
    epsilon, memory
        Every batch keeps P(overflow) ≤ ε.
    levels
        Quantiles that plans are made for.
    solver, limits, seed, options
        What plans each of them, as in `solve_batching`; the time limit is shared.
    cap_cost
        What caps on outputs cost; the best one of each batch is then part of the plan.

    Raises
    ------
    InfeasibleError
        A request that breaks the constraint alone.
    UsageError
        A level or probability out of range, or lengths of other requests.
    """
    if len(lengths) != problem.num_requests:
        raise UsageError(f"expected lengths of {problem.num_requests} requests, got {len(lengths)}")
    chance = ChanceConstraint(epsilon, memory)
    chance.check_alone(problem, lengths)
    best: tuple[float, str, float, BatchingProblem, BatchSolution, Expected] | None = None
    tried: list[Candidate] = []
    for name, level, planned, solution in _candidates(problem, lengths, chance, levels, solver, limits, seed, options):
        expected = expected_terms(planned, lengths, solution, seed=seed)
        tried.append(Candidate(name, expected.total, expected.standard_error, solution.num_batches))
        missed = float(len(missed_rows(planned, solution))) if planned.hard else 0.0
        value = expected.total if not missed else np.inf
        if best is None or value < best[0]:
            best = (value, name, level, planned, solution, expected)
    if best is None:
        raise UsageError("expected at least one level whose outputs fit an executor; give a lower level")
    _, name, level, planned, solution, expected = best
    prompts = problem.requests.prompt_tokens
    return UncertainPlan(
        problem=planned,
        solution=solution,
        name=name,
        level=level,
        expected=expected,
        overflow=tuple(chance.overflow(planned, lengths, b.requests, planned.executors[b.executor]) for b in solution),
        expected_padding_tokens=sum(
            expected_padding_tokens(prompts[b.requests], lengths.take(b.requests)) for b in solution
        ),
        caps=best_caps(lengths, solution, cap_cost) if cap_cost is not None else (),
        candidates=tuple(tried),
    )


def planned_problem(problem: BatchingProblem, lengths: Lengths, level: float) -> BatchingProblem:
    """Return the problem with each output at `level`; InputError when one then fits no executor."""
    requests = problem.requests
    return problem.replace(
        requests=Requests(
            requests.id,
            requests.prompt_tokens,
            lengths.quantile(level),
            requests.arrival_s,
            requests.deadline_s,
            requests.weight,
        )
    )


def _candidates(
    problem: BatchingProblem,
    lengths: Lengths,
    chance: ChanceConstraint,
    levels: Sequence[float],
    solver: str,
    limits: Limits | None,
    seed: int,
    options: dict[str, Any],
) -> Iterator[tuple[str, float, BatchingProblem, BatchSolution]]:
    """Yield (name, level, problem at that level, plan that keeps the constraint)."""
    for level in levels:
        try:
            planned = planned_problem(problem, lengths, level)
        except InputError:  # outputs at this level outgrow every executor, lower ones may not
            continue
        result = solve_batching(planned, solver=solver, limits=_share(limits, len(levels)), seed=seed, **options)
        if result.plan is not None:
            groups = repaired(planned, lengths, result.plan.groups(planned.num_executors), chance)
            yield f"{result.report.solver} at {level:g}", level, planned, schedule(planned, groups)
    yield from _expected_plans(problem, lengths, chance, min(levels, default=0.5))


def _share(limits: Limits | None, parts: int) -> Limits:
    if limits is None or limits.time_limit_s is None:
        return limits or Limits(time_limit_s=10.0)
    return Limits(
        limits.time_limit_s / max(parts, 1), limits.work_limit, limits.threads, limits.cancel, limits.on_progress
    )


# ---------------------------------------------------------------------------------------------------- expected plans


def _expected_plans(
    problem: BatchingProblem, lengths: Lengths, chance: ChanceConstraint, level: float
) -> Iterator[tuple[str, float, BatchingProblem, BatchSolution]]:
    alike = len({(e.kv_tokens, e.max_batch) for e in problem.executors}) == 1
    if not alike or deadlines_count(problem) or not equal_arrivals(problem):
        return
    try:
        planned = planned_problem(problem, lengths, level)
    except InputError:
        return
    grid, within = _grid(lengths)
    rule = "smith" if problem.objective.latency > 0.0 else "longest"
    for name, order in _orders(planned, lengths):
        batches = _expected_cut(planned, lengths, order, chance, grid, within)
        groups = assign(planned, batches, "smith" if rule == "smith" else "longest")
        if groups is not None:
            yield f"expected cost, {name}", level, planned, schedule(planned, groups)


def _orders(problem: BatchingProblem, lengths: Lengths) -> Iterator[tuple[str, IntArray]]:
    mean = np.ceil(lengths.mean()).astype(np.int64)
    bands = Bands(problem.requests.prompt_tokens, mean)
    middle = max(2, round(1.4 * (problem.num_requests / problem.executors[0].max_batch) ** 0.5))
    yield "by mean output", bands.order(problem.num_requests, 1.0)
    yield f"{middle} bands", bands.order(min(middle, problem.num_requests), 0.5)
    high = lengths.quantile(0.9)
    yield "by 90 % quantile", np.lexsort((problem.requests.prompt_tokens, mean, high)).astype(np.int64)


def _grid(lengths: Lengths) -> tuple[FloatArray, FloatArray]:
    """Return at most `_GRID` lengths and P(O_i ≤ each), shape (N, G): lengths between two count as the longer."""
    points = np.unique(lengths.tokens)
    if len(points) > _GRID:
        share = np.linspace(0.0, 1.0, _GRID + 1)[1:]
        points = np.unique(np.quantile(lengths.tokens, share, method="higher"))
    within = np.stack([lengths.within(int(point)) for point in points], axis=1)
    return points.astype(np.float64), np.ascontiguousarray(within)


def _expected_cut(
    problem: BatchingProblem,
    lengths: Lengths,
    order: IntArray,
    chance: ChanceConstraint,
    grid: FloatArray,
    within: FloatArray,
) -> list[IntArray]:
    n, goal = len(order), problem.objective
    most = widest(problem, lengths, order, problem.executors[0], chance)
    weight = problem.requests.weight[order]
    rate = (goal.latency * np.cumsum(weight[::-1])[::-1] + goal.makespan) / problem.num_executors
    k = coefficients(problem.time, 1.0, float(problem.speed.mean()), goal.padding)
    f, back, sizes = np.empty(n + 1), np.zeros(n + 1, dtype=np.int64), np.empty(n, dtype=np.int64)
    run = fast(loops.expected_ordered, float(most.sum()) * len(grid))
    prompt = problem.requests.prompt_tokens[order]
    run(prompt, np.ascontiguousarray(within[order]), grid, np.ascontiguousarray(rate), k, most, f, back)
    first = fast(exact_loops.unwind, n)(back, sizes)
    return np.split(order, np.cumsum(sizes[first:])[:-1])
