"""Planning deployments gives no warning: a service that calls it prints nothing."""

from __future__ import annotations

import json
import warnings

import gpuplan


def ask(model, cluster, folder, **settings):
    """Return the answer for a cluster file of this text; a warning fails the test."""
    (folder / "cluster.yaml").write_text(f"schema: gpuplan/topology/1\ndefault_link: PHB\n{cluster}", encoding="utf-8")
    topology = gpuplan.load_topology(folder / "cluster.yaml")
    workload = gpuplan.Workload(prompt_tokens=256, output_tokens=64)
    problem = gpuplan.DeploymentProblem(model, topology, workload=workload, batch_auto=True, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return gpuplan.deploy(problem)


def test_group_that_no_route_joins(tmp_path):
    """Two devices of an island without a route between them are no group; the third joins either."""
    cluster = "devices: [{kind: l4-24gb, count: 3}]\nlinks: [{between: [gpu0, gpu1], kind: none}]\n"
    result = ask(gpuplan.load_model("llama-3.1-8b"), cluster, tmp_path, tensor_parallel=(2,))
    (replica,) = result.require_plan().replicas
    assert result.status == "optimal"
    assert "host0/gpu2" in replica.device_names


def test_boxes_that_may_cost_next_to_nothing(tmp_path):
    """Kinds that hold no layer within an SLO leave boxes whose least price is about 0: their ratio is infinite."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 12288,
        "num_hidden_layers": 3,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "intermediate_size": 24576,
        "vocab_size": 128256,
        "torch_dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    kinds = "{kind: h100-sxm5-80gb, available_memory: 15GiB}, {kind: l4-24gb}, {kind: h100-sxm5-80gb}"
    settings = {"tensor_parallel": (1,), "tpot_slo_s": 0.0319, "return_hop": False}
    result = ask(gpuplan.load_model(tmp_path / "config.json"), f"devices: [{kinds}]\n", tmp_path, **settings)
    assert result.status == "optimal"
