"""Boxes of replicas and the chains in them, against every replica and every chain there is."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gpuplan.profiles import Workload
from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.solvers.deployment import box_chains, pricing, units
from gpuplan.solvers.deployment.bounds import counts_of_kinds
from gpuplan.solvers.deployment.boxes import Boxes, Maker, chord
from gpuplan.solvers.deployment.layout import Stock
from gpuplan.solvers.deployment.prices import Prices
from gpuplan.solvers.deployment.shortest import shortest
from gpuplan.solvers.deployment.solve import _Search
from gpuplan.solvers.deployment.switching import Switch
from gpuplan.solvers.deployment.weighing import _steeper
from gpuplan.solvers.limits import Budget, Limits

#: Relative slack for sums taken in another order.
ROUNDING = 1e-9
#: Questions whose boxes are held against every replica.
ASKED = (
    {},
    {"tensor_parallel": (1, 2)},
    {"ttft_slo_s": 5.0},
    {"ttft_slo_s": 3.5, "tensor_parallel": (1, 2)},
    {"ttft_slo_s": 4.0, "micro_batches_from_stages": False},
    {"objective": "throughput", "ttft_slo_s": 4.0},
)


def search_of(case, costs, **changes):
    """Return the parts of a search over a random case: 3 → 4 tokens, batch 2, M the number of stages."""
    model, topology = case
    settings = {"tensor_parallel": (1,), "reserve_bytes": 0.0, **changes}
    problem = DeploymentProblem(model, topology, costs, Workload(2, 3, 4), **settings)
    return _Search(problem, Budget(Limits()), 0, None, Switch())


def replicas(search, oracle):
    """Return what the best replica of every degree, number of stages and vector of counts by kind is worth."""
    problem = search.problem
    every = oracle.Oracle(problem, [2], list(problem.tensor_parallel))
    found = {}
    for size in range(1, len(search.fleet.devices) + 1):
        for members in itertools.combinations(range(len(search.fleet.devices)), size):
            for groups, cuts, batch in every.plans(members):
                key = len(groups[0]), len(groups), search.shaper.counts(members)
                found[key] = max(found.get(key, 0.0), every.value(groups, cuts, batch))
    return {key: value for key, value in found.items() if value > 0.0}


def covered(maker, sheet, prices, known):
    """Check that some box allows for each replica there is; return by how much the prices are outweighed at most."""
    for (degree, stages, counts), value in known.items():
        rows = [
            row
            for row, number in enumerate(sheet.boxes.point)
            if maker.points[number].degree == degree
            and sheet.boxes.stages[row, 0] <= stages <= sheet.boxes.stages[row, 1]
        ]
        beyond = value - float(np.array(counts) @ prices.devices) - prices.replica
        most = max((float(sheet.over[row]) for row in rows), default=-math.inf)
        # Boxes that fall short of the prices need not say by how much.
        assert beyond <= max(most, 0.0) + ROUNDING * value, (degree, stages, counts, beyond, most)
    return float(sheet.over.max(initial=0.0))


def test_boxes_hold_every_replica(random_case, ideal_costs, oracle):
    """At any prices, however often boxes are split and chains looked at, none outweighs them by more than is said."""
    checked = 0
    for seed in range(600, 630):
        search = search_of(random_case(seed), ideal_costs, **ASKED[seed % len(ASKED)])
        known = replicas(search, oracle)
        if not known:
            continue
        rng = np.random.default_rng(seed)
        maker = Maker(search.ceilings, counts_of_kinds(search.fleet))
        best = max(known, key=known.get)
        share = known[best] / sum(best[2])
        prices = Prices(share * rng.uniform(0.2, 1.2, size=len(search.fleet.kinds)), 0.0, 1.0, 0.0)
        sheet = pricing._Sheet(maker, maker.roots(), prices)
        before = covered(maker, sheet, prices, known)
        for _ in range(25):
            fine = sheet.unseen()
            if len(fine):
                sheet.look(fine)
            elif (rows := sheet.dividable()) is not None:
                sheet.divide(rows)
        assert covered(maker, sheet, prices, known) <= before
        checked += 1
    assert checked >= 15


def test_lines_lie_above_the_value():
    """The chord and the steeper lines lie above M·b/(s + D) from the least to the largest s: 12/(s + 1) on [1, 3]."""
    curve = np.array([[12.0, 1.0, 1.0, 3.0]])
    for line in (chord(curve), _steeper(curve, 1.0), _steeper(curve, 4.0)):
        (intercept, slope), s = line[0], np.linspace(1.0, 3.0, 9)
        assert (intercept - slope * s >= 12.0 / (s + 1.0) - 1e-12).all()
    # Through 12/(3 + 1) = 3 at s = 3; the chord falls by 1.5 a second, so this one by 6.
    assert _steeper(curve, 4.0).tolist() == [[21.0, 6.0]]


def test_fines_take_what_is_overdrawn():
    """Two too many of a kind at 1 beyond the prices: a fine of 1·2/2² = 0.5 each, and none where devices are left."""
    part = box_chains._Part(0, np.zeros(4), np.zeros(2), beyond=1.0)
    assert part.fined(np.array([-1.0, 0.0])) == []
    (fined,) = part.fined(np.array([2.0, -1.0]))
    assert fined.fines.tolist() == [0.5, 0.0]
    # What is fined too much is given back: one device is left of the first kind, 0.5 − 1·1/(1 + 1) = 0.
    (eased,) = fined.fined(np.array([-1.0, 1.0]))
    assert eased.fines.tolist() == [0.0, 0.5]


def test_fines_come_nearer_to_what_there_is(four_layers, make_cluster, ideal_costs, oracle, monkeypatch):
    """One fast device among slow ones: chains of several fast ones are fined, and the bound comes down but holds."""
    fast, slow = ("fast", 400.0, 420, 1.0), ("slow", 100.0, 420, 1.0)
    topology = make_cluster([[fast, slow], [slow, slow]], inside=(1e4, 0.001), outside=(1e3, 0.002))
    search = search_of((four_layers, topology), ideal_costs)
    known, maker = replicas(search, oracle), Maker(search.ceilings, counts_of_kinds(search.fleet))
    prices = Prices(np.array([0.01, 0.01]), 0.0, 1.0, 0.0)
    reached = []
    for cuts in (0, box_chains.CUTS):
        monkeypatch.setattr(box_chains, "CUTS", cuts)
        sheet = pricing._Sheet(maker, maker.roots(), prices)
        for _ in range(60):
            fine = sheet.unseen()
            if len(fine):
                sheet.look(fine)
            elif (rows := sheet.dividable()) is not None:
                sheet.divide(rows)
        covered(maker, sheet, prices, known)
        reached.append(float(sheet.over[sheet.boxes.stages[:, 1] == 2].max()))
    # A fast and a slow one are the best two stages there are: 0.373 requests/s less 0.02 for both.
    best = known[1, 2, (1, 1)] - 0.02
    assert best <= reached[1] < best + 0.002 < reached[0]


def chains(maker, box, point):
    """Yield every chain in a box of one number of stages, as (sort, start, stop) a stage."""
    size, count = maker.fleet.num_layers, int(box.stages[0, 1])
    reach = [maker.ends(point, k, box.stages, box.caps) for k in range(len(point.groups))]
    for inner in itertools.combinations(range(1, size), count - 1):
        cuts = (0, *inner, size)
        for sorts in itertools.product(range(len(point.groups)), repeat=count):
            stages = list(zip(sorts, cuts[:-1], cuts[1:], strict=True))
            ends = [reach[k][int(stop == size)][0, start] for k, start, stop in stages]
            if all(stop <= end for (_, _, stop), end in zip(stages, ends, strict=True)):
                yield stages


@pytest.mark.parametrize("degrees", [(1,), (1, 2)])
def test_shortest_chain_is_the_cheapest(degrees, random_case, ideal_costs):
    """Over boxes with caps of all sorts the least total is that of the cheapest chain, unlike groups among them."""
    checked = unlike = 0
    for seed in range(700, 732):
        search = search_of(random_case(seed), ideal_costs, tensor_parallel=degrees)
        maker, rng = Maker(search.ceilings, counts_of_kinds(search.fleet)), np.random.default_rng(seed)
        for number, point in enumerate(maker.points):
            count = int(rng.integers(1, 4))
            caps = np.array([[0.0, rng.uniform(0.2, 1.2) * point.prefill[:, -1].max(), 0.0, math.inf]])
            box = Boxes(np.array([number]), np.array([[count, count]]), caps, *(np.zeros((1, 4)) for _ in range(3)))
            price, slope = rng.uniform(0.1, 1.0, size=len(search.fleet.kinds)), float(rng.uniform(0.0, 2.0))

            def cost(stages, point=point, price=price, slope=slope):
                seconds = sum(point.prefill[k, stop] - point.prefill[k, start] for k, start, stop in stages)
                hops = sum(point.hops[k, 0] for k, _, _ in stages[:-1])
                return sum(point.groups[k] @ price for k, _, _ in stages) + slope * (seconds + hops)

            paths = shortest(maker, box, price[None, :], np.array([slope]))
            least = min(map(cost, chains(maker, box, point)), default=math.inf)
            assert paths.totals[0] == pytest.approx(least, rel=ROUNDING)
            if math.isfinite(least):
                assert cost(paths.chain(0)) == pytest.approx(least, rel=ROUNDING)
                checked += 1
                unlike += any((np.count_nonzero(own) > 1) for own in point.groups)
    assert checked >= 10
    assert unlike >= (3 if 2 in degrees else 0)


def test_groups_are_laid_out_on_few_islands(four_layers, make_cluster, ideal_costs):
    """Hosts aab, aab and bb: groups go to islands in use while these hold them, and never to one too small."""
    a, b = ("a", 100.0, 400, 1.0), ("b", 150.0, 400, 1.0)
    topology = make_cluster([[a, a, b], [a, a, b], [b, b]], inside=(1e4, 0.001), outside=(1e3, 0.002))
    fleet = search_of((four_layers, topology), ideal_costs, tensor_parallel=(1, 2)).fleet
    assert [fleet.kinds[kind].device.kind.name for kind in range(2)] == ["a", "b"]
    stock = Stock(fleet)
    assert stock.take([(2, 0)]) == ((0, 1),)
    # An a and a b from the second host: the first has no a left. Then another b: of the host in use, where none is.
    assert stock.take([(1, 1), (0, 1)]) == ((3, 5), (2,))
    assert stock.take([(0, 2)]) == ((6, 7),)
    assert stock.take([(2, 0)]) is None  # one a is left
    assert stock.take([(1, 0)]) == ((4,),)


def test_nearest_hops_of_many_kinds_are_those_of_all(random_case, ideal_costs, monkeypatch):
    """Where kinds are too many to have their own, each has the nearest hop of any: the least over the kinds."""
    told = 0
    for seed in range(800, 830):
        found = []
        for most in (256, 0):
            monkeypatch.setattr(units, "MOST_SENDING", most)
            search = search_of(random_case(seed), ideal_costs)
            found.append([search.units.hops_from(1, 2), search.units.nearest_hops(1, 2)])
        (own, least), (shared, same) = found
        assert len(own) == len(shared) == len(search.fleet.kinds)
        for part in range(3):
            assert np.array_equal(least[part], same[part])
            assert all(np.array_equal(hop[part], least[part]) for hop in shared)
        told += len(own) > 1
    assert told >= 10
