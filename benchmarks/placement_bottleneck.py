"""How good and how fast the least bottleneck is found: gap, time to proof, and the size from which only a bound stands.

    python benchmarks/placement_bottleneck.py            # all regimes, about ten minutes
    python benchmarks/placement_bottleneck.py --quick    # the first seed of each

Instances: `placement_instances.cluster(D, n, seed, family, rho)`, seeds 1-5 (1-3 from 256 devices). Every answer is
checked by the verifier of solutions before it counts. *gap*: (value − bound) / value. *time*: processor time of one
call with the kernels loaded, the second key (least latency at that bottleneck) included; *first key*: until the
bottleneck's value was proven (blank where it was not for every seed).
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
from gpuplan.solvers import Progress, Result, solve


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


@dataclasses.dataclass
class Watch:
    """Notes when bound and value of the first key met."""

    started: float = 0.0
    met_s: float | None = None

    def __call__(self, progress: Progress) -> None:
        """Take one progress report."""
        known = progress.phase == "bottleneck" and progress.objective is not None and progress.bound is not None
        if known and self.met_s is None and progress.bound >= progress.objective * (1.0 - 1e-9):  # type: ignore[operator]
            self.met_s = time.process_time() - self.started


def measure(regime: Regime, seed: int) -> tuple[Result[Any], float, float | None]:
    """Solve one instance; return the verified result, its seconds and those until the first key was proven."""
    problem = cluster(
        regime.devices,
        regime.layers,
        seed,
        regime.family,
        regime.rho,
        return_hop=regime.return_hop,
        objective="bottleneck",
    )
    watch = Watch(time.process_time())
    result = solve(problem, time_limit_s=regime.limit_s, on_progress=watch)
    seconds = time.process_time() - watch.started
    assert result.plan is not None, problem.name
    assert result.gap is not None, problem.name
    verification = verify_solution(solution_to_dict(result, problem), problem)
    assert verification.ok, (problem.name, verification.problems)
    return result, seconds, watch.met_s


def row(regime: Regime, seeds: int) -> str:
    """Return the table row of one regime."""
    gaps, times, first, proven = [], [], [], 0
    for seed in range(1, min(seeds, regime.seeds) + 1):
        result, seconds, met_s = measure(regime, seed)
        proven += result.status == "optimal"
        gaps.append(100.0 * result.gap)  # type: ignore[operator]
        times.append(seconds)
        first += [met_s] if met_s is not None else []
    kind = "unlike" if regime.family == "hetero" else "alike per host"
    until = f"{1e3 * statistics.median(first):.0f}" if len(first) == len(times) else ""
    return (
        f"| {regime.devices} | {regime.layers} | {kind} | {regime.rho} | {'yes' if regime.return_hop else 'no'}"
        f" | {proven}/{len(times)} | {statistics.median(gaps):.2f} | {max(gaps):.2f} | {until}"
        f" | {1e3 * statistics.median(times):.0f} | {1e3 * max(times):.0f} | {regime.aim} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed a regime")
    options = parser.parse_args()
    measure(REGIMES[0], 1)
    measure(REGIMES[5], 1)
    print(
        "| D | n | devices | ρ | return hop | proven | median gap % | worst gap % | first key proven, median ms"
        " | median ms | worst ms | aim |"
    )
    print("| --: | --: | --- | --: | --- | --: | --: | --: | --: | --: | --: | --- |")
    for regime in REGIMES:
        print(row(regime, 1 if options.quick else 5), flush=True)


if __name__ == "__main__":
    main()
