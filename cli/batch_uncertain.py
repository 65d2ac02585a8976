"""Predicted lengths on the command line: reading them, and plans that keep the KV chance constraint."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from gpuplan.cli.batch_options import BatchOptions
from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from gpuplan.cli.batch_inputs import BatchQuestion
    from gpuplan.cli.options import SearchOptions
    from gpuplan.cli.output import Output
    from gpuplan.cli.solving import Search
    from gpuplan.profiles.lengths import Buckets, Lengths
    from gpuplan.solvers.batching.uncertain.plan import UncertainPlan


def parse_buckets(text: str | None) -> Buckets:
    """Return ``8,16,32`` as buckets; UELLM's without a text."""
    from gpuplan.profiles.lengths import UELLM_BUCKETS, Buckets

    if text is None:
        return UELLM_BUCKETS
    try:
        return Buckets(tuple(int(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f"--buckets: expected rising edges such as 8,16,32, got {text!r}") from None


def read_lengths(batch: BatchOptions, ids: Any) -> Lengths:
    """Return the predicted lengths of the requests `ids`."""
    from gpuplan.profiles.predictions import load_predictions

    assert batch.predictions is not None
    predictions = load_predictions(batch.predictions, buckets=parse_buckets(batch.buckets), limit=batch.output_limit)
    return predictions.of(ids)


def run_uncertain(
    question: BatchQuestion,
    policy: str,
    batch: BatchOptions,
    search: SearchOptions,
    options: dict[str, Any],
    output: Output,
) -> tuple[BatchQuestion, Search]:
    """Plan under ``--epsilon``; say what overflow and padding to expect. The question returned is the one answered."""
    from gpuplan.cli.interrupt import Interrupt
    from gpuplan.cli.solving import Search
    from gpuplan.solvers.batching.answer import answer
    from gpuplan.solvers.batching.uncertain.plan import plan_uncertain
    from gpuplan.solvers.limits import Limits

    if batch.predictions is None:
        raise UsageError("--epsilon bounds how often predicted lengths overflow; name them with --predictions FILE")
    assert batch.epsilon is not None
    lengths = read_lengths(batch, question.problem.requests.id)
    started = time.perf_counter()
    with Interrupt() as interrupt:
        limits = Limits(
            search.time_limit,
            search.work_limit,
            search.threads,
            interrupt,
            memory_limit_bytes=search.memory_limit,
        )
        plan = plan_uncertain(
            question.problem,
            lengths,
            epsilon=batch.epsilon,
            solver=policy,
            limits=limits,
            seed=search.seed,
            **options,
        )
    for line in expectation_lines(plan, batch.epsilon):
        output.note(line)
    result = answer(plan.problem, plan.solution, solver=plan.name, started=started, seed=search.seed)
    provenance = {**question.provenance, "predictions_level": plan.level, "epsilon": batch.epsilon}
    answered = dataclasses.replace(question, problem=plan.problem, provenance=provenance)
    return answered, Search(result, interrupted=interrupt.requested, options=search)


def expectation_lines(plan: UncertainPlan, epsilon: float) -> tuple[str, ...]:
    """Return what is to be expected of a plan, as sentences."""
    expected = plan.expected
    error = "" if expected.exact else f" ± {expected.standard_error:.3g} ({expected.draws} draws)"
    methods = ", ".join(sorted({item.method for item in plan.overflow}))
    return (
        f"outputs planned at their {plan.level * 100:g} % quantile; expected objective {expected.total:.6g} s{error}",
        f"KV overflow: at most {plan.worst_overflow:.2g} in a batch (allowed {epsilon:g}; {methods}), "
        f"{plan.expected_overflows:.2g} batches of {plan.solution.num_batches} in all",
        f"expected padding {plan.expected_padding_tokens:,.0f} tokens",
    )
