"""What a batch plan is worth on average when outputs are uncertain.

A batch of b requests runs until its longest output M = max O_i (or its cap c, if it has one). With independent outputs
P(M ≤ x) = Π P(O_i ≤ x), so the expected time E P(b, S, M) and the expected padding b·(S + E M) − Σ(s + E O) are exact
sums. Finish times are sums of batch times as long as no batch waits for an arrival; then expected latencies are exact
too. Deadlines, several executors' makespan and waits for arrivals are averaged over draws, with a standard error.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import numpy as np

from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.lengths import Lengths
from gpuplan.profiles.problems.batching import BatchingProblem, BatchTime, FloatArray, IntArray, Requests
from gpuplan.solvers.batching.sequence import Terms, evaluate, run_in_order, schedule_flat, segment_max

#: KV tokens of an executor whose memory is not asked about.
_ROOMY: Final = float(2**61)


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected objective by term, and how far off an average of draws may be.

    Parameters
    ----------
    terms
        Expected latency, makespan, padding and violation terms, s.
    standard_error
        Of the total, s; 0 when everything is exact.
    draws
        Draws averaged over, 0 when everything is exact.
    """

    terms: Terms
    standard_error: float = 0.0
    draws: int = 0

    @property
    def total(self) -> float:
        """The expected objective, s."""
        return self.terms.total

    @property
    def exact(self) -> bool:
        """Whether no draws were needed."""
        return self.draws == 0


def longest_output(lengths: Lengths) -> tuple[IntArray, FloatArray]:
    """Return the possible values of max O_i and their probabilities.

    >>> tokens, probability = longest_output(Lengths.of_rows([[1, 3], [2, 3]]))
    >>> tokens.tolist(), probability.tolist()
    ([2, 3], [0.25, 0.75])
    """
    tokens = np.unique(lengths.tokens[lengths.tokens >= lengths.least().max()])
    within = np.ones(len(tokens))
    for i in range(len(lengths)):
        own, mass = lengths.row(i)
        below = np.concatenate([[0.0], np.cumsum(mass)[:-1], [1.0]])
        within *= below[np.searchsorted(own, tokens, side="right")]
    probability = np.diff(within, prepend=0.0)
    kept = probability > 0.0
    return tokens[kept], probability[kept]


def expected_time_s(
    time: BatchTime, prompt: IntArray, lengths: Lengths, speed: float = 1.0, cap: int | None = None
) -> float:
    """Return the expected time of one batch, s; outputs stop at `cap`."""
    tokens, probability = longest_output(lengths if cap is None else lengths.capped(cap))
    return float(probability @ time.batch_s(len(prompt), int(prompt.max()), tokens, speed))


def expected_padding_tokens(prompt: IntArray, lengths: Lengths) -> float:
    """Return b·(S + E max O) − Σ(s + E O) of one batch."""
    tokens, probability = longest_output(lengths)
    padded = len(prompt) * (float(prompt.max()) + float(probability @ tokens))
    return padded - float(prompt.sum()) - float(lengths.mean().sum())


def expected_terms(
    problem: BatchingProblem, lengths: Lengths, solution: BatchSolution, *, draws: int = 200, seed: int = 0
) -> Expected:
    """Return what `solution` costs on average when outputs follow `lengths`.

    Batches keep their requests, executor and order; each starts at its last arrival or the end of the batch before it.

    Parameters
    ----------
    draws, seed
        For the terms that are averaged.
    """
    goal = problem.objective
    took, padding = _batch_means(problem, lengths, solution)
    dated = goal.violation > 0.0 and bool(np.isfinite(problem.requests.deadline_s).any())
    joint = goal.makespan > 0.0 and problem.num_executors > 1
    if not dated and not joint and not _waits(problem, lengths, solution):
        release = segment_max(problem.requests.arrival_s[solution.rows], solution.offsets)
        _, finish = run_in_order(solution.executor, release, took)
        late = finish[solution.batch_of_request()] - problem.requests.arrival_s
        terms = Terms(
            goal.latency * float(np.sum(problem.requests.weight * late)),
            goal.makespan * float(finish.max(initial=0.0)),
            goal.padding * padding,
            0.0,
        )
        return Expected(terms)
    return _averaged(problem, lengths, solution, goal.padding * padding, draws, seed)


def with_outputs(problem: BatchingProblem, output_tokens: IntArray) -> BatchingProblem:
    """Return the problem with other outputs and no limit on KV (a plan made before may not fit them)."""
    requests = problem.requests
    changed = Requests(
        requests.id,
        requests.prompt_tokens,
        output_tokens,
        requests.arrival_s,
        requests.deadline_s,
        requests.weight,
    )
    # A longer output than any cache holds is an overflow to report, not a defect of the input.
    roomy = tuple(dataclasses.replace(executor, kv_capacity_tokens=_ROOMY) for executor in problem.executors)
    return problem.replace(requests=changed, executors=roomy)


def _batch_means(problem: BatchingProblem, lengths: Lengths, solution: BatchSolution) -> tuple[FloatArray, float]:
    """Return the expected time of each batch, s, and the expected padding of all, tokens."""
    took: FloatArray = np.empty(solution.num_batches)
    padding = 0.0
    prompts = problem.requests.prompt_tokens
    for m, batch in enumerate(solution):
        own = lengths.take(batch.requests)
        prompt = prompts[batch.requests]
        tokens, probability = longest_output(own)
        speed = problem.executors[batch.executor].speed
        took[m] = probability @ problem.time.batch_s(len(prompt), int(prompt.max()), tokens, speed)
        padded = len(prompt) * (float(prompt.max()) + float(probability @ tokens))
        padding += padded - float(prompt.sum()) - float(own.mean().sum())
    return took, padding


def _waits(problem: BatchingProblem, lengths: Lengths, solution: BatchSolution) -> bool:
    """Whether some batch but the first of its executor may wait for an arrival: it does with the shortest outputs."""
    shortest = schedule_flat(with_outputs(problem, lengths.least()), solution.executor, solution.offsets, solution.rows)
    first = np.ones(solution.num_batches, dtype=bool)
    first[1:] = np.diff(shortest.executor) != 0
    follows = ~first
    before = np.concatenate([[0.0], shortest.finish_s[:-1]])
    return bool((shortest.start_s[follows] > before[follows]).any())


def _averaged(
    problem: BatchingProblem, lengths: Lengths, solution: BatchSolution, padding: float, draws: int, seed: int
) -> Expected:
    values = np.empty((draws, 4))
    for d in range(draws):
        actual = with_outputs(problem, lengths.sample(1, seed * 1_000_003 + d)[0])
        plan = schedule_flat(actual, solution.executor, solution.offsets, solution.rows)
        terms = evaluate(actual, plan)
        values[d] = terms.latency, terms.makespan, padding, terms.violation
    mean = values.mean(axis=0).tolist()
    spread = float(values.sum(axis=1).std(ddof=1)) if draws > 1 else float("inf")
    return Expected(Terms(*mean), spread / draws**0.5, draws)
