"""From batches to executors and orders: list scheduling by LPT (longest first), Smith's ratio or deadline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from gpuplan.profiles.problems.batching import BatchingProblem, FloatArray, IntArray
from gpuplan.solvers.batching.sequence import segment_max

Rule = Literal["longest", "smith", "deadline", "given"]
Groups = list[list[IntArray]]


def assign(problem: BatchingProblem, batches: Sequence[IntArray], rule: Rule) -> Groups | None:
    """Return ordered groups by executor: each batch in turn where it finishes first; None if one fits no executor.

    ``longest`` is LPT (within 4/3 of the least makespan on equal executors), ``smith`` time/weight rising (least
    Σ w·C of given batches on one executor with equal arrivals), ``deadline`` the earliest deadline first.
    """
    groups: Groups = [[] for _ in problem.executors]
    if not len(batches):
        return groups
    sizes = np.array([len(batch) for batch in batches], dtype=np.int64)
    rows = np.concatenate(list(batches))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    requests = problem.requests
    prompt = segment_max(requests.prompt_tokens[rows], offsets)
    output = segment_max(requests.output_tokens[rows], offsets)
    release = segment_max(requests.arrival_s[rows], offsets)
    took = _times(problem, sizes, prompt, output)
    if not np.isfinite(took.min(axis=0)).all():
        return None
    weight = np.add.reduceat(requests.weight[rows], offsets[:-1])
    due = -segment_max(-requests.deadline_s[rows], offsets)
    order = _order(rule, took.min(axis=0), weight, due, release)
    free = np.zeros(problem.num_executors)
    if problem.num_executors == 1:
        return [[batches[m] for m in order.tolist()]]
    for m in order.tolist():
        finish = np.maximum(free, release[m]) + took[:, m]
        e = int(np.argmin(finish))
        free[e] = finish[e]
        groups[e].append(batches[m])
    return groups


def _times(problem: BatchingProblem, sizes: IntArray, prompt: IntArray, output: IntArray) -> FloatArray:
    """Return the time of each batch on each executor, inf where it does not fit, shape (E, M)."""
    rows = []
    for executor in problem.executors:
        fits = (sizes <= executor.max_batch) & (sizes * (prompt + output) <= executor.kv_tokens)
        rows.append(np.where(fits, problem.time.batch_s(sizes, prompt, output, executor.speed), np.inf))
    return np.array(rows)


def _order(rule: Rule, took: FloatArray, weight: FloatArray, due: FloatArray, release: FloatArray) -> IntArray:
    if rule == "given":
        return np.arange(len(took))
    if rule == "longest":
        return np.asarray(np.lexsort((-took, release)))
    if rule == "deadline":
        return np.asarray(np.lexsort((took, due)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(weight > 0.0, took / weight, np.inf)
    return np.asarray(np.lexsort((ratio, release)))
