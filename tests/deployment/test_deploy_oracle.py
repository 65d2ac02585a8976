"""Deployments against brute force: the objective on one side of the optimum, the bound on the other."""

from __future__ import annotations

import pytest

from gpuplan.plans.verify.deployment import verify_deployment
from gpuplan.profiles import Workload
from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.solvers import deploy

#: Relative slack for sums taken in another order.
ROUNDING = 1e-9


def ask(case, costs, **changes):
    """Return the problem of a random case: 3 → 4 tokens, batch 2, M the number of stages."""
    model, topology = case
    settings = {"tensor_parallel": (1,), "reserve_bytes": 0.0, **changes}
    return DeploymentProblem(model, topology, costs, Workload(2, 3, 4), **settings)


def hold(problem, oracle):
    """Check the answer of a problem against the optimum; return how it stands."""
    degrees = [degree for degree in (1, 2) if degree in problem.tensor_parallel]
    best = oracle.Oracle(problem, [1, 2, 4, 8, 16, 32, 64, 128] if problem.batch_auto else [2], degrees).optimum()
    result = deploy(problem)
    if best is None:
        assert result.plan is None
        return result.status
    assert result.status in ("optimal", "feasible"), (result.status, result.reasons, best)
    assert str(verify_deployment(result.require_plan())) == "every number and constraint holds"
    sign = 1.0 if problem.maximised else -1.0
    assert sign * (best - result.objective) >= -ROUNDING * best, (best, result.objective)
    assert result.bound is not None
    assert result.report.proof, f"say in deployment/proofs.py why {result.report.bound_kind!r} holds"
    assert sign * (result.bound - best) >= -ROUNDING * best, (best, result.bound)
    if problem.objective == "devices":
        assert result.bound == round(result.bound), "devices are whole"
    reached = abs(best - result.objective) <= ROUNDING * best
    assert reached or result.status != "optimal"
    return "best" if reached else "below"


@pytest.mark.parametrize("objective", ["requests", "throughput"])
@pytest.mark.parametrize("degrees", [(1,), (1, 2)])
def test_maximised_objectives(objective, degrees, random_case, ideal_costs, oracle):
    """On random clusters of up to 6 devices no answer beats the optimum and no bound falls below it."""
    outcomes = [
        hold(ask(random_case(seed), ideal_costs, objective=objective, tensor_parallel=degrees), oracle)
        for seed in range(30)
    ]
    assert outcomes.count("best") >= 0.8 * (len(outcomes) - outcomes.count("infeasible")), outcomes


@pytest.mark.parametrize("objective", ["devices", "cost"])
def test_demands(objective, random_case, ideal_costs, oracle):
    """Fewest devices and lowest price under demands from easy to out of reach."""
    outcomes = []
    for seed in range(24):
        most = deploy(ask(random_case(seed), ideal_costs)).objective or 0.1
        demand = most * (0.3, 0.8, 1.2)[seed % 3]
        outcomes.append(hold(ask(random_case(seed), ideal_costs, objective=objective, demand_rps=demand), oracle))
    assert outcomes.count("best") >= 12, outcomes
    assert "infeasible" in outcomes


@pytest.mark.parametrize("seed", [1063, 1086, 1169, 1205])
def test_demand_just_below_the_most(seed, random_case, ideal_costs, oracle, monkeypatch):
    """Replicas over unequal pieces that only the bound asks for serve most: a demand of nearly that has a plan too.

    Even in fractions no other candidates serve it, so a bound under the demand asks for none.
    """
    from gpuplan.solvers.deployment import bounds, solve

    monkeypatch.setattr(solve, "MOST_VECTORS", 1)  # pieces of islands, as on larger clusters
    monkeypatch.setattr(bounds, "MOST_VECTORS", 1)
    most = deploy(ask(random_case(seed), ideal_costs)).objective
    assert hold(ask(random_case(seed), ideal_costs, objective="devices", demand_rps=0.999 * most), oracle) == "best"
    assert deploy(ask(random_case(seed), ideal_costs, objective="devices", demand_rps=3 * most)).status == "infeasible"


def test_limits_and_promises(random_case, ideal_costs, oracle):
    """Limits on devices and replicas, SLOs and fixed micro-batches, each against brute force."""
    changes = (
        {"max_replicas": 1},
        {"max_devices": 2},
        {"ttft_slo_s": 6.0},
        {"tpot_slo_s": 4.0},
        {"micro_batches_from_stages": False},
        {"return_hop": False},
    )
    outcomes = [hold(ask(random_case(seed), ideal_costs, **changes[seed % 6]), oracle) for seed in range(30)]
    assert outcomes.count("best") + outcomes.count("infeasible") >= 24, outcomes


def test_batch_auto(random_case, ideal_costs, oracle):
    """The batch of each replica is the best power of two that fits."""
    outcomes = [hold(ask(random_case(seed), ideal_costs, batch_auto=True), oracle) for seed in range(8)]
    assert outcomes.count("best") + outcomes.count("infeasible") >= 6, outcomes


@pytest.mark.parametrize("objective", ["requests", "throughput", "cost"])
def test_fluid_bound_alone(objective, random_case, ideal_costs, oracle):
    """The bound for clusters of many kinds, by itself: never on the wrong side of the optimum."""
    from gpuplan.solvers.deployment.bounds import counts_of_kinds
    from gpuplan.solvers.deployment.fluid import fluid_prices
    from gpuplan.solvers.deployment.solve import _Search
    from gpuplan.solvers.deployment.switching import Switch
    from gpuplan.solvers.limits import Budget, Limits

    checked = 0
    for seed in range(100, 130):
        demand = {"demand_rps": 0.3} if objective == "cost" else {}
        problem = ask(random_case(seed), ideal_costs, objective=objective, tensor_parallel=(1, 2), **demand)
        best = oracle.Oracle(problem, [2], [1, 2]).optimum()
        search = _Search(problem, Budget(Limits()), 0, None, Switch())
        value, _ = fluid_prices(search.ceilings, search.goal, counts_of_kinds(search.fleet))
        if best is not None:
            assert value is not None
            assert (value - best) * (1 if problem.maximised else -1) >= -ROUNDING * best, (seed, value, best)
            checked += 1
    assert checked >= 10


#: Questions whose bound by prices is held against brute force.
PRICED = (
    {},
    {"objective": "throughput"},
    {"tensor_parallel": (1, 2)},
    {"micro_batches_from_stages": False},
    {"objective": "cost", "demand_rps": 0.3},
    {"objective": "devices", "tensor_parallel": (1, 2), "demand_rps": 0.2},
    {"max_devices": 3},
    {"max_replicas": 1, "tensor_parallel": (1, 2)},
    {"ttft_slo_s": 4.0},
    {"tpot_slo_s": 2.5, "tensor_parallel": (1, 2)},
    {"objective": "throughput", "micro_batches_from_stages": False, "tensor_parallel": (1, 2)},
    {"return_hop": False},
)


def test_bound_by_prices_alone(random_case, ideal_costs, oracle):
    """The bound by prices, by itself, is never on the wrong side of the optimum, and is often the better one."""
    from gpuplan.solvers.deployment.bounds import _by_prices, counts_of_kinds
    from gpuplan.solvers.deployment.columns import class_columns
    from gpuplan.solvers.deployment.solve import _Search
    from gpuplan.solvers.deployment.switching import Switch
    from gpuplan.solvers.limits import Budget, Limits

    checked = priced = 0
    for seed in range(200, 272):
        problem = ask(random_case(seed), ideal_costs, **PRICED[seed % len(PRICED)])
        best = oracle.Oracle(problem, [2], list(problem.tensor_parallel)).optimum()
        search = _Search(problem, Budget(Limits()), 0, None, Switch())
        columns = class_columns(search.fleet, search.shaper, search.budget)
        known = [(column.replica.value, search.shaper.counts(column.replica.devices)) for column in columns]
        counts = counts_of_kinds(search.fleet)
        found = _by_prices(search.ceilings, search.goal, counts, None, search.budget, known)
        if best is not None:
            assert found.value is not None
            assert (found.value - best) * (1 if problem.maximised else -1) >= -ROUNDING * best, (seed, found, best)
            checked += 1
            priced += found.kind.startswith("prices")
    assert checked >= 40
    assert priced >= 20


@pytest.mark.parametrize("told_apart", [0, 64])
def test_quick_bound_alone(told_apart, random_case, ideal_costs, oracle, monkeypatch):
    """The bound that takes no search is never on the wrong side of the optimum, kinds of one sheet together or not."""
    from gpuplan.solvers.deployment import bounds
    from gpuplan.solvers.deployment.bounds import counts_of_kinds, quick
    from gpuplan.solvers.deployment.solve import _Search
    from gpuplan.solvers.deployment.switching import Switch
    from gpuplan.solvers.limits import Budget, Limits

    monkeypatch.setattr(bounds, "MOST_TOLD_APART", told_apart)
    checked = 0
    for seed in range(300, 372):
        problem = ask(random_case(seed), ideal_costs, **PRICED[seed % len(PRICED)])
        best = oracle.Oracle(problem, [2], list(problem.tensor_parallel)).optimum()
        search = _Search(problem, Budget(Limits()), 0, None, Switch())
        value = quick(search.ceilings, search.goal, counts_of_kinds(search.fleet)).value
        if best is not None:
            assert value is not None
            assert (value - best) * (1 if problem.maximised else -1) >= -ROUNDING * best, (seed, value, best)
            checked += 1
    assert checked >= 40


@pytest.mark.parametrize("kinds", ["a ab b", "a aa a"])
@pytest.mark.parametrize("degrees", [(2,), (1, 2)])
def test_groups_stay_within_islands_where_routes_tell_no_hosts_apart(
    kinds, degrees, four_layers, make_cluster, ideal_costs, oracle
):
    """Hosts joined at no cost: devices of all hosts trade places on routes, and yet only one host holds a pair."""
    device = {"a": ("a", 100.0, 500, 1.0), "b": ("b", 150.0, 500, 1.0)}
    rows = [[device[name] for name in host] for host in kinds.split()]
    topology = make_cluster(rows, inside=(1e4, 0.001), outside=(1e6, 0.0))
    problem = ask((four_layers, topology), ideal_costs, tensor_parallel=degrees)
    assert hold(problem, oracle) == "best"
    assert deploy(problem).status == "optimal"
