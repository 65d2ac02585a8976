"""Fixtures every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the captured machines, models and traces beside the checkout; skip visibly where they are absent."""
    if not _SHARED.is_dir():
        pytest.skip("captured machines and models (../shared/data) are not here")
    return _SHARED
