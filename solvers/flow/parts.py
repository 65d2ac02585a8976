"""Parts of problems and of budgets: regions are planned alone, each with its share of the time and work."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.limits import Budget


def part_of(budget: Budget, share: float) -> Budget:
    """Return a budget of a share of the time and work that are left, cancelled with the whole."""
    limits = budget.limits
    time_s = None if limits.time_limit_s is None else max(budget.remaining_s, 0.0) * share
    work = None if limits.work_limit is None else max(int((limits.work_limit - budget.work) * share), 1)
    return Budget(dataclasses.replace(limits, time_limit_s=time_s, work_limit=work, on_progress=None))


@contextlib.contextmanager
def share_of(budget: Budget, share: float) -> Iterator[Budget]:
    """Give a part of a budget for a block of code; the work done there counts for the whole."""
    part = part_of(budget, share)
    try:
        yield part
    finally:
        budget.spend(part.work)


def restricted(problem: FlowProblem, nodes: Sequence[int]) -> FlowProblem:
    """Return the problem with some of its nodes only."""
    at = np.array(nodes, dtype=np.int64)
    return dataclasses.replace(
        problem,
        node_names=tuple(problem.node_names[node] for node in nodes),
        node_kinds=problem.node_kinds[at],
        link_tokens_per_s=problem.link_tokens_per_s[np.ix_(at, at)],
        source_tokens_per_s=problem.source_tokens_per_s[at],
        sink_tokens_per_s=problem.sink_tokens_per_s[at],
    )
