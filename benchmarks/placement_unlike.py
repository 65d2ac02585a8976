"""How good placements of many unlike devices are at a time limit: gap to the proven bound, share proven, time.

    python benchmarks/placement_unlike.py                 # every row, about half an hour
    python benchmarks/placement_unlike.py thousand        # rows whose group is named
    python benchmarks/placement_unlike.py --quick         # the first seed of each row, two seconds each
    python benchmarks/placement_unlike.py --processor …   # limits and times in processor seconds, for a busy machine

Instances: `placement_instances.cluster(D, n, seed, "hetero", ρ)`: every device and link differs. Rows with a spread
(``nearly``, ``nearly-labels``): `placement_clusters.racks` with the time of every device off by up to that share,
by ``auto``, or by ``labels``, which takes no devices as alike. Every plan is checked by the verifier of solutions
before it counts; instances proven infeasible are counted apart. Wall seconds, one thread, warm (one small instance is
solved before). Prints Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
import types

import numpy as np
from placement_clusters import racks
from placement_instances import cluster

from gpuplan.plans import solution_to_dict, verify_solution
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers import limits, solve
from gpuplan.solvers.placement.compiling import compile_now


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table: devices, layers, ρ, seeds, limit and aim."""

    group: str
    devices: int
    layers: int
    rho: float
    return_hop: bool = False
    seeds: range = range(1, 6)
    limit_s: float = 10.0
    aim: str = ""
    spread: float = 0.0
    solver: str = "auto"

    def problem(self, seed: int) -> DensePlacement:
        """Return the instance of a seed."""
        if self.spread:
            return nearly_alike(self.devices, self.layers, seed, self.spread, self.rho * self.devices)
        return cluster(self.devices, self.layers, seed, "hetero", self.rho, return_hop=self.return_hop)


def nearly_alike(devices: int, layers: int, seed: int, spread: float, stages: float) -> DensePlacement:
    """Return racks of four kinds of hosts, the time of every device off by up to a share."""
    problem = racks(devices, layers, seed, kinds=4, mixed=True, stages=stages)
    factor = np.random.default_rng([11, seed]).uniform(1.0 - spread, 1.0 + spread, (devices, 1))
    timing = dataclasses.replace(problem.latency, compute_s=problem.latency.compute_s * factor)
    return dataclasses.replace(
        problem, latency=timing, cycle=timing, name=f"nearly-D{devices}-n{layers}-{spread}-seed{seed}"
    )


def _nearly(solver: str) -> tuple[Row, ...]:
    """Return the rows of nearly alike devices for a solver: about 14 devices of 80 GB, or 40, are filled."""
    group = "nearly" if solver == "auto" else f"nearly-{solver}"
    sizes = ((64, 80, 12.0, 10.0), (256, 80, 14.0, 10.0), (1024, 80, 14.0, 1.0), (1024, 80, 14.0, 10.0))
    return tuple(
        Row(group, d, n, stages / d, True, range(1, 4), limit, spread=spread, solver=solver)
        for d, n, stages, limit in (*sizes, (1024, 126, 40.0, 10.0), (4096, 80, 14.0, 10.0))
        for spread in (0.01, 0.03)
    )


_LARGE = "gap ≤ 1 % in 10 s"
_PACKED = "median gap ≤ 0.5 % in 10 s"
_EXACT = "exact in 95 % within 40 s, median under 0.5 s"

ROWS = (
    *(Row("between", d, 80, stages / d) for d in (72, 96, 128) for stages in (10, 16, 24)),
    *_nearly("auto"),
    *_nearly("labels"),
    Row("hundreds", 128, 80, 16 / 128),
    Row("hundreds", 256, 80, 16 / 256),
    Row("hundreds", 256, 126, 40 / 256, return_hop=True),
    Row("thousand", 1024, 80, 16 / 1024, aim=_LARGE),
    Row("thousand", 1024, 80, 16 / 1024, return_hop=True, aim=_LARGE),
    Row("thousand", 1024, 126, 40 / 1024, aim=_LARGE),
    Row("thousands", 2048, 80, 16 / 2048, seeds=range(1, 4)),
    Row("thousands", 4096, 80, 16 / 4096, seeds=range(1, 3)),
    Row("packed", 32, 80, 0.85, seeds=range(1, 11), aim=_PACKED),
    Row("packed", 32, 126, 0.85, seeds=range(1, 11), aim=_PACKED),
    *(Row("exact", 32, n, rho, limit_s=40.0, aim=_EXACT) for n in (32, 80, 126) for rho in (0.3, 0.45, 0.6)),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One solved instance: gap (None: no plan), stages, seconds, whether it was proven that there is no plan."""

    gap: float | None
    stages: int
    seconds: float
    infeasible: bool


def run(row: Row, seed: int) -> Run:
    """Solve one instance and verify it."""
    problem = row.problem(seed)
    started = limits.time.perf_counter()
    result = solve(problem, solver=row.solver, time_limit_s=row.limit_s)
    seconds = limits.time.perf_counter() - started
    if result.plan is None:
        return Run(None, 0, seconds, result.status == "infeasible")
    verification = verify_solution(solution_to_dict(result, problem), problem)
    assert verification.ok, (problem.name, verification.problems)
    return Run(result.gap, len(result.plan.stages), seconds, infeasible=False)


def line(row: Row) -> str:
    """Return one line of the table."""
    runs = [one for one in (run(row, seed) for seed in row.seeds) if not one.infeasible]
    gaps = [one.gap for one in runs if one.gap is not None]
    spread = f" ± {100 * row.spread:.0f} %, {row.solver}, {row.limit_s:g} s" if row.spread else ""
    head = f"| {row.devices:,}{spread} | {row.layers} | {row.rho:.3g} | {'yes' if row.return_hop else 'no'} "
    if not gaps:
        return head + f"| {len(runs)} | | none | | | | | {row.aim} |"
    stages = [one.stages for one in runs if one.stages]
    times = [one.seconds for one in runs]
    return head + (
        f"| {len(runs)} | {min(stages)}-{max(stages)} | {sum(gap == 0.0 for gap in gaps)} of {len(runs)} | "
        f"{100 * statistics.median(gaps):.2f} % | {100 * max(gaps):.2f} % | {len(runs) - len(gaps)} | "
        f"{statistics.median(times):.2f} / {max(times):.2f} | {row.aim} |"
    )


def options() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = list(dict.fromkeys(row.group for row in ROWS))
    known = f"rows to measure: {', '.join(groups)} (default: all)"
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=known)
    parser.add_argument("--quick", action="store_true", help="the first seed of each row, two seconds each")
    parser.add_argument("--processor", action="store_true", help="limits and times in processor seconds")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.groups) - set(groups))
    if unknown:
        parser.error(f"there is no group {unknown[0]}; choose of {', '.join(groups)}")
    chosen.groups = chosen.groups or groups
    return chosen


def main() -> None:
    """Print the table of the chosen groups (gap and s: medians)."""
    chosen = options()
    if chosen.processor:
        limits.time = types.SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    compile_now()
    solve(cluster(70, 32, 99, "hetero", 0.1), time_limit_s=5.0)
    print(
        "| D | n | ρ | return hop | cases | stages | proven | median gap | worst | no plan | s median / worst | aim |"
    )
    print("| --: | --: | --: | --- | --: | --: | --- | --: | --: | --: | --: | --- |")
    for row in ROWS:
        if row.group in chosen.groups:
            shown = dataclasses.replace(row, seeds=row.seeds[:1], limit_s=2.0, aim="") if chosen.quick else row
            print(line(shown), flush=True)


if __name__ == "__main__":
    main()
