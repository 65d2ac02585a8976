"""A serving loop that re-plans as requests arrive: submit, re-plan, start what is due, go on to the next event.

The clock is simulated, the planning is real: after every arrival and every finished batch the planner has 5 ms. Outputs
are predictions; batches end when their true outputs do, earlier or later than planned.
"""

from __future__ import annotations

import numpy as np

from gpuplan.profiles.problems.batching import BatchTime, Executor, Requests
from gpuplan.solvers.batching.horizon import RollingPlanner

TIME = BatchTime(0.01, 2e-5, 0.012, 2e-4, 1e-8)
EXECUTORS = (Executor("e0", 60_000, 16), Executor("e1", 60_000, 16))
COUNT, RATE_PER_S, BUDGET_S = 240, 12.0, 0.005


def workload(seed: int = 7) -> tuple[Requests, np.ndarray]:
    """Return requests with predicted outputs, in order of arrival, and their true outputs."""
    rng = np.random.default_rng(seed)
    prompt = np.clip(rng.lognormal(5.5, 1.0, COUNT), 8, 4096).astype(np.int64)
    true = np.clip(rng.lognormal(4.5, 0.8, COUNT), 4, 1024).astype(np.int64)
    predicted = np.maximum(true * rng.lognormal(0.0, 0.2, COUNT), 1).astype(np.int64)
    arrival = np.cumsum(rng.exponential(1.0 / RATE_PER_S, COUNT))
    return Requests.of(prompt, predicted, arrival_s=arrival), true


def main() -> None:
    """Serve the workload; print a line every few seconds of its time."""
    requests, true = workload()
    planner = RollingPlanner(EXECUTORS, TIME)
    ends: dict[str, float] = {}
    latency: list[float] = []
    waited, shown, coming = [], 0.0, 0
    print(f"{'time':>6}  {'waiting':>7}  {'running':>7}  {'batches':>7}  {'done':>5}  plan from")
    while len(latency) < COUNT:
        arrival = float(requests.arrival_s[coming]) if coming < COUNT else np.inf
        now = min(arrival, *ends.values()) if ends else arrival
        for name in [name for name, end in ends.items() if end <= now]:
            done = planner.finish(name, now)
            latency += (now - done.requests.arrival_s).tolist()
            del ends[name]
        first = coming
        while coming < COUNT and requests.arrival_s[coming] <= now:
            coming += 1
        if coming > first:
            planner.submit(requests.take(np.arange(first, coming)))
        plan = planner.replan(now, budget_s=BUDGET_S)
        waited.append(plan.wall_time_s)
        for executor in EXECUTORS:
            if executor.name not in ends:
                batch = planner.start(executor.name, now)
                if batch is not None:
                    longest = int(true[batch.requests.id].max())
                    took = TIME.batch_s(len(batch.requests), batch.prompt_tokens, longest, executor.speed)
                    ends[executor.name] = now + float(took)
        if now >= shown:
            running = sum(len(batch.requests) for batch in planner.running)
            print(
                f"{now:5.1f}s  {len(planner.waiting):7}  {running:7}  {plan.solution.num_batches:7}  "
                f"{len(latency):5}  {plan.start}"
            )
            shown += 4.0
    print(f"{COUNT} requests served; latency mean {np.mean(latency):.2f} s, P95 {np.quantile(latency, 0.95):.2f} s")
    print(f"{len(waited)} plans, {np.median(waited) * 1e3:.1f} ms in the middle, {max(waited) * 1e3:.1f} ms at most")


if __name__ == "__main__":
    main()
