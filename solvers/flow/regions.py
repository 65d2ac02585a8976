"""The search where links bind: regions of fast links, planned alone and together, then annealing on the real links.

The bound of the link-free problem stays a certificate, since links only take flow away. Covers of the link-free problem
are not: how much they pass depends on which node takes which range. So

1. nodes joined by links that cannot bind form *regions*; every union of regions is planned link-free, and disjoint
   unions together make a placement whose flows hardly leave a region;
2. annealing with a maximum flow on the real links starts from the best of these placements, from the link-free cover
   and from chance, polishing starts and lengths.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import FlowProblem, IntArray
from gpuplan.solvers.flow.anneal import Arrays, Schedule, anneal, arrays_of
from gpuplan.solvers.flow.cover import CoverSearch, start
from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.flow.instance import instance_of
from gpuplan.solvers.limits import Budget

#: Unions of regions are planned for this many regions at most; beyond, each alone and all together.
MOST_REGIONS = 5
#: Efforts of the cover search for a union.
UNION_EFFORTS = 2
#: Rounds of annealing; each starts from the best placements and from chance.
ROUNDS = 12
#: Moves of an annealing run between two looks at the clock.
MOVES = 40_000
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


def search_regions(incumbent: Incumbent, seed: int) -> None:
    """Raise the incumbent by regions and annealing until closed or out of budget."""
    problem = incumbent.problem
    regions = regions_of(problem, incumbent.bound)
    incumbent.notes.append(f"links bind between {len(regions)} regions of fast links; planned by region, then annealed")
    starts = _by_regions(incumbent, regions) if len(regions) > 1 else []
    if incumbent.solution is not None:
        starts.append(incumbent.solution.placement)
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


def _by_regions(incumbent: Incumbent, regions: Sequence[Sequence[int]]) -> list[tuple[NodeRange, ...]]:
    """Plan unions of regions link-free; offer disjoint unions together; return the best few placements."""
    unions = list(_unions(len(regions)))
    plans: dict[tuple[int, ...], tuple[float, tuple[NodeRange, ...]]] = {}
    for at, union in enumerate(unions):
        share = incumbent.budget.remaining_s * 0.4 / (len(unions) - at)
        nodes = sorted(node for region in union for node in regions[region])
        plans[union] = _plan_union(incumbent, nodes, share)
        if incumbent.budget.exhausted():
            break
    scored = []
    for partition in _partitions(tuple(range(len(regions)))):
        if all(union in plans for union in partition):
            placement = tuple(item for union in partition for item in plans[union][1])
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


def _plan_union(incumbent: Incumbent, nodes: Sequence[int], time_s: float) -> tuple[float, tuple[NodeRange, ...]]:
    """Return the flow and placement of the best cover by these nodes alone, links among them as they are."""
    part = restricted(incumbent.problem, nodes)
    limits = dataclasses.replace(incumbent.budget.limits, time_limit_s=time_s, on_progress=None, work_limit=None)
    budget = Budget(limits)
    inner = Incumbent(part, instance_of(part), budget)
    master, prices = start(inner, inner.instance.aggregate_bound())
    if prices.items.target > 0 and not prices.impossible(part.num_layers):
        CoverSearch(inner, master, prices).run(UNION_EFFORTS)
    incumbent.budget.spend(budget.work)
    if inner.solution is None:
        return 0.0, ()
    placement = tuple(NodeRange(nodes[item.node], item.start, item.stop) for item in inner.solution.placement)
    return inner.value, placement


def restricted(problem: FlowProblem, nodes: Sequence[int]) -> FlowProblem:
    """Return the problem with some of its nodes only."""
    at = np.array(nodes, dtype=np.int64)
    return dataclasses.replace(
        problem,
        node_names=tuple(problem.node_names[node] for node in nodes),
        node_kinds=problem.node_kinds[at],
        link_tokens_per_s=problem.link_tokens_per_s[np.ix_(at, at)],
        source_tokens_per_s=problem.source_tokens_per_s[at],
        sink_tokens_per_s=problem.sink_tokens_per_s[at],
    )


def _anneal(incumbent: Incumbent, starts: Sequence[Sequence[NodeRange]], seed: int) -> None:
    """Chains of annealing runs: from the placements found so far in turn, the incumbent, and from chance."""
    arrays = arrays_of(incumbent.problem)
    rng = np.random.default_rng(seed)
    stale = 0
    for turn in range(ROUNDS * 4):
        if incumbent.closed or incumbent.budget.exhausted() or stale >= ROUNDS:
            return
        before = incumbent.value
        kind = turn % 4
        if kind == 3:
            state, hot = _random(arrays, rng), 0.1
        elif kind == 1 and starts:
            state, hot = _state(arrays, starts[(turn // 4) % len(starts)]), 0.02
        elif incumbent.solution is not None:
            state, hot = _state(arrays, incumbent.solution.placement), (0.01 if kind == 0 else 0.04)
        else:
            state, hot = _random(arrays, rng), 0.1
        _chain(incumbent, arrays, state, hot, rng)
        stale = 0 if incumbent.value > before * (1.0 + 1e-6) else stale + 1


def _chain(
    incumbent: Incumbent,
    arrays: Arrays,
    state: tuple[IntArray, IntArray],
    hot: float,
    rng: np.random.Generator,
) -> None:
    """Anneal in several runs, each colder than the last, looking at the clock between them."""
    starts, lengths = state
    cold = 0.1 * hot
    aim = max(incumbent.value * float(rng.choice([1.0005, 1.005, 1.02, 1.05])), 0.05 * incumbent.bound)
    heat = np.geomspace(hot, cold, LINKS_OF_CHAIN + 1)
    best = 0.0
    for link in range(LINKS_OF_CHAIN):
        moves = MOVES * 24 // max(len(arrays.kinds), 24)
        schedule = Schedule(moves, float(heat[link]), float(heat[link + 1]))
        value, starts, lengths = anneal(
            arrays, starts, lengths, min(aim, incumbent.bound), schedule, int(rng.integers(2**31))
        )
        incumbent.budget.spend(moves)
        if value > max(best, incumbent.value):
            best = value
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
