"""What kind of document a file holds, found without reading it as a whole where that can be."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gpuplan.errors import InputError

BATCH_PLAN: Final = "gpuplan/batch-plan"
_SCHEMA = re.compile(rb"""["']?\bschema["']?\s*:\s*["']?(gpuplan/[a-z-]+)/""")


def document_kind(document: Mapping[str, Any] | str | os.PathLike[str]) -> str:
    """Return the kind a document or file says it is, without the version; "" when it does not say or cannot be read.

    >>> document_kind({"schema": "gpuplan/batch-plan/1"})
    'gpuplan/batch-plan'
    """
    return _said(document) if isinstance(document, Mapping) else _file_kind(Path(document))


def _said(document: Any) -> str:
    schema = document.get("schema") if isinstance(document, Mapping) else None
    return schema.rpartition("/")[0] if isinstance(schema, str) else ""


def _file_kind(path: Path) -> str:
    from gpuplan.plans.batch_parquet import is_parquet
    from gpuplan.profiles.problems.documents import read_document

    if is_parquet(path):
        return BATCH_PLAN
    # Most files name one kind, and finding it in the text is much faster than reading the whole document twice.
    try:
        named = set(_SCHEMA.findall(path.read_bytes()))
    except (OSError, ValueError):
        return ""
    if len(named) == 1:
        return str(named.pop().decode())
    try:
        return _said(read_document(path)) if named else ""
    except InputError:
        return ""
