"""The exact solver against generic solvers on the same instances: same optimum, how much faster.

    python benchmarks/dp_against_milp.py                  # 4 to 16 devices, about ten minutes
    python benchmarks/dp_against_milp.py --quick          # one seed, 4 and 8 devices

Instances: `placement_instances.cluster(D, n, seed, "hetero", 0.6)`: no two devices alike. Each method answers to proof
or stops at the limit; every answer is recomputed by the verifier, and a proven one must agree with the exact solver's
to 1e-6. Times are wall times, one thread, after one warm-up call; the generic solvers' processes are started
beforehand. Ratio: their median over the exact solver's. A method that ran into the limit counts with the limit
(its ratio is then a lower bound, marked ≥). Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from placement_instances import cluster

from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers import compare
from gpuplan.solvers.external.worker import kept_workers
from gpuplan.solvers.placement.compare import ComparisonRow

METHODS = ("auto", "dp-naive", "milp-blocks", "milp-blocks-cbc", "milp-layers", "milp-layers-cbc", "cp-sat")
SIZES = ((4, 20), (8, 30), (12, 30), (16, 40))
SAME = 1e-6


def measure(problem: DensePlacement, limit_s: float) -> dict[str, ComparisonRow]:
    """Run every method; check that the proven ones agree and no bound is above the optimum."""
    rows = {row.name: row for row in compare(problem, METHODS, time_limit_s=limit_s)}
    exact = rows["auto"]
    assert exact.status == "optimal", exact
    assert isinstance(exact.objective, float)
    for row in rows.values():
        assert row.verified is not False, row
        if row.status == "optimal":
            assert isinstance(row.objective, float)
            assert abs(row.objective - exact.objective) <= SAME * exact.objective, row
        elif row.bound is not None and row.objective is not None:
            assert row.bound <= exact.objective * (1 + 1e-9), row  # type: ignore[operator]
    return rows


def line(devices: int, layers: int, runs: Sequence[dict[str, ComparisonRow]], limit_s: float) -> str:
    """Return one row of the table: times of all methods, each with its ratio to the exact solver."""
    own = statistics.median(run["auto"].wall_time_s for run in runs)
    cells = [f"{own * 1e3:.1f} ms"]
    for name in METHODS[1:]:
        taken = [run[name] for run in runs if run[name].status != "refused"]
        if not taken:
            cells.append("refused")
            continue
        proven = sum(row.status == "optimal" for row in taken)
        seconds = statistics.median(row.wall_time_s if row.status == "optimal" else limit_s for row in taken)
        least = "" if proven == len(taken) else "≥ "
        gaps = [row.gap for row in taken if row.status == "feasible" and row.gap is not None]
        left = "" if not gaps else f", gap {100 * max(gaps):.1f} %"
        ratio = seconds / own
        cells.append(
            f"{seconds:.3g} s ({least}{ratio:,.0f}×; {proven}/{len(taken)} proven{left})"
            if ratio >= 10
            else f"{seconds * 1e3:.1f} ms ({least}{ratio:.1f}×; {proven}/{len(taken)} proven{left})"
        )
    return f"| {devices} × {layers} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, the two smallest sizes")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for each method and instance")
    parser.add_argument("--seeds", type=int, default=3, help="instances of each size")
    options = parser.parse_args()
    with kept_workers():  # processes are started once, before anything is measured
        compare(cluster(4, 6, 1, "hetero", 0.6), METHODS, time_limit_s=30.0)
        compare(cluster(12, 20, 1, "hetero", 0.6), METHODS[:1], time_limit_s=60.0)  # compiles kernels, if need be
        table(options)


def table(options: argparse.Namespace) -> None:
    """Measure and print."""
    seeds = (1,) if options.quick else tuple(range(1, options.seeds + 1))
    print("| devices × layers | " + " | ".join(METHODS) + " |")
    print("| --- |" + " --- |" * len(METHODS))
    for devices, layers in SIZES[:2] if options.quick else SIZES:
        problems = [cluster(devices, layers, seed, "hetero", 0.6) for seed in seeds]
        print(
            line(devices, layers + 2, [measure(problem, options.limit) for problem in problems], options.limit),
            flush=True,
        )


if __name__ == "__main__":
    main()
