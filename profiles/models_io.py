"""Loading models: shipped names, config files, folders with one, and `gpuplan/model/1` files."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles.huggingface import model_from_config, read_object
from gpuplan.profiles.model import ModelProfile
from gpuplan.profiles.model_document import is_model_document, model_from_dict

_SHIPPED = Path(__file__).parent / "data" / "models"
_FILE_SUFFIXES = (".json", ".yaml", ".yml", ".txt", ".safetensors", ".bin", ".gguf")
#: Keys that shipped config files have besides those of a Hugging Face config.
_CITATION = "source"


def load_model(
    source: str | Path,
    *,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    catalog: str | Path | None = None,
) -> ModelProfile:
    """Return the profile of a model.

    Parameters
    ----------
    source
        A shipped name (`list_models`), a Hugging Face ``config.json``, a folder with one, or a ``gpuplan/model/1``
        file (JSON or YAML). A known name wins over a folder of the same name; write ``./name`` for the folder.
    dtype
        Dtype of the decoder layers' linear weights; None takes the config's.
    kv_dtype
        Dtype of the KV cache; None means the activations' dtype.
    catalog
        A folder whose ``models/*.json`` (or ``.yaml``) are known by name too, before the shipped ones.

    Raises
    ------
    UsageError
        An unknown name (the closest ones are given) or dtype.
    InputError
        A file that is missing, broken or lacks a field.

    Examples
    --------
    >>> load_model("llama-3.1-70b").num_layers
    82
    """
    named = _catalogued(catalog).get(str(source).lower()) if isinstance(source, str) else None
    path = named or _config_path(source, catalog)
    document = read_object(path)
    label = f"model {path.stem}" if named else str(path)
    if is_model_document(document):
        return _from_document(document, label, dtype, kv_dtype)
    return model_from_config(
        document,
        name=path.stem if named else _profile_name(document, path),
        dtype=dtype,
        kv_dtype=kv_dtype,
        source=label,
        citation=str(document[_CITATION]) if isinstance(document.get(_CITATION), str) else path.name,
    )


def list_models(*, catalog: str | Path | None = None) -> tuple[str, ...]:
    """Return the names `load_model` knows, sorted.

    >>> "llama-3.1-70b" in list_models()
    True
    """
    return tuple(sorted(_catalogued(catalog)))


def _catalogued(catalog: str | Path | None) -> dict[str, Path]:
    """Return name → config file; a user's catalogue goes before what ships."""
    if catalog is not None and not Path(catalog).is_dir():
        raise UsageError(f"expected a folder for the option --catalog, got {str(catalog)!r}, which is none")
    folders = [_SHIPPED] if catalog is None else [_SHIPPED, Path(catalog) / "models"]
    return {
        path.stem.lower(): path
        for folder in folders
        for path in sorted(folder.glob("*"))
        if path.suffix in (".json", ".yaml", ".yml")
    }


def _config_path(source: str | Path, catalog: str | Path | None) -> Path:
    if not str(source).strip():
        raise UsageError("expected a model's name, config.json or folder, got an empty string; gpuplan list models")
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise InputError(
                "expected a model's folder with a config.json in it, found none; give the folder it lies in",
                source=str(path),
            )
        return path / "config.json"
    if path.exists():
        return path
    raise _not_found(source, catalog)


def _not_found(source: str | Path, catalog: str | Path | None) -> Exception:
    """Return the refusal: a missing file where `source` looks like a path, else an unknown name."""
    text = str(source)
    names = list_models(catalog=catalog)
    close = difflib.get_close_matches(Path(text).name.lower(), names, n=3, cutoff=0.5)
    hint = f"closest names: {', '.join(close)}" if close else "gpuplan list models shows the names"
    if isinstance(source, Path) or "/" in text or "\\" in text or text.lower().endswith(_FILE_SUFFIXES):
        return InputError(
            f"expected a model's config.json or the folder that holds it, found no such file; correct the path, or "
            f"give a shipped name ({hint})",
            source=text,
        )
    return UsageError(f"expected a shipped model name, a config.json or a folder with one, got {text!r}; {hint}")


def _profile_name(document: Mapping[str, Any], path: Path) -> str:
    """Return the name a config gives itself, else its folder's (``config.json``) or its own."""
    given = document.get("_name_or_path")
    if isinstance(given, str) and given.strip("/. "):
        return given.rstrip("/").rpartition("/")[2]
    return path.resolve().parent.name if path.name == "config.json" else path.stem


def _from_document(document: Mapping[str, Any], label: str, dtype: str | None, kv_dtype: str | None) -> ModelProfile:
    for option, value in (("dtype", dtype), ("kv_dtype", kv_dtype)):
        if value is not None:
            raise UsageError(
                f"expected no {option} with a gpuplan/model/1 file ({label}), whose sizes are fixed, got {value!r}; "
                "leave the option out or give a config.json"
            )
    return model_from_dict(document, source=label)
