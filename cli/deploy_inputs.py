"""From the options of ``gpuplan deploy`` to its problem."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from gpuplan.cli.deploy_options import DeployOptions
from gpuplan.cli.inputs import check_runtime
from gpuplan.cli.output import Output

if TYPE_CHECKING:
    from gpuplan.plans.deployment import Deployment
    from gpuplan.profiles import ModelProfile
    from gpuplan.profiles.problems.deployment import DeploymentProblem, DeployObjective
    from gpuplan.topology import Topology


def deployment_problem(
    model: ModelProfile, topology: Topology, ask: DeployOptions, output: Output
) -> DeploymentProblem:
    """Return the deployment problem that the options describe."""
    from gpuplan.profiles import Workload
    from gpuplan.profiles.cost_sources import load_costs
    from gpuplan.profiles.problems.deployment import DeploymentProblem

    check_runtime(ask.runtime)
    costs = load_costs(
        ask.costs,
        kinds=[device.kind.name for device in topology.devices],
        fallback=ask.costs_fallback,
        extrapolate=ask.extrapolate,
    )
    remarks = getattr(costs, "notes", ())
    if remarks:
        more = f" (and {len(remarks) - 1} more remarks on the costs)" if len(remarks) > 1 else ""
        output.note(f"{remarks[0]}{more}")
    from_stages = ask.micro_batches == "stages"
    return DeploymentProblem(
        model,
        topology,
        costs,
        Workload(
            batch=1 if ask.batch == "auto" else ask.batch,
            prompt_tokens=ask.prompt,
            output_tokens=ask.output,
            micro_batches=1 if ask.micro_batches == "stages" else ask.micro_batches,
        ),
        _objective(ask),
        demand_rps=ask.demand_rps,
        tensor_parallel=ask.tensor_parallel,
        batch_auto=ask.batch == "auto",
        micro_batches_from_stages=from_stages,
        ttft_slo_s=ask.ttft_slo,
        tpot_slo_s=ask.tpot_slo,
        max_devices=ask.max_devices,
        max_replicas=ask.max_replicas,
        return_hop=ask.return_hop,
        reserve_bytes=ask.reserve,
        runtime=ask.runtime,
    )


def _objective(ask: DeployOptions) -> DeployObjective:
    if ask.objective is not None:
        return cast("DeployObjective", ask.objective)
    return "requests" if ask.demand_rps is None else "devices"


def read_current(path: str | None) -> Deployment | None:
    """Read the deployment in place."""
    if path is None:
        return None
    from gpuplan.plans.deployment_io import load_deployment

    return load_deployment(path)
