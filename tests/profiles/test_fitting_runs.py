"""Fits: coefficients that generated runs are found again, residuals, files, and how a fit is shared over layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.errors import InputError
from gpuplan.profiles import AnalyticCosts, Workload, load_model
from gpuplan.profiles.cost_sources import load_costs
from gpuplan.profiles.fitted import Fit, FittedCosts, Regime, fit_from_dict, fit_from_result, fit_text, fit_to_dict
from gpuplan.profiles.fitting import Coefficients, fit_runs, read_runs, runs_from_rows
from gpuplan.topology import device_kind
from gpuplan.topology.graph import Device

TRUE = Coefficients((0.02, 1e-4, 1e-8), (0.015, 2e-4, 1e-6))
SHAPES = [(b, s, o) for b in (1, 4, 16) for s in (128, 512, 2048) for o in (16, 64, 256)]


def exact_rows(coefficients: Coefficients = TRUE) -> list[tuple[float, float, float, float]]:
    """Return runs that the formula gives."""
    return [(b, s, o, coefficients.time_s(b, s, o)) for b, s, o in SHAPES]


def test_the_formula_is_the_sum_over_steps() -> None:
    """T = prefill + Σ step(b, s + k) for k = 1..o−1, which the mean context s + o/2 gives exactly."""
    steps = sum(TRUE.step_s(4, 100 + k) for k in range(1, 10))
    assert TRUE.time_s(4, 100, 10) == pytest.approx(TRUE.prefill_s(4, 100) + steps)


def test_exact_runs_give_their_coefficients_back() -> None:
    """Without noise nothing is left."""
    result = fit_runs(runs_from_rows(exact_rows()))
    assert result.coefficients.prefill == pytest.approx(TRUE.prefill, rel=1e-4)
    assert result.coefficients.decode == pytest.approx(TRUE.decode, rel=1e-4)
    assert result.worst_error < 1e-6
    assert result.notes == ()


def test_noise_is_reported_as_residuals() -> None:
    """Times 5 % up and down in turn leave about 5 %."""
    rows = [(b, s, o, t * (1.05 if i % 2 else 0.95)) for i, (b, s, o, t) in enumerate(exact_rows())]
    result = fit_runs(runs_from_rows(rows))
    assert 0.03 < result.median_error < 0.06
    assert result.worst_error < 0.15


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.1, 10.0), min_size=3, max_size=12))
def test_coefficients_are_never_negative(times: list[float]) -> None:
    """Whatever was timed."""
    rows = [(*SHAPES[i % len(SHAPES)], t) for i, t in enumerate(times)]
    coefficients = fit_runs(runs_from_rows(rows)).coefficients
    assert min(*coefficients.prefill, *coefficients.decode) >= 0.0


def test_runs_that_cannot_tell_coefficients_apart_say_so() -> None:
    """One batch, one prompt, one output: one coefficient at most."""
    result = fit_runs(runs_from_rows([(1, 512, 64, 1.0), (1, 512, 64, 1.1)]))
    assert len(result.notes) == 1
    assert "settle 1 of the 6 coefficients (batch and prompt and output never vary)" in result.notes[0]


def write(path: Path, text: str) -> Path:
    """Write a file and return its path."""
    path.write_text(text, encoding="utf-8")
    return path


def test_logs_are_read_under_usual_names(tmp_path: Path) -> None:
    """batch_size, prompt_tokens, output_tokens, ttft_s, tpot_s."""
    text = "batch_size,prompt_tokens,output_tokens,ttft_s,tpot_s\n2,10,5,0.5,0.1\n"
    runs = read_runs(write(tmp_path / "log.csv", text))
    assert (runs.batch[0], runs.prefill_s[0], runs.step_s[0]) == (2.0, 0.5, 0.1)
    assert np.isnan(runs.time_s[0])


def test_columns_may_be_named(tmp_path: Path) -> None:
    """Another name for the time."""
    runs = read_runs(write(tmp_path / "log.csv", "batch,prompt,output,secs\n2,10,5,0.5\n"), {"time": "secs"})
    assert runs.time_s[0] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch,prompt,output\n1,2,3\n", "expected a column for time"),
        ("batch,time\n1,2\n", "expected a column for prompt, output"),
        ("batch,prompt,output,time\n1,2,3,0\n", "row 2, time: expected a number above 0"),
        ("batch,prompt,output,time\n1,x,3,1\n", "row 2, prompt: expected a finite number"),
        ("batch,prompt,output,time\n1,2,3,inf\n", "row 2, time: expected a finite number"),
    ],
)
def test_malformed_logs_say_where(tmp_path: Path, text: str, message: str) -> None:
    """A missing column, a time of nothing, text, infinity."""
    with pytest.raises(InputError, match=message):
        read_runs(write(tmp_path / "log.csv", text))


def example_fit(**changes: Any) -> Fit:
    """Return a fit of Llama 3.1 8B on an L4."""
    made = fit_from_result(
        fit_runs(runs_from_rows(exact_rows())), len(SHAPES), name="bench", device_kind="l4-24gb", model="llama-3.1-8b"
    )
    return fit_from_dict({**fit_to_dict(made), **changes})


def device(kind: str = "l4-24gb") -> Device:
    """Return one device."""
    return Device("h/gpu0", "h", 0, device_kind(kind), 10**10)


def test_layers_share_the_whole_as_the_roofline_weighs_them() -> None:
    """The sum is the fit's time, the proportions are the roofline's."""
    model, workload = load_model("llama-3.1-8b"), Workload(4, 512, 64)
    found = FittedCosts((example_fit(),)).layer_times(model, device(), workload)
    own = AnalyticCosts().layer_times(model, device(), workload)
    assert found.prefill_s.sum() == pytest.approx(TRUE.prefill_s(4, 512), rel=1e-4)
    assert found.decode_s.sum() == pytest.approx(TRUE.step_s(4, 512 + 32), rel=1e-4)
    assert found.prefill_s / found.prefill_s.sum() == pytest.approx(own.prefill_s / own.prefill_s.sum())
    assert set(found.origin) == {"fitted"}


def test_coefficients_by_batch() -> None:
    """Up to 94 sequences the first regime holds, above it the second."""
    fit = Fit("x", "l4-24gb", "m", (0.0, 1.0, 0.0), (Regime(94, (1.0, 0.0, 0.0)), Regime(None, (2.0, 0.0, 0.0))))
    assert [fit.coefficients(batch).decode[0] for batch in (1, 94, 95)] == [1.0, 1.0, 2.0]


def test_another_model_or_device_is_refused() -> None:
    """A fit holds where it was made."""
    costs = FittedCosts((example_fit(),))
    with pytest.raises(InputError, match="bench was measured on l4-24gb"):
        costs.layer_times(load_model("llama-3.1-8b"), device("a100-sxm4-80gb"), Workload())
    with pytest.raises(InputError, match=r"bench was measured on llama-3\.1-8b"):
        costs.layer_times(load_model("llama-2-7b"), device(), Workload())


def test_a_fit_survives_its_file(tmp_path: Path) -> None:
    """Written and read back it is the same, and loads as a cost source."""
    fit = example_fit()
    path = write(tmp_path / "fit.json", fit_text(fit))
    assert fit_from_dict(json.loads(path.read_text())) == fit
    costs = load_costs([str(path)])
    assert isinstance(costs, FittedCosts)
    assert costs.sources[0].startswith("bench, fitted on l4-24gb, median error 0.0% over 27 times")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "gpuplan/fitted-costs/2"}, r"\$.schema: expected the schema"),
        ({"prefill": [1, 2]}, r"\$.prefill: expected three coefficients, got 2"),
        ({"prefill": [1, 2, -3]}, r"\$.prefill.2: expected a finite number of at least 0"),
        ({"decode": []}, r"\$.decode: expected limits max_batch that grow"),
        ({"decode": [{"max_batch": 8, "coefficients": [1, 1, 1]}]}, r"\$.decode: expected limits max_batch that grow"),
        ({"decode": [{"coefficients": [1, 1, None]}]}, r"\$.decode\[0\].coefficients.2: expected a finite number"),
        ({"extra": 1}, r"\$.extra: expected one of the keys"),
    ],
)
def test_malformed_fits_say_where(changes: dict[str, Any], message: str) -> None:
    """Each defect ends in one sentence with its path."""
    with pytest.raises(InputError, match=message):
        example_fit(**changes)
