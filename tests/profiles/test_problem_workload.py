"""The workload point."""

from __future__ import annotations

from typing import Any

import pytest

from gpuplan.errors import UsageError
from gpuplan.profiles import Workload


def test_derived_figures() -> None:
    """T = s + o, the mean context is s + o/2, and o − 1 decode steps follow the first token."""
    point = Workload(batch=2, prompt_tokens=100, output_tokens=21)
    assert (point.sequence_tokens, point.mean_context, point.decode_steps) == (121, 110.5, 20)
    assert point.with_micro_batches(4).micro_batches == 4


@pytest.mark.parametrize("field", ["batch", "prompt_tokens", "output_tokens", "micro_batches"])
@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, float("nan"), float("inf"), "8", None, True])
def test_refuses_what_is_no_count(field: str, value: Any) -> None:
    """Zero, negative, fractional, NaN, text, null and booleans are usage errors that name the field."""
    with pytest.raises(UsageError, match=f"expected {field} to be a whole number of at least 1"):
        Workload(**{field: value})
