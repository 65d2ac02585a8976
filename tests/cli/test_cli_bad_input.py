"""Bad input: one clear sentence on stderr, the documented exit code, nothing printed, nothing written."""

from __future__ import annotations

import copy
import json
import re

import pytest

#: Two A100s joined by four bonded NVLinks.
MATRIX = "\tGPU0\tGPU1\nGPU0\t X \tNV4\nGPU1\tNV4\t X \n"
A100 = ("--gpu", "a100-sxm4-80gb")
#: A config of a model small enough to fit anything.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 1000,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
CLUSTER = """schema: gpuplan/topology/1
name: pair
devices:
  - {kind: l4-24gb, count: 2}
default_link: PHB
"""


@pytest.fixture
def config(write):
    """Write a config.json that can be read."""
    return write("config.json", CONFIG)


@pytest.fixture
def map_refused(refused):
    """``gpuplan map … -o plan.json`` that must fail."""
    return lambda code, *args: refused(code, "map", *args, "-o", "plan.json")


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("cluster", ["missing.yaml", "missing.txt", "folder/missing"])
def test_missing_cluster_file(map_refused, cluster):
    """A CLUSTER that looks like a path and is not there is a bad input file, named."""
    assert cluster in map_refused(3, "llama-3.1-8b", cluster)


def test_missing_model_file(map_refused):
    """A MODEL that looks like a path and is not there is a bad input file, named."""
    assert "missing.json" in map_refused(3, "missing.json", "dgx-a100")


def test_missing_problem_file(refused):
    """A problem file that is not there is named."""
    assert "missing.json" in refused(3, "solve", "missing.json", "-o", "solution.json")


def test_missing_plan_file(refused):
    """A plan that is not there is named, for verify and export alike."""
    assert "missing.json" in refused(3, "verify", "missing.json")
    assert "missing.json" in refused(3, "export", "missing.json", "--to", "vllm", "-o", "run.sh")


def test_missing_gpu_info_file(map_refused, config, write):
    """A --gpu-info file that is not there is named."""
    topo = write("topo.txt", MATRIX)
    assert "missing.csv" in map_refused(3, config, topo, "--gpu-info", "missing.csv")


@pytest.mark.parametrize("content", [b"", b"  \n", b"\x00\x01\xff\xfe\x80binary", b"\x7fELF" + bytes(range(256))])
def test_empty_or_binary_files(map_refused, refused, write, content, config):
    """Empty and binary files are refused wherever a file is read."""
    bad = write("bad.json", content)
    assert "bad.json" in map_refused(3, config, bad)
    assert "bad.json" in map_refused(3, bad, "dgx-a100")
    assert "bad.json" in refused(3, "solve", bad, "-o", "solution.json")
    assert "bad.json" in refused(3, "verify", bad)
    assert "bad.json" in refused(3, "export", bad, "--to", "vllm")


def test_json_that_breaks_off(map_refused, write):
    """A truncated file is refused with the line."""
    assert "line 1" in map_refused(3, write("config.json", '{"hidden_size": 12'), "dgx-a100")


def test_text_of_no_known_format(map_refused, config, write):
    """Text in no known topology format lists what was tried."""
    assert "nvidia-smi topo -m" in map_refused(3, config, write("notes.txt", "hello, this is prose\n"))


# ------------------------------------------------------------------------------------------------------------ matrix


def test_matrix_that_is_not_square(map_refused, config, write):
    """A GPU block with a row missing is refused."""
    topo = write("topo.txt", "\tGPU0\tGPU1\tGPU2\nGPU0\t X \tNV4\tNV4\nGPU1\tNV4\t X \tNV4\n")
    assert "topo.txt" in map_refused(3, config, topo, *A100)


def test_matrix_that_is_not_symmetric(map_refused, config, write):
    """A GPU block whose halves disagree is refused and names the pair."""
    topo = write("topo.txt", "\tGPU0\tGPU1\nGPU0\t X \tNV4\nGPU1\tSYS\t X \n")
    line = map_refused(3, config, topo, *A100)
    assert "GPU0" in line
    assert "GPU1" in line


def test_matrix_with_an_unknown_code(map_refused, config, write):
    """A link code that nvidia-smi does not have is quoted."""
    topo = write("topo.txt", MATRIX.replace("NV4", "QQ7"))
    assert "QQ7" in map_refused(3, config, topo, *A100)


def test_matrix_without_kind_asks_for_it(map_refused, config, write):
    """A matrix does not say the GPU kind: the option that does is named."""
    assert "--gpu" in map_refused(2, config, write("topo.txt", MATRIX))


def test_impossible_link_is_a_warning(run, config, write):
    """NV18 on an A100 (12 links) is planned with, and remarked on stderr."""
    outcome = run("map", config, write("topo.txt", MATRIX.replace("NV4", "NV18")), *A100)
    assert outcome.exit_code == 0
    assert "NV18" in outcome.stderr


# ------------------------------------------------------------------------------------------------------------- names


def test_unknown_gpu_kind_suggests_the_closest(map_refused, config, write):
    """A GPU kind that is not in the catalogue is answered with the closest ones."""
    assert "a100-sxm4-80gb" in map_refused(2, config, write("topo.txt", MATRIX), "--gpu", "a100-smx4-80gb")


def test_unknown_gpu_kind_in_a_file(map_refused, config, write):
    """The same inside a cluster file is a bad file, with the place."""
    line = map_refused(3, config, write("cluster.yaml", CLUSTER.replace("l4-24gb", "l5-24gb")))
    assert "$.devices[0].kind" in line
    assert "l4-24gb" in line


def test_unknown_names_suggest_the_closest(map_refused, refused):
    """Mistyped models, clusters, solvers and runtimes are answered with the closest."""
    assert "llama-3.1-70b" in map_refused(2, "llama-3.1-7ob", "dgx-a100")
    assert "dgx-a100" in map_refused(2, "llama-3.1-8b", "dgx-a10")
    assert "labels" in map_refused(2, "llama-3.1-8b", "dgx-a100", "--solver", "label")
    assert "vllm" in map_refused(2, "llama-3.1-8b", "dgx-a100", "--for", "vlm")
    assert "gpus" in refused(2, "list", "gpu")


def test_unknown_excluded_device(map_refused):
    """An excluded device that does not exist is refused."""
    assert "gpu9" in map_refused(2, "llama-3.1-8b", "dgx-a100", "--exclude", "host0/gpu9")


# ------------------------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_config_without_a_needed_field(map_refused, write, key):
    """A config without a field the shape needs names the field."""
    config = {name: value for name, value in CONFIG.items() if name != key}
    assert key in map_refused(3, write("config.json", config), "dgx-a100")


@pytest.mark.parametrize("value", [None, "many", -1, 0, 1.5, True, [4]])
def test_config_with_no_number_where_one_belongs(map_refused, write, value):
    """Null, strings, negative and broken numbers are refused with the field."""
    config = {**CONFIG, "num_hidden_layers": value}
    assert "num_hidden_layers" in map_refused(3, write("config.json", config), "dgx-a100")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_config_with_nan(map_refused, write, value):
    """NaN and infinity in a config are refused."""
    text = json.dumps(CONFIG).replace('"hidden_size": 512', f'"hidden_size": {value}')
    assert "config.json" in map_refused(3, write("config.json", text), "dgx-a100")


# --------------------------------------------------------------------------------------------------------- topologies


@pytest.mark.parametrize("value", ["-1", "0", ".nan", ".inf", "many"])
def test_sizes_in_a_cluster_file(map_refused, config, write, value):
    """Negative, zero, NaN, infinite and wordy memory sizes are refused with the place."""
    cluster = CLUSTER.replace("count: 2", f"count: 2, available_memory: {value}")
    assert "$.devices[0].available_memory" in map_refused(3, config, write("cluster.yaml", cluster))


def test_duplicate_device_names(map_refused, config, write):
    """Two devices of one name are refused, and the name is said."""
    twins = "\n".join(["  - {kind: l4-24gb, name: twin}"] * 2)
    cluster = CLUSTER.replace("  - {kind: l4-24gb, count: 2}", twins)
    assert "twin" in map_refused(3, config, write("cluster.yaml", cluster))


def test_unknown_schema_versions(map_refused, refused, config, write, three_devices):
    """A file of a later major version is refused, whatever it is."""
    assert "gpuplan/topology/9" in map_refused(3, config, write("c.yaml", CLUSTER.replace("topology/1", "topology/9")))
    problem = {**three_devices, "schema": "gpuplan/placement-problem/9"}
    assert "gpuplan/placement-problem/9" in refused(3, "solve", write("p.json", problem), "-o", "s.json")
    plan = write("plan9.json", {"schema": "gpuplan/device-map/9"})
    assert "gpuplan/device-map/9" in refused(3, "verify", plan)
    assert "gpuplan/device-map/9" in refused(3, "export", plan, "--to", "vllm")


#: Two L4s without any link between them.
APART = CLUSTER.replace("default_link: PHB", "default_link: none")


def test_disconnected_devices_are_planned_apart(run, config, write):
    """A model that fits one of two devices without a link gets a map on one."""
    outcome = run("map", config, write("cluster.yaml", APART), "-o", "plan.json")
    assert outcome.exit_code == 0
    assert "devices 1" in outcome.stdout


def test_disconnected_devices_are_not_planned_across(map_refused, write):
    """A model that would need both devices has no map: 15 GiB of bf16 weights on 21 GiB fit, 30 GiB in fp32 do not."""
    cluster = write("cluster.yaml", APART)
    assert "proven" in map_refused(4, "llama-3.1-8b", cluster, "--dtype", "fp32", "--kv-dtype", "fp32")


# --------------------------------------------------------------------------------------------------------- infeasible


def test_layer_that_fits_no_device(map_refused, write):
    """A layer bigger than every device is named."""
    cluster = write("cluster.yaml", CLUSTER.replace("count: 2", "count: 2, available_memory: 3GiB"))
    # The embedding and the head of Llama-3.1-405B in bf16 take 128256·16384·2 B = 3.9 GiB each.
    line = map_refused(4, "llama-3.1-405b", cluster)
    assert "fits no device" in line or "fit no device" in line


def test_model_that_does_not_fit_says_how_much_is_short(map_refused):
    """405B on four 24 GB cards: the shortage is said in bytes."""
    assert "GiB short" in map_refused(4, "llama-3.1-405b", "4x3090-uellm")


def test_model_that_does_not_fit_says_what_would(map_refused, run):
    """Where the weights fit and the workload does not, the largest batch that fits is said: one more has no map."""
    # Llama-3.1-8B: 128 KiB·2048 tokens·1024 sequences = 256 GiB of KV on eight cards of 20 GiB.
    words = ("llama-3.1-8b", "8xl4", "--prompt", "1024", "--output", "1024")
    line = map_refused(4, *words, "--batch", "1024")
    batch = int(re.search(r"a batch of ([\d,]+) would fit", line)[1].replace(",", ""))
    assert run("map", *words, "--batch", batch).exit_code == 0
    assert run("map", *words, "--batch", batch + 1).exit_code == 4


def test_prompt_that_does_not_fit_says_what_would(map_refused, run):
    """Where one sequence is too long, the longest prompt that fits is said: one token more has no map."""
    # 15 GiB of weights on one card of 20.2 GiB leave a few GiB: 128 KiB a token make some 25,000 tokens.
    words = ("llama-3.1-8b", "8xl4", "--max-devices", "1")
    line = map_refused(4, *words, "--prompt", "100000")
    prompt = int(re.search(r"a batch of 1 with a prompt of ([\d,]+) tokens would fit", line)[1].replace(",", ""))
    assert run("map", *words, "--prompt", prompt).exit_code == 0
    assert run("map", *words, "--prompt", prompt + 1).exit_code == 4


def test_infeasible_as_json(run, tmp_path):
    """With --format json the status and reasons are printed, exit 4, and the plan is not written."""
    outcome = run("map", "llama-3.1-405b", "4x3090-uellm", "--format", "json", "-o", "plan.json")
    document = json.loads(outcome.stdout)
    assert outcome.exit_code == 4
    assert document["status"] == "infeasible"
    assert document["reasons"]
    assert not (tmp_path / "plan.json").exists()


# ----------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--batch", "0"),
        ("--batch", "-4"),
        ("--batch", "nan"),
        ("--prompt", "0"),
        ("--output", "0.5"),
        ("--max-devices", "0"),
        ("--memory-fraction", "0"),
        ("--memory-fraction", "1.5"),
        ("--memory-fraction", "nan"),
        ("--reserve", "-1GiB"),
        ("--reserve", "nan"),
        ("--reserve", "inf"),
        ("--time-limit", "0"),
        ("--time-limit", "-1"),
        ("--time-limit", "nan"),
        ("--work-limit", "0"),
        ("--threads", "0"),
        ("--seed", "-1"),
        ("--micro-batches", "0"),
        ("--micro-batches", "layers"),
        ("--balance", "10"),
        ("--balance", "0:0"),
        ("--balance", "nan:1"),
        ("--objective", "speed"),
        ("--dtype", "fp17"),
        ("--kv-dtype", "none"),
        ("--format", "xml"),
        ("--catalog", "nowhere"),
    ],
)
def test_bad_option_values(map_refused, option, value):
    """A value an option cannot mean is one sentence that names the option and the value."""
    line = map_refused(2, "llama-3.1-8b", "dgx-a100", option, value)
    assert option in line
    assert value in line


def test_degrees_the_model_or_the_runtime_does_not_allow(map_refused):
    """A degree that does not divide the heads, groups for a runtime of single devices, uneven stages for vLLM."""
    ask = ("llama-3.1-8b", "dgx-a100", "--tensor-parallel")
    assert "it allows 1, 2, 4, 8" in map_refused(2, *ask, "3")
    assert "accelerate" in map_refused(2, *ask, "2", "--for", "accelerate")
    assert "vllm" in map_refused(2, *ask, "1,2", "--uneven-tensor-parallel", "--for", "vllm")
    assert "groups" in map_refused(2, *ask, "2", "--write-model", "model.json")


def test_a_degree_no_island_has_devices_for(map_refused):
    """Sixteen devices a stage on hosts of eight: proven to have no plan, with the largest island."""
    assert "has 8" in map_refused(4, "llama-3.1-8b", "dgx-a100", "--tensor-parallel", "16")


def test_micro_batches_belong_to_throughput(map_refused):
    """Micro-batches with another objective are refused."""
    assert "throughput" in map_refused(2, "llama-3.1-8b", "dgx-a100", "--micro-batches", "2")


def test_options_without_a_meaning_for_a_front(refused):
    """Pareto takes no objective and no plan to start from."""
    assert "--objective" in refused(2, "pareto", "llama-3.1-8b", "dgx-a100", "--objective", "throughput")
    assert "--warm-start" in refused(2, "pareto", "llama-3.1-8b", "dgx-a100", "--warm-start", "plan.json")


def test_cost_without_prices(map_refused, config, write):
    """The cost objective needs prices, and says which device lacks one."""
    assert "price" in map_refused(2, config, write("cluster.yaml", CLUSTER), "--objective", "cost")


# ------------------------------------------------------------------------------------------------------------ outputs


@pytest.mark.parametrize("target", ["no/such/folder/plan.json", "."])
def test_unwritable_output(refused, target):
    """An output in a folder that is not there, or that is a folder, is refused before any work."""
    assert "cannot write" in refused(2, "map", "llama-3.1-8b", "dgx-a100", "-o", target)
    assert "cannot write" in refused(2, "map", "llama-3.1-8b", "dgx-a100", "--stats", target)
    assert "cannot write" in refused(2, "pareto", "llama-3.1-8b", "dgx-a100", "-o", target)
    assert "cannot write" in refused(2, "topology", "convert", "dgx-a100", "-o", target)


def test_write_model_of_unknown_suffix(refused):
    """--write-model knows few kinds of files."""
    assert ".lp" in refused(2, "map", "llama-3.1-8b", "dgx-a100", "--write-model", "model.doc")


# ---------------------------------------------------------------------------------------------------------- problems


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("devices", 0, "available_bytes"), -1),
        (("devices", 0, "available_bytes"), None),
        (("devices", 0, "available_bytes"), "24GB"),
        (("layers", 3, "memory_bytes"), float("nan")),
        (("compute_s", 1, 2), float("inf")),
        (("hop_latency_s", 0, 1), -0.1),
        (("objective", "name"), "speed"),
        (("max_devices",), 0),
        (("colour",), "red"),
    ],
)
def test_problem_fields(refused, write, three_devices, path, value):
    """A field of a problem file that cannot be used is named with its path."""
    problem = copy.deepcopy(three_devices)
    place = problem
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    line = refused(3, "solve", write("problem.json", problem), "-o", "solution.json")
    assert str(path[-1]) in line


def test_problem_that_is_infeasible(refused, run, write, three_devices, tmp_path):
    """A problem without a plan is exit 4; nothing is written; on stdout the document says so."""
    # 12 layers of 1 GB on 4 + 4 + 3 GB.
    three_devices["devices"][2]["available_bytes"] = 3e9
    path = write("problem.json", three_devices)
    assert "proven" in refused(4, "solve", path, "-o", "solution.json")
    outcome = run("solve", path)
    document = json.loads(outcome.stdout)
    assert (outcome.exit_code, document["status"]) == (4, "infeasible")
    assert document["reasons"]
    assert not (tmp_path / "solution.json").exists()


# --------------------------------------------------------------------------------------------------------- hand edits


@pytest.fixture
def plan(run, tmp_path):
    """Return a plan as its document."""
    assert run("map", "llama-3.1-70b", "dgx-a100", "-o", "good.json").exit_code == 0
    return json.loads((tmp_path / "good.json").read_text("utf-8"))


def _moved_layer(plan):
    plan["stages"][0]["layers"]["stop"] += 1
    plan["stages"][1]["layers"]["start"] += 1
    return "$.stages[0]"


def _shaved_latency(plan):
    plan["metrics"]["latency_s"] *= 0.99
    return "$.metrics.latency_s"


def _faster_link(plan):
    plan["inputs"]["topology"]["links"][0]["bandwidth_bytes_per_s"] *= 2
    return "$.topology.digest"


def _false_proof(plan):
    plan["result"]["bound"] *= 0.5
    return "$.result"


@pytest.mark.parametrize("edit", [_moved_layer, _shaved_latency, _faster_link, _false_proof])
def test_plan_edited_by_hand(run, write, plan, edit):
    """Each edit ends in exit 6, and verify names the field."""
    place = edit(plan)
    outcome = run("verify", write("edited.json", plan))
    assert outcome.exit_code == 6
    assert place in outcome.stdout
    assert len(outcome.stderr.splitlines()) == 1


def test_plan_with_an_unknown_key(refused, write, plan):
    """A key the schema does not have is refused with its path."""
    plan["stages"][1]["colour"] = "red"
    path = write("edited.json", plan)
    assert "$.stages[1]" in refused(3, "verify", path)
