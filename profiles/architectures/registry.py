"""Which builder reads which config, by ``model_type`` and by the class names in ``architectures``."""

from __future__ import annotations

import difflib
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
    Family("llama4_text", "llama4", "build_llama4", ("Llama4ForCausalLM",)),
    Family("mistral", "llama", "build_mistral", ("MistralForCausalLM",)),
    Family("mixtral", "mixtral", "build_mixtral", ("MixtralForCausalLM",)),
    Family(
        "qwen2",
        "llama",
        "build_qwen2",
        ("Qwen2ForCausalLM", "Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
        ("qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"),
    ),
    Family("qwen3", "llama", "build_qwen3", ("Qwen3ForCausalLM",), ("qwen3_vl_text",)),
    Family("qwen2_moe", "qwen_moe", "build_qwen2_moe", ("Qwen2MoeForCausalLM",)),
    Family("qwen3_moe", "qwen_moe", "build_qwen3_moe", ("Qwen3MoeForCausalLM",), ("qwen3_vl_moe_text",)),
    Family("qwen3_next", "qwen_hybrid", "build_qwen3_next", ("Qwen3NextForCausalLM",)),
    Family("qwen3_5_text", "qwen_hybrid", "build_qwen3_5", ("Qwen3_5ForCausalLM",)),
    Family("qwen3_5_moe_text", "qwen_hybrid", "build_qwen3_5_moe", ("Qwen3_5MoeForCausalLM",)),
    Family("deepseek_v2", "deepseek", "build_deepseek_v2", ("DeepseekV2ForCausalLM",)),
    Family("deepseek_v3", "deepseek", "build_deepseek_v3", ("DeepseekV3ForCausalLM",), ("kimi_k2", "kimi_k25_text")),
    Family("deepseek_v32", "deepseek", "build_sparse_latent", ("DeepseekV32ForCausalLM",)),
    Family("glm", "llama", "build_glm", ("GlmForCausalLM",)),
    Family("glm4", "llama", "build_glm4", ("Glm4ForCausalLM",)),
    Family("glm4_moe", "glm_moe", "build_glm4_moe", ("Glm4MoeForCausalLM",)),
    Family("glm4_moe_lite", "deepseek", "build_deepseek_v3", ("Glm4MoeLiteForCausalLM",)),
    Family("glm_moe_dsa", "deepseek", "build_sparse_latent", ("GlmMoeDsaForCausalLM",)),
    Family(
        "chatglm",
        "chatglm",
        "build_chatglm",
        ("ChatGLMForConditionalGeneration", "ChatGLMModel", "ChatGLMForCausalLM"),
        prefix="transformer",
    ),
    Family("gpt_oss", "mixtral", "build_gpt_oss", ("GptOssForCausalLM",)),
    Family("gemma", "gemma", "build_gemma", ("GemmaForCausalLM",)),
    Family("gemma2", "gemma", "build_gemma2", ("Gemma2ForCausalLM",)),
    Family("gemma3_text", "gemma", "build_gemma3", ("Gemma3ForCausalLM",)),
    Family("gemma4_text", "gemma", "build_gemma4", ("Gemma4ForCausalLM",)),
    Family("phi", "gpt", "build_phi", ("PhiForCausalLM",)),
    Family("phi3", "llama", "build_phi3", ("Phi3ForCausalLM",)),
    Family("phimoe", "mixtral", "build_phimoe", ("PhimoeForCausalLM", "PhiMoEForCausalLM")),
    Family("opt", "opt", "build_opt", ("OPTForCausalLM",), prefix="model.decoder"),
    Family("bloom", "gpt", "build_bloom", ("BloomForCausalLM",), prefix="transformer"),
    Family("gpt2", "gpt", "build_gpt2", ("GPT2LMHeadModel",), prefix="transformer"),
    Family("gptj", "gpt", "build_gptj", ("GPTJForCausalLM",), prefix="transformer"),
    Family("gpt_neox", "gpt", "build_gpt_neox", ("GPTNeoXForCausalLM",), prefix="gpt_neox"),
    Family("falcon", "gpt", "build_falcon", ("FalconForCausalLM",), prefix="transformer"),
    Family("internlm", "llama", "build_internlm", ("InternLMForCausalLM",)),
    Family("internlm2", "llama", "build_internlm2", ("InternLM2ForCausalLM",)),
    Family("internlm3", "llama", "build_internlm3", ("InternLM3ForCausalLM",)),
    Family(
        "minimax",
        "minimax",
        "build_minimax",
        ("MiniMaxForCausalLM", "MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM"),
        ("minimax_text_01", "minimax_m1", "MiniMaxText01", "MiniMaxM1"),
    ),
    Family("minimax_m2", "mixtral", "build_minimax_m2", ("MiniMaxM2ForCausalLM",)),
    Family("nemotron_h", "nemotron_h", "build_nemotron_h", ("NemotronHForCausalLM",)),
    Family("nemotron-nas", "nemotron_nas", "build_nemotron_nas", ("DeciLMForCausalLM",)),
)

_BY_TYPE = {name: family for family in FAMILIES for name in (family.name, *family.model_types)}
_BY_CLASS = {name: family for family in FAMILIES for name in family.architectures}
#: What a config of the nearest family needs at least, under the names the families use.
_SHAPE = (
    ("hidden_size", "n_embd", "n_embed", "hidden_dim", "d_model"),
    ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "ffn_embed_dim"),
    ("num_hidden_layers", "n_layer", "num_layers"),
    ("num_attention_heads", "n_head"),
    ("vocab_size", "padded_vocab_size"),
)


def known_class(name: str) -> bool:
    """Whether a builder reads models of this class."""
    return name in _BY_CLASS


def find_family(fields: ConfigFields, outer_type: str | None = None) -> Family:
    """Return the family of a config, refusing unknown and contradictory ones.

    `outer_type` is the ``model_type`` around a ``text_config``: it stands in where the inner one is missing.
    """
    model_type = fields.text("model_type") or (f"{outer_type}_text" if f"{outer_type}_text" in _BY_TYPE else None)
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
    missing = [names[0] for names in _SHAPE if not any(fields.config.get(name) for name in names)]
    if len(missing) == len(_SHAPE):
        return fields.error(
            "expected a model's config, found none of the fields that describe a shape (hidden_size, "
            "num_hidden_layers, …); give the model's config.json"
        )
    if model_type is None and not classes:
        return fields.error(
            "expected model_type or architectures to name the family, found neither; add model_type, such as llama "
            "or opt (docs/models.md lists them)",
            "model_type",
        )
    came, known = (model_type, _BY_TYPE) if model_type is not None else (classes[0], _BY_CLASS)
    close = difflib.get_close_matches(came, known, n=3)
    hint = f" (closest: {', '.join(close)})" if close else ""
    lacking = f"for which this one lacks {', '.join(missing)}" if missing else "for which this one has all sizes"
    return fields.error(
        f"expected a family that gpuplan reads{hint}, got {describe(came)}; describe the model by hand "
        f"(docs/models.md): in a config.json with the nearest family's model_type, {lacking}, or layer by layer in a "
        "gpuplan/model/1 file",
        "model_type" if model_type is not None else "architectures",
    )
