"""Typed, checked access to the fields of a config; every refusal names the file, the JSON path and the mend."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gpuplan.errors import InputError

#: The largest whole number a field may hold: 2³¹ − 1, far above any real width, vocabulary or depth.
LARGEST = 2**31 - 1


def describe(value: object) -> str:
    """Return a value as JSON would show it, shortened, for an error message.

    >>> describe(None), describe("4096"), describe(float("nan"))
    ('null', '"4096"', 'NaN')
    """
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:  # a Python caller's value that JSON does not have
        text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"


class ConfigFields:
    """A config, read field by field.

    Parameters
    ----------
    config
        The parsed JSON object.
    source
        The file it came from, for messages.
    path
        JSON path of the object inside the file (``$`` or ``$.text_config``).
    """

    def __init__(self, config: Mapping[str, Any], *, source: str | None = None, path: str = "$") -> None:
        self.config = config
        self.source = source
        self.path = path

    def error(self, message: str, name: str | None = None) -> InputError:
        """Return an `InputError` that points at field `name` (or at the whole object)."""
        return InputError(message, source=self.source, place=self.path if name is None else f"{self.path}.{name}")

    def find(self, names: Sequence[str]) -> tuple[str, Any] | None:
        """Return the first of `names` that is present, with its value (null included), or None."""
        return next(((name, self.config[name]) for name in names if name in self.config), None)

    def integer(self, *names: str, minimum: int = 1, maximum: int = LARGEST) -> int:
        """Return the whole number under the first of `names` that is present; missing or null is refused."""
        found = self.find(names)
        if found is None:
            others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
            raise self.error(
                f"expected the field {names[0]}{others}, found none; add it as a whole number to the config", names[0]
            )
        return self._whole(found[0], found[1], minimum, maximum)

    def optional_integer(self, *names: str, minimum: int = 1, maximum: int = LARGEST) -> int | None:
        """Return the whole number under the first of `names` that is present and not null, else None."""
        found = self.find([name for name in names if self.config.get(name) is not None])
        return None if found is None else self._whole(found[0], found[1], minimum, maximum)

    def boolean(self, name: str, default: bool) -> bool:
        """Return a true/false field; `default` where it is missing or null."""
        value = self.config.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(f"expected true or false, got {describe(value)}; correct the config", name)
        return value

    def text(self, name: str) -> str | None:
        """Return a string field; None where it is missing or null."""
        value = self.config.get(name)
        if value is not None and not isinstance(value, str):
            raise self.error(f"expected a string, got {describe(value)}; correct the config", name)
        return value

    def section(self, name: str) -> ConfigFields | None:
        """Return the object under `name` with its own path; None where it is missing or null."""
        value = self.config.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.error(f"expected an object, got {describe(value)}; correct the config", name)
        return ConfigFields(value, source=self.source, path=f"{self.path}.{name}")

    def needed_section(self, name: str) -> ConfigFields:
        """Return the object under `name`; missing or null is refused."""
        found = self.section(name)
        if found is None:
            raise self.error("expected an object, found none; add it to the config", name)
        return found

    def sections(self, name: str) -> tuple[ConfigFields, ...]:
        """Return a list of objects, each with its own path; empty where it is missing or null."""
        return tuple(
            ConfigFields(value, source=self.source, path=f"{self.path}.{name}[{index}]")
            for index, value in enumerate(self._items(name, Mapping, "objects"))
        )

    def strings(self, name: str) -> tuple[str, ...]:
        """Return a list of strings; empty where it is missing or null."""
        return tuple(self._items(name, str, "strings"))

    def integers(self, name: str) -> tuple[int, ...]:
        """Return a list of whole numbers of at least 0; empty where it is missing or null."""
        return tuple(
            self._whole(f"{name}[{index}]", value, 0, LARGEST)
            for index, value in enumerate(self._items(name, (int, float), "whole numbers"))
        )

    def _items(self, name: str, kind: Any, what: str) -> list[Any]:
        value = self.config.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(f"expected a list of {what}, got {describe(value)}; correct the config", name)
        for index, item in enumerate(value):
            if not isinstance(item, kind) or isinstance(item, bool):
                raise self.error(
                    f"expected a list of {what}, got {describe(item)} in it; correct the config", f"{name}[{index}]"
                )
        return value

    def _whole(self, name: str, value: object, minimum: int, maximum: int) -> int:
        """Check one number: JSON knows no integers, so 4096.0 passes, 4096.5, NaN, "4096" and true do not."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value != int(value):  # type: ignore[arg-type,call-overload]
            raise self.error(
                f"expected a whole number of at least {minimum}, got {describe(value)}; correct the config", name
            )
        whole = int(value)  # type: ignore[call-overload]
        if not minimum <= whole <= maximum:
            raise self.error(
                f"expected a whole number from {minimum} to {maximum}, got {describe(value)}; correct the config", name
            )
        return int(whole)
