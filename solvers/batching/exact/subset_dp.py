"""`subset-dp`: every set of requests, exactly; the small oracle and the exact method of few requests.

Any objective, arrivals, soft and hard deadlines, several executors; N ≤ 18 where sets have one value, 15 where they
have fronts (finish, cost), 13 with several executors.

* Equal arrivals and no deadline that counts: f[m] = min over first batches b ⊆ m of
  P(b)·(latency·W(m) + makespan) + padding(b) + f[m∖b]: every request of m waits for b. One number a set.
* Else labels (finish, cost) of sequences that serve m on one executor; a label that is later and dearer than another
  is dropped. Deadlines and arrivals are in the labels.
* Several executors: labels of each, joined over all splits of m; (latest finish, summed cost).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from gpuplan.errors import UnsupportedError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem, Executor, FloatArray, IntArray
from gpuplan.solvers.batching.answer import answer, infeasible, missed_rows, no_solution
from gpuplan.solvers.batching.exact import subset_loops
from gpuplan.solvers.batching.exact.additive import deadlines_count, equal_arrivals
from gpuplan.solvers.batching.exact.speed import fast
from gpuplan.solvers.batching.relax import relaxed
from gpuplan.solvers.batching.sequence import schedule
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.result import Result

NAME = "subset-dp"
MOST_ONE_VALUE, MOST_LABELS, MOST_SEVERAL = 18, 15, 13
#: Labels of all sets together, and of one set.
_LABELS, _FRONT = 6_000_000, 20_000

Groups = list[list[int]]


def _one_value(problem: BatchingProblem) -> bool:
    """Whether each set has one value: no arrivals, no deadlines, no makespan shared by executors."""
    if deadlines_count(problem) or not equal_arrivals(problem):
        return False
    return problem.num_executors == 1 or problem.objective.makespan == 0.0


def most_requests(problem: BatchingProblem) -> int:
    """Return how many requests of such a problem the method takes."""
    if problem.num_executors > 1:
        return MOST_SEVERAL
    return MOST_ONE_VALUE if _one_value(problem) else MOST_LABELS


def supports(problem: BatchingProblem) -> str | None:
    """Return why the problem is too large, or None."""
    most = most_requests(problem)
    if problem.num_requests > most:
        return f"it takes up to {most} requests of this kind, and there are {problem.num_requests}; use auto or cp-sat"
    return None


def solve(problem: BatchingProblem, limits: Limits, seed: int = 0, *, upper: float = np.inf) -> Result[BatchSolution]:
    """Solve exactly.

    Parameters
    ----------
    upper
        Objective of a plan that is known: sets that cannot beat it are dropped. The answer is then ``no_solution``
        when nothing better exists.

    Returns
    -------
    Result
        ``optimal`` or ``infeasible``; ``no_solution`` when labels ran out of room.

    Notes
    -----
    O(3^N) steps, each of one label or a few; nothing is checked within them, N keeps them short.
    """
    started = time.perf_counter()
    reason = supports(problem)
    if reason is not None:
        raise UnsupportedError(f"solver {NAME} cannot take this problem: {reason}")
    groups = _solve_values(problem) if _one_value(problem) else _solve_labels(problem, upper)
    if groups is None:
        reasons = (f"the sets have more than {_LABELS:,} labels together; use cp-sat or auto",)
        return no_solution(problem, solver=NAME, started=started, seed=seed, reasons=reasons)
    if not groups and problem.num_requests:
        if np.isfinite(upper):
            kind = "every set of requests"
            return no_solution(problem, solver=NAME, started=started, seed=seed, bound=upper, bound_kind=kind)
        return infeasible(problem, (_shortage(problem),), solver=NAME, started=started, seed=seed)
    return answer(
        problem,
        schedule(problem, groups),
        solver=NAME,
        started=started,
        seed=seed,
        work=3**problem.num_requests,
        bound_kind="every set of requests",
        proven=True,
    )


def _shortage(problem: BatchingProblem) -> str:
    """Say which requests are late in the plan with the least weight of late requests, and by how much."""
    soft = relaxed(problem)
    groups = _solve_labels(soft, np.inf)
    mend = "--relax-deadlines gives the plan with the fewest violations"
    if not groups:
        return f"the hard deadlines cannot all hold; {mend}"
    solution = schedule(soft, groups)
    over = solution.completion_s() - problem.requests.deadline_s
    late = missed_rows(problem, solution)
    named = ", ".join(f"request {problem.requests.id[row]} by {over[row]:.6g} s" for row in late)
    return f"the hard deadlines cannot all hold: the plan that misses least is late for {named}; {mend}"


@dataclass(frozen=True, slots=True, eq=False)
class _Sets:
    """What each set of requests is as one batch on one executor; arrays of 2^N."""

    took: FloatArray
    pad: FloatArray
    release: FloatArray
    due: FloatArray
    weight: FloatArray
    weighted_arrival: FloatArray


def _doubled(values: FloatArray, join: np.ufunc, empty: float) -> FloatArray:
    """Return `join` over the members of every set."""
    out = np.array([empty])
    for value in values:
        out = np.concatenate([out, join(out, value)])
    return out


def _sets(problem: BatchingProblem, executor: Executor) -> _Sets:
    r = problem.requests
    size = _doubled(np.ones(len(r)), np.add, 0.0)
    prompt = _doubled(r.prompt_tokens.astype(float), np.maximum, 0.0)
    output = _doubled(r.output_tokens.astype(float), np.maximum, 0.0)
    tokens = _doubled((r.prompt_tokens + r.output_tokens).astype(float), np.add, 0.0)
    took = problem.time.batch_s(size, prompt, output, executor.speed)
    fits = (size <= executor.max_batch) & (size * (prompt + output) <= executor.kv_tokens) & (size > 0)
    return _Sets(
        took=np.where(fits, took, np.inf),
        pad=problem.objective.padding * (size * (prompt + output) - tokens),
        release=_doubled(r.arrival_s, np.maximum, 0.0),
        due=_doubled(r.deadline_s, np.minimum, np.inf),
        weight=_doubled(r.weight, np.add, 0.0),
        weighted_arrival=_doubled(r.weight * r.arrival_s, np.add, 0.0),
    )


def _members(mask: int) -> list[int]:
    return [i for i in range(mask.bit_length()) if mask >> i & 1]


# ------------------------------------------------------------------------------------------------- one value a set


def _solve_values(problem: BatchingProblem) -> list[Groups]:
    n, goal = problem.num_requests, problem.objective
    total, splits, firsts = np.full(1 << n, np.inf), [], []
    total[0] = 0.0
    for executor in problem.executors:
        sets = _sets(problem, executor)
        f, first = np.empty(1 << n), np.zeros(1 << n, dtype=np.int64)
        run = fast(subset_loops.first_batches, 3.0**n)
        run(sets.took, sets.pad, sets.weight, goal.latency, goal.makespan, f, first)
        firsts.append(first)
        if problem.num_executors == 1:
            return [_chain(first, (1 << n) - 1)]
        total, split = _join_values(f, total)
        splits.append(split)
    groups: list[Groups] = []
    mask = (1 << n) - 1
    for first, split in zip(reversed(firsts), reversed(splits), strict=True):
        groups.append(_chain(first, int(split[mask])))
        mask ^= int(split[mask])
    return groups[::-1]


def _chain(first: IntArray, mask: int) -> Groups:
    groups = []
    while mask:
        groups.append(_members(int(first[mask])))
        mask ^= int(first[mask])
    return groups


def _join_values(own: FloatArray, others: FloatArray) -> tuple[FloatArray, IntArray]:
    """Return min over splits of own[part] + others[m∖part], and the part."""
    n = len(own).bit_length() - 1
    offset = np.arange(len(own) + 1, dtype=np.int64)
    zero = np.zeros(len(own))
    labels = _Labels.room(len(own), len(own))
    fast(subset_loops.join, 3.0**n)(offset, zero, own, offset, zero, others, False, *labels.arrays(), *_front_room(8))
    return labels.cost, labels.first


# --------------------------------------------------------------------------------------------------- labels a set


@dataclass(slots=True, eq=False)
class _Labels:
    """Labels of all sets: `first` is the last batch (or own label), `second` the label before it (or the others')."""

    offset: IntArray
    clock: FloatArray
    cost: FloatArray
    first: IntArray
    second: IntArray

    @classmethod
    def room(cls, sets: int, labels: int) -> _Labels:
        whole = (np.zeros(labels, dtype=np.int64) for _ in range(2))
        return cls(np.zeros(sets + 1, dtype=np.int64), np.zeros(labels), np.zeros(labels), *whole)

    def arrays(self) -> tuple[IntArray, FloatArray, FloatArray, IntArray, IntArray]:
        return self.offset, self.clock, self.cost, self.first, self.second


def _front_room(size: int) -> tuple[FloatArray, IntArray]:
    return np.zeros((2, size)), np.zeros((2, size), dtype=np.int64)


def _rest_cost(problem: BatchingProblem) -> FloatArray:
    """Return, for every set, the least cost its requests can still add, alone and at once."""
    alone = problem.earliest_finish_s() - problem.requests.arrival_s
    weight, goal = problem.requests.weight, problem.objective
    each = goal.latency * weight * alone
    if not problem.hard:
        each[problem.unmet()] += goal.violation * weight[problem.unmet()]
    return _doubled(each, np.add, 0.0) * (1.0 - 1e-12)


def _executor_labels(problem: BatchingProblem, executor: Executor, upper: float) -> _Labels | None:
    n, goal, requests = problem.num_requests, problem.objective, problem.requests
    sets = _sets(problem, executor)
    most = min(_LABELS, 64 << n)
    while True:
        labels = _Labels.room(1 << n, most)
        count = fast(subset_loops.sequence_labels, 3.0**n * 4)(
            sets.took,
            sets.pad,
            sets.release,
            sets.due,
            sets.weight,
            sets.weighted_arrival,
            requests.weight,
            requests.deadline_s,
            _rest_cost(problem),
            goal.latency,
            goal.makespan,
            goal.violation,
            problem.hard,
            upper * (1.0 + 1e-12) if upper > 0.0 else upper,
            *labels.arrays(),
            *_front_room(_FRONT),
        )
        if count >= 0:
            return labels
        if most >= _LABELS:
            return None
        most = _LABELS


def _solve_labels(problem: BatchingProblem, upper: float) -> list[Groups] | None:
    """Return groups by executor, [] when no plan exists, None when labels ran out."""
    n, everything = problem.num_requests, (1 << problem.num_requests) - 1
    own: list[_Labels] = []
    for executor in problem.executors:
        labels = _executor_labels(problem, executor, upper)
        if labels is None:
            return None
        own.append(labels)
    joined = [own[0]]
    for labels in own[1:]:
        both = _Labels.room(1 << n, min(_LABELS, 256 << n))
        before = joined[-1]
        count = fast(subset_loops.join, 3.0**n * 4)(
            labels.offset,
            labels.clock,
            labels.cost,
            before.offset,
            before.clock,
            before.cost,
            problem.objective.makespan > 0.0,
            *both.arrays(),
            *_front_room(_FRONT),
        )
        if count < 0:
            return None
        joined.append(both)
    final = joined[-1]
    here = np.arange(final.offset[everything], final.offset[everything + 1])
    if not len(here):
        return []
    label = int(here[np.argmin(final.cost[here] + problem.objective.makespan * final.clock[here])])
    groups: list[Groups] = []
    for e in range(problem.num_executors - 1, 0, -1):
        groups.append(_walk(own[e], int(joined[e].first[label])))
        label = int(joined[e].second[label])
    groups.append(_walk(own[0], label))
    return groups[::-1]


def _walk(labels: _Labels, label: int) -> Groups:
    """Return the batches that lead to a label, first batch first."""
    groups = []
    while labels.first[label]:
        groups.append(_members(int(labels.first[label])))
        label = int(labels.second[label])
    return groups[::-1]
