"""Dispatching: whenever an executor is free, the best batch of those that wait, and the cuts that keep deadlines.

`dispatch` walks through time. Waiting requests stand sorted by a key (output, deadline, …); a batch is a window of
them. Mode ``any`` takes the window with the most weight a second (Smith's ratio: good for latency and for throughput);
mode ``front`` the same among windows that begin with the first request by the key (the most urgent one, say), and cuts
a window before a request would make another one late.
"""

from __future__ import annotations

import numpy as np

from gpuplan.profiles.problems.batching import BatchingProblem, FloatArray, IntArray
from gpuplan.solvers.batching.exact import loops
from gpuplan.solvers.batching.exact.additive import coefficients
from gpuplan.solvers.batching.exact.speed import fast
from gpuplan.solvers.batching.heuristics.bands import Bands

Groups = list[list[IntArray]]
#: Waiting requests a decision looks at.
WINDOW = 128


def dispatch(problem: BatchingProblem, key: FloatArray, *, front: bool) -> Groups | None:
    """Return ordered groups by executor; None when requests are left that only a retired executor could hold."""
    n, requests = problem.num_requests, problem.requests
    place = np.empty(n, dtype=np.int64)
    place[np.lexsort((requests.arrival_s, key))] = np.arange(n)
    by_arrival = np.lexsort((place, requests.arrival_s))  # who comes at once comes in order: nobody has to make room
    k = np.array([coefficients(problem.time, 1.0, speed, 0.0) for speed in problem.speed.tolist()])
    capacity = np.array([executor.kv_tokens for executor in problem.executors], dtype=np.int64)
    rows, ends, where = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    count = fast(_dispatch, n * 300.0)(
        requests.prompt_tokens,
        requests.output_tokens,
        requests.arrival_s,
        requests.deadline_s,
        np.maximum(requests.weight, 1e-6),
        by_arrival,
        place,
        k,
        capacity,
        problem.max_batch,
        front,
        min(WINDOW, n),
        rows,
        ends,
        where,
    )
    if count < 0:
        return None
    groups: Groups = [[] for _ in problem.executors]
    begin = 0
    for end, e in zip(ends[:count].tolist(), where[:count].tolist(), strict=True):
        groups[e].append(rows[begin:end].copy())
        begin = end
    return groups


def _dispatch(
    prompt: IntArray,
    output: IntArray,
    arrival: FloatArray,
    deadline: FloatArray,
    weight: FloatArray,
    by_arrival: IntArray,
    place: IntArray,
    k: FloatArray,
    capacity: IntArray,
    limit: IntArray,
    front: bool,
    view: int,
    rows: IntArray,
    ends: IntArray,
    where: IntArray,
) -> int:
    """Fill rows, ends of batches in `rows`, and executors; return the number of batches, −1 when stuck."""
    n, executors = len(prompt), len(limit)
    free = np.zeros(executors)
    waiting = np.empty(n, dtype=np.int64)
    count, coming, done, batches = 0, 0, 0, 0
    while done < n:
        e = 0
        for other in range(1, executors):
            if free[other] < free[e]:
                e = other
        clock = free[e]
        if clock == np.inf:
            return -1
        if count == 0 and arrival[by_arrival[coming]] > clock:
            clock = arrival[by_arrival[coming]]
        while coming < n and arrival[by_arrival[coming]] <= clock:
            i = by_arrival[coming]
            low, high = 0, count
            while low < high:
                middle = (low + high) // 2
                if place[waiting[middle]] < place[i]:
                    low = middle + 1
                else:
                    high = middle
            for spot in range(count, low, -1):
                waiting[spot] = waiting[spot - 1]
            waiting[low] = i
            count += 1
            coming += 1
        best, at, size, took = -1.0, -1, 0, 0.0
        for begin in range(min(count, view)):
            S, O, due, total = 0, 0, np.inf, 0.0  # noqa: E741
            for end in range(begin, min(count, begin + limit[e])):
                i, b = waiting[end], end - begin + 1
                S, O = max(S, prompt[i]), max(O, output[i])  # noqa: E741
                if b * (S + O) > capacity[e]:
                    break
                steps = max(O - 1, 0)
                t = k[e, 0] + k[e, 1] * b * S + steps * (k[e, 2] + k[e, 3] * b) + k[e, 4] * b * steps * (S + 0.5 * O)
                if deadline[i] + 1e-9 >= clock + t or b == 1:
                    due = min(due, deadline[i])
                if b > 1 and clock + t > due + 1e-9 and due >= clock:
                    break
                total += weight[i]
                score = total / t if t > 0.0 else np.inf
                if score > best:
                    best, at, size, took = score, begin, b, t
            if front and at >= 0:
                break
        if at < 0:  # nothing that waits fits this executor
            free[e] = arrival[by_arrival[coming]] if coming < n else np.inf
            continue
        for spot in range(size):
            rows[done] = waiting[at + spot]
            done += 1
        for spot in range(at + size, count):
            waiting[spot - size] = waiting[spot]
        count -= size
        ends[batches], where[batches] = done, e
        batches += 1
        free[e] = clock + took
    return batches


def deadline_cut(problem: BatchingProblem, order: IntArray, *, times: int = 1) -> list[IntArray] | None:
    """Return the contiguous batches of `order` that finish first with all deadlines kept on executor 0, or None."""
    executor, requests, n = problem.executors[0], problem.requests, len(order)
    f, back = np.empty(n + 1), np.zeros(n + 1, dtype=np.int64)
    fast(loops.ordered_late, n * executor.max_batch * times)(
        requests.prompt_tokens[order],
        requests.output_tokens[order],
        requests.deadline_s[order],
        coefficients(problem.time, 1.0, executor.speed, 0.0),
        executor.kv_tokens,
        executor.max_batch,
        float(requests.arrival_s.max(initial=0.0)),
        f,
        back,
    )
    if not np.isfinite(f[n]):
        return None
    sizes = np.empty(n, dtype=np.int64)
    first = fast(loops.unwind, n)(back, sizes)
    return np.split(order, np.cumsum(sizes[first:])[:-1])


def deadline_blocks(problem: BatchingProblem, blocks: int, urgent: float = 1.0) -> IntArray:
    """Return the rows by deadline in `blocks` of alike deadlines, by output and prompt within each.

    Only the `urgent` share with the earliest deadlines is blocked; the others follow in one band order.
    """
    requests, n = problem.requests, problem.num_requests
    by_deadline = np.argsort(requests.deadline_s, kind="stable").astype(np.int64)
    first = by_deadline[: max(1, round(urgent * n))]
    block = np.arange(len(first)) * blocks // len(first)
    head = first[np.lexsort((requests.prompt_tokens[first], requests.output_tokens[first], block))]
    rest = by_deadline[len(first) :]
    if not len(rest):
        return head
    bands = Bands(requests.prompt_tokens[rest], requests.output_tokens[rest])
    count = max(1, round(1.4 * (len(rest) / int(problem.max_batch.max())) ** 0.5))
    return np.concatenate([head, rest[bands.order(count, 0.5)]])
