"""Problems whose objective is a sum of batch costs, whatever the order: the ground the exact methods stand on.

One executor, equal arrivals a, no weight on latency and no deadline that counts: max C = a + Σ P, so

    objective = constant + Σ_batches cost(b, S, O),    constant = makespan·a − padding·Σ(s+o),
    cost(b, S, O) = k0 + k1·b·S + (O−1)(k2 + k3·b) + k4·b·(O−1)(S + O/2) + k5·b·(S+O),

k0..k4 the time coefficients times makespan/speed, k5 = padding. `cost` never falls when b, S or O grows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.batching import BatchingProblem, BatchTime, FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Additive:
    """A problem as a sum of batch costs on one executor.

    Parameters
    ----------
    prompt, output
        Tokens by request, shape (N,).
    k
        The six coefficients of `cost`, shape (6,).
    capacity, limit
        KV capacity, tokens, and largest batch.
    constant
        What the objective adds to the sum of costs, s.
    """

    prompt: IntArray
    output: IntArray
    k: FloatArray
    capacity: int
    limit: int
    constant: float

    def cost(self, size: IntArray, prompt: IntArray, output: IntArray) -> FloatArray:
        """Return the cost of batches, s; arguments broadcast."""
        b, S, O = (np.asarray(x, dtype=np.float64) for x in (size, prompt, output))  # noqa: E741
        steps, k = np.maximum(O - 1.0, 0.0), self.k
        total = k[0] + k[1] * b * S + steps * (k[2] + k[3] * b) + k[4] * b * steps * (S + 0.5 * O) + k[5] * b * (S + O)
        return np.asarray(total, dtype=np.float64)

    def room(self, tokens: IntArray) -> IntArray:
        """Return how many requests padded to S+O = `tokens` fit one batch."""
        return np.asarray(np.minimum(self.capacity // np.maximum(tokens, 1), self.limit))


def coefficients(time: BatchTime, makespan: float, speed: float, padding: float) -> FloatArray:
    """Return k of `cost` for weights of time and padding."""
    per_s = makespan / speed
    times = (
        time.prefill_fixed_s,
        time.prefill_s_per_token,
        time.step_fixed_s,
        time.step_s_per_sequence,
        time.step_s_per_context_token,
    )
    return np.array([per_s * t for t in times] + [padding], dtype=np.float64)


def deadlines_count(problem: BatchingProblem) -> bool:
    """Whether some deadline is a constraint or has a price."""
    if not np.isfinite(problem.requests.deadline_s).any():
        return False
    return problem.objective.deadlines == "hard" or problem.objective.violation > 0.0


def equal_arrivals(problem: BatchingProblem) -> bool:
    """Whether all requests arrive at one time."""
    arrival = problem.requests.arrival_s
    return len(arrival) == 0 or bool((arrival == arrival[0]).all())


def why_not_additive(problem: BatchingProblem, *, deadlines: bool = False) -> str | None:
    """Return why the objective is no sum of batch costs, in words a sentence can go on with; None when it is.

    `deadlines` says whether deadlines that count are allowed all the same.
    """
    if problem.num_executors != 1:
        return f"it plans one executor, and there are {problem.num_executors}"
    if problem.objective.latency > 0.0:
        return "the objective weighs latency, which depends on the order of batches"
    if not deadlines and deadlines_count(problem):
        return "requests have deadlines that count"
    if problem.objective.makespan > 0.0 and not equal_arrivals(problem):
        return "requests arrive at different times"
    return None


def additive(problem: BatchingProblem) -> Additive:
    """Return the sum form; the caller has asked `why_not_additive`."""
    executor, goal, requests = problem.executors[0], problem.objective, problem.requests
    arrival = float(requests.arrival_s.max(initial=0.0))
    tokens = float(int(requests.prompt_tokens.sum()) + int(requests.output_tokens.sum()))
    return Additive(
        prompt=requests.prompt_tokens,
        output=requests.output_tokens,
        k=coefficients(problem.time, goal.makespan, executor.speed, goal.padding),
        capacity=executor.kv_tokens,
        limit=executor.max_batch,
        constant=goal.makespan * arrival - goal.padding * tokens,
    )
