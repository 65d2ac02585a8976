"""A deployment that follows the demand of a day: few devices, few moves, no going to and fro.

Run it as it stands: ``python deploy_through_the_day.py``.
"""

from __future__ import annotations

import gpuplan

#: Requests/s asked for, hour by hour.
DEMAND = (6.0, 6.2, 6.0, 11.0, 18.0, 18.5, 18.0, 9.0)


def main() -> None:
    """Plan the first hour, then re-plan each hour from the one before."""
    model, topology = gpuplan.load_model("llama-3.1-70b"), gpuplan.load_topology("2x-dgx-h100")
    workload = gpuplan.Workload(prompt_tokens=1024, output_tokens=128)
    current = None
    print("hour  demand  devices  replicas  kept  GiB to load  gap")
    for hour, demand in enumerate(DEMAND):
        problem = gpuplan.DeploymentProblem(
            model,
            topology,
            workload=workload,
            objective="devices",
            demand_rps=demand,
            batch_auto=True,
            ttft_slo_s=3.0,
        )
        result = gpuplan.deploy(problem, current=current)
        plan = result.require_plan()
        assert gpuplan.verify(plan).ok
        kept = len(plan.changes.kept) if plan.changes else 0
        loaded = plan.changes.total_moved_bytes / 2**30 if plan.changes else 0.0
        metrics = plan.metrics
        print(
            f"{hour:4}  {demand:6.1f}  {metrics.devices_used:7}  {metrics.replicas:8}  {kept:4}  {loaded:11.1f}"
            f"  {result.gap:.1%}"
        )
        current = plan


if __name__ == "__main__":
    main()
