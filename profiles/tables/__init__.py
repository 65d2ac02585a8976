"""Measured times: tables of layers and operators, interpolated inside what was measured and tagged."""

from __future__ import annotations

from gpuplan.profiles.tables.costs import TableCosts
from gpuplan.profiles.tables.manifest import load_table, save_table
from gpuplan.profiles.tables.series import Series, series_from_rows
from gpuplan.profiles.tables.table import CostTable, ModelShape, model_shape

__all__ = [
    "CostTable",
    "ModelShape",
    "Series",
    "TableCosts",
    "load_table",
    "model_shape",
    "save_table",
    "series_from_rows",
]
