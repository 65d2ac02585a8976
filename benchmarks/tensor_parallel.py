"""How fast tensor × pipeline parallelism is planned: one host of eight, and sixteen of them.

    python benchmarks/tensor_parallel.py            # all cases, about a minute
    python benchmarks/tensor_parallel.py --quick    # latency and throughput alone

One host is the shipped ``dgx-h100``; sixteen are the same hosts over one InfiniBand fabric. Degrees 1, 2, 4 and 8, one
for all stages (``even``) or one for each (``uneven``). Warm: processor time of one call, the least of three after one
to warm up. Every plan is verified before its time counts. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from gpuplan import PlacementProblem, load_model, load_topology, solve
from gpuplan.plans import DeviceMap, verify
from gpuplan.topology import Topology

OBJECTIVES = ("latency", "throughput", "efficiency", "balanced", "kv-capacity")
DEGREES = (1, 2, 4, 8)
_HOSTS = """\
schema: gpuplan/topology/1
name: {count}x-dgx-h100
hosts: {count}
devices:
  - {{kind: h100-sxm5-80gb, count: 8}}
nvswitch: 18
nics: per_device
nic_link: PXB
fabric: infiniband-ndr
"""


def hosts(count: int) -> Topology:
    """Return so many DGX H100 on one fabric."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cluster.yaml"
        path.write_text(_HOSTS.format(count=count), encoding="utf-8")
        return load_topology(path)


def shape(plan: DeviceMap) -> str:
    """Return the sizes of the stages in few words: ``4 × 8`` for four stages of eight devices."""
    sizes = [len(stage.devices) for stage in plan.stages]
    return " + ".join(f"{sizes.count(size)} × {size}" for size in sorted(set(sizes), reverse=True))


def measure(problem: PlacementProblem, repeats: int = 3) -> tuple[float, str, str]:
    """Return the least processor time in s, what is proven, and the shape of the plan."""
    result = solve(problem)
    plan = result.require_plan()
    if not verify(plan).ok:
        raise SystemExit(f"{problem.objective_name}: the plan does not verify")
    times = []
    for _ in range(repeats):
        start = time.process_time()
        solve(problem)
        times.append(time.process_time() - start)
    proven = "proven" if result.status == "optimal" else f"gap {result.gap:.2g}"
    return min(times), proven, shape(plan)


def main() -> None:
    """Measure all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    cases = [("llama-3.1-70b", hosts(1)), ("llama-3.1-405b", hosts(16))]
    print("| model, cluster | objective | sizes | plan (stages × devices) | | time |\n|---|---|---|---|---|---|")
    for model, topology in cases:
        for objective in OBJECTIVES[: 2 if quick else None]:
            for uneven in (False, True):
                problem = PlacementProblem(
                    load_model(model),
                    topology,
                    objective=objective,
                    tensor_parallel=DEGREES,
                    uneven_tensor_parallel=uneven,
                )
                seconds, proven, sizes = measure(problem)
                place = f"{model}, {topology.num_devices} H100"
                kind = "uneven" if uneven else "even"
                print(f"| {place} | {objective} | {kind} | {sizes} | {proven} | {seconds * 1e3:.0f} ms |", flush=True)


if __name__ == "__main__":
    main()
