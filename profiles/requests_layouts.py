"""Which columns of a file are ours: known public layouts, and the mapping a caller gives."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles.requests import COLUMNS, TIME_COLUMNS

#: Names of the same columns in milliseconds.
MILLISECONDS: Final = {name.removesuffix("_s") + "_ms": name for name in TIME_COLUMNS}
_REQUIRED: Final = ("prompt_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout: the columns it is known by, and which of them are ours."""

    name: str
    known_by: tuple[str, ...]
    columns: Mapping[str, str]


@functools.cache
def layouts() -> tuple[Layout, ...]:
    """Return the known layouts, the most particular first."""
    import yaml

    text = resources.files("gpuplan.profiles").joinpath("data", "request_layouts.yaml").read_text(encoding="utf-8")
    return tuple(
        Layout(item["name"], tuple(item["known_by"]), dict(item["columns"])) for item in yaml.safe_load(text)["layouts"]
    )


def map_columns(
    header: Sequence[str], chosen: Mapping[str, str], source: str, *, outputs: bool = True
) -> tuple[str, dict[str, str]]:
    """Return the name of the layout and, for each of our columns present, the file's column.

    Parameters
    ----------
    header
        The file's columns.
    chosen
        Our name → the file's column, as a caller mapped them; they win over the layout.
    outputs
        Whether output_tokens is required.

    Raises
    ------
    UsageError
        `chosen` names a column that we do not have.
    InputError
        `chosen` names a column that the file does not have, or a required column is missing.
    """
    for name, column in chosen.items():
        if name not in COLUMNS and name not in MILLISECONDS:
            known = ", ".join((*COLUMNS, *MILLISECONDS))
            raise UsageError(f"--column {name}={column}: no such column; the columns are {known}")
        if column not in header:
            raise InputError(
                f"expected the column {column!r} that {name} is mapped to; the columns are {_list(header)}",
                source=source,
            )
    layout = next((item for item in layouts() if set(item.known_by) <= set(header)), None)
    mapping = {name: name for name in (*COLUMNS, *MILLISECONDS) if name in header}
    if layout is not None:
        mapping |= {name: column for name, column in layout.columns.items() if column in header}
    for name, column in chosen.items():
        base = MILLISECONDS.get(name, name)
        for other in (base, base.removesuffix("_s") + "_ms"):
            mapping.pop(other, None)
        mapping[name] = column
    if "output_tokens" not in mapping and "predicted_output_tokens" in mapping:
        mapping["output_tokens"] = mapping["predicted_output_tokens"]
    _check(mapping, header, source, _REQUIRED if outputs else _REQUIRED[:1])
    return "gpuplan" if layout is None else layout.name, mapping


def _check(mapping: Mapping[str, str], header: Sequence[str], source: str, required: Sequence[str]) -> None:
    missing = [name for name in required if name not in mapping]
    if missing:
        options = " ".join(f"--column {name}=COLUMN" for name in missing)
        raise InputError(
            f"expected the column{'s' if len(missing) > 1 else ''} {' and '.join(missing)}, got {_list(header)}; "
            f"say which column it is with {options}",
            source=source,
        )
    for milliseconds, seconds in MILLISECONDS.items():
        if milliseconds in mapping and seconds in mapping:
            raise InputError(
                f"expected one of the columns {seconds} and {milliseconds}, got both; remove one", source=source
            )


def _list(header: Sequence[str]) -> str:
    shown = ", ".join(header[:12]) or "none"
    return shown if len(header) <= 12 else f"{shown} and {len(header) - 12} more"
