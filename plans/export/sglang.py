"""SGLang: ``sglang.launch_server`` with a pipeline partition.

``SGLANG_PP_LAYER_PARTITION`` counts decoder layers alone, as vLLM's variable does; embedding and head go to the first
and the last stage by themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.plans.export.pipeline import (
    HostShare,
    decoder_layers,
    device_environment,
    host_shares,
    refuse_stages_without_decoder,
    shell_lines,
    tensor_parallel_degree,
)
from gpuplan.plans.export.registry import Export

if TYPE_CHECKING:
    from gpuplan.plans.device_map import DeviceMap

#: Port the hosts of one server meet at.
INIT_PORT = 20000


def export_plan(plan: DeviceMap, model: str) -> Export:
    """Return the lines to start `plan`, one block a host."""
    refuse_stages_without_decoder(plan, "sglang")
    degree = tensor_parallel_degree(plan, "sglang")
    shares = host_shares(plan, "sglang")
    blocks = [_block(plan, model, degree, shares, rank) for rank in range(len(shares))]
    return Export(text="\n".join(blocks), environment=_environment(plan, shares[0]))


def _environment(plan: DeviceMap, share: HostShare) -> dict[str, str]:
    partition = ",".join(map(str, decoder_layers(plan)))
    return {**device_environment(plan, share), "SGLANG_PP_LAYER_PARTITION": partition}


def _block(plan: DeviceMap, model: str, degree: int, shares: tuple[HostShare, ...], rank: int) -> str:
    workload = plan.workload
    command = [
        "python -m sglang.launch_server",
        f"--model-path {model}",
        f"--pp-size {len(plan.stages)}",
        f"--tp-size {degree}",
        f"--context-length {workload.prompt_tokens + workload.output_tokens}",
    ]
    if plan.inputs["model"]["kv_dtype"] == "fp8":
        command.append("--kv-cache-dtype fp8_e4m3")
    if len(shares) > 1:
        address = f"--dist-init-addr {shares[0].host}:{INIT_PORT}"
        command += [f"--nnodes {len(shares)}", f"--node-rank {rank}", address]
    text = shell_lines(_environment(plan, shares[rank]), command)
    return text if len(shares) == 1 else f"# on {shares[rank].host}\n{text}"
