"""Megatron-LM: torchrun lines with its parallel sizes and pipeline layout.

Ranks run over the devices of a stage first, then over stages (Megatron's default order, without data parallelism).
``--pipeline-model-parallel-layout`` spells a stage as ``E`` (embedding), ``t*n`` (n decoder layers) and ``L`` (head and
loss), stages divided by ``|``; it is written only where stages do not hold decoder layers alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.plans.export.pipeline import (
    HostShare,
    decoder_layers,
    device_environment,
    host_shares,
    layer_kinds,
    shell_lines,
    tensor_parallel_degree,
)
from gpuplan.plans.export.registry import Export

if TYPE_CHECKING:
    from gpuplan.plans.device_map import DeviceMap, Stage

#: The script of Megatron-LM that serves a checkpoint.
SERVER = "tools/run_text_generation_server.py"
#: Port the hosts of one server meet at.
MASTER_PORT = 6000


def export_plan(plan: DeviceMap, model: str) -> Export:
    """Return the lines to start `plan`, one block a host."""
    degree = tensor_parallel_degree(plan, "megatron")
    shares = host_shares(plan, "megatron")
    blocks = [_block(plan, model, degree, shares, rank) for rank in range(len(shares))]
    notes = ["Add the tokenizer's arguments; those of the model are read from the checkpoint."]
    if len(set(decoder_layers(plan))) > 1:
        notes.append("Megatron-LM calls --pipeline-model-parallel-layout experimental.")
    return Export("\n".join(blocks), device_environment(plan, shares[0]), tuple(notes))


def _block(plan: DeviceMap, model: str, degree: int, shares: tuple[HostShare, ...], rank: int) -> str:
    start = ["torchrun", f"--nproc-per-node {len(shares[rank].indices)}"]
    if len(shares) > 1:
        address = f"--master-addr {shares[0].host}", f"--master-port {MASTER_PORT}"
        start += [f"--nnodes {len(shares)}", f"--node-rank {rank}", *address]
    counts = decoder_layers(plan)
    command = [
        f"{' '.join(start)} {SERVER}",
        f"--load {model}",
        "--use-checkpoint-args",
        f"--tensor-model-parallel-size {degree}",
        f"--pipeline-model-parallel-size {len(plan.stages)}",
    ]
    if len(set(counts)) > 1:
        layout = "|".join(_layout(plan, stage) for stage in plan.stages)
        command.append(f'--pipeline-model-parallel-layout "{layout}"')
    text = shell_lines(device_environment(plan, shares[rank]), command)
    return text if len(shares) == 1 else f"# on {shares[rank].host}\n{text}"


def _layout(plan: DeviceMap, stage: Stage) -> str:
    kinds = layer_kinds(plan, stage)
    count = kinds.count("decoder")
    decoders = "" if count == 0 else "t" if count == 1 else f"t*{count}"
    return ("E" if "embedding" in kinds else "") + decoders + ("L" if "head" in kinds else "")
