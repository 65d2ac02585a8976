"""Exports of plans of groups: sizes, partitions and device order for each runtime, and what each one refuses."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from gpuplan.errors import UnsupportedError
from gpuplan.plans import export, export_details
from gpuplan.plans.export.pipeline import even_split
from gpuplan.topology.graph import Topology

#: Two stages of two devices on host h0, the second group's devices numbered before the first's.
PAIRS = (((2, 3), 4), ((0, 1), 10))


def test_vllm(build: Any) -> None:
    """Ranks run over the devices of a stage first, so the devices stand in pipeline order, group by group."""
    assert export(build(*PAIRS), "vllm") == (
        "export CUDA_DEVICE_ORDER=PCI_BUS_ID\n"
        "export CUDA_VISIBLE_DEVICES=2,3,0,1\n"
        "export VLLM_PP_LAYER_PARTITION=3,5\n"
        "vllm serve hand \\\n"
        "  --pipeline-parallel-size 2 \\\n"
        "  --tensor-parallel-size 2 \\\n"
        "  --gpu-memory-utilization 0.9 \\\n"
        "  --max-model-len 8\n"
    )


def test_memory_share_is_that_of_each_device(build: Any, cluster: Topology) -> None:
    """A smaller member sets what a stage may take, not what share of a larger one vLLM may take."""
    small = dataclasses.replace(cluster.devices[0].kind, name="small", memory_bytes=500)
    devices = (dataclasses.replace(cluster.devices[0], kind=small, available_bytes=450), *cluster.devices[1:])
    plan = build(((0, 1), 10), topology=dataclasses.replace(cluster, devices=devices))
    assert plan.stages[0].memory.available_bytes == 450
    assert "--gpu-memory-utilization 0.9 " in export(plan, "vllm")  # 450 of 500 B, 900 of 1000 B


def test_sglang_on_two_hosts(build: Any) -> None:
    """A host holds two stages of two devices; both blocks say the sizes of the whole."""
    plan = build(((0, 1), 3), ((2, 3), 5), ((4, 5), 8), ((6, 7), 10))
    first, second = export(plan, "sglang").split("\n\n")
    assert "export CUDA_VISIBLE_DEVICES=0,1,2,3\nexport SGLANG_PP_LAYER_PARTITION=2,2,3,1\n" in first
    for text, rank in ((first, 0), (second, 1)):
        assert (
            f"--pp-size 4 \\\n  --tp-size 2 \\\n  --context-length 8 \\\n  --nnodes 2 \\\n  --node-rank {rank}" in text
        )


def test_tensorrt_llm(build: Any) -> None:
    """An options file with the sizes and the partition, and the line that reads it; 2 sequences of 8 tokens."""
    details = export_details(build(*PAIRS), "tensorrt-llm", model="org/name")
    assert details.text == (
        "cat > llm_api.yaml <<'YAML'\n"
        "tensor_parallel_size: 2\n"
        "pipeline_parallel_size: 2\n"
        "pp_partition: [3, 5]\n"
        "YAML\n"
        "export CUDA_DEVICE_ORDER=PCI_BUS_ID\n"
        "export CUDA_VISIBLE_DEVICES=2,3,0,1\n"
        "trtllm-serve org/name \\\n"
        "  --max_batch_size 2 \\\n"
        "  --max_seq_len 8 \\\n"
        "  --extra_llm_api_options llm_api.yaml\n"
    )
    assert "1.2 or later" in details.notes[0]


def test_tensorrt_llm_deals_evenly_by_itself(build: Any) -> None:
    """Without a partition TensorRT-LLM gives the first stages one more: 3, 3 and 2 of eight layers."""
    plan = build((0, 4), (1, 7), (2, 10))
    assert "pp_partition" not in export(plan, "tensorrt-llm")
    assert export_details(plan, "tensorrt-llm").notes == ()
    assert even_split(8, 3) == (3, 3, 2)


def test_tensorrt_llm_on_two_hosts(build: Any) -> None:
    """One Open MPI line starts the ranks of every host with that host's devices."""
    text = export(build(((1, 2), 5), ((4, 7), 10)), "tensorrt-llm")
    assert "gpus_per_node: 2\n" in text
    serve = (
        "trtllm-llmapi-launch trtllm-serve hand --max_batch_size 2 --max_seq_len 8 --extra_llm_api_options llm_api.yaml"
    )
    assert text.endswith(
        "mpirun -n 2 --host h0 -x CUDA_DEVICE_ORDER=PCI_BUS_ID -x CUDA_VISIBLE_DEVICES=1,2 "
        f"{serve} : -n 2 --host h1 -x CUDA_DEVICE_ORDER=PCI_BUS_ID -x CUDA_VISIBLE_DEVICES=0,3 {serve}\n"
    )


def test_tensorrt_llm_refusals(build: Any, cluster: Topology) -> None:
    """A stage without a decoder layer, and devices that are not NVIDIA's."""
    with pytest.raises(UnsupportedError, match="plan again with --for tensorrt-llm"):
        export(build((0, 1), (1, 10)), "tensorrt-llm")
    kind = dataclasses.replace(cluster.devices[0].kind, vendor="AMD")
    devices = tuple(dataclasses.replace(device, kind=kind) for device in cluster.devices)
    with pytest.raises(UnsupportedError, match="the plan uses amd ones; export to vllm"):
        export(build((0, 10), topology=dataclasses.replace(cluster, devices=devices)), "tensorrt-llm")


def test_megatron(build: Any) -> None:
    """Unlike stages need a layout: embedding and three layers, five layers and the head."""
    details = export_details(build(*PAIRS), "megatron", model="/checkpoints/hand")
    assert details.text == (
        "export CUDA_DEVICE_ORDER=PCI_BUS_ID\n"
        "export CUDA_VISIBLE_DEVICES=2,3,0,1\n"
        "torchrun --nproc-per-node 4 tools/run_text_generation_server.py \\\n"
        "  --load /checkpoints/hand \\\n"
        "  --use-checkpoint-args \\\n"
        "  --tensor-model-parallel-size 2 \\\n"
        "  --pipeline-model-parallel-size 2 \\\n"
        '  --pipeline-model-parallel-layout "Et*3|t*5L"\n'
    )
    assert "experimental" in details.notes[1]


@pytest.mark.parametrize(
    ("stages", "layout"),
    [(((0, 1), (1, 10)), "E|t*8L"), (((0, 9), (1, 10)), "Et*8|L"), (((0, 2), (1, 4), (2, 10)), "Et|t*2|t*5L")],
)
def test_megatron_layouts(build: Any, stages: Any, layout: str) -> None:
    """Embedding or head may be alone; a single layer needs no count."""
    assert f'"{layout}"' in export(build(*stages), "megatron")


def test_megatron_uniform_stages_on_two_hosts(build: Any) -> None:
    """Stages alike need no layout; every host gets its block."""
    text = export(build(((0, 1), 5), ((4, 5), 10)), "megatron")
    assert "layout" not in text
    first, second = text.split("\n\n")
    for block, rank in ((first, 0), (second, 1)):
        start = f"torchrun --nproc-per-node 2 --nnodes 2 --node-rank {rank} --master-addr h0 --master-port 6000"
        assert f"{start} tools/run_text_generation_server.py" in block


def test_deepspeed(build: Any) -> None:
    """One stage is a tensor-parallel inference config; a pipeline is refused with the mend."""
    details = export_details(build(((1, 3), 10)), "deepspeed")
    assert json.loads(details.text) == {"dtype": "bf16", "max_out_tokens": 8, "tensor_parallel": {"tp_size": 2}}
    assert "deepspeed --include localhost:1,3" in details.notes[0]
    with pytest.raises(UnsupportedError, match="--tensor-parallel N --max-devices N, or export to vllm"):
        export(build(*PAIRS), "deepspeed")


@pytest.mark.parametrize(("runtime", "mend"), [("accelerate", "--tensor-parallel 1"), ("llama-cpp", "parallel 1")])
def test_one_device_a_stage(build: Any, runtime: str, mend: str) -> None:
    """Accelerate and llama.cpp's layer split run one device a stage."""
    with pytest.raises(UnsupportedError, match=f"stage 1 has tensor-parallel degree 2; .*{mend}"):
        export(build((0, 5), ((1, 2), 10)), runtime)


@pytest.mark.parametrize("runtime", ["vllm", "sglang", "tensorrt-llm", "megatron"])
def test_uneven_degrees_are_refused(build: Any, runtime: str) -> None:
    """Runtimes of one degree name those the plan has, and the mend."""
    with pytest.raises(
        UnsupportedError, match=f"{runtime} takes one .* plan has 1, 2; plan again without --uneven-tensor-parallel"
    ):
        export(build(((0, 1), 5), (2, 10)), runtime)


def test_group_that_spans_hosts(build: Any) -> None:
    """A group across two hosts keeps its rank order; a second group that comes back to the first host is refused."""
    text = export(build(((2, 3, 4, 5), 10)), "vllm")
    assert "# on h0\n" in text
    assert "CUDA_VISIBLE_DEVICES=2,3\n" in text
    assert "CUDA_VISIBLE_DEVICES=0,1\n" in text
    with pytest.raises(UnsupportedError, match="comes back to a host"):
        export(build(((0, 4), 5), ((1, 5), 10)), "vllm")
