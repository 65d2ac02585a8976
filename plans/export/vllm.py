"""vLLM: ``vllm serve`` with a pipeline partition.

``VLLM_PP_LAYER_PARTITION`` counts decoder layers alone and must add up to all of them; vLLM itself puts the embedding
on the first stage and the final norm and LM head on the last, which is where a plan has them too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.plans.export.pipeline import (
    HostShare,
    decoder_layers,
    device_environment,
    host_shares,
    memory_share,
    refuse_stages_without_decoder,
    shell_lines,
    tensor_parallel_degree,
)
from gpuplan.plans.export.registry import Export

if TYPE_CHECKING:
    from gpuplan.plans.device_map import DeviceMap


def export_plan(plan: DeviceMap, model: str) -> Export:
    """Return the lines to start `plan`, one block a host."""
    refuse_stages_without_decoder(plan, "vllm")
    degree = tensor_parallel_degree(plan, "vllm")
    shares = host_shares(plan, "vllm")
    blocks = [_block(plan, model, degree, shares, rank) for rank in range(len(shares))]
    return Export(text="\n".join(blocks), environment=_environment(plan, shares[0]))


def _environment(plan: DeviceMap, share: HostShare) -> dict[str, str]:
    partition = ",".join(map(str, decoder_layers(plan)))
    return {**device_environment(plan, share), "VLLM_PP_LAYER_PARTITION": partition}


def _block(plan: DeviceMap, model: str, degree: int, shares: tuple[HostShare, ...], rank: int) -> str:
    workload = plan.workload
    command = [
        f"vllm serve {model}",
        f"--pipeline-parallel-size {len(plan.stages)}",
        f"--tensor-parallel-size {degree}",
        f"--gpu-memory-utilization {round(memory_share(plan), 3):g}",
        f"--max-model-len {workload.prompt_tokens + workload.output_tokens}",
    ]
    if plan.inputs["model"]["kv_dtype"] == "fp8":
        command.append("--kv-cache-dtype fp8")
    text = shell_lines(_environment(plan, shares[rank]), [*command, *_multi_host(shares, rank)])
    return text if len(shares) == 1 else f"# on {shares[rank].host}\n{text}"


def _multi_host(shares: tuple[HostShare, ...], rank: int) -> list[str]:
    if len(shares) == 1:
        return []
    options = [f"--nnodes {len(shares)}", f"--node-rank {rank}", f"--master-addr {shares[0].host}"]
    return options if rank == 0 else [*options, "--headless"]
