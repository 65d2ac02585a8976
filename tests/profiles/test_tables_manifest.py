"""Cost table files: a good one read back, and one malformed file a defect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuplan.errors import InputError, SolverUnavailableError, UsageError
from gpuplan.profiles.tables import load_table, save_table
from gpuplan.profiles.tables.readers import load_cost_source

MANIFEST: dict[str, Any] = {
    "schema": "gpuplan/cost-table/1",
    "name": "bench",
    "device_kind": "l4-24gb",
    "model": "llama-3.1-8b",
    "data": "times.csv",
    "columns": {"covers": "kernel", "time": "time_us"},
    "time_unit": "us",
    "software": "vLLM 0.19",
}
CSV = """kernel,phase,tokens,batch,context,time_us
qkv_proj,,1,,,10
qkv_proj,,8,,,12
attention,decode,,1,128,5
attention,decode,,2,128,7
layer:head,prefill,,1,,90
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the manifest with changes (``...`` removes a key) and the data; return the manifest's path."""

    def to_files(rows: str | bytes = CSV, /, **changes: Any) -> Path:
        document = {key: value for key, value in {**MANIFEST, **changes}.items() if value is not ...}
        (tmp_path / "bench.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        (tmp_path / "times.csv").write_bytes(rows if isinstance(rows, bytes) else rows.encode())
        return tmp_path / "bench.yaml"

    return to_files


def test_a_table_is_read_into_series(write: Write) -> None:
    """One series for each operator, pass and set of axes; microseconds become seconds."""
    table = load_table(write())
    assert [series.name for series in table.series] == ["qkv_proj", "attention (decode)", "layer:head (prefill)"]
    assert [series.axes for series in table.series] == [("tokens",), ("batch", "context"), ("batch",)]
    assert table.series[0].seconds == pytest.approx([10e-6, 12e-6])
    assert table.citation == "bench, measured on l4-24gb, vLLM 0.19"


def test_a_table_survives_being_written(write: Write, tmp_path: Path) -> None:
    """Writing and reading back gives the same series, and the same text again."""
    table = load_table(write())
    save_table(table, tmp_path / "again.yaml")
    again = load_table(tmp_path / "again.yaml")
    assert [(s.covers, s.phase, s.axes) for s in again.series] == [(s.covers, s.phase, s.axes) for s in table.series]
    assert all((a.measured == b.measured).all() for a, b in zip(again.series, table.series, strict=True))
    first = (tmp_path / "again.csv").read_text()
    save_table(again, tmp_path / "again.yaml")
    assert (tmp_path / "again.csv").read_text() == first


def test_parquet_is_read_like_csv(write: Write, tmp_path: Path) -> None:
    """The same rows as Parquet give the same table."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"kernel": ["qkv_proj", "qkv_proj"], "tokens": [1, 8], "time_us": [10.0, 12.0]}
    parquet.write_table(arrow.table(columns), tmp_path / "times.parquet")
    table = load_table(write(CSV, data="times.parquet"))
    assert table.series[0].seconds == pytest.approx([10e-6, 12e-6])


def test_parquet_without_pyarrow_names_the_extra(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence with the extra."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "times.parquet").write_bytes(b"PAR1")
    with pytest.raises(SolverUnavailableError, match=r"pip install 'gpuplan\[parquet\]'"):
        load_table(write(data="times.parquet"))


MANIFEST_DEFECTS: dict[str, tuple[dict[str, Any], str]] = {
    "no schema": ({"schema": ...}, r"\$.schema: expected the schema 'gpuplan/cost-table/1', got None"),
    "another version": ({"schema": "gpuplan/cost-table/2"}, r"\$.schema: expected the schema"),
    "no name": ({"name": ...}, r"\$.name: expected the key name"),
    "no device": ({"device_kind": ...}, r"\$.device_kind: expected the key device_kind"),
    "unknown key": ({"colour": "red"}, r"\$.colour: expected one of the keys"),
    "unknown unit": ({"time_unit": "h"}, r"\$.time_unit: expected one of s, ms, us"),
    "unknown column": ({"columns": {"size": "n"}}, r"\$.columns.size: expected one of the keys"),
    "column that is not there": ({"columns": {"covers": "operator"}}, r"expected a column 'operator', got the columns"),
    "degree of 0": ({"tensor_parallel": 0}, r"\$.tensor_parallel: expected a whole number of at least 1"),
    "half a shape": ({"shape": {"hidden_size": 1}}, r"\$.shape.dtype: expected the key dtype"),
    "no data file": ({"data": "other.csv"}, r"expected a table file, found none"),
}


@pytest.mark.parametrize("defect", MANIFEST_DEFECTS)
def test_a_malformed_manifest_says_where(write: Write, defect: str) -> None:
    """Each defect ends in one sentence with its key."""
    changes, message = MANIFEST_DEFECTS[defect]
    with pytest.raises(InputError, match=message):
        load_table(write(**changes))


def test_a_data_file_elsewhere_is_refused(write: Write) -> None:
    """A manifest names files beside itself only."""
    with pytest.raises(UsageError, match="expected a data file beside"):
        load_table(write(data="../../etc/passwd"))


DATA_DEFECTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "expected a header and at least one row"),
    "header alone": ("kernel,tokens,time_us\n", "expected a header and at least one row"),
    "binary": (b"\xff\xfe\x00", "expected a UTF-8 text file"),
    "a row too short": ("kernel,tokens,time_us\nqkv_proj,1\n", "row 2: expected 3 cells as in the header, got 2"),
    "a column twice": ("kernel,kernel,time_us\na,b,1\n", "row 1: expected every column once, got 'kernel' twice"),
    "no time": (
        "kernel,tokens,time_us\nqkv_proj,1,\n",
        "row 2, time_us: expected a finite number .* got an empty cell",
    ),
    "text for a time": ("kernel,tokens,time_us\nqkv_proj,1,fast\n", "row 2, time_us: .* got 'fast'"),
    "NaN": ("kernel,tokens,time_us\nqkv_proj,1,nan\n", "row 2, time_us: expected a finite number"),
    "a negative time": ("kernel,tokens,time_us\nqkv_proj,1,-3\n", "row 2, time_us: expected a finite number"),
    "a negative size": ("kernel,tokens,time_us\nqkv_proj,-1,3\n", "row 2, tokens: expected a finite number"),
    "no operator": ("kernel,tokens,time_us\n,1,3\n", "row 2, kernel: expected the name of an operator"),
    "an unknown layer": (
        "kernel,tokens,time_us\nlayer:decodr,1,3\n",
        "row 2, kernel: expected layer:embedding or layer:d",
    ),
    "an unknown pass": (
        "kernel,phase,tokens,time_us\nqkv_proj,warmup,1,3\n",
        "row 2, phase: expected prefill, decode or",
    ),
    "no size": ("kernel,tokens,time_us\nqkv_proj,,3\n", "row 2: expected a number in at least one of the columns"),
}


@pytest.mark.parametrize("defect", DATA_DEFECTS)
def test_malformed_data_say_where(write: Write, defect: str) -> None:
    """Each defect ends in one sentence with its row and column."""
    data, message = DATA_DEFECTS[defect]
    with pytest.raises(InputError, match=message):
        load_table(write(data))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.yaml", "schema: [", "not valid YAML"),
        ("x.yaml", "- 1\n", "expected a mapping of keys"),
        ("x.yaml", "schema: gpuplan/topology/1\n", "expected the schema"),
        ("x.csv", "a,b\n1,2\n", "got none of them"),
        ("x.json", "{}", "expected the schema"),
        ("x.json", "{", "line 1, column 2: expected JSON"),
        ("x.json", '{"schema": "gpuplan/cost-table/1", "name": "a", "name": "b"}', "every key once, got 'name' twice"),
    ],
)
def test_other_files_are_no_cost_source(tmp_path: Path, name: str, text: str, message: str) -> None:
    """YAML that breaks off, other documents, an unknown CSV."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load_cost_source(tmp_path / name)


def test_nothing_there_is_said_so(tmp_path: Path) -> None:
    """A missing path."""
    with pytest.raises(InputError, match="found nothing"):
        load_cost_source(tmp_path / "none")
