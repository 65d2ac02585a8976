"""Batching solutions and batch plans against their problem: every request, limit, time and value, recomputed.

Own arithmetic from the formulas of the file format; nothing of any solver, nor of the code that made the plan.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import InputError
from gpuplan.plans.batch_checks import check_batches_document
from gpuplan.plans.canonical import digest
from gpuplan.plans.verify.answers import Answer, check_single_bound, verify_answer
from gpuplan.plans.verify.findings import RELATIVE_TOLERANCE, Ledger, Verification, show

if TYPE_CHECKING:
    from gpuplan.profiles.problems.batching import BatchingProblem

SOLUTION_SCHEMA: Final = "gpuplan/batching-solution/1"
PLAN_SCHEMA: Final = "gpuplan/batch-plan/1"
#: A finish this much after a deadline, s, is on time (part of the objective's formula).
ON_TIME_S: Final = 1e-9
_SHOWN: Final = 3

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def verify_batching_solution(solution: Answer, problem: BatchingProblem) -> Verification:
    """Recompute a `gpuplan/batching-solution/1` document, or its file, against the problem it claims to answer.

    Returns
    -------
    Verification
        Not ok for a request in no batch or in two, a batch over its executor's KV or size, padded to other lengths,
        begun before its last arrival or the end of the batch before it, or of another duration; for a hard deadline
        missed, an `unmet` list that differs, an objective or term off by more than 1e-6 relative, a bound above the
        objective, a gap that does not follow.

    Raises
    ------
    InputError
        The document does not follow its schema.
    """

    def check(ledger: Ledger, document: Mapping[str, Any]) -> None:
        run = _check_batches(ledger, document["batches"], problem)
        if run is not None:
            _check_answer(ledger, document, document["unmet"], run, problem, "$")

    keys = ("objective", "batches", "unmet")
    return verify_answer(solution, SOLUTION_SCHEMA, check, keys=keys, follows=check_batches_document)


def verify_batch_plan(
    plan: Mapping[str, Any] | str | os.PathLike[str], problem: BatchingProblem | None = None
) -> Verification:
    """Recompute a `gpuplan/batch-plan/1` document from the problem it embeds.

    Parameters
    ----------
    plan
        The document, or the path of its file (JSON or Parquet).
    problem
        The problem, for a plan that holds the digest of its requests only.

    Returns
    -------
    Verification
        As for a solution, and not ok when the digest, executors, positions or any metric differ.

    Raises
    ------
    InputError
        The document does not follow its schema, or its requests are not at hand.
    """
    from gpuplan.plans.batch_plan import embedded_problem, read_batch_document

    source = None if isinstance(plan, Mapping) else os.fspath(plan)
    document = plan if isinstance(plan, Mapping) else read_batch_document(plan)
    check_batches_document(document, PLAN_SCHEMA, source=source)
    ledger = Ledger()
    asked = embedded_problem(document, problem, source)
    _check_inputs(ledger, document, asked)
    run = _check_batches(ledger, document["batches"], asked)
    if run is not None:
        _check_positions(ledger, document["batches"])
        _check_answer(ledger, document["result"], document["unmet"], run, asked, "$.result")
        _check_metrics(ledger, document, run, asked, source)
    return ledger.verdict()


@dataclass(frozen=True, slots=True)
class _Run:
    """The batches by column, and what follows for each request by row of the problem."""

    size: Ints
    prompt: Ints
    output: Ints
    start_s: Floats
    finish_s: Floats
    prefill_s: Floats
    owner: Ints

    def done_s(self) -> Floats:
        """Return when each request is finished, s."""
        return self.finish_s[self.owner]

    def padded_tokens(self) -> int:
        """Return Σ b·(S+O)."""
        return int((self.size * (self.prompt + self.output)).sum())


def _check_inputs(ledger: Ledger, document: Mapping[str, Any], problem: BatchingProblem) -> None:
    inner = document["inputs"]["problem"]
    requests = inner.get("requests")
    if requests is None:
        from gpuplan.plans.batch_plan import problem_settings, requests_digest

        own = requests_digest(problem.requests)
        for key, ours in problem_settings(problem).items():
            if inner.get(key) != ours:
                ledger.add(f"$.inputs.problem.{key}", "differs from the problem the plan is verified against")
    else:
        own = digest(requests)
    ledger.same("$.requests.digest", document["requests"]["digest"], own)
    ledger.same("$.requests.num_requests", document["requests"]["num_requests"], problem.num_requests)
    said = [{"speed": 1.0, **executor} for executor in document["executors"]]
    for e, executor in enumerate(inner.get("executors", ())):
        if e >= len(said) or said[e] != {"speed": 1.0, **executor}:
            ledger.add(f"$.executors[{e}]", "differs from the executor in $.inputs.problem.executors")
    if len(said) > len(inner.get("executors", ())):
        ledger.add("$.executors", "has more executors than $.inputs.problem.executors")


def _check_positions(ledger: Ledger, batches: Sequence[Mapping[str, Any]]) -> None:
    count: Counter[str] = Counter()
    for m, batch in enumerate(batches):
        ledger.same(f"$.batches[{m}].position", batch["position"], count[batch["executor"]])
        count[batch["executor"]] += 1


def _check_batches(ledger: Ledger, batches: Sequence[Mapping[str, Any]], problem: BatchingProblem) -> _Run | None:
    """Check the batches; return them by column, or None when requests or executors do not match the problem."""
    owner = _check_requests(ledger, batches, problem)
    executor = _check_executors(ledger, batches, problem)
    if owner is None or executor is None:
        return None
    requests = problem.requests
    longest = [np.zeros(len(batches), dtype=np.int64) for _ in range(2)]
    np.maximum.at(longest[0], owner, requests.prompt_tokens)
    np.maximum.at(longest[1], owner, requests.output_tokens)
    release = np.zeros(len(batches))
    np.maximum.at(release, owner, requests.arrival_s)
    size = np.bincount(owner, minlength=len(batches)).astype(np.int64)
    _check_shapes(ledger, batches, size, longest, executor, problem)
    prefill, duration = _durations(size, longest[0], longest[1], executor, problem)
    start = np.array([batch["start_s"] for batch in batches], dtype=np.float64)
    finish = np.array([batch["finish_s"] for batch in batches], dtype=np.float64)
    _check_times(ledger, executor, release, start, finish, duration)
    return _Run(size, longest[0], longest[1], start, finish, prefill, owner)


def _check_requests(ledger: Ledger, batches: Sequence[Mapping[str, Any]], problem: BatchingProblem) -> Ints | None:
    """Return the batch of each request by row, or None when one is unknown, missing or there twice."""
    rows = {name: row for row, name in enumerate(problem.requests.id.tolist())}
    owner = np.full(len(rows), -1, dtype=np.int64)
    sound = True
    for m, batch in enumerate(batches):
        for k, name in enumerate(batch["requests"]):
            row = rows.get(name, -1) if type(name) in (str, int) else -1
            if row < 0:
                ledger.add(f"$.batches[{m}].requests[{k}]", f"says {show(name)}, which is no request of the problem")
                sound = False
            elif owner[row] >= 0:
                place = f"$.batches[{m}].requests[{k}]"
                ledger.add(place, f"says {show(name)}, which is in $.batches[{owner[row]}] already")
                sound = False
            else:
                owner[row] = m
    left = np.flatnonzero(owner < 0)
    if len(left):
        named = ", ".join(show(name) for name in problem.requests.id[left[:_SHOWN]].tolist())
        more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        ledger.add("$.batches", f"no batch holds request {named}{more}")
    return owner if sound and not len(left) else None


def _check_executors(ledger: Ledger, batches: Sequence[Mapping[str, Any]], problem: BatchingProblem) -> Ints | None:
    numbers = {executor.name: e for e, executor in enumerate(problem.executors)}
    chosen = [numbers.get(batch["executor"], -1) for batch in batches]
    for m, e in enumerate(chosen):
        if e < 0:
            ledger.add(f"$.batches[{m}].executor", f"says {show(batches[m]['executor'])}, which is no executor")
    return None if -1 in chosen else np.array(chosen, dtype=np.int64)


def _check_shapes(
    ledger: Ledger,
    batches: Sequence[Mapping[str, Any]],
    size: Ints,
    longest: Sequence[Ints],
    executor: Ints,
    problem: BatchingProblem,
) -> None:
    for key, column in zip(("prompt_tokens", "output_tokens"), longest, strict=True):
        said = np.array([batch[key] for batch in batches], dtype=np.int64)
        for m in np.flatnonzero(said != column).tolist():
            ledger.same(f"$.batches[{m}].{key}", int(said[m]), int(column[m]))
    most = np.array([own.max_batch for own in problem.executors], dtype=np.int64)[executor]
    for m in np.flatnonzero(size > most).tolist():
        ledger.add(f"$.batches[{m}].requests", f"holds {size[m]} requests, the executor takes {most[m]}")
    capacity = np.array([own.kv_capacity_tokens for own in problem.executors])[executor]
    needed = size * (longest[0] + longest[1])
    for m in np.flatnonzero(needed > capacity).tolist():
        ledger.add(
            f"$.batches[{m}]",
            f"needs {needed[m]} tokens of KV cache ({size[m]}·({longest[0][m]}+{longest[1][m]})), "
            f"the executor has {capacity[m]:g}",
        )


def _durations(
    size: Ints, prompt: Ints, output: Ints, executor: Ints, problem: BatchingProblem
) -> tuple[Floats, Floats]:
    """Return the prefill and the whole time of each batch, s: P = prefill + Σ_{k=1..O−1} step(b, S+k), over speed."""
    time, b = problem.time, size.astype(np.float64)
    speed = np.array([own.speed for own in problem.executors], dtype=np.float64)[executor]
    steps = np.where(output > 1, output - 1, 0).astype(np.float64)
    prefill = time.prefill_fixed_s + time.prefill_s_per_token * b * prompt
    # Σ_{k=1..n} (S+k) = n·S + n(n+1)/2
    contexts = steps * prompt + steps * (steps + 1.0) / 2.0
    decode = steps * (time.step_fixed_s + time.step_s_per_sequence * b) + time.step_s_per_context_token * b * contexts
    return prefill / speed, (prefill + decode) / speed


def _check_times(
    ledger: Ledger, executor: Ints, release: Floats, start: Floats, finish: Floats, duration: Floats
) -> None:
    close = np.abs(finish - start - duration) <= RELATIVE_TOLERANCE * np.maximum(duration, 1e-9 * np.abs(finish))
    for m in np.flatnonzero(~close).tolist():
        ledger.add(
            f"$.batches[{m}].finish_s", f"says {show(float(finish[m]))}, recomputed {start[m] + duration[m]:.12g}"
        )
    for m in np.flatnonzero(_before(start, release)).tolist():
        message = f"says {show(float(start[m]))}, before its last arrival at {release[m]:.12g}"
        ledger.add(f"$.batches[{m}].start_s", message)
    for e in np.unique(executor).tolist():
        own = np.flatnonzero(executor == e)
        for k in np.flatnonzero(_before(start[own[1:]], finish[own[:-1]])).tolist():
            ledger.add(
                f"$.batches[{own[k + 1]}].start_s",
                f"says {show(float(start[own[k + 1]]))}, before the executor's batch $.batches[{own[k]}] "
                f"ends at {finish[own[k]]:.12g}",
            )


def _before(value: Floats, limit: Floats) -> NDArray[np.bool_]:
    # Times grow over a plan while batches stay short, so the tolerance is that of the sums, not of the objective.
    return np.asarray(value < limit - 1e-9 * np.maximum(np.abs(limit), 1.0))


def _check_answer(
    ledger: Ledger,
    said: Mapping[str, Any],
    unmet: Sequence[Any],
    run: _Run,
    problem: BatchingProblem,
    place: str,
) -> None:
    requests, objective = problem.requests, problem.objective
    done = run.done_s()
    late = done > requests.deadline_s + ON_TIME_S
    if objective.deadlines == "hard":
        for row in np.flatnonzero(late)[:_SHOWN].tolist():
            ledger.add(
                f"$.batches[{run.owner[row]}].finish_s",
                f"is {done[row]:.12g}, after the hard deadline {requests.deadline_s[row]:.12g} of request "
                f"{show(requests.id[row])}",
            )
    _check_unmet(ledger, unmet, problem)
    padding = run.padded_tokens() - int(requests.prompt_tokens.sum()) - int(requests.output_tokens.sum())
    terms = {
        "latency": objective.latency * math.fsum(requests.weight * (done - requests.arrival_s)),
        "makespan": objective.makespan * float(done.max()),
        "padding": objective.padding * padding,
        "violation": objective.violation * math.fsum(requests.weight[late]),
    }
    ledger.number(f"{place}.objective", said["objective"], math.fsum(terms.values()))
    for name in sorted({*said["terms"], *terms}):
        if name not in terms:
            ledger.add(f"{place}.terms.{name}", f"unknown term; the terms here are {', '.join(sorted(terms))}")
        elif name in said["terms"]:
            ledger.number(f"{place}.terms.{name}", said["terms"][name], terms[name])
    check_single_bound(ledger, said, place)


def _check_unmet(ledger: Ledger, unmet: Sequence[Any], problem: BatchingProblem) -> None:
    """Unmet is who would be late alone, at once, on the best executor that holds it."""
    requests = problem.requests
    one = np.ones(len(requests.prompt_tokens), dtype=np.int64)
    best: Floats = np.full(len(one), np.inf)
    for e, executor in enumerate(problem.executors):
        alone = _durations(one, requests.prompt_tokens, requests.output_tokens, one * 0 + e, problem)[1]
        fits = requests.prompt_tokens + requests.output_tokens <= executor.kv_capacity_tokens
        best = np.where(fits, np.minimum(best, alone), best)
    # Whoever is late by rounding alone may stand on either side.
    slack = requests.arrival_s + best - requests.deadline_s - ON_TIME_S
    open_ = np.abs(slack) <= 1e-9 * np.maximum(1.0, np.where(np.isfinite(slack), np.abs(requests.deadline_s), 0.0))
    surely = set(requests.id[(slack > 0) & ~open_].tolist())
    maybe = set(requests.id[open_].tolist())
    said = {name for name in unmet if type(name) in (str, int)}
    if len(said) != len(unmet):
        ledger.add("$.unmet", "says a request twice, or something that is no id")
    for name in sorted(surely - said, key=str)[:_SHOWN]:
        ledger.add("$.unmet", f"leaves out request {show(name)}, whose deadline no plan can meet")
    for name in sorted(said - surely - maybe, key=str)[:_SHOWN]:
        ledger.add("$.unmet", f"says {show(name)}, whose deadline some plan can meet, or which is no request")


def _check_metrics(
    ledger: Ledger, document: Mapping[str, Any], run: _Run, problem: BatchingProblem, source: str | None
) -> None:
    requests, said = problem.requests, document["metrics"]
    done = run.done_s()
    latency = np.sort(done - requests.arrival_s)
    padded = run.padded_tokens()
    padding = padded - int(requests.prompt_tokens.sum()) - int(requests.output_tokens.sum())
    bound = np.isfinite(requests.deadline_s)
    late = int(np.count_nonzero(done > requests.deadline_s + ON_TIME_S))
    first = (run.start_s + run.prefill_s)[run.owner] - requests.arrival_s
    values: dict[str, float | None] = {
        "makespan_s": float(done.max()),
        "mean_latency_s": math.fsum(latency) / len(latency),
        "p50_latency_s": _quantile(latency, 0.5),
        "p95_latency_s": _quantile(latency, 0.95),
        "p99_latency_s": _quantile(latency, 0.99),
        "padding_tokens": padding,
        "padding_fraction": padding / padded if padded else 0.0,
        "slo_attainment": 1.0 - late / int(bound.sum()) if bound.any() else None,
        "violations": late,
        "mean_ttft_s": math.fsum(first) / len(first),
    }
    steps = np.where(run.output > 1, run.output - 1, 1)
    step = ((run.finish_s - run.start_s - run.prefill_s) / steps)[run.owner]
    levels = document["inputs"].get("service_levels", {})
    for name, value in (("ttft", first), ("tpot", step)):
        values[f"{name}_slo_attainment"] = _attainment(value, levels.get(f"{name}_slo_s"), name, source)
    for key, value_ in values.items():
        ledger.number(f"$.metrics.{key}", said[key], value_)


def _quantile(rising: Floats, share: float) -> float:
    """Return the quantile, interpolated linearly between the two values around it."""
    place = share * (len(rising) - 1)
    low = math.floor(place)
    high = min(low + 1, len(rising) - 1)
    return float(rising[low] + (place - low) * (rising[high] - rising[low]))


def _attainment(value: Floats, levels: Sequence[Any] | None, name: str, source: str | None) -> float | None:
    if levels is None:
        return None
    if len(levels) != len(value) or not all(item is None or type(item) in (int, float) for item in levels):
        place = f"$.inputs.service_levels.{name}_slo_s"
        raise InputError(f"expected {len(value)} numbers or nulls, one for each request", source=source, place=place)
    kept = [float(own) <= level + ON_TIME_S for own, level in zip(value, levels, strict=True) if level is not None]
    return sum(kept) / len(kept) if kept else None
