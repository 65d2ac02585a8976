"""Plan, check and export from Python: what ``gpuplan map``, ``verify`` and ``export`` do, as four calls."""

from __future__ import annotations

from pathlib import Path

import gpuplan

HERE = Path(__file__).parent / "dgx-a100"


def main() -> None:
    """Plan Llama-3.1-70B on an 8-GPU A100 box and print what to give to vLLM."""
    topology = gpuplan.load_topology(HERE / "topo.txt", gpu=["a100-sxm4-80gb"])
    model = gpuplan.load_model(HERE / "config.json")
    problem = gpuplan.PlacementProblem(
        model=model,
        topology=topology,
        costs=gpuplan.AnalyticCosts(),
        workload=gpuplan.Workload(batch=1, prompt_tokens=1024, output_tokens=128),
        objective="latency",
    )
    result = gpuplan.solve(problem, time_limit_s=10, seed=0)
    plan = result.require_plan()
    print(f"{result.status}: {plan.metrics.latency_s:.3f} s a request, {plan.metrics.devices_used} devices")
    for stage in plan.stages:
        print(f"  {stage.devices[0]}: layers {stage.layers.start}-{stage.layers.stop - 1}")
    assert gpuplan.verify(plan).ok
    print(gpuplan.export(plan, "vllm"))


if __name__ == "__main__":
    main()
