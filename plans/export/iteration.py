"""Iteration parameters as the flags of vLLM, SGLang and TensorRT-LLM.

What the flags count: vLLM's ``--max-num-batched-tokens`` and TensorRT-LLM's ``--max_num_tokens`` are all tokens of an
iteration. SGLang's ``--chunked-prefill-size`` is too, once ``--enable-mixed-chunk`` lets decoding sequences share the
pass: it takes them off the chunk.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from gpuplan.errors import UsageError
from gpuplan.plans.export.pipeline import shell_lines
from gpuplan.plans.export.registry import Export
from gpuplan.plans.iteration import IterationParameters

_PRIORITY = {
    "shortest-first": "its predicted output tokens",
    "deadline": "its deadline",
    "weight": "its predicted output tokens divided by its weight",
}


def iteration_runtimes() -> tuple[str, ...]:
    """Return the engines that take iteration parameters, by name."""
    return tuple(_EXPORTS)


def export_iteration(parameters: IterationParameters, runtime: str, *, model: str = "MODEL") -> Export:
    """Return the line that starts `runtime` with `parameters`.

    Parameters
    ----------
    runtime
        A name of `iteration_runtimes`.
    model
        What the engine is to load.

    Raises
    ------
    UsageError
        An engine that takes none.
    """
    found = _EXPORTS.get(runtime)
    if found is None:
        close = difflib.get_close_matches(runtime, _EXPORTS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"expected an engine out of {', '.join(_EXPORTS)}, got {runtime!r}{hint}")
    return found(parameters, model)


def _vllm(parameters: IterationParameters, model: str) -> Export:
    first = parameters.queue_order == "fcfs"
    command = [
        f"vllm serve {model}",
        f"--max-num-seqs {parameters.max_sequences}",
        f"--max-num-batched-tokens {parameters.token_budget}",
        "--enable-chunked-prefill",
        f"--max-model-len {parameters.longest_tokens}",
        f"--scheduling-policy {'fcfs' if first else 'priority'}",
    ]
    return Export(shell_lines({}, command), notes=_priority_note(parameters, "the lowest first"))


def _sglang(parameters: IterationParameters, model: str) -> Export:
    command = [
        "python -m sglang.launch_server",
        f"--model-path {model}",
        f"--max-running-requests {parameters.max_sequences}",
        f"--chunked-prefill-size {parameters.token_budget}",
        "--enable-mixed-chunk",
        f"--context-length {parameters.longest_tokens}",
        "--schedule-policy fcfs",
    ]
    if parameters.queue_order != "fcfs":
        command += ["--enable-priority-scheduling", "--schedule-low-priority-values-first"]
    return Export(shell_lines({}, command), notes=_priority_note(parameters, "the lowest first"))


def _tensorrt_llm(parameters: IterationParameters, model: str) -> Export:
    options = [
        "cat > iteration.yaml <<'YAML'",
        "enable_chunked_prefill: true",
        "scheduler_config:",
        "  capacity_scheduler_policy: MAX_UTILIZATION",
        "YAML",
    ]
    command = [
        f"trtllm-serve {model}",
        f"--max_batch_size {parameters.max_sequences}",
        f"--max_num_tokens {parameters.token_budget}",
        f"--max_seq_len {parameters.longest_tokens}",
        "--extra_llm_api_options iteration.yaml",
    ]
    notes = [
        "MAX_UTILIZATION admits by what is there instead of by the longest output; the batch limit keeps pauses rare "
        f"(P = {parameters.overflow_probability:.2g})."
    ]
    if parameters.queue_order != "fcfs":
        notes.append(f"TensorRT-LLM serves first come, first served: send requests {parameters.queue_order} yourself.")
    return Export("\n".join(options) + "\n" + shell_lines({}, command), notes=tuple(notes))


def _priority_note(parameters: IterationParameters, way: str) -> tuple[str, ...]:
    what = _PRIORITY.get(parameters.queue_order)
    return () if what is None else (f"Send each request with its priority: {what}, rounded, {way}.",)


_EXPORTS: dict[str, Callable[[IterationParameters, str], Export]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "tensorrt-llm": _tensorrt_llm,
}
