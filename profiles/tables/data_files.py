"""Columns of a CSV or Parquet file, every refused cell with its row and column."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuplan.errors import InputError, SolverUnavailableError, UsageError

#: Most rows of one file; the largest tables met have some ten thousand.
MOST_ROWS = 5_000_000


@dataclass(frozen=True, slots=True)
class Columns:
    """A table by column: every cell as text (CSV) or as the file's own value (Parquet), None where empty."""

    source: str
    values: Mapping[str, Sequence[object]]
    rows: int

    def require(self, names: Sequence[str]) -> None:
        """Refuse a file that lacks a column."""
        for name in names:
            if name not in self.values:
                have = ", ".join(self.values) or "none"
                raise InputError(f"expected a column {name!r}, got the columns {have}", source=self.source)

    def text(self, name: str, row: int) -> str:
        """Return a cell as text, blank where empty."""
        value = self.values[name][row]
        return "" if value is None else str(value).strip()

    def number(self, name: str, row: int) -> float:
        """Return a cell as a finite number of at least 0."""
        value = self.optional_number(name, row)
        if value is None:
            raise self.error("a finite number of at least 0", name, row)
        return value

    def optional_number(self, name: str, row: int) -> float | None:
        """Return a cell as a finite number of at least 0, or None where it is empty."""
        value = self.values[name][row]
        if value is None or value == "":
            return None
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            raise self.error("a finite number of at least 0", name, row) from None
        if isinstance(value, bool) or not (math.isfinite(number) and number >= 0.0):
            raise self.error("a finite number of at least 0", name, row)
        return number

    def error(self, expected: str, name: str, row: int) -> InputError:
        """Return the error of a cell."""
        value = self.values[name][row]
        got = "an empty cell" if value is None or value == "" else repr(value)
        # People count the header as line 1.
        return InputError(f"expected {expected}, got {got}", source=self.source, place=f"row {row + 2}, {name}")


def read_columns(path: Path) -> Columns:
    """Return the columns of a CSV (``.csv``, ``.tsv``, ``.txt``) or Parquet file.

    Raises
    ------
    InputError
        The file is missing, empty, no UTF-8 text, has a repeated column name, or a row of another length.
    SolverUnavailableError
        A Parquet file, and pyarrow is not installed.
    """
    if not path.is_file():
        raise InputError("expected a table file, found none; check the name", source=str(path))
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    return _csv(path)


def _csv(path: Path) -> Columns:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("expected a UTF-8 text file of comma-separated values", source=str(path)) from None
    except OSError as error:
        raise InputError(
            f"the file cannot be read: {(error.strerror or str(error)).lower()}", source=str(path)
        ) from None
    try:
        lines = list(csv.reader(io.StringIO(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except csv.Error as error:
        raise InputError(
            f"expected comma-separated values, got text that breaks off ({error})", source=str(path)
        ) from None
    rows = [line for line in lines if any(cell.strip() for cell in line)]
    if len(rows) < 2:
        raise InputError("expected a header and at least one row, got fewer lines", source=str(path))
    header = [cell.strip() for cell in rows[0]]
    _check_header(header, str(path))
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise InputError(
                f"expected {len(header)} cells as in the header, got {len(row)}",
                source=str(path),
                place=f"row {number}",
            )
    columns = {name: [row[i].strip() for row in rows[1:]] for i, name in enumerate(header)}
    return Columns(str(path), columns, len(rows) - 1)


def _check_header(header: Sequence[str], source: str) -> None:
    for name in header:
        if name and list(header).count(name) > 1:
            raise InputError(f"expected every column once, got {name!r} twice", source=source, place="row 1")


def _parquet(path: Path) -> Columns:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise SolverUnavailableError(
            "reading Parquet needs pyarrow, which is not installed; pip install 'gpuplan[parquet]', or give a CSV file"
        ) from None
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"expected a Parquet file, got one that cannot be read ({reason})", source=str(path)) from None
    if not 0 < table.num_rows <= MOST_ROWS:
        raise InputError(f"expected 1 to {MOST_ROWS} rows, got {table.num_rows}", source=str(path))
    _check_header(table.column_names, str(path))
    return Columns(str(path), {name: table[name].to_pylist() for name in table.column_names}, table.num_rows)


def check_data_path(folder: Path, name: str, source: str) -> Path:
    """Return the path of a data file named by a manifest in `folder`; UsageError where it leads elsewhere."""
    path = (folder / name).resolve()
    if not name or not path.is_relative_to(folder.resolve()):
        raise UsageError(f"expected a data file beside {source}, got {name!r}")
    return path
