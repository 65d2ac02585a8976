"""The shipped efficiency factors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuplan.errors import InputError
from gpuplan.profiles.efficiency import Efficiency, Factors, PowerRule, shipped_efficiency
from gpuplan.topology.graph import DeviceKind

KIND = DeviceKind("l4-24gb", "nvidia", "ada", 1, 1.0, {}, 72.0)


def test_shipped_factors_load_with_their_sources() -> None:
    """The shipped file names its sources, and every factor is checked when it loads."""
    efficiency = shipped_efficiency()
    assert efficiency.sources
    assert {"volta", "turing", "ampere", "ada", "hopper", "blackwell"} <= set(efficiency.families)


def test_kind_goes_before_family_and_family_before_default() -> None:
    """The most specific entry wins."""
    one, two, three = Factors(0.1, 0.1, 0.0), Factors(0.2, 0.2, 0.0), Factors(0.3, 0.3, 0.0)
    efficiency = Efficiency(one, {"ada": two}, {"l4-24gb": three}, PowerRule(0.4, 3.0, 0.15))
    assert efficiency.factors(KIND) is three
    assert efficiency.factors(replace(KIND, name="l40s-48gb")) is two
    assert efficiency.factors(replace(KIND, name="x", family="unheard-of")) is one


@pytest.mark.parametrize("values", [(0.0, 0.5, 0.0), (0.5, 1.5, 0.0), (0.5, float("nan"), 0.0), (0.5, 0.5, -1.0)])
def test_refuses_factors_out_of_range(values: tuple[float, float, float]) -> None:
    """Efficiencies lie in (0, 1], the overhead is at least 0."""
    with pytest.raises(InputError):
        Factors(*values)


def test_power_rule_matches_the_measured_boards() -> None:
    """The rule stays within 0.1 of the measured prefill rates of capped RTX 3090 boards."""
    # 1178 ms at 350 W; 1207, 1310, 1725, 3803, 7421 ms at the caps below (4k-token prompt).
    measured = {300: 1178 / 1207, 250: 1178 / 1310, 200: 1178 / 1725, 150: 1178 / 3803, 100: 1178 / 7421}
    rule = shipped_efficiency().power
    for cap, factor in measured.items():
        assert rule.clock_factor(cap, 350.0) == pytest.approx(factor, abs=0.1)
