"""Files: read with a place for every defect, write whole or not at all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from gpuplan.errors import InputError
from gpuplan.plans.canonical import pretty_json
from gpuplan.writing import write_text

#: Largest number a double holds.
_LARGEST: Final = sys.float_info.max


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the JSON object in the file at `path`.

    Raises
    ------
    InputError
        The file is missing, empty, no UTF-8 text, no JSON object, repeats a key, or holds NaN or infinity.
    """
    source = os.fspath(path)
    return parse_document(_read_text(source), source=source)


def parse_document(text: str, *, source: str | None = None) -> dict[str, Any]:
    """Return the JSON object written in `text`; InputError as for `read_document`."""
    if not text.strip():
        raise InputError("expected a JSON document, got an empty file", source=source)
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        message = f"expected JSON, got text that breaks off or strays ({error.msg})"
        raise InputError(message, source=source, place=place) from None
    except _RepeatedKeyError as error:
        raise InputError(f"expected every key once, got {error.key!r} twice in one object", source=source) from None
    except ValueError:
        raise InputError("expected finite numbers, got one of thousands of digits", source=source) from None
    except RecursionError:
        raise InputError("expected a document, got brackets nested too deep to read", source=source) from None
    if not isinstance(value, dict):
        raise InputError(f"expected a JSON object, got {describe(value)}", source=source, place="$")
    refuse_non_finite(value, source=source)
    return value


def write_document(document: Any, path: str | os.PathLike[str]) -> None:
    """Write `document` as JSON to `path`: all of it, or nothing."""
    write_text(pretty_json(document), path)


def refuse_non_finite(value: Any, *, source: str | None = None, place: str = "$") -> None:
    """Raise InputError with the place of the first NaN or infinity inside `value`."""
    if isinstance(value, float | int):
        if not -_LARGEST <= value <= _LARGEST:  # whole numbers of any length, infinities, and NaN, which is nowhere
            raise InputError(f"expected a finite number, got {describe(value)}", source=source, place=place)
    elif isinstance(value, dict):
        for key, item in value.items():
            refuse_non_finite(item, source=source, place=join_place(place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            refuse_non_finite(item, source=source, place=f"{place}[{index}]")


def join_place(place: str, key: str) -> str:
    """Return the JSON path of `key` inside `place`.

    >>> join_place("$.inputs", "model"), join_place("$.device_map", "model.norm")
    ('$.inputs.model', "$.device_map['model.norm']")
    """
    return f"{place}.{key}" if key.replace("-", "_").isidentifier() else f"{place}[{key!r}]"


def path_of(parts: Sequence[str | int]) -> str:
    """Return keys and indices as a JSON path.

    >>> path_of(["stages", 2, "devices", 0])
    '$.stages[2].devices[0]'
    """
    place = "$"
    for part in parts:
        place = f"{place}[{part}]" if isinstance(part, int) else join_place(place, part)
    return place


def describe(value: Any) -> str:
    """Return a few words for a JSON value, for messages.

    >>> describe(None), describe([1]), describe("x" * 99)[:12], describe(float("nan"))
    ('null', 'a list', "'xxxxxxxxxxx", 'NaN')
    """
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float | int) and not -_LARGEST <= value <= _LARGEST:
        return "NaN" if value != value else "a number too large or infinite"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


class _RepeatedKeyError(ValueError):
    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(key)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return result


def _read_text(source: str) -> str:
    try:
        return Path(source).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError("there is no such file; check the name", source=source) from None
    except IsADirectoryError:
        raise InputError("expected a file, got a folder", source=source) from None
    except OSError as error:
        raise InputError(f"the file cannot be read: {_reason(error)}", source=source) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"expected UTF-8 text, got a binary file (byte {error.start} is no text)", source=source
        ) from None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
