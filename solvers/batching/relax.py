"""`--relax-deadlines`: from hard deadlines to the plan with the fewest violations."""

from __future__ import annotations

import dataclasses
import math

from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.batching.policies.dispatch import serve
from gpuplan.solvers.batching.policies.ordered import OrderedQueue, by_keys
from gpuplan.solvers.batching.sequence import evaluate, schedule_flat


def relaxed(problem: BatchingProblem) -> BatchingProblem:
    """Return `problem` with soft deadlines whose violations outweigh everything else.

    One violation of the lightest request with a weight costs at least ten times what serving in order of arrival costs
    in latency, makespan and padding together, as a power of ten.
    """
    soft = dataclasses.replace(problem.objective, deadlines="soft", violation=0.0)
    plain = problem.replace(objective=soft)
    plan = schedule_flat(plain, *serve(plain, OrderedQueue(plain, by_keys(plain))))
    weights = problem.requests.weight[problem.requests.weight > 0.0]
    lightest = float(weights.min(initial=1.0)) if len(weights) else 1.0
    rest = max(evaluate(plain, plan).total / lightest, 1.0)
    violation = max(problem.objective.violation, 10.0 ** (1 + math.ceil(math.log10(rest))))
    return problem.replace(objective=dataclasses.replace(soft, violation=violation))
