"""llama.cpp: ``llama-server`` with a layer split.

llama.cpp deals n + 1 items to the devices: its n decoder layers and, as the last item, the output (norm and head).
The embedding table stays in host memory. Item i goes to the first device whose cumulative share of ``--tensor-split``
exceeds i/(n + 1), so shares that are the item counts themselves give exactly those counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.errors import UnsupportedError
from gpuplan.plans.export.pipeline import (
    device_environment,
    host_shares,
    layer_kinds,
    refuse_several_hosts,
    refuse_tensor_parallel,
    shell_lines,
)
from gpuplan.plans.export.registry import Export

if TYPE_CHECKING:
    from gpuplan.plans.device_map import DeviceMap


def export_plan(plan: DeviceMap, model: str) -> Export:
    """Return the line to start `plan`; all items on devices, in pipeline order."""
    refuse_tensor_parallel(plan, "llama-cpp", "plan with --tensor-parallel 1")
    refuse_several_hosts(plan, "llama-cpp", "exclude the devices of the other hosts, or export to vllm")
    items = split_items(plan)
    environment = device_environment(plan, host_shares(plan, "llama-cpp")[0])
    workload = plan.workload
    sequences = workload.batch * workload.micro_batches
    context = sequences * (workload.prompt_tokens + workload.output_tokens)
    command = [
        f"llama-server --model {model if model.endswith('.gguf') else model + '.gguf'}",
        f"--n-gpu-layers {sum(items)}",
        "--split-mode layer",
        f"--tensor-split {','.join(map(str, items))}",
        "--main-gpu 0",
        f"--ctx-size {context}",
        f"--parallel {sequences}",
    ]
    note = "llama.cpp keeps the embedding table in host memory, so the first device has that much to spare."
    return Export(text=shell_lines(environment, command), environment=environment, notes=(note,))


def split_items(plan: DeviceMap) -> tuple[int, ...]:
    """Return the items of each stage: decoder layers, and one for the output."""
    kinds = [layer_kinds(plan, stage) for stage in plan.stages]
    items = tuple(sum(kind in ("decoder", "head") for kind in own) for own in kinds)
    if items[0] == 0:
        raise UnsupportedError(
            f"llama-cpp keeps the embedding in host memory, but stage 0 ({plan.stages[0].devices[0]}) holds nothing"
            " else; plan again with --for vllm, which puts a decoder layer in every stage"
        )
    return items
