"""Plans on measured and fitted costs: built, written, verified; every tampering with what they rest on is found."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from gpuplan.errors import InputError
from gpuplan.plans import Outcome, StageRange, build_device_map, device_map_from_dict, device_map_to_dict, verify
from gpuplan.profiles import AnalyticCosts, PlacementProblem
from gpuplan.profiles.cost_sources import CombinedCosts
from gpuplan.profiles.fitted import Fit, FittedCosts, Regime
from gpuplan.profiles.tables import CostTable, TableCosts, series_from_rows

LINEAR = (["linear"], "both", ["tokens"], [(2, 1.0), (4, 2.0), (8, 4.0)])
PREFILL = (["attention"], "prefill", ["prompt"], [(3, 0.25)])
DECODE = (["attention"], "decode", ["batch", "context"], [(2, 5, 0.5), (2, 6, 0.7)])
LOOKUP = (["lookup"], "both", ["tokens"], [(2, 0.1), (6, 0.3)])
HEAD = (["logits"], "both", ["batch"], [(2, 0.6)])


def table(kind: str, *series: Any) -> CostTable:
    """Return a table of the hand-made model."""
    return CostTable(f"{kind} bench", kind, tuple(series_from_rows(*one) for one in series), "hand", source="made up")


def fit(kind: str) -> Fit:
    """Return prefill 1 + 0.5·b·s, step 0.2 + 0.1·b + 0.01·b·c."""
    return Fit(f"{kind} fit", kind, "hand", (1.0, 0.5, 0.0), (Regime(None, (0.2, 0.1, 0.01)),))


def document(problem: PlacementProblem, costs: Any) -> dict[str, Any]:
    """Return a feasible plan of the hand-made problem on other costs, as a JSON object of its own."""
    problem = problem.replace(costs=costs)
    plan = build_device_map(
        problem, [StageRange(0, 0, 2), StageRange(1, 2, 4)], Outcome("feasible", 0.0, {}, None, None, "hand", {}, 0)
    )
    result = replace(plan.result, objective=plan.metrics.latency_s)
    return json.loads(json.dumps(device_map_to_dict(replace(plan, result=result))))  # type: ignore[no-any-return]


@pytest.fixture
def measured(hand_problem: PlacementProblem, ideal_costs: AnalyticCosts) -> dict[str, Any]:
    """Everything measured on the fast device; the slow one lacks the head, which the roofline fills in."""
    tables = (table("fast", LINEAR, PREFILL, DECODE, LOOKUP, HEAD), table("slow", LINEAR, PREFILL, DECODE, LOOKUP))
    return document(hand_problem, TableCosts(tables, ideal_costs))


@pytest.fixture
def fitted(hand_problem: PlacementProblem, ideal_costs: AnalyticCosts) -> dict[str, Any]:
    """Return a plan with a fit on each device."""
    return document(hand_problem, FittedCosts((fit("fast"), fit("slow")), ideal_costs))


def test_figures_derived_by_hand(measured: dict[str, Any]) -> None:
    """b=2, s=3, o=5: N = 6, decode at context 5.5."""
    first, second = measured["stages"]
    # Stage 0: lookup 0.3; linear at 6 tokens 3.0, attention twice 0.25. Decode: 0.1 + 1.0 + 0.6.
    assert first["prefill_s"] == pytest.approx(3.8)
    assert first["decode_s"] == pytest.approx(1.7)
    # Stage 1: 3.0 + 0.5 and the head's 60 B over 100 B/s = 0.6 in both passes.
    assert second["prefill_s"] == pytest.approx(4.1)
    assert second["decode_s"] == pytest.approx(2.2)


def test_shares_are_of_the_seconds(measured: dict[str, Any]) -> None:
    """Analytic: the head, 0.6·(1 + 4 steps) of 3.8 + 4.1 + 4·(1.7 + 2.2) = 23.5 s; they add up to 1."""
    shares = measured["provenance"]
    assert shares["analytic"] == pytest.approx(3.0 / 23.5)
    # Interpolated: linear at 6 tokens (3.0 twice) and attention at context 5.5 (0.6 twice, 4 steps).
    assert shares["interpolated"] == pytest.approx((6.0 + 4.8) / 23.5)
    assert sum(shares[tag] for tag in ("measured", "interpolated", "fitted", "analytic")) == pytest.approx(1.0)
    assert shares["sources"] == [
        "fast bench, measured on fast, made up", "slow bench, measured on slow, made up", "ideal",
    ]  # fmt: skip


def test_measured_and_fitted_plans_verify(measured: dict[str, Any], fitted: dict[str, Any]) -> None:
    """Nothing to find, and the file reads back to the same."""
    for plan in (measured, fitted):
        assert verify(plan).ok, str(verify(plan))
        assert device_map_to_dict(device_map_from_dict(copy.deepcopy(plan))) == plan


def test_a_fitted_plan_adds_up_to_the_fit(fitted: dict[str, Any]) -> None:
    """Each device holds its share of 1 + 0.5·6 = 4 s; all of it is fitted."""
    assert fitted["provenance"]["fitted"] == 1.0
    # Ideal roofline, fast: lookup 0.12 s, layers max(0.06, 0.5) + 2·2·3/200 = 0.56 each, head 0.3: 0.68/1.54 of 4 s.
    assert fitted["stages"][0]["prefill_s"] == pytest.approx(4.0 * 0.68 / 1.54)


def test_extrapolated_seconds_count_as_analytic(hand_problem: PlacementProblem) -> None:
    """Linear work measured up to 4 tokens, read at 6: 2 + 2·0.5 = 3 s on an assumed line."""
    short = (["linear"], "both", ["tokens"], [(2, 1.0), (4, 2.0)])
    tables = tuple(table(kind, short, PREFILL, DECODE, LOOKUP, HEAD) for kind in ("fast", "slow"))
    plan = document(hand_problem, TableCosts(tables, extrapolate=True))
    assert verify(plan).ok, str(verify(plan))
    assert plan["stages"][0]["prefill_s"] == pytest.approx(3.8)
    total = 3.8 + 4.1 + 4 * (1.7 + 2.2)
    assert plan["provenance"]["analytic"] == pytest.approx(6.0 / total)


def test_sources_may_be_mixed(hand_problem: PlacementProblem, ideal_costs: AnalyticCosts) -> None:
    """A table on one device, a fit on the other."""
    tables = TableCosts((table("fast", LINEAR, PREFILL, DECODE, LOOKUP, HEAD),))
    plan = document(hand_problem, CombinedCosts((tables, FittedCosts((fit("slow"),), ideal_costs))))
    assert verify(plan).ok, str(verify(plan))
    assert set(plan["inputs"]["costs"]["classes"]) == {"fast", "slow"}
    assert plan["provenance"]["fitted"] > 0.0


FAST, SLOW = "$.inputs.costs.classes.fast", "$.inputs.costs.classes.slow"


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("$.stages[0].prefill_s", 3.7, "$.stages[0].prefill_s"),
        ("$.stages[1].decode_s", 2.1, "$.stages[1].decode_s"),
        ("$.provenance.measured", 1.0, "$.provenance.measured"),
        ("$.provenance.analytic", 0.0, "$.provenance.analytic"),
        ("$.provenance.sources", ["better"], "$.provenance.sources"),
        (f"{FAST}.layers.decoder.prefill[0].entries[0][1]", 0.5, "$.stages[0].prefill_s"),
        (f"{FAST}.layers.decoder.prefill[0].entries[0][0]", 7.0, f"{FAST}.layers.decoder.prefill[0].origin"),
        (f"{FAST}.layers.decoder.prefill[0].at[0]", 5.0, f"{FAST}.layers.decoder.prefill"),
        (f"{FAST}.layers.decoder.prefill[0].at", [6.0, 1.0], f"{FAST}.layers.decoder.prefill[0].entries"),
        (f"{FAST}.layers.decoder.prefill[0].origin", "measured", f"{FAST}.layers.decoder.prefill[0].origin"),
        (f"{FAST}.layers.decoder.prefill[0].origin", "extrapolated", f"{FAST}.layers.decoder.prefill[0].origin"),
        (f"{FAST}.layers.decoder.prefill[0].origin", "analytic", f"{FAST}.layers.decoder.prefill[0].entries"),
        (f"{FAST}.layers.decoder.prefill[0].covers", ["attention"], f"{FAST}.layers.decoder.prefill"),
        (f"{FAST}.layers.decoder.prefill[1].count", 1, f"{FAST}.layers.decoder.prefill"),
        (f"{FAST}.layers.decoder.decode[1].at", [2.0, 5.0], f"{FAST}.layers.decoder.decode[1].at"),
        (f"{FAST}.layers.decoder.decode[1].count", 2, f"{FAST}.layers.decoder.decode[1].count"),
        (f"{FAST}.layers.decoder", ..., f"{FAST}.layers.decoder"),
        (f"{SLOW}.roofline", ..., f"{SLOW}.layers.head.prefill[0]"),
        (f"{SLOW}.roofline.memory_bandwidth_bytes_per_s", 200.0, f"{SLOW}.roofline.memory_bandwidth_bytes_per_s"),
        (f"{SLOW}.roofline.overhead_s", 1.0, "$.stages[1].prefill_s"),
        (SLOW, ..., SLOW),
    ],
)
def test_tampering_with_tables_is_found(
    measured: dict[str, Any], edit: Any, place: str, value: Any, named: str
) -> None:
    """One edit; a finding stands at the field that no longer holds."""
    places = [finding.place for finding in verify(edit(measured, place, value)).problems]
    assert named in places


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (f"{FAST}.fit.prefill[1]", 0.4, "$.stages[0].prefill_s"),
        (f"{FAST}.fit.decode[2]", 0.02, "$.stages[0].decode_s"),
        (f"{FAST}.fit", ..., f"{FAST}.layers.embedding.prefill[0]"),
        (f"{FAST}.roofline", ..., f"{FAST}.layers.embedding.prefill[0]"),
        (f"{FAST}.roofline.overhead_s", 0.5, "$.stages[0].prefill_s"),
        ("$.provenance.fitted", 0.5, "$.provenance.fitted"),
    ],
)
def test_tampering_with_fits_is_found(fitted: dict[str, Any], edit: Any, place: str, value: Any, named: str) -> None:
    """Coefficients, the roofline they are shared by, the share stated."""
    places = [finding.place for finding in verify(edit(fitted, place, value)).problems]
    assert named in places


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("$.inputs.costs.source", "guessed", r"\$.inputs.costs.source"),
        ("$.inputs.costs.classes", ..., r"\$.inputs.costs.classes: expected this key, got none"),
        ("$.inputs.costs.devices.h/gpu0", 3, r"\$.inputs.costs.devices"),
        (f"{FAST}.layers.decoder.prefill[0].entries[0][1]", -1.0, "expected a number of at least 0"),
        (f"{FAST}.layers.decoder.prefill[0].axes[0]", "colour", "expected one of"),
        (f"{FAST}.layers.decoder.prefill", [], "expected at least 1 items"),
        (f"{FAST}.colour", "red", "unknown key"),
    ],
)
def test_malformed_costs_are_no_plan(measured: dict[str, Any], edit: Any, place: str, value: Any, message: str) -> None:
    """The schema refuses them, with the path."""
    with pytest.raises(InputError, match=message):
        verify(edit(measured, place, value))
