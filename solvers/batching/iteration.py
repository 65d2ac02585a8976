"""Parameters of continuous-batching engines from requests, an executor and its batch time.

* ``admission``: the most requests whose full lengths outgrow the KV cache with probability ε at most.
* ``max sequences`` n: the most that the executor, the TPOT target (a decode step in time), admission and prefill allow.
  Prefill: sequences end every ō steps, so n of them bring n·s̄/ō prompt tokens a step, and the budget must hold those.
* ``token budget`` T: the most tokens whose iteration stays within the TPOT target, however many of the n sequences
  decode. Found in closed form, then checked: T holds and T + 1 does not.
* ``queue order``: the best of a few for the objective.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from gpuplan.errors import InfeasibleError, UsageError
from gpuplan.plans.iteration import IterationParameters, QueueOrder, iteration_s
from gpuplan.profiles.lengths import Lengths
from gpuplan.profiles.problems.batching import BatchObjective, BatchTime, Executor, FloatArray, Requests
from gpuplan.solvers.batching.queue_order import best_order, order_values
from gpuplan.solvers.batching.uncertain.admission import Admission, Footprint, admission_limit

Context = Literal["mean", "full"]


def iteration_parameters(
    requests: Requests,
    executor: Executor,
    time: BatchTime,
    *,
    tpot_s: float,
    epsilon: float = 0.01,
    lengths: Lengths | None = None,
    objective: BatchObjective | None = None,
    context: Context = "mean",
    footprint: Footprint = "final",
    queue_order: QueueOrder | None = None,
    most_tokens: int | None = None,
) -> IterationParameters:
    """Return the parameters to start an engine with.

    Parameters
    ----------
    requests
        The workload: its prompts, outputs, arrivals, deadlines and weights.
    executor, time
        What serves it; `executor.max_batch` is the most sequences the engine may run.
    tpot_s
        Time of an iteration at most, s.
    epsilon
        Probability of KV overflow at most.
    lengths
        Predicted outputs; by default those of the table as they are.
    context
        ``mean``: what a running sequence attends to on average (each step of each request equally likely).
        ``full``: the whole KV cache is read in every iteration, the worst case.
    footprint
        What requests hold when admission is decided: see `admission`.
    queue_order
        Instead of the best one.
    most_tokens
        Tokens of an iteration at most whatever the target, such as those whose activations there is room for.

    Raises
    ------
    UsageError
        A target that is no time or probability, or no requests.
    InfeasibleError
        One sequence alone misses the TPOT target, or overflows the KV cache more often than ε.
    """
    lengths = Lengths.of_points(requests.output_tokens) if lengths is None else lengths
    _check(requests, lengths, tpot_s, most_tokens)
    budget = _Budget(time, executor, tpot_s, mean_context(requests, lengths), context, most_tokens)
    admission = admission_limit(
        requests.prompt_tokens, lengths, executor.kv_tokens, epsilon, footprint=footprint, most=_most(executor)
    )
    most = executor.max_batch
    limits = {"executor": most, "tpot": budget.most_sequences(most), "kv": admission.limit}
    _check_possible(limits, budget, epsilon)
    notes: list[str] = []
    n = _sustained(requests, lengths, budget, limits, notes)
    tokens = budget.tokens(n)
    if tokens == n:
        notes.append("no prompt token fits beside a full batch: prompts wait until fewer sequences decode")
    values = _order_values(requests, lengths, budget, n, objective or BatchObjective())
    return IterationParameters(
        max_sequences=n,
        token_budget=tokens,
        admission_limit=admission.limit,
        queue_order=queue_order or best_order(values),
        longest_tokens=int((requests.prompt_tokens + lengths.most()).max()),
        kv_capacity_tokens=executor.kv_tokens,
        tpot_s=tpot_s,
        epsilon=epsilon,
        context_tokens=budget.context(n),
        iteration_s=budget.seconds(n, tokens - n),
        decode_s=budget.seconds(n, 0),
        overflow_probability=_overflow(requests, lengths, executor, n, epsilon, footprint, admission),
        overflow_method=admission.method,
        limits=limits,
        order_values={str(name): value for name, value in values.items()},
        time=time,
        speed=executor.speed,
        notes=tuple(notes),
    )


def _sustained(requests: Requests, lengths: Lengths, budget: _Budget, limits: dict[str, int], notes: list[str]) -> int:
    """Return the most sequences within all limits, adding that of prefill; a note where prefill cannot keep up."""
    most = min(limits.values())
    per_step = float(requests.prompt_tokens.mean()) / max(float(lengths.mean().mean()), 1.0)
    limits["prefill"] = budget.most_sustained(most, per_step)
    if limits["prefill"] == 0:
        notes.append(
            f"each sequence brings {per_step:.3g} prompt tokens a step, which do not fit within the TPOT target at any "
            "batch: prompts will queue"
        )
    return limits["prefill"] or most


def mean_context(requests: Requests, lengths: Lengths) -> float:
    """Return the context of a running sequence at a random step: E[Σ_{k=1..O}(s + k)] / E[O], tokens.

    Outputs of no token count as one: the prefill that yields it.
    """
    outputs = np.maximum(lengths.mean(), 1.0)
    squares = lengths.variance() + lengths.mean() ** 2
    seen = requests.prompt_tokens * outputs + (squares + outputs) / 2.0
    return float(seen.sum() / outputs.sum())


class _Budget:
    """Iterations of one executor under a TPOT target."""

    def __init__(
        self,
        time: BatchTime,
        executor: Executor,
        tpot_s: float,
        mean: float,
        context: Context,
        most_tokens: int | None,
    ) -> None:
        self.time, self.executor, self.tpot_s = time, executor, tpot_s
        self.mean, self.kind = mean, context
        self.most_tokens = 2**62 if most_tokens is None else most_tokens

    def context(self, sequences: int) -> float:
        """Return what `sequences` attend to in all, never more than the KV cache holds."""
        whole = float(self.executor.kv_tokens)
        return whole if self.kind == "full" else min(sequences * self.mean, whole)

    def seconds(self, sequences: int, prompts: int) -> float:
        return iteration_s(self.time, sequences, self.context(sequences), prompts, self.executor.speed)

    def holds(self, sequences: int, prompts: int) -> bool:
        return self.seconds(sequences, prompts) <= self.tpot_s

    def most_sequences(self, most: int) -> int:
        """Return the most sequences whose decode step is in time, and whose budget has a token for each, by halving."""
        return _last(0, most, lambda n: n == 0 or (self.holds(n, 0) and self.tokens(n) >= n))

    def most_sustained(self, most: int, per_step: float) -> int:
        """Return the most sequences whose prompts, `per_step` tokens each a step, fit beside them."""
        return _last(0, most, lambda n: n == 0 or self.tokens(n) - n >= n * per_step)

    def tokens(self, sequences: int) -> int:
        """Return the most tokens of an iteration, however many of the `sequences` decode (at least one).

        The time of T tokens, m of them decoding, is concave in m: it is largest for one, for all, or where the context
        reaches the whole cache.
        """
        kink = self.executor.kv_tokens / self.mean
        decoding = {m for m in (1, sequences, math.floor(kink), math.ceil(kink)) if 1 <= m <= sequences}
        return min(self.most_tokens, *(m + self._prompts(m) for m in decoding))

    def _prompts(self, sequences: int) -> int:
        """Return the most prompt tokens p ≥ 0 with step(n, c, p) ≤ TPOT, no more than the cache holds."""
        whole = self.executor.kv_tokens
        if not self.holds(sequences, min(1, whole)):
            return 0
        rate = self.time.prefill_s_per_token
        if rate == 0.0:
            return whole
        spare = (self.tpot_s - self.seconds(sequences, 1)) * self.executor.speed / rate
        guess = min(1 + math.floor(min(spare, float(whole))), whole)
        # Division rounds: settle it by asking.
        while guess > 1 and not self.holds(sequences, guess):
            guess -= 1
        while guess < whole and self.holds(sequences, guess + 1):
            guess += 1
        return guess


def _last(low: int, high: int, holds: object) -> int:
    """Return the largest number in low..high that holds, of numbers that hold up to some point; `low` holds."""
    assert callable(holds)
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _most(executor: Executor) -> int:
    """Return how many requests admission looks at: well beyond what the engine may run."""
    return min(max(4 * executor.max_batch, 4096), 1 << 16)


def _check(requests: Requests, lengths: Lengths, tpot_s: float, most_tokens: int | None) -> None:
    if most_tokens is not None and most_tokens < 1:
        raise UsageError(f"expected at least one token an iteration, got {most_tokens}")
    if not (math.isfinite(tpot_s) and tpot_s > 0.0):
        raise UsageError(f"expected a TPOT target above 0 s, got {tpot_s}")
    if not len(requests):
        raise UsageError("expected at least one request to take lengths from, got none")
    if len(lengths) != len(requests):
        raise UsageError(f"expected lengths of {len(requests)} requests, got {len(lengths)}")


def _check_possible(limits: dict[str, int], budget: _Budget, epsilon: float) -> None:
    if limits["tpot"] == 0:
        raise InfeasibleError(
            f"a decode step of one sequence takes {budget.seconds(1, 0):.4g} s, over the TPOT target of "
            f"{budget.tpot_s:g} s; allow {budget.seconds(1, 0):.4g} s, or use faster devices"
        )
    if limits["kv"] == 0:
        raise InfeasibleError(
            f"a single request outgrows the KV cache of {budget.executor.kv_tokens} tokens more often than "
            f"{epsilon:g}; allow a larger share, or give the cache more room"
        )


def _overflow(
    requests: Requests,
    lengths: Lengths,
    executor: Executor,
    sequences: int,
    epsilon: float,
    footprint: Footprint,
    admission: Admission,
) -> float:
    if sequences == admission.limit:
        return admission.probability
    return admission_limit(
        requests.prompt_tokens, lengths, executor.kv_tokens, epsilon, footprint=footprint, most=sequences
    ).probability


def _order_values(
    requests: Requests, lengths: Lengths, budget: _Budget, sequences: int, objective: BatchObjective
) -> dict[QueueOrder, float]:
    beside = max(budget.tokens(sequences) - sequences, 1)
    step = budget.seconds(sequences, beside)
    service: FloatArray = (lengths.mean() + sequences * requests.prompt_tokens / beside) * step
    return order_values(requests, service, sequences, objective)
