"""Option values: what each accepts, and the sentence it refuses the rest with."""

from __future__ import annotations

import click
import pytest

from gpuplan.cli.values import Balance, Fraction, MicroBatches, Seconds, Size, TensorParallel, Whole


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Whole(), "3", 3),
        (Whole(0), "0", 0),
        (Seconds(), "0.5", 0.5),
        (Fraction(), "1", 1.0),
        (Size(), "2GiB", 2 << 30),
        (Size(), "0", 0),
        (Balance(), "10:1", (10.0, 1.0)),
        (Balance(), "0:1", (0.0, 1.0)),
        (MicroBatches(), "4", 4),
        (MicroBatches(), "stages", "stages"),
        (TensorParallel(), "1", (1,)),
        (TensorParallel(), "1,2", (1, 2)),
        (TensorParallel(), "auto", "auto"),
    ],
)
def test_value_is_read(kind, text, value):
    """A sensible value is read as what it says."""
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize("kind", [Whole(), Seconds(), Fraction(), Size(), Balance(), MicroBatches(), TensorParallel()])
@pytest.mark.parametrize("text", ["", "nan", "inf", "-1", "much", "1;2"])
def test_nonsense_is_refused_with_what_was_expected(kind, text):
    """Empty, NaN, infinite, negative and wordy values are refused with a sentence that quotes them."""
    with pytest.raises(click.BadParameter) as refusal:
        kind.convert(text, None, None)
    assert refusal.value.message.startswith("expected ")
    assert repr(text) in refusal.value.message


@pytest.mark.parametrize(
    ("kind", "text"),
    [(Whole(), "0"), (Whole(), "1.5"), (Seconds(), "0"), (Fraction(), "0"), (Fraction(), "1.1"), (Balance(), "0:0")],
)
def test_out_of_range_is_refused(kind, text):
    """Values just outside the range are refused."""
    with pytest.raises(click.BadParameter):
        kind.convert(text, None, None)
