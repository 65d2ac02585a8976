"""How good and how fast placement is on hundreds and thousands of devices: gap, proof, time.

    python benchmarks/placement_scale.py                 # every row
    python benchmarks/placement_scale.py racks mixed     # rows whose group is named

A row is a `Row` in `ROWS`: a group, a generator with its arguments, seeds, a time limit and the aim. Each answer is
checked by the verifier of solutions, and its bound against its value, before a time counts. *classes*: from plain
numbers to classes and their hierarchy; *solve*: the search itself, once those are known (warm: the first seed is solved
once before). Processor seconds, one thread. Prints Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

from placement_clusters import racks, workstations

from gpuplan.plans import solution_to_dict, verify_solution
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers import Result, solve
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement.effort import Settings
from gpuplan.solvers.placement.objectives import METHODS
from gpuplan.solvers.placement.query import Session
from gpuplan.solvers.placement.tables import class_tables


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table.

    group, name
        What it belongs to; what it says of the instances.
    make
        seed → problem.
    aim
        What is hoped for, in words.
    """

    group: str
    name: str
    make: Callable[[int], DensePlacement]
    seeds: range = range(1, 6)
    limit_s: float = 10.0
    aim: str = ""


def _racks(**arguments: Any) -> Callable[[int], DensePlacement]:
    """Return the generator of hierarchical clusters with these arguments."""
    devices, layers = arguments.pop("devices"), arguments.pop("layers", 80)
    return lambda seed: racks(devices, layers, seed, **arguments)


def _workstations(**arguments: Any) -> Callable[[int], DensePlacement]:
    """Return the generator of hosts of several kinds each with these arguments."""
    devices = arguments.pop("devices")
    return lambda seed: workstations(devices, 80, seed, **arguments)


_FAST = "exact, 10 ms"
_CLOSE = "gap ≤ 1 % in 10 s"

ROWS: list[Row] = [
    *(
        Row("racks", f"{devices:,} devices, one kind a rack, {kinds} kinds", _racks(devices=devices, kinds=kinds),
            aim=_FAST)
        for devices, kinds in ((256, 3), (512, 4), (1024, 4))
    ),
    Row("racks", "1,024 devices, one kind a rack, 60 stages", _racks(devices=1024, kinds=4, stages=40.0)),
    Row("racks", "1,024 devices, no return hop", _racks(devices=1024, kinds=4, return_hop=False), aim=_FAST),
    *(
        Row("objectives", f"1,024 devices, {name}", _racks(devices=1024, kinds=4, objective=name))
        for name in ("efficiency", "balanced", "cost", "kv-capacity")
    ),
    Row("mixed", "1,024 devices, racks of 4 kinds", _racks(devices=1024, kinds=4, mixed=True), aim=_FAST),
    Row("mixed", "4,096 devices, racks of 4 kinds", _racks(devices=4096, kinds=4, mixed=True), aim=_CLOSE),
    Row("mixed", "4,096 devices, racks of 6 kinds", _racks(devices=4096, kinds=6, mixed=True), aim=_CLOSE),
    Row("mixed", "4,096 devices, racks of 6 kinds, up to 60 stages",
        _racks(devices=4096, kinds=6, mixed=True, stages=40.0), range(1, 4), aim=_CLOSE),
    Row("scarce", "4,096 devices, the 3 faster of 4 kinds have one rack each",
        _racks(devices=4096, kinds=4, rare=True, stages=45.0), range(1, 4), aim=_CLOSE),
    Row("scarce", "1,024 devices, the 4 faster of 5 kinds have one host each",
        _racks(devices=1024, kinds=5, rare=True, hosts_per_rack=1, stages=45.0), range(1, 4), aim=_CLOSE),
    *(
        Row("workstations", f"{devices} devices, hosts of {8 // alike} kinds, {alike} of each, about {stages:g} stages",
            _workstations(devices=devices, kinds=kinds, alike=alike, stages=stages), range(1, 4))
        for devices, kinds, alike, stages in (
            (64, 16, 1, 12.0), (64, 16, 1, 40.0), (256, 8, 1, 12.0), (256, 16, 1, 40.0), (256, 8, 2, 30.0),
            (256, 4, 4, 30.0),
        )
    ),
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """One solved instance: seconds for classes and hierarchy, seconds for the search, the gap, the solver's note."""

    classes_s: float
    solve_s: float
    gap: float
    note: str


def run(row: Row, seed: int) -> Run:
    """Solve one instance, verify it, and time the two parts."""
    problem = row.make(seed)
    started = time.process_time()
    tables = class_tables(problem, with_price=problem.objective.name == "cost")
    session = Session(tables, "auto", Budget(Limits(row.limit_s)), Settings())
    session.hierarchy()
    known = time.process_time()
    session.budget = Budget(Limits(row.limit_s))
    METHODS[problem.objective.name](session, None)
    ended = time.process_time()
    result = solve(problem, time_limit_s=row.limit_s)
    check(problem, result)
    assert result.gap is not None
    return Run(known - started, ended - known, result.gap, result.report.notes[-1])


def check(problem: DensePlacement, result: Result[Any]) -> None:
    """Assert that the plan is what it says and that its bound is on the valid side."""
    assert result.plan is not None, (problem.name, result.status)
    verification = verify_solution(solution_to_dict(result, problem), problem)
    assert verification.ok, (problem.name, verification.problems)


def line(row: Row) -> str:
    """Return one line of the table."""
    run(row, row.seeds[0])
    runs = [run(row, seed) for seed in row.seeds]
    proven = sum(one.gap == 0.0 for one in runs)
    gaps = [one.gap for one in runs]
    times = [one.solve_s for one in runs]
    classes = statistics.median(one.classes_s for one in runs)
    picked = runs[0].note.split(":")[0].removeprefix("auto picked ")
    return (
        f"| {row.name} | {picked} | {proven} of {len(runs)} | {100 * statistics.median(gaps):.3f} % | "
        f"{100 * max(gaps):.3f} % | {1e3 * classes:.0f} | {1e3 * statistics.median(times):.1f} | "
        f"{1e3 * max(times):.1f} | {row.aim} |"
    )


def main() -> None:
    """Print the table of the chosen groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = list(dict.fromkeys(row.group for row in ROWS))
    known = f"rows to measure: {', '.join(groups)} (default: all)"
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=known)
    chosen = parser.parse_args().groups or groups
    unknown = sorted(set(chosen) - set(groups))
    if unknown:
        parser.error(f"there is no group {unknown[0]}; choose of {', '.join(groups)}")
    print("| instances | engine | proven | median gap | worst gap | classes ms | solve ms | worst ms | aim |")
    print("| --- | --- | --- | --: | --: | --: | --: | --: | --- |")
    for row in ROWS:
        if row.group in chosen:
            print(line(row), flush=True)


if __name__ == "__main__":
    main()
