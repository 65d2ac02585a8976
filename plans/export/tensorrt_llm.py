"""TensorRT-LLM: an options file for the LLM API, and the line that starts ``trtllm-serve`` with it.

Ranks run over the devices of a stage first, then over stages. ``pp_partition`` counts decoder layers alone (embedding
and head go to the first and the last stage by themselves); without it layers are dealt evenly, the first stages taking
one more each, so it is written only where the plan differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.errors import UnsupportedError
from gpuplan.plans.export.pipeline import (
    HostShare,
    decoder_layers,
    device_environment,
    even_split,
    host_shares,
    refuse_stages_without_decoder,
    shell_lines,
    tensor_parallel_degree,
    vendors,
)
from gpuplan.plans.export.registry import Export

if TYPE_CHECKING:
    from gpuplan.plans.device_map import DeviceMap

OPTIONS_FILE = "llm_api.yaml"


def export_plan(plan: DeviceMap, model: str) -> Export:
    """Return the options file and the line to start `plan`; on several hosts one Open MPI line for all of them."""
    refuse_stages_without_decoder(plan, "tensorrt-llm")
    degree = tensor_parallel_degree(plan, "tensorrt-llm")
    if vendors(plan) != {"nvidia"}:
        made = ", ".join(sorted(vendors(plan) - {"nvidia"}))
        raise UnsupportedError(f"tensorrt-llm runs on NVIDIA devices, but the plan uses {made} ones; export to vllm")
    shares = host_shares(plan, "tensorrt-llm")
    workload = plan.workload
    serve = [
        f"trtllm-serve {model}",
        f"--max_batch_size {workload.batch * workload.micro_batches}",
        f"--max_seq_len {workload.prompt_tokens + workload.output_tokens}",
        f"--extra_llm_api_options {OPTIONS_FILE}",
    ]
    options = "\n".join([f"cat > {OPTIONS_FILE} <<'YAML'", *_options(plan, degree, shares), "YAML"]) + "\n"
    environment = device_environment(plan, shares[0])
    notes = _partition_note(plan)
    if len(shares) == 1:
        return Export(options + shell_lines(environment, serve), environment, notes)
    start = "mpirun " + " : ".join(_context(plan, share, " ".join(serve)) for share in shares)
    note = f"Put {OPTIONS_FILE} where every host sees it, and start the line on {shares[0].host} once."
    return Export(options + start + "\n", environment, (*notes, note))


def _options(plan: DeviceMap, degree: int, shares: tuple[HostShare, ...]) -> list[str]:
    lines = [f"tensor_parallel_size: {degree}", f"pipeline_parallel_size: {len(plan.stages)}"]
    if len(shares) > 1:
        lines.append(f"gpus_per_node: {len(shares[0].indices)}")
    if _is_uneven(plan):
        lines.append(f"pp_partition: [{', '.join(map(str, decoder_layers(plan)))}]")
    if plan.inputs["model"]["kv_dtype"] == "fp8":
        lines += ["kv_cache_config:", "  dtype: fp8"]
    return lines


def _is_uneven(plan: DeviceMap) -> bool:
    counts = decoder_layers(plan)
    return counts != even_split(sum(counts), len(counts))


def _partition_note(plan: DeviceMap) -> tuple[str, ...]:
    return ("pp_partition needs TensorRT-LLM 1.2 or later.",) if _is_uneven(plan) else ()


def _context(plan: DeviceMap, share: HostShare, command: str) -> str:
    variables = " ".join(f"-x {name}={value}" for name, value in device_environment(plan, share).items())
    return f"-n {len(share.indices)} --host {share.host} {variables} trtllm-llmapi-launch {command}"
