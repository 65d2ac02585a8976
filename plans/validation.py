"""Documents against their JSON Schema, every defect with its place."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

from gpuplan.errors import InputError
from gpuplan.plans.files import describe, join_place, path_of, refuse_non_finite

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

_TYPE_WORDS = {
    "object": "an object",
    "array": "a list",
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}


def published_schemas() -> tuple[str, ...]:
    """Return the schemas with a published JSON Schema, for example ``gpuplan/device-map/1``, sorted."""
    names = (file.name.removesuffix(".json").rpartition("-") for file in _folder().iterdir())
    return tuple(sorted(f"gpuplan/{kind}/{version}" for kind, _, version in names))


def schema_file(schema: str) -> str:
    """Return the name of a schema's file.

    >>> schema_file("gpuplan/device-map/1")
    'device-map-1.json'
    """
    return schema.removeprefix("gpuplan/").replace("/", "-") + ".json"


def _folder() -> Traversable:
    return resources.files("gpuplan.plans").joinpath("schemas")


@functools.cache
def json_schema(schema: str) -> dict[str, Any]:
    """Return the published JSON Schema of `schema`, for example ``gpuplan/device-map/1``."""
    text = _folder().joinpath(schema_file(schema)).read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def check_document(document: Any, schema: str, *, source: str | None = None) -> None:
    """Raise InputError with the place of the first defect unless `document` follows `schema`."""
    _check_identifier(document, schema, source)
    errors = sorted(_validator(schema).iter_errors(document), key=_order)
    if errors:
        place, message = _explain(errors[0])
        raise InputError(message, source=source, place=place)
    refuse_non_finite(document, source=source)


def _check_identifier(document: Any, schema: str, source: str | None) -> None:
    if not isinstance(document, Mapping):
        raise InputError(f"expected a JSON object, got {describe(document)}", source=source, place="$")
    found = document.get("schema")
    if found == schema:
        return
    if found is None:
        raise InputError(f"expected the key 'schema' to say {schema!r}, got none", source=source, place="$.schema")
    kind = schema.rpartition("/")[0]
    if isinstance(found, str) and found.rpartition("/")[0] == kind:
        mend = f"this gpuplan reads version {schema.rpartition('/')[2]} only; use the gpuplan that wrote the file"
    else:
        mend = "name a file of that kind"
    raise InputError(f"expected schema {schema!r}, got {describe(found)}; {mend}", source=source, place="$.schema")


@functools.cache
def _validator(schema: str) -> Validator:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend
    from referencing import Registry, Resource

    registry: Registry[Any] = Registry().with_resources(
        (json_schema(name)["$id"], Resource.from_contents(json_schema(name))) for name in published_schemas()
    )
    # Plain JSON Schema takes 1.0 for a whole number; counts and layer numbers here are written without a point.
    whole = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    strict: Any = extend(Draft202012Validator, type_checker=whole)  # type: ignore[no-untyped-call]
    validator: Validator = strict(json_schema(schema), registry=registry)
    return validator


def _order(error: ValidationError) -> tuple[tuple[str, ...], str]:
    # Lists by index, keys by name: the first place in the sorted file comes first.
    parts = tuple(f"{part:09d}" if isinstance(part, int) else part for part in error.absolute_path)
    return parts, str(error.validator)


def _explain(error: ValidationError) -> tuple[str, str]:
    place = path_of(list(error.absolute_path))
    value: Any = error.instance
    expected: Any = error.validator_value
    if error.validator == "additionalProperties":
        return _unknown_key(error, place)
    if error.validator == "required":
        missing = next(key for key in expected if key not in value)
        return join_place(place, missing), "expected this key, got none"
    if error.validator == "type":
        names = [expected] if isinstance(expected, str) else list(expected)
        return place, f"expected {' or '.join(_TYPE_WORDS[name] for name in names)}, got {describe(value)}"
    return place, f"expected {_words(str(error.validator), expected)}, got {describe(value)}"


def _unknown_key(error: ValidationError, place: str) -> tuple[str, str]:
    schema = error.schema
    instance: Any = error.instance
    known = schema.get("properties", {}) if isinstance(schema, Mapping) else {}
    unknown = min(key for key in instance if key not in known)
    return join_place(place, unknown), f"unknown key; the keys here are {', '.join(sorted(known))}"


def _words(validator: str, expected: Any) -> str:
    sentences = {
        "minimum": f"a number of at least {expected}",
        "exclusiveMinimum": f"a number above {expected}",
        "maximum": f"a number of at most {expected}",
        "const": describe(expected),
        "enum": "one of " + ", ".join(describe(item) for item in expected) if isinstance(expected, list) else "",
        "minItems": f"at least {expected} items",
        "maxItems": f"at most {expected} items",
        "minLength": "text that is not empty",
        "pattern": f"text that matches {expected}",
        "uniqueItems": "different items",
        "minProperties": f"at least {expected} keys",
    }
    return sentences.get(validator) or f"a value that satisfies {validator!r} of the schema"
