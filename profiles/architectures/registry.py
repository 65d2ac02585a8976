"""Which builder reads which config, by ``model_type`` and by the class names in ``architectures``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from gpuplan.profiles.architectures.assembly import Request
from gpuplan.profiles.architectures.fields import ConfigFields, describe
from gpuplan.profiles.model import ModelProfile

Builder = Callable[[Request], ModelProfile]


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models.

    Parameters
    ----------
    name
        Its ``model_type``.
    module, function
        Where its builder is, under `gpuplan.profiles.architectures`.
    architectures
        Class names that mean it; the first stands in where a config names none.
    model_types
        Further ``model_type`` values that mean it.
    prefix
        Module name of the language model without its head.
    """

    name: str
    module: str
    function: str
    architectures: tuple[str, ...]
    model_types: tuple[str, ...] = ()
    prefix: str = "model"

    def builder(self) -> Builder:
        """Return the function that reads a config of this family."""
        module = importlib.import_module(f"gpuplan.profiles.architectures.{self.module}")
        found: Builder = getattr(module, self.function)
        return found


FAMILIES = (
    Family("llama", "llama", "build_llama", ("LlamaForCausalLM", "LLaMAForCausalLM")),
    Family("mistral", "llama", "build_mistral", ("MistralForCausalLM",)),
    Family("qwen2", "llama", "build_qwen2", ("Qwen2ForCausalLM",)),
    Family("qwen3", "llama", "build_qwen3", ("Qwen3ForCausalLM",)),
    Family("glm", "llama", "build_glm", ("GlmForCausalLM",)),
    Family("glm4", "llama", "build_glm4", ("Glm4ForCausalLM",)),
    Family("mixtral", "mixtral", "build_mixtral", ("MixtralForCausalLM",)),
    Family("qwen2_moe", "qwen_moe", "build_qwen2_moe", ("Qwen2MoeForCausalLM",)),
    Family("qwen3_moe", "qwen_moe", "build_qwen3_moe", ("Qwen3MoeForCausalLM",)),
    Family("opt", "opt", "build_opt", ("OPTForCausalLM",), prefix="model.decoder"),
    Family(
        "chatglm",
        "chatglm",
        "build_chatglm",
        ("ChatGLMForConditionalGeneration", "ChatGLMModel", "ChatGLMForCausalLM"),
        prefix="transformer",
    ),
    Family("deepseek_v2", "deepseek", "build_deepseek_v2", ("DeepseekV2ForCausalLM",)),
    Family("deepseek_v3", "deepseek", "build_deepseek_v3", ("DeepseekV3ForCausalLM",), ("kimi_k2",)),
    Family("deepseek_v32", "deepseek", "build_deepseek_v32", ("DeepseekV32ForCausalLM",)),
)

_BY_TYPE = {name: family for family in FAMILIES for name in (family.name, *family.model_types)}
_BY_CLASS = {name: family for family in FAMILIES for name in family.architectures}
_BY_HAND = (
    "describe it by hand in a config.json with the model_type nearest to it and hidden_size, intermediate_size, "
    "num_hidden_layers, num_attention_heads, num_key_value_heads and vocab_size, or in a gpuplan/model/1 file "
    "(docs/models.md)"
)


def known_type(model_type: str | None) -> bool:
    """Whether a builder reads this ``model_type``."""
    return model_type in _BY_TYPE


def find_family(fields: ConfigFields) -> Family:
    """Return the family of a config, refusing unknown and contradictory ones."""
    model_type = fields.text("model_type")
    classes = fields.strings("architectures")
    by_class = next((_BY_CLASS[name] for name in classes if name in _BY_CLASS), None)
    by_type = _BY_TYPE.get(model_type or "")
    if by_class and by_type and by_class is not by_type:
        raise fields.error(
            f"expected model_type and architectures to agree, got {describe(model_type)} and "
            f"{describe(classes[0])}; keep the one that is right",
            "architectures",
        )
    family = by_class or by_type
    if family is None:
        raise _unknown(fields, model_type, classes)
    return family


def _unknown(fields: ConfigFields, model_type: str | None, classes: tuple[str, ...]) -> Exception:
    known = ", ".join(family.name for family in FAMILIES)
    if model_type is None and not classes:
        return fields.error(
            f"expected model_type or architectures to name the family, found neither; add model_type, one of {known}",
            "model_type",
        )
    came = describe(model_type) if model_type is not None else describe(classes[0])
    return fields.error(
        f"expected a known model_type ({known}) or its class in architectures, got {came}; {_BY_HAND}",
        "model_type" if model_type is not None else "architectures",
    )
