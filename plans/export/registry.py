"""The runtimes a plan can be written for, one module each."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from gpuplan.plans.device_map import DeviceMap


@dataclass(frozen=True, slots=True)
class Export:
    """A plan in a runtime's words.

    Parameters
    ----------
    text
        Ready to paste: shell lines, or JSON.
    environment
        Variables the runtime has to see. Shell texts set them already; a JSON text cannot.
    notes
        Sentences for a person.
    """

    text: str
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime by name; `module` holds its ``export_plan(plan, model)``."""

    name: str
    summary: str
    module: str


_RUNTIMES = (
    Runtime("accelerate", "device_map for transformers, JSON {module: GPU}", "accelerate"),
    Runtime("deepspeed", "DeepSpeed inference config of one tensor-parallel stage, JSON", "deepspeed"),
    Runtime("llama-cpp", "llama-server options for a layer split", "llama_cpp"),
    Runtime("megatron", "Megatron-LM launch lines with its pipeline layout", "megatron"),
    Runtime("sglang", "SGLang launch lines with its pipeline partition", "sglang"),
    Runtime("tensorrt-llm", "trtllm-serve line and its options file", "tensorrt_llm"),
    Runtime("vllm", "vllm serve lines with its pipeline partition", "vllm"),
)


def list_runtimes() -> tuple[Runtime, ...]:
    """Return the runtimes a plan can be exported to, by name."""
    return _RUNTIMES


def export(plan: DeviceMap, runtime: str, *, model: str | None = None) -> str:
    """Return `plan` as `runtime` takes it: text ready to paste.

    Parameters
    ----------
    plan
        The device map.
    runtime
        A name of `list_runtimes`.
    model
        What the runtime is to load (a path or repository id); by default the plan's model name.

    Raises
    ------
    UsageError
        An unknown runtime.
    UnsupportedError
        The runtime cannot run this plan; the message names the mend.
    """
    return export_details(plan, runtime, model=model).text


def export_details(plan: DeviceMap, runtime: str, *, model: str | None = None) -> Export:
    """Return `plan` for `runtime` with the environment it needs and notes for a person; see `export`."""
    found = next((row for row in _RUNTIMES if row.name == runtime), None)
    if found is None:
        raise UsageError(_unknown(runtime))
    module = importlib.import_module(f"gpuplan.plans.export.{found.module}")
    result: Export = module.export_plan(plan, model or plan.model.name)
    return result


def _unknown(runtime: str) -> str:
    names = [row.name for row in _RUNTIMES]
    close = difflib.get_close_matches(runtime, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"expected a runtime out of {', '.join(names)}, got {runtime!r}{hint}"
