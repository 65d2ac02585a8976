"""Parameters of an engine that batches by iteration, and what an iteration takes.

An iteration of continuous batching gives every decoding sequence one token and spends the rest of its token budget on
prompts (chunked prefill). With n sequences decoding over c tokens of context each and p prompt tokens it takes

    step(n, c, p) = (fixed + step_s_per_sequence·n + step_s_per_context_token·n·c + prefill_s_per_token·p) / speed   s,

fixed = step_fixed for p = 0, prefill_fixed for n = 0 and the larger of the two for a mixed pass, which reads the
weights once. At p = 0 it is the decode step of the static batch time, at n = 0 its prefill.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gpuplan.profiles.problems.batching import BatchTime

QueueOrder = Literal["fcfs", "shortest-first", "deadline", "weight"]


def iteration_s(
    time: BatchTime, sequences: int, context_tokens: float, prompt_tokens: int, speed: float = 1.0
) -> float:
    """Return what one iteration takes, s.

    Parameters
    ----------
    sequences
        Decoding sequences n.
    context_tokens
        Tokens they attend to in all, n·c.
    prompt_tokens
        Prompt tokens p that are prefilled beside them.
    """
    fixed = max(
        time.step_fixed_s if sequences else 0.0,
        time.prefill_fixed_s if prompt_tokens else 0.0,
    )
    decode = time.step_s_per_sequence * sequences + time.step_s_per_context_token * context_tokens
    return (fixed + decode + time.prefill_s_per_token * prompt_tokens) / speed


@dataclass(frozen=True, slots=True)
class IterationParameters:
    """What a continuous-batching engine is to be started with, and the numbers it rests on.

    Parameters
    ----------
    max_sequences
        Most requests in an iteration.
    token_budget
        Most tokens in an iteration: one for each decoding sequence, the rest for prompts.
    admission_limit
        Most requests whose full lengths fit the KV cache with probability 1 − ε at least.
    queue_order
        In which order waiting requests are admitted.
    longest_tokens
        Tokens of the longest request, prompt and output.
    kv_capacity_tokens
        KV tokens K of the executor.
    tpot_s, epsilon
        The targets: time of an iteration at most, s, and probability of overflow at most.
    context_tokens
        Tokens that `max_sequences` sequences attend to in all, as the budget was set.
    iteration_s, decode_s
        Time of the fullest iteration, and of one without prompts, s.
    overflow_probability, overflow_method
        P(Σ(s+O) > K) for `max_sequences` requests, and how it was found.
    limits
        What each condition alone allows of sequences: ``executor``, ``tpot``, ``kv``, ``prefill`` (the budget left
        over keeps up with the prompts that come in as sequences end).
    order_values
        The objective under each queue order.
    time, speed
        The time model it was computed with.
    notes
        Sentences for a person.
    """

    max_sequences: int
    token_budget: int
    admission_limit: int
    queue_order: QueueOrder
    longest_tokens: int
    kv_capacity_tokens: int
    tpot_s: float
    epsilon: float
    context_tokens: float
    iteration_s: float
    decode_s: float
    overflow_probability: float
    overflow_method: str
    limits: Mapping[str, int]
    order_values: Mapping[str, float]
    time: BatchTime
    speed: float = 1.0
    notes: tuple[str, ...] = ()

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens that fit an iteration in which `max_sequences` decode."""
        return self.token_budget - self.max_sequences

    def iteration_with(self, token_budget: int) -> float:
        """Return what the fullest iteration of another budget takes, s."""
        prompts = token_budget - self.max_sequences
        return iteration_s(self.time, self.max_sequences, self.context_tokens, prompts, self.speed)

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as a document of plain values."""
        document = dataclasses.asdict(self)
        document["limits"], document["order_values"] = dict(self.limits), dict(self.order_values)
        document["notes"] = list(self.notes)
        document["prompt_tokens_beside"] = self.prompt_tokens
        return document
