"""DeepSpeed: the inference config as JSON, for a plan of one stage.

``deepspeed.init_inference`` cuts layers over devices; its pipelines are for training, so several stages are refused.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gpuplan.errors import UnsupportedError
from gpuplan.plans.export.pipeline import device_environment, host_shares, refuse_several_hosts
from gpuplan.plans.export.registry import Export

if TYPE_CHECKING:
    from gpuplan.plans.device_map import DeviceMap


def export_plan(plan: DeviceMap, model: str) -> Export:
    """Return the config of `plan`, which has one stage."""
    if len(plan.stages) > 1:
        raise UnsupportedError(
            f"deepspeed serves one stage (its pipelines are for training), but the plan has {len(plan.stages)}; plan"
            " again with --tensor-parallel N --max-devices N, or export to vllm"
        )
    refuse_several_hosts(plan, "deepspeed", "plan on one host, or export to vllm")
    workload, share = plan.workload, host_shares(plan, "deepspeed")[0]
    config = {
        "dtype": plan.inputs["model"]["activation_dtype"],
        "max_out_tokens": workload.prompt_tokens + workload.output_tokens,
        "tensor_parallel": {"tp_size": plan.stages[0].tensor_parallel},
    }
    numbers = ",".join(map(str, share.indices))
    return Export(
        text=json.dumps(config, indent=1) + "\n",
        environment=device_environment(plan, share),
        notes=(
            f"Start with CUDA_DEVICE_ORDER=PCI_BUS_ID deepspeed --include localhost:{numbers} SCRIPT.",
            f"In it deepspeed.init_inference(MODEL, config=…), MODEL being {model} and … this JSON object.",
        ),
    )
