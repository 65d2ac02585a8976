"""Readers of published cost tables, each with its layout recognised from the files themselves."""

from __future__ import annotations

from gpuplan.profiles.tables.readers.detect import load_cost_source

__all__ = ["load_cost_source"]
