"""How fast placements are solved: warm and cold, against the prototype where it is at hand.

    python benchmarks/placement_speed.py            # all cases, about five minutes
    python benchmarks/placement_speed.py --quick    # the first seed of each

Instances: `placement_instances.cluster(D, n, seed, family, rho)`, seeds 1-5. Warm: wall time, one
thread, the median of five calls after one to warm up, then the median over the seeds. Cold: wall time of one call in a
fresh process, imports included; median of three. Every answer is verified before its time counts:
proven optimal, recomputed by the verifier of solutions, no worse than the prototype's.
Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from placement_instances import cluster

from gpuplan.plans import solution_to_dict, verify_solution
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers import Result, pareto, solve

PROTOTYPES = Path(__file__).resolve().parents[2] / "shared" / "prototypes"


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table: `cluster` arguments, what is asked, the aim in ms."""

    name: str
    devices: int
    layers: int
    family: str
    rho: float
    objective: str = "latency"
    return_hop: bool = False
    front: bool = False
    aim_ms: float | None = None
    limit_s: float = 60.0

    def problem(self, seed: int) -> DensePlacement:
        """Return the instance of a seed."""
        return cluster(
            self.devices,
            self.layers,
            seed,
            self.family,
            self.rho,
            return_hop=self.return_hop,
            objective=self.objective,  # type: ignore[arg-type]
        )

    def run(self, problem: DensePlacement) -> Result[Any]:
        """Solve one instance."""
        if self.front:
            return pareto(problem, time_limit_s=self.limit_s)
        return solve(problem, time_limit_s=self.limit_s)


CASES = (
    Case("latency", 8, 126, "hetero", 0.6, aim_ms=20),
    Case("latency", 16, 80, "hetero", 0.6, aim_ms=50),
    Case("latency", 32, 80, "hetero", 0.3, aim_ms=150),
    Case("latency", 64, 80, "hier", 0.3, aim_ms=50),
    Case("latency", 8, 126, "hetero", 0.6, return_hop=True, aim_ms=60),
    Case("latency", 16, 80, "hetero", 0.6, return_hop=True, aim_ms=150),
    Case("latency", 32, 80, "hetero", 0.3, return_hop=True, aim_ms=450),
    Case("latency", 64, 80, "hier", 0.3, return_hop=True, aim_ms=150),
    Case("bottleneck", 8, 126, "hetero", 0.6, objective="bottleneck", aim_ms=100),
    Case("bottleneck", 8, 126, "hetero", 0.6, objective="bottleneck", return_hop=True),
    Case("bottleneck", 16, 80, "hier", 0.6, objective="bottleneck"),
    Case("bottleneck", 32, 80, "hier", 0.3, objective="bottleneck"),
    Case("efficiency", 16, 80, "hetero", 0.6, objective="efficiency"),
    Case("balanced", 16, 80, "hetero", 0.6, objective="balanced"),
    Case("cost", 16, 80, "hetero", 0.6, objective="cost"),
    Case("kv-capacity", 8, 126, "hetero", 0.6, objective="kv-capacity"),
    Case("front", 8, 126, "hetero", 0.6, front=True, aim_ms=1000),
    Case("front", 16, 80, "hetero", 0.6, front=True, limit_s=10.0, aim_ms=10_000),
)


def check(case: Case, problem: DensePlacement, result: Result[Any]) -> str:
    """Assert that the answer is verified; return what is proven."""
    assert result.plan is not None, problem.name
    assert result.status == "optimal" or case.front, (problem.name, result.status)
    asked = dataclasses.replace(problem, front=case.front)
    verification = verify_solution(solution_to_dict(result, asked), asked)
    assert verification.ok, (problem.name, verification.problems)
    if case.front:
        return f"{len(result.plan.points)} points, {'proven' if result.status == 'optimal' else 'at the limit'}"
    return "proven"


def prototype() -> Callable[[DensePlacement], tuple[float, float]] | None:
    """Return a function that times the prototype, (seconds, latency), or None where it is not at hand."""
    if not (PROTOTYPES / "core.py").is_file():
        return None
    sys.path.insert(0, str(PROTOTYPES))
    import core  # type: ignore[import-not-found]
    import inst  # type: ignore[import-not-found]

    def run(problem: DensePlacement) -> tuple[float, float]:
        timing, zeros = problem.latency, np.zeros(problem.num_devices, dtype=int)
        alike = np.unique(timing.compute_s, axis=0, return_inverse=True)[1].reshape(-1)
        boundary = np.concatenate([timing.boundary_bytes[:1], timing.boundary_bytes])
        instance = inst.Inst(
            problem.name,
            problem.num_layers,
            problem.num_devices,
            problem.memory_bytes,
            problem.available_bytes,
            timing.compute_s,
            boundary,
            timing.hop.latency_s,
            timing.hop.s_per_byte,
            alike,
            zeros,
            zeros,
            problem.price_per_hour,
        ).prep()
        started = time.perf_counter()
        answer = core.auto(instance)
        return time.perf_counter() - started, float(answer["best"])

    return run


def timed(call: Callable[[], Any], repeats: int = 5) -> tuple[float, Any]:
    """Return the median wall seconds of some calls, and the last answer."""
    seconds, answer = [], None
    for _ in range(repeats):
        started = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), answer


def warm_table(seeds: range) -> None:
    """Print the warm times of every case."""
    reference = prototype()
    print(
        "| objective | D | n | devices | ρ | return hop | seeds | median ms | worst ms | aim | to prototype | proof |"
    )
    print("| --- | --: | --: | --- | --: | --- | --: | --: | --: | --: | --: | --- |")
    for case in CASES:
        times, ratios, proofs = [], [], []
        long = case.limit_s < 60.0
        for seed in seeds[:1] if long else seeds[:3] if case.front else seeds:
            problem = case.problem(seed)
            if not long:
                case.run(problem)
            seconds, result = timed(partial(case.run, problem), 1 if long else 2 if case.front else 5)
            proofs.append(check(case, problem, result))
            times.append(seconds)
            if reference is not None and case.name == "latency" and not case.return_hop:
                reference(problem)
                theirs = [reference(problem) for _ in range(5)]
                assert min(value for _, value in theirs) >= result.objective * (1 - 1e-9), problem.name
                ratios.append(seconds / statistics.median(second for second, _ in theirs))
        ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
        aim = "" if case.aim_ms is None else f"{case.aim_ms:g}"
        kind = "unlike" if case.family == "hetero" else "alike per host"
        back = "yes" if case.return_hop else "no"
        print(
            f"| {case.name} | {case.devices} | {case.layers} | {kind} | {case.rho} | {back}"
            f" | {len(times)} | {1e3 * statistics.median(times):.1f} | {1e3 * max(times):.1f} | {aim} | {ratio}"
            f" | {'; '.join(sorted(set(proofs)))} |",
            flush=True,
        )


_COLD = """
import sys, time
started = time.perf_counter()
sys.path.insert(0, {folder!r})
from placement_speed import CASES
case = CASES[{index}]
problem = case.problem(1)
result = case.run(problem)
print(time.perf_counter() - started)
"""


def cold_table() -> None:
    """Print the times of first calls in fresh processes, and with an empty kernel cache."""
    print("| objective | D | n | devices | return hop | first call ms | with an empty kernel cache ms |")
    print("| --- | --: | --: | --- | --- | --: | --: |")
    folder = str(Path(__file__).resolve().parent)
    for index in (0, 4, 8, 1, 3, 16):
        case = CASES[index]
        script = _COLD.format(folder=folder, index=index)
        warm_cache = [float(_run(script, {})) for _ in range(3)]
        with tempfile.TemporaryDirectory() as empty:
            fresh = float(_run(script, {"NUMBA_CACHE_DIR": empty}))
        kind = "unlike" if case.family == "hetero" else "alike per host"
        print(
            f"| {case.name} | {case.devices} | {case.layers} | {kind} | {'yes' if case.return_hop else 'no'}"
            f" | {1e3 * statistics.median(warm_cache):.0f} | {1e3 * fresh:.0f} |",
            flush=True,
        )


def _run(script: str, environment: dict[str, str]) -> str:
    return subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env={**os.environ, **environment}
    ).stdout


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed a case")
    parser.add_argument("--only", choices=["warm", "cold"], help="one of the two tables")
    options = parser.parse_args()
    if options.only != "cold":
        warm_table(range(1, 2) if options.quick else range(1, 6))
        print()
    if options.only != "warm":
        cold_table()


if __name__ == "__main__":
    main()
