"""accelerate / transformers: ``device_map`` as JSON ``{module: int}``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gpuplan.plans.export.pipeline import (
    device_environment,
    host_shares,
    refuse_several_hosts,
    refuse_tensor_parallel,
)
from gpuplan.plans.export.registry import Export

if TYPE_CHECKING:
    from gpuplan.plans.device_map import DeviceMap


def export_plan(plan: DeviceMap, model: str) -> Export:
    """Return the device map of `plan`.

    Every module of every stage is named, a one-stage plan's too. The numbers are positions in
    ``CUDA_VISIBLE_DEVICES``, which lists the devices in pipeline order: stage k is device k.
    """
    refuse_tensor_parallel(plan, "accelerate", "plan with --tensor-parallel 1, or export to vllm")
    refuse_several_hosts(plan, "accelerate", "exclude the devices of the other hosts, or export to vllm")
    modules = {module: k for k, stage in enumerate(plan.stages) for module in stage.modules}
    environment = device_environment(plan, host_shares(plan, "accelerate")[0])
    settings = " ".join(f"{name}={value}" for name, value in environment.items())
    return Export(
        text=json.dumps(modules, indent=1, ensure_ascii=False) + "\n",
        environment=environment,
        notes=(
            f"Start Python with {settings}: the numbers count inside it.",
            f"Load with AutoModelForCausalLM.from_pretrained({model!r}, device_map=…), … being this JSON object.",
        ),
    )
