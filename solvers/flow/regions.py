"""The search where links bind: regions of fast links, planned alone and together, then annealing on the real links.

The bound of the link-free problem stays a certificate, since links only take flow away. Covers of the link-free problem
are not: how much they pass depends on which node takes which range. So

1. nodes joined by links that cannot bind form *regions*; every union of regions is planned link-free, and disjoint
   unions together make a placement whose flows hardly leave a region; or regions take blocks of layers in turn
   (`blocks.py`), with many nodes in pairs and the handover planned (`relays.py`);
2. annealing with a maximum flow on the real links starts from the best of these placements, from the link-free cover
   and from chance, polishing starts and lengths;
3. label searches that know what slow links let over (`region_cover.py`) find further placements and lower the bound.
   Annealing and searches take turns, with growing effort, until value and bound meet or the budget ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.flow.anneal import arrays_of
from gpuplan.solvers.flow.blocks import block_placements
from gpuplan.solvers.flow.cover import CoverSearch, start
from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.flow.instance import instance_of
from gpuplan.solvers.flow.link_bounds import crossing_capacity
from gpuplan.solvers.flow.maxflow import evaluate
from gpuplan.solvers.flow.parts import part_of, restricted, share_of
from gpuplan.solvers.flow.polish import MANY_NODES, Polish
from gpuplan.solvers.flow.region_cover import EFFORTS, RegionCover
from gpuplan.solvers.flow.relays import relay_placement

#: Unions of regions are planned for this many regions at most; beyond, each alone and all together.
MOST_REGIONS = 5
#: Efforts of the cover search for one region (all) and for a union.
REGION_EFFORTS = 7
UNION_EFFORTS = 2
#: Share of the budget for planning regions, of few nodes and of many: their annealing and searches gain less a second.
PLANNING_SHARE, PLANNING_SHARE_OF_MANY = 0.1, 0.5
#: Share of what is left then, of many nodes, for pairs of regions that take turns: annealing gains hardly anything.
RELAY_SHARE = 0.9
#: Relays are tried where regions alone reach the first share of their own bounds (else annealing gains more) and no
#: more than the second of the bound of all (else there is little to gain).
SETTLED, NEAR_ENOUGH = 0.97, 0.96
#: Shares of what is left of the budget for annealing from one start, and for annealing between two efforts.
START_SHARE = 0.01
TURN_SHARE = 0.1
#: Placements of each manner that annealing starts from.
MOST_STARTS = 3


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
    incumbent: Incumbent, regions: Sequence[Sequence[int]], cover: Sequence[NodeRange], top: int, seed: int
) -> None:
    """Raise the incumbent and lower its bound by regions, from a link-free cover too, until closed or out of budget.

    No placement passes more than `top` ticks.
    """
    from gpuplan.solvers.flow.compiling import Compilation

    compilation = Compilation()
    try:
        starts: list[Sequence[NodeRange]] = [cover] if cover else []
        words = "links bind"
        if len(regions) > 1:
            words = f"links bind between {len(regions)} regions of fast links; planned by region"
            starts += _by_regions(incumbent, regions)
            starts += _in_blocks(incumbent, regions)
        incumbent.notes.append(words)
        if not incumbent.closed and compilation.wait(incumbent.budget):
            incumbent.notes.append("annealed on the real links")
            _by_turns(incumbent, regions, starts, top, seed)
    finally:
        compilation.stop()


def _by_turns(
    incumbent: Incumbent,
    regions: Sequence[Sequence[int]],
    starts: Sequence[Sequence[NodeRange]],
    top: int,
    seed: int,
) -> None:
    """Anneal and search by regions in turn, with growing effort."""
    budget = incumbent.budget
    polish = Polish(incumbent, arrays_of(incumbent.problem, regions), seed)
    # Of many nodes too many covers are within any slack: nothing is proven, and annealing gains more.
    if len(regions) > 1 and incumbent.problem.num_nodes <= MANY_NODES:
        search = RegionCover(incumbent, regions, top, polish.realise)
        for effort in range(len(EFFORTS)):
            search.prove(effort)
            search.seek(effort)
            for placement in () if effort or search.near() else starts:
                with share_of(budget, START_SHARE) as part:
                    polish.improve(placement, part)
            with share_of(budget, TURN_SHARE) as part:
                polish.rounds(part)
            if incumbent.closed or budget.exhausted():
                return
    else:
        for placement in starts:
            polish.improve(placement, budget)
    polish.rounds(budget)


def _in_blocks(incumbent: Incumbent, regions: Sequence[Sequence[int]]) -> list[tuple[NodeRange, ...]]:
    """Lay regions out one after the other; return the best few placements."""
    scored = [(incumbent.offer(placement), placement) for placement in block_placements(incumbent, regions)]
    scored.sort(key=lambda pair: -pair[0])
    return [placement for _, placement in scored[:MOST_STARTS]]


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


@dataclass(frozen=True, slots=True)
class _Plan:
    """Ranges of some nodes planned alone, and an upper bound on what flows through these nodes alone."""

    ranges: tuple[NodeRange, ...]
    bound: float


def _plan_alone(incumbent: Incumbent, nodes: Sequence[int], share: float, efforts: int) -> _Plan:
    """Return the best cover by these nodes alone, planned link-free with a share of the budget."""
    problem = restricted(incumbent.problem, nodes)
    budget = part_of(incumbent.budget, share)
    inner = Incumbent(problem, instance_of(problem), budget, single_layers=incumbent.single_layers)
    top = inner.instance.aggregate_bound()
    inner.lower_bound_to(inner.instance.bound_tokens(top), "tokens·layers")
    if top > 0:
        master, prices = start(inner, top)
        if not prices.impossible(problem.num_layers):
            CoverSearch(inner, master, prices, covers_first=True).run(efforts)
    incumbent.budget.spend(budget.work)
    held = () if inner.solution is None else inner.solution.placement
    return _Plan(tuple(NodeRange(nodes[item.node], item.start, item.stop) for item in held), inner.bound)


def _by_regions(incumbent: Incumbent, regions: Sequence[Sequence[int]]) -> list[tuple[NodeRange, ...]]:
    """Plan unions of regions link-free; offer disjoint unions together; return the best few placements."""
    unions = list(_unions(len(regions)))
    plans: dict[tuple[int, ...], _Plan] = {}
    # Single regions are in most partitions, so they get most of the time.
    weights = [8.0 if len(union) == 1 else 1.0 for union in unions]
    whole = PLANNING_SHARE if incumbent.problem.num_nodes <= MANY_NODES else PLANNING_SHARE_OF_MANY
    for at, union in enumerate(unions):
        share = whole * weights[at] / sum(weights[at:])
        efforts = REGION_EFFORTS if len(union) == 1 else UNION_EFFORTS
        plans[union] = _plan_alone(incumbent, _nodes(regions, union), share, efforts)
        whole -= share
        if incumbent.budget.exhausted():
            break
    scored = []
    for partition in _partitions(tuple(range(len(regions)))):
        if all(union in plans for union in partition):
            _bound_by(incumbent, regions, partition, plans)
            placement = tuple(item for union in partition for item in plans[union].ranges)
            if placement:
                scored.append((incumbent.offer(placement), placement))
    if incumbent.problem.num_nodes > MANY_NODES and len(regions) <= MOST_REGIONS and incumbent.single_layers is None:
        relay = _relayed(incumbent, regions, plans)
        if relay:
            scored.append((incumbent.offer(relay), relay))
    scored.sort(key=lambda pair: -pair[0])
    return [placement for _, placement in scored[:MOST_STARTS]]


def _relayed(
    incumbent: Incumbent, regions: Sequence[Sequence[int]], plans: Mapping[tuple[int, ...], _Plan]
) -> tuple[NodeRange, ...]:
    """Return a placement in which some pairs of regions take turns; empty where none gains."""
    if any((region,) not in plans for region in range(len(regions))):
        return ()
    alone = [plans[region,].ranges for region in range(len(regions))]
    value = sum(evaluate(incumbent.problem, placement)[0] for placement in alone if placement)
    reachable = sum(plans[region,].bound for region in range(len(regions)))
    if value < SETTLED * reachable or value > NEAR_ENOUGH * incumbent.bound:
        return ()
    with share_of(incumbent.budget, RELAY_SHARE) as part:
        return relay_placement(incumbent.problem, regions, alone, part)


def _bound_by(
    incumbent: Incumbent,
    regions: Sequence[Sequence[int]],
    partition: Sequence[tuple[int, ...]],
    plans: Mapping[tuple[int, ...], _Plan],
) -> None:
    """Take over what the parts reach alone and the links between them carry (see `link_bounds.py`)."""
    if incumbent.single_layers is not None:  # a second holder may stand in another part, so parts alone reach less
        return
    alone = sum(plans[union].bound for union in partition)
    between = crossing_capacity(incumbent.problem, [_nodes(regions, union) for union in partition])
    incumbent.lower_bound_to(alone + between, "regions alone and the links between them")


def _nodes(regions: Sequence[Sequence[int]], union: Sequence[int]) -> list[int]:
    return sorted(node for region in union for node in regions[region])


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
