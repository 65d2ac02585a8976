"""How good and how fast the least bottleneck is found: gap, time to proof, and the size from which only a bound stands.

    python benchmarks/placement_bottleneck.py            # all regimes, about ten minutes
    python benchmarks/placement_bottleneck.py --quick    # the first seed of each

Instances: `placement_instances.cluster(D, n, seed, family, rho)`, seeds 1-5 (1-3 from 256 devices). Every answer is
checked by the verifier of solutions before it counts. *gap*: (value − bound) / value. *time*: processor time of one
call with the kernels loaded. The bottleneck alone is asked for, no second key behind it.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from typing import Any

from placement_instances import cluster

from gpuplan.plans import solution_to_dict, verify_solution
from gpuplan.solvers import Result, solve


@dataclasses.dataclass(frozen=True)
class Regime:
    """One row: `cluster` arguments, time limit and what is aimed at."""

    devices: int
    layers: int
    family: str
    rho: float
    return_hop: bool
    limit_s: float
    aim: str
    seeds: int = 5


REGIMES = (
    Regime(16, 80, "hier", 0.6, False, 5.0, "exact in 50 ms"),
    Regime(32, 80, "hier", 0.3, False, 5.0, "exact in 50 ms"),
    Regime(64, 80, "hier", 0.3, False, 5.0, "exact in 50 ms"),
    Regime(64, 80, "hier", 0.6, True, 5.0, "exact in 50 ms"),
    Regime(256, 80, "hier", 0.1, False, 10.0, "", 3),
    Regime(1024, 80, "hier", 0.05, False, 10.0, "2 % in 10 s", 3),
    Regime(8, 126, "hetero", 0.6, True, 5.0, ""),
    Regime(16, 80, "hetero", 0.6, False, 5.0, "2 % in 5 s"),
    Regime(16, 80, "hetero", 0.6, True, 5.0, "2 % in 5 s"),
    Regime(20, 80, "hetero", 0.6, False, 5.0, "2 % in 5 s"),
    Regime(20, 80, "hetero", 0.6, True, 5.0, "2 % in 5 s"),
    Regime(32, 80, "hetero", 0.6, False, 10.0, "5 % in 10 s"),
    Regime(64, 80, "hetero", 0.3, False, 10.0, "5 % in 10 s"),
    Regime(64, 126, "hetero", 0.6, False, 10.0, "5 % in 10 s"),
    Regime(256, 80, "hetero", 0.1, False, 10.0, "a bound", 3),
    Regime(1024, 80, "hetero", 0.05, False, 10.0, "a bound", 3),
)


def measure(regime: Regime, seed: int) -> tuple[Result[Any], float]:
    """Solve one instance; return the verified result and its seconds."""
    problem = cluster(
        regime.devices,
        regime.layers,
        seed,
        regime.family,
        regime.rho,
        return_hop=regime.return_hop,
        objective="bottleneck",
    )
    started = time.process_time()
    result = solve(problem, time_limit_s=regime.limit_s)
    seconds = time.process_time() - started
    assert result.plan is not None, problem.name
    assert result.gap is not None, problem.name
    verification = verify_solution(solution_to_dict(result, problem), problem)
    assert verification.ok, (problem.name, verification.problems)
    return result, seconds


def row(regime: Regime, seeds: int) -> str:
    """Return the table row of one regime."""
    gaps, times, proven = [], [], 0
    for seed in range(1, min(seeds, regime.seeds) + 1):
        result, seconds = measure(regime, seed)
        proven += result.status == "optimal"
        gaps.append(100.0 * result.gap)  # type: ignore[operator]
        times.append(seconds)
    kind = "unlike" if regime.family == "hetero" else "alike per host"
    return (
        f"| {regime.devices} | {regime.layers} | {kind} | {regime.rho} | {'yes' if regime.return_hop else 'no'}"
        f" | {proven}/{len(times)} | {statistics.median(gaps):.2f} | {max(gaps):.2f}"
        f" | {1e3 * statistics.median(times):.0f} | {1e3 * max(times):.0f} | {regime.aim} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed a regime")
    options = parser.parse_args()
    measure(REGIMES[0], 1)  # loads the kernels
    print("| D | n | devices | ρ | return hop | proven | median gap % | worst gap % | median ms | worst ms | aim |")
    print("| --: | --: | --- | --: | --- | --: | --: | --: | --: | --: | --- |")
    for regime in REGIMES:
        print(row(regime, 1 if options.quick else 5), flush=True)


if __name__ == "__main__":
    main()
