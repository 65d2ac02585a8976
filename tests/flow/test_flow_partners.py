"""What nodes pass when each needs partners over slow links, against every choice of real nodes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.flow.crossing import Crossing
from gpuplan.solvers.flow.instance import Items
from gpuplan.solvers.flow.partners import Partners

TARGET = 10**6


def most_passed(links: np.ndarray, passed: Sequence[float], here: Sequence[int], there: Sequence[int], m: int) -> float:
    """Return the most that nodes with these throughputs pass: every order of nodes here, every m partners there."""
    return max(
        sum(min(most, links[node, list(partners)].sum()) for most, node in zip(passed, order, strict=True))
        for order in itertools.permutations(here, len(passed))
        for partners in itertools.combinations(there, m)
    )


def test_partners_are_never_fewer_than_real_ones() -> None:
    """Of 300 random cases none is bounded below the best choice of real nodes; with all choices tried it is met."""
    rng = np.random.default_rng(0)
    exact = 0
    for _ in range(300):
        here, there = int(rng.integers(1, 5)), int(rng.integers(1, 8))
        size = here + there
        links = rng.integers(0, 100, (size, size)).astype(np.float64)
        groups = [np.arange(here), np.arange(here, size)]
        value = np.sort(rng.integers(1, 200, 3))
        partners = Partners(links, groups, np.array([0, 0, 0]), value, np.array([0, 1]), TARGET)
        count = np.array([rng.multinomial(int(rng.integers(1, here + 1)), [0.3, 0.3, 0.4])])
        m = int(rng.integers(0, there + 1))
        first = np.zeros(1, dtype=np.int64)
        found = partners.passed([(count, first)], (np.array([[0, m]]), first), [np.array([[1.0], [0.0]])])
        best = most_passed(links, np.repeat(value, count[0]).tolist(), range(here), range(here, size), m)
        assert found[0, 0] >= best
        exact += found[0, 0] <= best + 1  # rounded up
    # Up to 16 choices of partners (C(6, 2) = 15, C(7, 1) = 7 …) every one is tried; only 3 or 4 of 6 or 7 are more.
    assert exact >= 270


def test_choices_of_partners_are_shared() -> None:
    """One partner for two groups: the best for both together, 5 + 5 or 6 + 1, not the best for each, 6 + 5."""
    links = np.array([[0, 0, 5, 6], [0, 0, 5, 1], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=np.float64)
    groups = [np.array([0]), np.array([1]), np.array([2, 3])]
    partners = Partners(links, groups, np.array([0, 1]), np.array([50, 50]), np.array([0, 0, 1]), TARGET)
    first = np.zeros(1, dtype=np.int64)
    both = (np.array([[1, 1]]), first)
    found = partners.passed([both], (np.array([[0, 0, 1]]), first), [np.array([[1.0], [0.0]])])
    assert found.tolist() == [[10 + 1]]  # rounded up


def test_nodes_that_start_have_what_they_are_sent() -> None:
    """A region's flow stays in the nodes that stay: a node that starts beside them has only what crosses to it.

    Node a (100 tokens/s) ends where b2 (100) starts, b1 (50) stays; both of region 1, a of region 0; links 30. On layer
    0 a has 100 and b1 50. Then b1 has 50 at most and b2 the 30 of its link: 80, not 50 + 30 + 30.
    """
    links = np.array([[0.0, 30.0, 30.0], [30.0, 0.0, 1e4], [30.0, 1e4, 0.0]])
    table = (np.array([100.0]), np.array([100.0, 50.0]))
    wide = np.full(3, 1e4)
    problem = FlowProblem(2, ("a", "b"), table, ("a", "b1", "b2"), np.array([0, 1, 1]), links, wide, wide)
    items = Items(150, np.array([100, 100, 50]), np.array([0, 1, 1]), np.array([1, 1, 2]))
    crossing = Crossing(problem, (0, 1), items, 1.0)
    rho = crossing.from_source(np.array([[1, 0, 1]]))
    assert rho.tolist() == [[100, 50, 150]]
    rows = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    rho = crossing.step(rho, rows, np.array([0]), np.array([1]), np.array([2]))
    assert rho[0, 0] == 0
    assert 80 <= rho[0, 1] == rho[0, 2] <= 82  # links are rounded up to whole ticks
