"""From a path (or a word) to tables and fits: what it is follows from its content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuplan.errors import InputError
from gpuplan.profiles.fitted import SCHEMA as FIT_SCHEMA
from gpuplan.profiles.fitted import Fit, fit_from_dict
from gpuplan.profiles.records import Record
from gpuplan.profiles.tables.data_files import check_data_path
from gpuplan.profiles.tables.manifest import SCHEMA as TABLE_SCHEMA
from gpuplan.profiles.tables.manifest import read_yaml, table_from_dict
from gpuplan.profiles.tables.readers import end_to_end, helix, llmservingsim, vidur
from gpuplan.profiles.tables.readers.names import Told
from gpuplan.profiles.tables.table import CostTable

#: What a manifest with `layout` may say.
_LAYOUT_KEYS = ("schema", "layout", "data", "name", "comment", "device_kind", "model", "tensor_parallel")
_Recognises = Callable[[Path], bool]
LAYOUTS = ("llmservingsim", "vidur", "helix", "splitwise", "distserve")


@dataclass(frozen=True, slots=True)
class CostSource:
    """What one path gave."""

    tables: tuple[CostTable, ...] = ()
    fits: tuple[Fit, ...] = ()


_Read = Callable[[Path, Told], CostSource]


def load_cost_source(source: str | Path, told: Told | None = None) -> CostSource:
    """Read tables or fits.

    Parameters
    ----------
    source
        A manifest (`gpuplan/cost-table/1`), a fitted profile (`gpuplan/fitted-costs/1`), or a file or folder in a
        published layout: LLMServingSim (a variant folder or its tpN), Vidur (``mlp.csv``, ``attention.csv`` or their
        folder), Helix (a machine's folder), Splitwise (``perf_model.csv``), DistServe (its JSON of fits).
    told
        What the source does not say itself.

    Raises
    ------
    InputError
        Nothing is there, it is none of these, or it is malformed.
    """
    path, told = Path(source), told or Told()
    if not path.exists():
        raise InputError(
            "expected a cost table, a fitted profile or a folder of one, found nothing", source=str(source)
        )
    if path.suffix.lower() in (".yaml", ".yml", ".json") and not end_to_end.is_distserve(path):
        return _own_file(path)
    for recognises, read in _READERS.values():
        if recognises(path):
            return read(path, told)
    raise InputError(
        "expected a gpuplan cost table (.yaml), a fitted profile (.json), or the layout of"
        f" {', '.join(LAYOUTS)}, got none of them",
        source=str(source),
    )


def _own_file(path: Path) -> CostSource:
    document = read_yaml(path)
    schema = document.get("schema")
    if schema == FIT_SCHEMA:
        return CostSource(fits=(fit_from_dict(document, source=str(path)),))
    if schema == TABLE_SCHEMA and "layout" in document:
        return _layout_manifest(document, path)
    if schema == TABLE_SCHEMA:
        return CostSource(tables=(table_from_dict(document, folder=path.parent, source=str(path)),))
    raise InputError(
        f"expected the schema {TABLE_SCHEMA!r} or {FIT_SCHEMA!r}, got {schema!r}", source=str(path), place="$.schema"
    )


def _layout_manifest(document: Mapping[str, Any], path: Path) -> CostSource:
    record = Record(document, source=str(path), path="$")
    record.expect_keys(("schema", "layout", "data"), _LAYOUT_KEYS)
    layout = record.choice("layout", LAYOUTS)
    told = Told(
        device_kind=record.text("device_kind") if "device_kind" in document else None,
        model=record.text("model") if "model" in document else None,
        tensor_parallel=record.optional_whole("tensor_parallel"),
    )
    data = check_data_path(path.parent, record.text("data"), str(path))
    if not data.exists():
        raise record.error(f"expected a file or folder, found none at {record.text('data')!r}", "data")
    recognises, read = _READERS[layout]
    if not recognises(data):
        raise record.error(f"expected the layout {layout}, got something else", "data")
    return read(data, told)


def _tables(read: Callable[[Path, Told], list[CostTable]]) -> _Read:
    return lambda path, told: CostSource(tables=tuple(read(path, told)))


def _fits(read: Callable[[Path, Told], list[Fit]]) -> _Read:
    return lambda path, told: CostSource(fits=tuple(read(path, told)))


_READERS: dict[str, tuple[_Recognises, _Read]] = {
    "llmservingsim": (llmservingsim.recognises, _tables(llmservingsim.read)),
    "splitwise": (end_to_end.is_splitwise, _fits(end_to_end.read_splitwise)),
    "distserve": (end_to_end.is_distserve, _fits(end_to_end.read_distserve)),
    "helix": (helix.recognises, _tables(helix.read)),
    "vidur": (vidur.recognises, _tables(vidur.read)),
}
