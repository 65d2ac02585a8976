"""Tiny clusters and models: the best replica of every set of devices, exactly, by every sequence of groups.

Over one sequence of groups Σ prefill, Σ decode and the slowest stage of each grow from layer to layer; a way to a layer
is kept unless another is as good in all four. What a replica is worth falls with each of them, so the best way to the
last layer is among those kept. Packed into the devices, that is the optimum, but for links that replicas share.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Final

from gpuplan.solvers.deployment.chain import Chain, Slo
from gpuplan.solvers.deployment.columns import Column, by_device, class_sources
from gpuplan.solvers.deployment.fleet import Fleet
from gpuplan.solvers.deployment.replicas import Replica, Shaper
from gpuplan.solvers.deployment.units import Group

#: Sequences of groups (times batches), and layers, at most.
MOST_SEQUENCES: Final = 6000
MOST_LAYERS: Final = 12
#: Rounding of sums, relatively.
SLACK: Final = 1e-12
#: Σ prefill, Σ decode, slowest prefill and decode stage, and where the stages end.
Way = tuple[float, float, float, float, tuple[int, ...]]


def exact_columns(fleet: Fleet, shaper: Shaper, over: Callable[[], bool]) -> list[Column] | None:
    """Return the best replica of every vector of class counts; None where that takes too long."""
    if fleet.num_layers > MOST_LAYERS:
        return None
    class_of = {device: number for number, members in enumerate(fleet.classes) for device in members}
    every = _all_sequences(fleet, class_of)
    asked = list(itertools.islice(every, MOST_SEQUENCES // len(fleet.batches()) + 1))
    if len(asked) * len(fleet.batches()) > MOST_SEQUENCES:
        return None
    best: dict[tuple[int, ...], Replica] = {}
    for groups in asked:
        if over():
            return None
        classes = tuple(sorted(class_of[device] for group in groups for device in group))
        found = _best_over(shaper, groups, best.get(classes))
        if found is not None:
            best[classes] = found
    return [by_device(replica, class_sources(fleet, replica.devices)) for replica in best.values()]


def _all_sequences(fleet: Fleet, class_of: dict[int, int]) -> Iterator[tuple[Group, ...]]:
    most = fleet.problem.max_devices or len(fleet.devices)
    for degree in fleet.degrees:
        for count in range(1, min(fleet.num_layers, most // degree) + 1):
            yield from _sequences(fleet, class_of, degree, count, ())


def _sequences(
    fleet: Fleet, class_of: dict[int, int], degree: int, count: int, before: tuple[Group, ...]
) -> Iterator[tuple[Group, ...]]:
    """Yield sequences of `count` groups within islands; of exchangeable devices the first ones are taken first."""
    if len(before) == count:
        yield before
        return
    taken = {device for group in before for device in group}
    free = [[device for device in members if device not in taken] for members in fleet.classes]
    for members in fleet.islands:
        left = [device for device in members if device not in taken]
        for group in itertools.combinations(left, degree):
            parts: dict[int, list[int]] = {}
            for device in group:
                parts.setdefault(class_of[device], []).append(device)
            if all(own == free[number][: len(own)] for number, own in parts.items()):
                yield from _sequences(fleet, class_of, degree, count, (*before, group))


def _best_over(shaper: Shaper, groups: tuple[Group, ...], best: Replica | None) -> Replica | None:
    """Return the best replica over `groups`, or `best` where none is better; batches that cannot be are left out."""
    for ceiling in shaper.ceilings.of(shaper.counts([device for group in groups for device in group])):
        if best is not None and ceiling.value <= best.value * (1 + SLACK):
            break
        chain = shaper.units.chain(groups, ceiling.batch) if ceiling.degree == len(groups[0]) else None
        for cuts in () if chain is None else _cuts(chain, shaper.ceilings.slo):
            found = shaper.as_cut(groups, cuts, ceiling.batch)
            if found is not None and (best is None or found.value > best.value):
                best = found
    return best


def _cuts(chain: Chain, slo: Slo) -> list[tuple[int, ...]]:
    """Return all cuts within the SLOs that no other cuts beat."""
    size = len(chain.prefill_s[0])
    ways: list[list[Way]] = [[] for _ in range(size)]
    ways[0] = [(0.0, 0.0, 0.0, 0.0, (0,))]
    for prefill, decode in zip(chain.prefill_s, chain.decode_s, strict=True):
        reached: list[list[Way]] = [[] for _ in range(size)]
        for start, stop in itertools.combinations(range(size), 2):
            p, d = float(prefill[start, stop]), float(decode[start, stop])
            for way in ways[start]:
                total = way[0] + p, way[1] + d, max(way[2], p), max(way[3], d)
                interval = max(total[1], chain.micro_batches * total[3])
                if total[0] <= slo.ttft_s * (1 + SLACK) and interval <= slo.token_s * (1 + SLACK):
                    reached[stop].append((*total, (*way[4], stop)))
        ways = [_undominated(own) for own in reached]
    return [way[4] for way in ways[-1] if way[0] < float("inf")]


def _undominated(ways: list[Way]) -> list[Way]:
    kept: list[Way] = []
    for way in sorted(ways):
        if not any(all(a <= b for a, b in zip(own[:4], way[:4], strict=True)) for own in kept):
            kept.append(way)
    return kept
