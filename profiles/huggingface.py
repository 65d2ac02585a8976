"""Reading Hugging Face `config.json` files: the file, the JSON in it, the language model's part of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuplan.errors import InputError
from gpuplan.profiles.architectures.assembly import Request
from gpuplan.profiles.architectures.fields import ConfigFields, describe
from gpuplan.profiles.architectures.precision import read_precision
from gpuplan.profiles.architectures.registry import Family, find_family, known_class
from gpuplan.profiles.model import ModelProfile
from gpuplan.topology.documents import parse_yaml

#: Configs are kilobytes; a file this large is something else (weights, a tokenizer).
LARGEST_FILE_BYTES = 64 << 20
_TIED = "tie_word_embeddings"
#: Where multimodal classes that differ from the rest keep the language model, and its head.
_INSIDE = {"llama4": ("language_model.model", "language_model.lm_head")}
_BESIDE = "give the model's config.json, or the folder that holds it"


def model_from_config(
    config: Mapping[str, Any],
    *,
    name: str,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    source: str | None = None,
    citation: str | None = None,
) -> ModelProfile:
    """Return the profile of the model a Hugging Face config describes.

    Parameters
    ----------
    config
        The parsed ``config.json``.
    name
        Name of the profile.
    dtype
        Dtype of the decoder layers' linear weights; None takes it from the config.
    kv_dtype
        Dtype of the KV cache; None means the activations' dtype.
    source
        The file, for error messages.
    citation
        What the profile says about its origin; `source` when None.

    Raises
    ------
    InputError
        A field is missing, null, no number, or of an unknown kind; the message gives its JSON path.
    UsageError
        `dtype` or `kv_dtype` is not a known dtype.

    Examples
    --------
    >>> model = model_from_config({"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "vocab_size": 32,
    ...     "num_hidden_layers": 2, "num_attention_heads": 2}, name="tiny")
    >>> model.num_layers, model.kv_bytes_per_token
    (4, 64.0)
    """
    outer = ConfigFields(config, source=source)
    fields, family = _language_model(outer)
    prefix, head = _modules(outer, family)
    request = Request(
        fields=fields,
        precision=read_precision(fields, outer, dtype=dtype, kv_dtype=kv_dtype),
        name=name,
        architecture=next(iter(outer.strings("architectures") or family.architectures)),
        family=family.name,
        source=citation if citation is not None else (Path(source).name if source else ""),
        prefix=prefix,
        head=head,
    )
    return family.builder()(request)


def _language_model(outer: ConfigFields) -> tuple[ConfigFields, Family]:
    """Return the fields that describe the language model, and its family.

    A multimodal config keeps them in ``text_config``; that the head is tied may be said there or outside.
    """
    text = outer.section("text_config")
    if text is None:
        return outer, find_family(outer)
    family = find_family(text, outer.text("model_type"))
    if outer.config.get(_TIED) is not None:
        tied = outer.boolean(_TIED, False) or text.boolean(_TIED, False)
        text = ConfigFields({**text.config, _TIED: tied}, source=text.source, path=text.path)
    return text, family


def _modules(outer: ConfigFields, family: Family) -> tuple[str, str]:
    """Return the module names of the language model without its head, and of the head.

    Multimodal classes hold the language model as a part, most of them as ``model.language_model``.
    """
    multimodal = any(outer.section(name) is not None for name in ("text_config", "vision_config"))
    if not multimodal or family.prefix != "model" or _text_only(outer):
        return family.prefix, "lm_head"
    return _INSIDE.get(outer.text("model_type") or "", ("model.language_model", "lm_head"))


def _text_only(outer: ConfigFields) -> bool:
    """Whether the config names a class of the language model alone."""
    return any(known_class(name) and name.endswith("ForCausalLM") for name in outer.strings("architectures"))


def read_object(path: Path) -> Mapping[str, Any]:
    """Return the object in a JSON file, or in a YAML file (by its suffix).

    Raises
    ------
    InputError
        No such file, empty, binary, no JSON (or YAML), a repeated key, or not an object.
    """
    text = _read_text(path)
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    value = parse_yaml(text, str(path)) if is_yaml else _parse_json(text, path)
    if not isinstance(value, dict):
        raise InputError(f"expected a JSON object, got {describe(value)}; {_BESIDE}", source=str(path), place="$")
    return value


def _parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_no_repeats)
    except json.JSONDecodeError as error:
        raise InputError(
            f"expected JSON, got something else ({error.msg}, column {error.colno}); {_BESIDE}",
            source=str(path),
            place=f"line {error.lineno}",
        ) from None
    except InputError as error:
        raise error.at(str(path)) from None
    except (RecursionError, ValueError):
        raise InputError(
            f"expected a config's JSON, got values nested too deep or numbers too long; {_BESIDE}", source=str(path)
        ) from None


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"expected every key once, got {json.dumps(twice)} twice in one object; remove one of them")
    return found


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise InputError(f"expected a small config, got a file over 64 MiB; {_BESIDE}", source=str(path))
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"expected a model's config, found no such file; {_BESIDE}", source=str(path)) from None
    except OSError as error:
        raise InputError(f"expected a readable file, got {error.strerror}; {_BESIDE}", source=str(path)) from None
    if not data.strip():
        raise InputError(f"expected a model's config, got an empty file; {_BESIDE}", source=str(path))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"expected JSON text in UTF-8, got a binary file; {_BESIDE}", source=str(path))
    return text
