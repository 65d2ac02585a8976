"""Batching with lengths that are not known: what prediction errors cost, what the chance constraint buys, re-planning.

    python benchmarks/batching_uncertainty.py [--quick] [--trace FILE] [-o docs/benchmarks-uncertainty.md]

Instances: `lognormal(N, seed)` has prompts exp(Normal(5.5, 1.0)) clipped to 8..4096 and outputs exp(Normal(4.8, 0.9))
clipped to 4..2048; one executor of 60,000 KV tokens and batches of 32 unless named; batch time 0.02 s + 2e-5 s a prompt
token, steps 0.01 s + 2e-4 s a sequence. `--trace` adds a table of requests (any layout gpuplan reads), its first 2,000.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpuplan.profiles.lengths import Lengths
from gpuplan.profiles.problems.batching import BatchingProblem, BatchObjective, BatchTime, Executor, Requests
from gpuplan.profiles.requests_io import load_requests
from gpuplan.solvers.batching.horizon import RollingPlanner
from gpuplan.solvers.batching.uncertain.overflow import overflow_probability
from gpuplan.solvers.batching.uncertain.plan import plan_uncertain
from gpuplan.solvers.batching.uncertain.sensitivity import sensitivity
from gpuplan.solvers.limits import Limits

TIME = BatchTime(0.02, 2e-5, 0.01, 2e-4, 0.0)
EXECUTOR = Executor("e0", 60_000, 32)
SMALL = Executor("e0", 12_000, 32)
MAKESPAN = BatchObjective(latency=0.0, makespan=1.0)


def lognormal(n: int, seed: int = 0) -> Requests:
    """Return n requests, all there at time 0."""
    rng = np.random.default_rng(seed)
    prompt = np.clip(rng.lognormal(5.5, 1.0, n), 8, 4096).astype(np.int64)
    return Requests.of(prompt, np.clip(rng.lognormal(4.8, 0.9, n), 4, 2048).astype(np.int64))


def bucket_lengths(requests: Requests, right: float) -> Lengths:
    """Return a bucket predictor's word: `right` for the true bucket, the rest shared by its neighbours."""
    bucket = np.clip(np.ceil(np.log2(np.maximum(requests.output_tokens, 8))).astype(int) - 3, 0, 8)
    share = np.zeros((len(requests), 9))
    for shift, part in ((0, right), (-1, (1 - right) / 2), (1, (1 - right) / 2)):
        np.add.at(share, (np.arange(len(requests)), np.clip(bucket + shift, 0, 8)), part)
    return Lengths.of_bucket_probabilities(share)


def prediction_error(requests: Requests, name: str, draws: int) -> Iterator[str]:
    """Yield rows: realized objective of plans made with noisy predictions, over the plan made with the truth."""
    limits = Limits(time_limit_s=5.0)
    for goal, label in ((MAKESPAN, "makespan"), (BatchObjective(), "latency")):
        problem = BatchingProblem(requests, (EXECUTOR,), TIME, goal)
        for noise, errors in (("lognormal", (0.0, 0.1, 0.25, 0.5, 1.0)), ("bucket", (0.0, 0.2, 0.5))):
            rows = sensitivity(
                problem, errors=errors, noise=noise, draws=draws, solver="sjf", restart_s=1.0, limits=limits
            )
            for row in rows:
                yield (
                    f"| {name} | {label} | {noise} {row.error:g} | {row.mape:.0%} | {row.mean_excess:.1%} | "
                    f"{row.worst_excess:.1%} | {row.overflow_share:.1%} | {row.restarts:.1f} |"
                )


def chance_constraint(n: int) -> Iterator[str]:
    """Yield rows: the expected makespan under tighter and looser overflow probabilities, each plan checked."""
    requests = lognormal(n)
    for right in (0.6, 0.9):
        lengths = bucket_lengths(requests, right)
        problem = BatchingProblem(requests, (SMALL,), TIME, MAKESPAN)
        for epsilon in (0.0, 0.001, 0.01, 0.1):
            begun = time.perf_counter()
            plan = plan_uncertain(problem, lengths, epsilon=epsilon, solver="sjf")
            took = time.perf_counter() - begun
            for batch in plan.solution:
                prompt = requests.prompt_tokens[batch.requests]
                found = overflow_probability(prompt, lengths.take(batch.requests), SMALL.kv_tokens)
                assert found.probability <= epsilon + 1e-12
            yield (
                f"| {right:.0%} | {epsilon:g} | {plan.expected.total:.1f} | {plan.solution.num_batches} | "
                f"{plan.worst_overflow:.2g} | {plan.expected_padding_tokens:,.0f} | {plan.name} | {took:.2f} |"
            )


def rolling(turns: int) -> Iterator[str]:
    """Yield rows: re-planning N waiting requests of which 20 are new, in processor time, and the objective reached."""
    for executors in (1, 2, 4):
        for n in (100, 1000):
            machines = [Executor(f"e{i}", 60_000, 32) for i in range(executors)]
            for budget in (0.002, 0.008, 0.05):
                planner = RollingPlanner(machines, TIME)
                planner.submit(lognormal(n))
                planner.replan(0.0, budget_s=budget)
                spent, values = [], []
                for turn in range(turns):
                    planner.withdraw(planner.waiting.id[:20].tolist())
                    fresh = lognormal(20, turn + 1)
                    ids = np.arange(n + 20 * turn, n + 20 * turn + 20)
                    planner.submit(Requests.of(fresh.prompt_tokens, fresh.output_tokens, id=ids))
                    begun = time.process_time()
                    plan = planner.replan(0.0, budget_s=budget)
                    spent.append(time.process_time() - begun)
                    values.append(plan.objective)
                    assert sorted(plan.solution.rows.tolist()) == list(range(n))
                yield (
                    f"| {executors} | {n:,} | {budget * 1e3:g} | {statistics.median(spent) * 1e3:.1f} | "
                    f"{max(spent) * 1e3:.1f} | {statistics.fmean(values):,.0f} |"
                )


def report(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the tables as Markdown."""
    yield "| requests | objective | error | mean error | excess | worst | batches over KV | run again |"
    yield "| --- | --- | --- | --: | --: | --: | --: | --: |"
    draws, n = (2, 300) if arguments.quick else (5, 2000)
    yield from prediction_error(lognormal(n), f"lognormal({n}, 0)", draws)
    if arguments.trace is not None:
        table = load_requests(arguments.trace)
        first = table.take(np.arange(min(len(table), 2000)))
        yield from prediction_error(first.to_requests(ignore_arrivals=True), Path(arguments.trace).stem, draws)
    yield "\n| right bucket | ε | expected makespan s | batches | worst overflow | padding | plan | planned in s |"
    yield "| --: | --: | --: | --: | --: | --: | --- | --: |"
    yield from chance_constraint(200 if arguments.quick else 1000)
    yield "\n| executors | waiting | budget ms | median ms | worst ms | Σ latency s |"
    yield "| --: | --: | --: | --: | --: | --: |"
    yield from rolling(5 if arguments.quick else 30)


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small instances, few draws")
    parser.add_argument("--trace", metavar="FILE", help="a table of requests to try as well")
    parser.add_argument("-o", metavar="FILE", dest="output", help="write the tables here")
    arguments = parser.parse_args()
    lines = []
    for line in report(arguments):
        print(line, flush=True)
        lines.append(line)
    if arguments.output:
        Path(arguments.output).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
