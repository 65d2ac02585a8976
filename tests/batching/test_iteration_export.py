"""Iteration parameters in the words of engines."""

from __future__ import annotations

import json
import shlex

import pytest
import yaml

from gpuplan.errors import UsageError
from gpuplan.plans.export.iteration import export_iteration, iteration_runtimes
from gpuplan.profiles.problems.batching import BatchTime, Executor, Requests
from gpuplan.solvers.batching.iteration import iteration_parameters

TIME = BatchTime(0.0, 1e-5, 0.010, 1e-4, 0.0)


@pytest.fixture
def parameters():
    """Return parameters of a small workload whose best order is shortest first."""
    requests = Requests.of([100, 50, 80, 20], [30, 400, 200, 10])
    return iteration_parameters(requests, Executor("e0", 1e6, 2), TIME, tpot_s=0.05)


def _flags(text):
    words = shlex.split(text.replace("\\\n", " "))
    return {a: b for a, b in zip(words, [*words[1:], ""], strict=True) if a.startswith("--")}


def test_vllm_flags(parameters):
    """Sequences, budget, longest request and the queue order."""
    export = export_iteration(parameters, "vllm", model="meta/llama")
    flags = _flags(export.text)
    assert export.text.startswith("vllm serve meta/llama")
    assert flags["--max-num-seqs"] == str(parameters.max_sequences)
    assert flags["--max-num-batched-tokens"] == str(parameters.token_budget)
    assert flags["--max-model-len"] == "450"
    assert "--enable-chunked-prefill" in flags
    assert flags["--scheduling-policy"] == "priority"
    assert "predicted output tokens, rounded, the lowest first" in export.notes[0]


def test_sglang_flags(parameters):
    """The chunk counts all tokens of a mixed pass; priorities are switched on for an order that needs them."""
    flags = _flags(export_iteration(parameters, "sglang").text)
    assert flags["--max-running-requests"] == str(parameters.max_sequences)
    assert flags["--chunked-prefill-size"] == str(parameters.token_budget)
    assert {"--enable-mixed-chunk", "--enable-priority-scheduling"} <= set(flags)


def test_tensorrt_llm_flags(parameters):
    """Flags with underscores, and the YAML they name switches chunked prefill on."""
    export = export_iteration(parameters, "tensorrt-llm")
    head, _, rest = export.text.partition("<<'YAML'\n")
    document, _, command = rest.partition("YAML\n")
    assert head.startswith("cat > iteration.yaml")
    assert yaml.safe_load(document)["enable_chunked_prefill"] is True
    flags = _flags(command)
    assert flags["--max_batch_size"] == str(parameters.max_sequences)
    assert flags["--max_num_tokens"] == str(parameters.token_budget)
    assert flags["--extra_llm_api_options"] == "iteration.yaml"
    assert any("first come, first served" in note for note in export.notes)


def test_first_come_first_served_needs_no_priorities():
    """Equal requests keep the engines' own order."""
    alike = iteration_parameters(Requests.of([9] * 4, [9] * 4), Executor("e0", 1e6, 2), TIME, tpot_s=0.05)
    assert _flags(export_iteration(alike, "vllm").text)["--scheduling-policy"] == "fcfs"
    assert "--enable-priority-scheduling" not in export_iteration(alike, "sglang").text
    assert export_iteration(alike, "vllm").notes == ()


def test_unknown_engine_names_the_closest():
    """The engines are listed."""
    assert iteration_runtimes() == ("vllm", "sglang", "tensorrt-llm")
    alike = iteration_parameters(Requests.of([9], [9]), Executor("e0", 1e6, 2), TIME, tpot_s=0.05)
    with pytest.raises(UsageError, match=r"out of vllm, sglang, tensorrt-llm, got 'vlm'; did you mean 'vllm'"):
        export_iteration(alike, "vlm")


def test_document_is_plain(parameters):
    """The parameters are JSON as they are."""
    document = json.loads(json.dumps(parameters.to_dict(), allow_nan=False))
    assert document["max_sequences"] == parameters.max_sequences
    assert document["time"]["step_fixed_s"] == 0.010
