"""Fixed instances of up to 32 devices: the exact solver against HiGHS on the block form, which knows nothing of it."""

from __future__ import annotations

from types import ModuleType

import pytest

from gpuplan.solvers import solve

CASES = [
    (8, 20, "hetero", 0.6, "latency", False),
    (8, 20, "hetero", 0.6, "latency", True),
    (8, 16, "hetero", 0.5, "bottleneck", False),
    (12, 20, "hetero", 0.6, "latency", False),
    (12, 16, "hetero", 0.4, "efficiency", True),
    (16, 20, "hier", 0.5, "latency", True),
    (16, 24, "hetero", 0.5, "cost", False),
    (24, 24, "hetero", 0.4, "latency", False),
    (32, 24, "hetero", 0.3, "latency", False),
    (32, 20, "hetero", 0.3, "latency", True),
]


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "layers", "family", "rho", "objective", "return_hop"), CASES)
def test_the_exact_solver_and_a_milp_agree(
    clusters: ModuleType, devices: int, layers: int, family: str, rho: float, objective: str, return_hop: bool
) -> None:
    """Both prove the same optimum to 1e-6; a MILP that ran out of time has a bound below it and no better plan."""
    problem = clusters.cluster(devices, layers, 1, family, rho, return_hop=return_hop, objective=objective)
    exact = solve(problem, time_limit_s=120.0)
    assert exact.status == "optimal"
    generic = solve(problem, solver="milp-blocks", time_limit_s=120.0)
    assert generic.status in ("optimal", "feasible", "no_solution")
    if generic.status == "optimal":
        assert generic.objective == pytest.approx(exact.objective, rel=1e-6)
    if generic.objective is not None:
        assert generic.objective >= less(exact.objective)
    if generic.bound is not None:
        assert less(generic.bound) <= exact.objective  # type: ignore[operator]


def less(value: object) -> object:
    """Return a value, or each of a pair, lower by a millionth."""
    return tuple(less(part) for part in value) if isinstance(value, tuple) else value * (1 - 1e-6)  # type: ignore[operator]
