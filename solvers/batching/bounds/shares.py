"""Work shares: from batches to one fast machine, and from there to a bound on every term of the objective.

**Shares.** Numbers π_i ≥ 0 with Σ_{i in batch} π_i ≤ (time of the batch at speed 1) for every batch that fits an
executor. Spread over its batch's run, request i is then a job of π_i s on one machine of speed V = Σ speed: at any
moment the executors together do at most V s of it a second, and none before its arrival. So any bound on that
preemptive machine is a bound on the plan:

* makespan ≥ t + Σ_{arrival ≥ t} π/V for every t, and ≥ arrival_i + alone_i;
* C_i = (mean busy time of i) + (half the run of its batch) ≥ M_i + alone_i/2, and Σ w·M is least when the machine
  always serves the waiting request with the smallest π/w;
* requests that arrive from t1 on and are due by t2 with Σ π > V·(t2 − t1) cannot all be on time.

`continuous` is the continuous-batching relaxation: each request pays its own tokens and the n-th part of the fixed
costs, n the most requests of its length that fit one batch. Duals of the set-partitioning LP are the best shares.
"""

from __future__ import annotations

import heapq

import numpy as np

from gpuplan.profiles.problems.batching import DEADLINE_SLACK_S, BatchingProblem, FloatArray, IntArray
from gpuplan.solvers.batching.exact.speed import fast

_SHOWN = 5
_THRESHOLDS = 24
_SAFE = 1.0 - 1e-11


def continuous(problem: BatchingProblem) -> FloatArray:
    """Return the shares of the continuous-batching relaxation, s at speed 1."""
    t, requests = problem.time, problem.requests
    tokens = requests.prompt_tokens + requests.output_tokens
    room = np.max([executor.room(tokens) for executor in problem.executors], axis=0).astype(np.float64)
    S, O = requests.prompt_tokens.astype(np.float64), requests.output_tokens.astype(np.float64)  # noqa: E741
    steps = np.maximum(O - 1.0, 0.0)
    own = t.prefill_s_per_token * S + t.step_s_per_sequence * steps + t.step_s_per_context_token * steps * (S + O / 2.0)
    return np.asarray(own + (t.prefill_fixed_s + t.step_fixed_s * steps) / np.maximum(room, 1.0))


def alone_s(problem: BatchingProblem) -> FloatArray:
    """Return the least time a batch with request i can take, s."""
    return problem.earliest_finish_s() - problem.requests.arrival_s


def makespan_bound(problem: BatchingProblem, share: FloatArray) -> float:
    """Return a bound on max C, s."""
    if not len(share):
        return 0.0
    arrival = problem.requests.arrival_s
    order = np.argsort(-arrival, kind="stable")
    after = arrival[order] + np.cumsum(share[order]) / float(problem.speed.sum())
    return float(max(after.max(), problem.earliest_finish_s().max())) * _SAFE


def latency_bound(problem: BatchingProblem, share: FloatArray, work: FloatArray | None = None) -> float:
    """Return a bound on Σ w(C − arrival), s.

    `work[n]`, when given, bounds the time of any n requests at speed 1 (see `split`): the n-th completion comes no
    earlier than the first arrival plus work[n]/V.
    """
    requests, alone, total = problem.requests, alone_s(problem), float(problem.speed.sum())
    weight, arrival = requests.weight, requests.arrival_s
    if not len(share):
        return 0.0
    least = float(np.sum(weight * alone))
    busy = mean_busy(share / total, arrival, weight)
    values = [least, float(np.sum(weight * (busy + alone / 2.0 - arrival)))]
    if work is not None:
        ends = float(arrival.min()) + work[1:] / total
        values.append(float(np.sum(np.sort(weight)[::-1] * ends)) - float(np.sum(weight * arrival)))
    return max(values) * _SAFE if max(values) > 0.0 else 0.0


def mean_busy(work: FloatArray, arrival: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the mean busy times of jobs on one machine that always serves the least work/weight among those there."""
    with np.errstate(divide="ignore"):
        ratio = np.where(weight > 0.0, work / np.where(weight > 0.0, weight, 1.0), np.inf)
    out = np.empty(len(work))
    if bool((arrival == arrival[0]).all()):
        order = np.argsort(ratio, kind="stable")
        ends = np.cumsum(work[order])
        out[order] = arrival[0] + ends - work[order] / 2.0
        return out
    order = np.argsort(arrival, kind="stable")
    rank = np.empty(len(work), dtype=np.int64)
    rank[np.argsort(ratio, kind="stable")] = np.arange(len(work))
    sorted_out = np.empty(len(work))
    by_rank = np.empty(len(work), dtype=np.int64)
    by_rank[rank[order]] = np.arange(len(work))
    fast(_preemptive, 10.0 * len(work))(work[order], arrival[order], rank[order], by_rank, sorted_out)
    out[order] = sorted_out
    return out


def _preemptive(
    work: FloatArray,
    arrival: FloatArray,
    rank: IntArray,
    by_rank: IntArray,
    busy: FloatArray,
) -> None:
    """Fill mean busy times of jobs sorted by arrival, the lowest rank served first."""
    n = len(work)
    left, moment = work.copy(), np.zeros(n)
    waiting = [rank[0]]
    waiting.pop()
    clock, coming, done = 0.0, 0, 0
    while done < n:
        if len(waiting) == 0:
            clock = max(clock, arrival[coming])
        while coming < n and arrival[coming] <= clock:
            heapq.heappush(waiting, rank[coming])
            coming += 1
        job = by_rank[waiting[0]]
        whole = clock + left[job]
        until = whole
        if coming < n and arrival[coming] < whole:
            until = arrival[coming]
        moment[job] += (until - clock) * (clock + until) / 2.0
        left[job] -= until - clock
        clock = until
        if until == whole:
            heapq.heappop(waiting)
            busy[job] = moment[job] / work[job] if work[job] > 0.0 else clock
            done += 1


def violation_bound(problem: BatchingProblem, share: FloatArray) -> float:
    """Return a bound on Σ w of late requests: those late even alone, and the lightest that overfull intervals shed."""
    requests = problem.requests
    late = np.zeros(len(requests), dtype=bool)
    late[problem.unmet()] = True
    unavoidable = float(requests.weight[late].sum())
    best = 0.0
    for start, end in _intervals(problem):
        inside = (requests.arrival_s >= start) & (requests.deadline_s <= end) & ~late
        room = (end + DEADLINE_SLACK_S - start) * float(problem.speed.sum())
        best = max(best, _shed(share[inside], requests.weight[inside], room))
    return (unavoidable + best) * _SAFE


def _shed(share: FloatArray, weight: FloatArray, room: float) -> float:
    """Return the least weight (fractions allowed) to take away so that the rest fits `room`."""
    over = float(share.sum()) * _SAFE - room
    if over <= 0.0:
        return 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        order = np.argsort(np.where(share > 0.0, weight / share, np.inf), kind="stable")
    gone = np.cumsum(share[order])
    whole = int(np.searchsorted(gone, over))
    lost = float(weight[order[:whole]].sum())
    if whole < len(order) and share[order[whole]] > 0.0:
        rest = over - (float(gone[whole - 1]) if whole else 0.0)
        lost += float(weight[order[whole]]) * min(rest / float(share[order[whole]]), 1.0)
    return lost


def _intervals(problem: BatchingProblem) -> list[tuple[float, float]]:
    requests = problem.requests
    due = np.unique(requests.deadline_s[np.isfinite(requests.deadline_s)])
    starts = np.unique(requests.arrival_s)
    return [(float(s), float(d)) for s in _spread(starts) for d in _spread(due) if d > s]


def _spread(values: FloatArray) -> FloatArray:
    if len(values) <= _THRESHOLDS:
        return values
    return values[np.linspace(0, len(values) - 1, _THRESHOLDS).astype(np.int64)]


def overfull(problem: BatchingProblem, share: FloatArray) -> str | None:
    """Return why hard deadlines cannot all hold: an interval with more work than fits; None when none is found."""
    requests, total = problem.requests, float(problem.speed.sum())
    worst, told = 1e-9, None
    for start, end in _intervals(problem):
        inside = (requests.arrival_s >= start) & (requests.deadline_s <= end)
        over = float(share[inside].sum()) / total * _SAFE - (end + DEADLINE_SLACK_S - start)
        if over > worst:
            rows = np.flatnonzero(inside)
            shown = ", ".join(str(requests.id[row]) for row in rows[:_SHOWN])
            more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
            worst = over
            told = (
                f"the {len(rows)} requests that arrive from {start:.6g} s on and are due by {end:.6g} s "
                f"({shown}{more}) need {end - start + over:.6g} s at least, {over:.6g} s more than there are; "
                "--relax-deadlines gives the plan with the fewest violations"
            )
    return told
