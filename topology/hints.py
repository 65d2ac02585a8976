"""Hints of topology files: which GPU families an architecture means, which GPUs a product has without PCI."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gpuplan.topology.documents import parse_document, read_text

_FILE: Final = Path(__file__).resolve().parent / "data" / "hints.yaml"


@functools.cache
def _document() -> Mapping[str, Any]:
    document: Mapping[str, Any] = parse_document(read_text(_FILE), str(_FILE))
    return document


def architecture_families() -> dict[str, frozenset[str]]:
    """Return the GPU families that each hint (``sm 90``, ``gcn 942``) fits."""
    return {str(hint): frozenset(families) for hint, families in _document()["families"].items()}


def product_gpus(product: str) -> tuple[str, int] | None:
    """Return kind and number of the GPUs of a product, or None where nothing is known of it."""
    entry = _document()["products"].get(product)
    return None if entry is None else (entry["kind"], entry["count"])
