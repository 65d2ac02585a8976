"""The search where links bind: regions of fast links, planned alone and together, then annealing on the real links.

The bound of the link-free problem stays a certificate, since links only take flow away. Covers of the link-free problem
are not: how much they pass depends on which node takes which range. So

1. nodes joined by links that cannot bind form *regions*; every union of regions is planned link-free, and disjoint
   unions together make a placement whose flows hardly leave a region;
2. annealing with a maximum flow on the real links starts from the best of these placements, from the link-free cover
   and from chance, polishing starts and lengths.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import FlowProblem, IntArray
from gpuplan.solvers.flow.anneal import Arrays, Schedule, anneal, arrays_of
from gpuplan.solvers.flow.cover import CoverSearch, start
from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.flow.instance import instance_of
from gpuplan.solvers.flow.parts import part_of, restricted

#: Unions of regions are planned for this many regions at most; beyond, each alone and all together.
MOST_REGIONS = 5
#: Efforts of the cover search for a union.
UNION_EFFORTS = 3
#: Share of the budget for planning regions; the rest is for annealing.
PLANNING_SHARE = 0.4
#: Chains of annealing without gain before it ends.
ROUNDS = 16
#: Moves of an annealing run of 24 nodes between two looks at the clock; fewer by the square of their number.
MOVES = 150_000
#: Runs that a round links together, cooling from one to the next.
LINKS_OF_CHAIN = 6


def links_bind(problem: FlowProblem, bound: float) -> bool:
    """Return whether some link could take flow away: missing, or narrower than what its nodes or any flow may pass."""
    most = np.minimum(_most(problem), bound)
    used = most > 0.0
    pairs = np.minimum(most[:, None], most[None, :])
    np.fill_diagonal(pairs, 0.0)
    return bool(
        (problem.link_tokens_per_s < pairs).any()
        or (problem.source_tokens_per_s < most)[used].any()
        or (problem.sink_tokens_per_s < most)[used].any()
    )


def regions_of(problem: FlowProblem, bound: float) -> list[list[int]]:
    """Return the components of nodes joined, both ways, by links that cannot bind.

    Where no link is that fast, links above the widest gap in their capacities count as fast.
    """
    most = np.minimum(_most(problem), bound)
    pairs = np.minimum(most[:, None], most[None, :])
    fast = problem.link_tokens_per_s >= pairs
    found = _components(fast & fast.T)
    if len(found) < problem.num_nodes:
        return found
    values = np.unique(problem.link_tokens_per_s[problem.link_tokens_per_s > 0.0])
    if len(values) < 2:
        return [list(range(problem.num_nodes))]
    threshold = values[1:][np.argmax(values[1:] / values[:-1])]
    fast = problem.link_tokens_per_s >= threshold
    return _components(fast & fast.T)


def interleaved(problem: FlowProblem, regions: Sequence[Sequence[int]]) -> list[int]:
    """Return the nodes in an order that takes those of a kind from all regions in proportion.

    Ranges dealt out in this order cover every layer by each region about as much, so flows can stay where they are.
    """
    place: dict[int, tuple[float, int]] = {}
    for at, region in enumerate(regions):
        by_kind: dict[int, list[int]] = {}
        for node in region:
            by_kind.setdefault(int(problem.node_kinds[node]), []).append(node)
        for nodes in by_kind.values():
            place |= {node: ((position + 0.5) / len(nodes), at) for position, node in enumerate(nodes)}
    return sorted(place, key=lambda node: (place[node], node))


def search_regions(
    incumbent: Incumbent, regions: Sequence[Sequence[int]], cover: Sequence[NodeRange], seed: int
) -> None:
    """Raise the incumbent by regions and annealing, from a link-free cover too, until closed or out of budget."""
    incumbent.notes.append(f"links bind between {len(regions)} regions of fast links; planned by region, then annealed")
    starts: list[Sequence[NodeRange]] = [cover] if cover else []
    if len(regions) > 1:
        starts += _by_regions(incumbent, regions)
    _anneal(incumbent, starts, seed)


def _most(problem: FlowProblem) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    most: np.ndarray[tuple[int], np.dtype[np.float64]] = problem.throughput_table().max(axis=1)[problem.node_kinds]
    return most


def _components(joined: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> list[list[int]]:
    size = len(joined)
    left, found = set(range(size)), []
    while left:
        stack = [min(left)]
        left.discard(stack[0])
        component = []
        while stack:
            node = stack.pop()
            component.append(node)
            reached = [other for other in np.flatnonzero(joined[node]).tolist() if other in left]
            left.difference_update(reached)
            stack += reached
        found.append(sorted(component))
    return found


def _plan_alone(incumbent: Incumbent, nodes: Sequence[int], share: float) -> tuple[NodeRange, ...]:
    """Return the best cover by these nodes alone, planned link-free with a share of the budget."""
    problem = restricted(incumbent.problem, nodes)
    budget = part_of(incumbent.budget, share)
    inner = Incumbent(problem, instance_of(problem), budget, single_layers=incumbent.single_layers)
    top = inner.instance.aggregate_bound()
    if top > 0:
        master, prices = start(inner, top)
        if not prices.impossible(problem.num_layers):
            CoverSearch(inner, master, prices).run(UNION_EFFORTS)
    incumbent.budget.spend(budget.work)
    held = () if inner.solution is None else inner.solution.placement
    return tuple(NodeRange(nodes[item.node], item.start, item.stop) for item in held)


def _by_regions(incumbent: Incumbent, regions: Sequence[Sequence[int]]) -> list[tuple[NodeRange, ...]]:
    """Plan unions of regions link-free; offer disjoint unions together; return the best few placements."""
    unions = list(_unions(len(regions)))
    plans: dict[tuple[int, ...], tuple[NodeRange, ...]] = {}
    # Single regions are in most partitions, so they get most of the time.
    weights = [4.0 if len(union) == 1 else 1.0 for union in unions]
    whole = PLANNING_SHARE
    for at, union in enumerate(unions):
        nodes = sorted(node for region in union for node in regions[region])
        share = whole * weights[at] / sum(weights[at:])
        plans[union] = _plan_alone(incumbent, nodes, share)
        whole -= share
        if incumbent.budget.exhausted():
            break
    scored = []
    for partition in _partitions(tuple(range(len(regions)))):
        if all(union in plans for union in partition):
            placement = tuple(item for union in partition for item in plans[union])
            if placement:
                scored.append((incumbent.offer(placement), placement))
    scored.sort(key=lambda pair: -pair[0])
    return [placement for _, placement in scored[:4]]


def _unions(count: int) -> Iterator[tuple[int, ...]]:
    sizes = range(1, count + 1) if count <= MOST_REGIONS else (1, count)
    for size in sizes:
        yield from itertools.combinations(range(count), size)


def _partitions(items: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Yield the partitions of items whose parts are unions that were planned."""
    if len(items) > MOST_REGIONS:
        yield tuple((item,) for item in items)
        yield (items,)
        return
    if not items:
        yield ()
        return
    for size in range(1, len(items) + 1):
        for others in itertools.combinations(items[1:], size - 1):
            rest = tuple(item for item in items[1:] if item not in others)
            for partition in _partitions(rest):
                yield ((items[0], *others), *partition)


def _anneal(incumbent: Incumbent, starts: Sequence[Sequence[NodeRange]], seed: int) -> None:
    """Chains of annealing runs: from each start, swaps first; then from the incumbent, and now and then from chance."""
    arrays = arrays_of(incumbent.problem)
    rng = np.random.default_rng(seed)
    for start_at in starts:
        _chain(incumbent, arrays, _state(arrays, start_at), Heat(0.02, 0.9, 0.0), rng)
    stale = 0
    while stale < ROUNDS and not incumbent.closed and not incumbent.budget.exhausted():
        before = incumbent.value
        turn = stale % 4
        if turn == 3 or incumbent.solution is None:
            _chain(incumbent, arrays, _random(arrays, rng), Heat(0.3, 0.3, float(rng.uniform(0.0, 0.6))), rng)
        else:
            aim = float(rng.choice([0.0, 0.05, 0.2, 0.5]))
            heat = Heat((0.003, 0.02, 0.08)[turn], 0.3, aim)
            _chain(incumbent, arrays, _state(arrays, incumbent.solution.placement), heat, rng)
        stale = 0 if incumbent.value > before * (1.0 + 1e-6) else stale + 1


@dataclass(frozen=True, slots=True)
class Heat:
    """How a chain anneals: first temperature, share of swaps, and its target between the incumbent and the bound."""

    hot: float
    swaps: float
    aim: float


def _chain(
    incumbent: Incumbent, arrays: Arrays, state: tuple[IntArray, IntArray], heat: Heat, rng: np.random.Generator
) -> None:
    """Anneal in several runs, each colder than the last, looking at the clock between them."""
    starts, lengths = state
    target = incumbent.value * 1.001 + heat.aim * (incumbent.bound - incumbent.value)
    steps = np.geomspace(heat.hot, 0.05 * heat.hot, LINKS_OF_CHAIN + 1)
    moves = max(MOVES * 24**2 // max(len(arrays.kinds), 24) ** 2, 500)
    for link in range(LINKS_OF_CHAIN):
        schedule = Schedule(moves, float(steps[link]), float(steps[link + 1]), heat.swaps)
        run = int(rng.integers(2**31))
        value, starts, lengths = anneal(arrays, starts, lengths, min(target, incumbent.bound), schedule, run)
        incumbent.budget.spend(moves)
        if value > incumbent.value:
            incumbent.offer(_placement(starts, lengths))
        if incumbent.closed or incumbent.budget.exhausted():
            return


def _random(arrays: Arrays, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    most = arrays.most[arrays.kinds]
    lengths = np.where(most > 0, rng.integers(1, np.maximum(most, 1) + 1), 0).astype(np.int64)
    starts = rng.integers(0, arrays.num_layers - lengths + 1).astype(np.int64)
    return starts, lengths


def _state(arrays: Arrays, placement: Sequence[NodeRange]) -> tuple[IntArray, IntArray]:
    starts, lengths = np.zeros(len(arrays.kinds), dtype=np.int64), np.zeros(len(arrays.kinds), dtype=np.int64)
    for item in placement:
        starts[item.node], lengths[item.node] = item.start, item.stop - item.start
    return starts, lengths


def _placement(starts: IntArray, lengths: IntArray) -> list[NodeRange]:
    pairs = enumerate(zip(starts.tolist(), lengths.tolist(), strict=True))
    return [NodeRange(node, first, first + count) for node, (first, count) in pairs if count > 0]
