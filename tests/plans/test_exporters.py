"""Exports: the exact text for each runtime, and what each one refuses."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from gpuplan.errors import UnsupportedError, UsageError
from gpuplan.plans import export, export_details, list_runtimes
from gpuplan.plans.export.llama_cpp import split_items
from gpuplan.profiles import ModelProfile
from gpuplan.topology.graph import Topology


def test_accelerate(build: Any) -> None:
    """Every module of every stage gets its stage's number; the environment lists the devices in that order."""
    plan = build((2, 4), (0, 10))
    details = export_details(plan, "accelerate")
    modules = json.loads(details.text)
    assert list(modules.items()) == [
        ("model.embed_tokens", 0),
        *((f"model.layers.{i}", 0) for i in range(3)),
        *((f"model.layers.{i}", 1) for i in range(3, 8)),
        ("model.norm", 1),
        ("lm_head", 1),
    ]
    assert details.environment == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "2,0"}
    assert "CUDA_VISIBLE_DEVICES=2,0" in details.notes[0]


def test_accelerate_on_one_device_is_complete(build: Any) -> None:
    """A one-stage plan still names every module, never ``""``."""
    modules = json.loads(export(build((3, 10)), "accelerate"))
    assert len(modules) == 11
    assert set(modules.values()) == {0}


def test_vllm(build: Any) -> None:
    """The partition counts decoder layers; devices come in pipeline order; 900 of 1000 B may be used."""
    assert export(build((2, 4), (0, 10)), "vllm", model="org/name") == (
        "export CUDA_DEVICE_ORDER=PCI_BUS_ID\n"
        "export CUDA_VISIBLE_DEVICES=2,0\n"
        "export VLLM_PP_LAYER_PARTITION=3,5\n"
        "vllm serve org/name \\\n"
        "  --pipeline-parallel-size 2 \\\n"
        "  --tensor-parallel-size 1 \\\n"
        "  --gpu-memory-utilization 0.9 \\\n"
        "  --max-model-len 8\n"
    )


def test_vllm_on_two_hosts(build: Any) -> None:
    """Hosts get a block each: the first serves, the other joins it without a front end."""
    text = export(build((1, 3), (0, 5), (6, 8), (5, 10)), "vllm")
    first, second = text.split("\n\n")
    assert first.startswith("# on h0\nexport CUDA_DEVICE_ORDER=PCI_BUS_ID\nexport CUDA_VISIBLE_DEVICES=1,0\n")
    assert second.startswith("# on h1\nexport CUDA_DEVICE_ORDER=PCI_BUS_ID\nexport CUDA_VISIBLE_DEVICES=2,1\n")
    assert "--nnodes 2 \\\n  --node-rank 0 \\\n  --master-addr h0" in first
    assert "--nnodes 2 \\\n  --node-rank 1 \\\n  --master-addr h0 \\\n  --headless" in second
    assert first.count("VLLM_PP_LAYER_PARTITION=2,2,3,1") == second.count("VLLM_PP_LAYER_PARTITION=2,2,3,1") == 1


def test_sglang(build: Any) -> None:
    """SGLang takes the same partition under its own name."""
    assert export(build((2, 4), (0, 10)), "sglang") == (
        "export CUDA_DEVICE_ORDER=PCI_BUS_ID\n"
        "export CUDA_VISIBLE_DEVICES=2,0\n"
        "export SGLANG_PP_LAYER_PARTITION=3,5\n"
        "python -m sglang.launch_server \\\n"
        "  --model-path hand \\\n"
        "  --pp-size 2 \\\n"
        "  --tp-size 1 \\\n"
        "  --context-length 8\n"
    )


def test_sglang_on_two_hosts(build: Any) -> None:
    """Every host names its rank and where they meet."""
    text = export(build((0, 5), (4, 10)), "sglang")
    for rank in (0, 1):
        assert f"--nnodes 2 \\\n  --node-rank {rank} \\\n  --dist-init-addr h0:20000\n" in text


def test_llama_cpp(build: Any) -> None:
    """Eight layers and the output are nine items; the embedding counts nowhere; 2 sequences of 8 tokens."""
    assert export(build((2, 4), (0, 10)), "llama-cpp") == (
        "export CUDA_DEVICE_ORDER=PCI_BUS_ID\n"
        "export CUDA_VISIBLE_DEVICES=2,0\n"
        "llama-server --model hand.gguf \\\n"
        "  --n-gpu-layers 9 \\\n"
        "  --split-mode layer \\\n"
        "  --tensor-split 3,6 \\\n"
        "  --main-gpu 0 \\\n"
        "  --ctx-size 16 \\\n"
        "  --parallel 2\n"
    )


def test_llama_cpp_deals_the_layers_of_the_plan(build: Any, deep_model: ModelProfile) -> None:
    """By llama.cpp's own rule, in single precision, every layer lands on the device of its stage."""
    rng = np.random.default_rng(0)
    for count in range(1, 5):
        for _ in range(5):
            cuts = sorted(rng.choice(np.arange(2, 10), size=count - 1, replace=False).tolist())
            plan = build(*enumerate([*cuts, 10]))
            items = split_items(plan)
            # Item i goes to the first device whose cumulative share exceeds i / items, all numbers floats.
            shares = np.cumsum(np.array(items, dtype=np.float32)) / np.float32(sum(items))
            for i in range(sum(items)):
                device = int(np.searchsorted(shares, np.float32(i) / np.float32(sum(items)), side="right"))
                stage = plan.stages[device]
                assert stage.layers.start <= i + 1 < stage.layers.stop


def test_head_alone_is_fine_for_llama_cpp(build: Any) -> None:
    """The output is an item of its own, so a stage may hold nothing else."""
    assert "--tensor-split 8,1" in export(build((0, 9), (1, 10)), "llama-cpp")


@pytest.mark.parametrize("runtime", ["vllm", "sglang"])
@pytest.mark.parametrize(("stages", "held"), [(((0, 1), (1, 10)), "embedding"), (((0, 9), (1, 10)), "head")])
def test_stage_without_a_decoder_layer(build: Any, runtime: str, stages: Any, held: str) -> None:
    """VLLM and SGLang run no stage of only embedding or head; --for is the mend."""
    with pytest.raises(UnsupportedError, match=rf"holds the {held} only; plan again with --for {runtime}"):
        export(build(*stages), runtime)


def test_embedding_alone_is_nothing_for_llama_cpp(build: Any) -> None:
    """llama.cpp leaves the embedding in host memory: a stage of only that would be an idle device."""
    with pytest.raises(UnsupportedError, match=r"stage 0 .*holds nothing else"):
        export(build((0, 1), (1, 10)), "llama-cpp")


@pytest.mark.parametrize("runtime", ["accelerate", "llama-cpp"])
def test_several_hosts_are_refused(build: Any, runtime: str) -> None:
    """One process drives one host's devices; the message names hosts and mend."""
    with pytest.raises(UnsupportedError, match="the plan uses h0, h1; exclude the devices of the other hosts"):
        export(build((0, 5), (4, 10)), runtime)


def test_hosts_come_once_and_alike(build: Any) -> None:
    """Ranks are numbered host by host: a pipeline that returns to a host, or uneven hosts, are refused."""
    with pytest.raises(UnsupportedError, match="comes back to a host"):
        export(build((0, 3), (4, 6), (1, 10)), "vllm")
    with pytest.raises(UnsupportedError, match="2 on h0, 1 on h1"):
        export(build((0, 3), (1, 6), (4, 10)), "sglang")


def test_amd_devices_have_their_own_variable(build: Any, cluster: Topology) -> None:
    """AMD's runtime reads HIP_VISIBLE_DEVICES and knows no PCI order."""
    kind = dataclasses.replace(cluster.devices[0].kind, vendor="AMD")
    devices = tuple(dataclasses.replace(device, kind=kind) for device in cluster.devices)
    text = export(build((1, 4), (0, 10), topology=dataclasses.replace(cluster, devices=devices)), "vllm")
    assert text.startswith("export HIP_VISIBLE_DEVICES=1,0\nexport VLLM")


def test_fp8_cache(build: Any, deep_model: ModelProfile) -> None:
    """A plan with an fp8 KV cache says so to the runtime."""
    plan = build((0, 10), model=dataclasses.replace(deep_model, kv_dtype="fp8"))
    assert "--kv-cache-dtype fp8\n" in export(plan, "vllm")
    assert "--kv-cache-dtype fp8_e4m3\n" in export(plan, "sglang")


def test_exports_are_deterministic(build: Any) -> None:
    """The same plan gives the same text."""
    for runtime in list_runtimes():
        assert export(build((0, 10)), runtime.name) == export(build((0, 10)), runtime.name)


def test_unknown_runtime(build: Any) -> None:
    """An unknown runtime lists the known ones and the closest."""
    with pytest.raises(UsageError, match=r"accelerate, .*, vllm, got 'vlm'; did you mean 'vllm'\?"):
        export(build((0, 10)), "vlm")
