"""Reads a JSON or YAML document from disk and says, in one sentence, why it cannot.

NaN and Infinity pass the parser on purpose: the field that holds one is then refused with its own path.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpuplan.errors import InputError


def read_document(path: str | Path) -> Any:
    """Return the value a UTF-8 JSON or YAML file holds.

    Raises
    ------
    InputError
        The file is missing, unreadable, empty, binary, or neither JSON nor YAML.
    """
    source = str(path)
    text = _read_text(Path(path), source)
    if not text.strip():
        raise InputError("expected a JSON or YAML document, got an empty file", source=source)
    if text.lstrip()[0] in "{[":
        try:
            return json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, source))
        except json.JSONDecodeError as error:
            # A YAML flow mapping starts like JSON; when YAML cannot read it either, the JSON error is the clearer one.
            if Path(path).suffix.lower() not in (".yaml", ".yml"):
                raise InputError(
                    f"expected JSON, got text that stops being JSON here: {error.msg}",
                    source=source,
                    place=f"line {error.lineno}, column {error.colno}",
                ) from None
        except (RecursionError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                "expected a plain JSON document, got one nested or numbered past all use", source=source
            ) from None
    return _parse_yaml(text, source)


def _read_text(path: Path, source: str) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError("expected a file, found none at this path", source=source) from None
    except IsADirectoryError:
        raise InputError("expected a file, found a folder", source=source) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"expected a readable file, but it cannot be read: {reason}", source=source) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"expected UTF-8 text, got binary data at byte {error.start}", source=source) from None
    if "\x00" in text:
        raise InputError(f"expected text, got binary data at byte {raw.index(0)}", source=source)
    return text


def _unique(pairs: list[tuple[str, Any]], source: str) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InputError(f"expected every key once, got {twice!r} twice in one object", source=source)
    return value


def _parse_yaml(text: str, source: str) -> Any:
    from gpuplan.topology.documents import parse_yaml

    return parse_yaml(text, source)
