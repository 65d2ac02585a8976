"""Text to plain values: strict YAML and JSON (no duplicate keys, no NaN), and text files as people have them."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any, Final

from gpuplan.errors import InputError

#: A normalised cluster of 16,384 devices takes 40 MB.
_MOST_BYTES: Final = 64 << 20


def read_text(path: Path) -> str:
    """Return the text of a file: UTF-8, or UTF-16 with its mark (what a Windows shell redirects into a file)."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError("there is no such file; give the path of a topology file or a shipped cluster's name",
                         source=str(path)) from None  # fmt: skip
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", source=str(path)) from None
    if len(raw) > _MOST_BYTES:
        raise InputError(f"expected a file of at most {_MOST_BYTES >> 20} MiB, got a larger one", source=str(path))
    return decode(raw, str(path))


def decode(raw: bytes, source: str) -> str:
    """Return `raw` as text; empty and binary content are refused."""
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        content = raw.decode(encoding)
    except UnicodeDecodeError:
        raise InputError("expected a text file, got binary content", source=source) from None
    if "\x00" in content:
        raise InputError("expected a text file, got binary content", source=source)
    if not content.strip():
        raise InputError("expected a topology, got an empty file", source=source)
    return content


def parse_document(content: str, source: str) -> Any:
    """Return the plain values of a JSON or YAML document."""
    return parse_json(content, source) if content.lstrip().startswith(("{", "[")) else parse_yaml(content, source)


def _no_constant(name: str) -> Any:
    raise InputError(f"expected a finite number, got {name}")


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise InputError(f"the key {key!r} appears twice in one mapping")
        result[key] = value
    return result


def parse_json(content: str, source: str) -> Any:
    """Return the values of a JSON document; duplicate keys and NaN are refused."""
    try:
        return json.loads(content, object_pairs_hook=_unique_pairs, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        # A flow mapping of YAML also starts with a brace; only what neither format reads is an error.
        try:
            return parse_yaml(content, source)
        except InputError:
            raise InputError(f"not valid JSON: {error.msg}", source=source, place=f"line {error.lineno}") from None
    except InputError as error:
        raise error.at(source) from None
    except ValueError:
        raise InputError("not valid JSON: a number has more than 4300 digits", source=source) from None
    except RecursionError:
        raise InputError("not valid JSON: nested too deeply", source=source) from None


@functools.cache
def _yaml_loader() -> Any:
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class StrictLoader(base):  # type: ignore[misc]
        """Safe loader that refuses duplicate keys and reads 1e12 as a number (YAML 1.1 takes it for text)."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            self.flatten_mapping(node)
            result: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, (str, int, float, bool)) and key is not None:
                    raise InputError("expected plain keys, got a nested one", place=_line(key_node.start_mark))
                if key in result:
                    raise InputError(f"the key {key!r} appears twice in one mapping", place=_line(key_node.start_mark))
                result[key] = self.construct_object(value_node, deep=deep)
            return result

    StrictLoader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )
    return StrictLoader


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}"


def parse_yaml(content: str, source: str) -> Any:
    """Return the values of a YAML document; duplicate keys are refused."""
    import yaml

    try:
        return yaml.load(content, Loader=_yaml_loader())
    except InputError as error:
        raise error.at(source) from None
    except yaml.MarkedYAMLError as error:
        place = _line(error.problem_mark) if error.problem_mark else None
        raise InputError(f"not valid YAML: {error.problem}", source=source, place=place) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "nested too deeply"
        raise InputError(f"not valid YAML: {reason}", source=source) from None
