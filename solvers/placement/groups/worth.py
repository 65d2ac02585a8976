"""What a plan of groups is worth: the canonical value of its objective and its breakdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuplan.plans.placement_solution import GroupStage, StageRange
from gpuplan.profiles.problems.groups import GroupModes
from gpuplan.profiles.problems.segments import Segments
from gpuplan.solvers.placement.capacity import path_capacity
from gpuplan.solvers.placement.evaluate import Evaluation, evaluate, terms
from gpuplan.solvers.placement.tables import ClassPath, ClassTables
from gpuplan.solvers.result import Value


def path_stages(path: ClassPath) -> tuple[StageRange, ...]:
    """Return a path as stages of the modes' dense problem."""
    return tuple(StageRange(c, start, stop) for c, start, stop in path)


def group_worth(tables: ClassTables, path: ClassPath) -> Evaluation:
    """Price a path of modes."""
    worth = evaluate(tables.problem, path_stages(path))
    tokens = int(path_capacity(tables, path)) if tables.kv.any() else None
    return Evaluation(
        worth.latency_s, worth.bottleneck_s, tables.devices_of(path), worth.price_per_hour, tokens
    )  # fmt: skip


def group_terms(tables: ClassTables, path: ClassPath) -> dict[str, float]:
    """Return the breakdown every result carries."""
    parts = terms(tables.problem, path_stages(path))
    parts["devices"] = float(tables.devices_of(path))
    if tables.kv.any():
        parts["kv_capacity_tokens"] = path_capacity(tables, path)
    return parts


@dataclass(frozen=True, slots=True)
class Goal:
    """What is minimised: a name of a dense objective with its weights; `paired` gives a bottleneck its latency."""

    name: str
    latency_weight: float
    devices_weight: float

    def value(self, worth: Evaluation, extra: Mapping[str, float]) -> Value:
        """Value of a plan as the file format states it; the bottleneck carries the latency as second key."""
        if self.name == "latency":
            return worth.latency_s
        if self.name == "bottleneck":
            return (worth.bottleneck_s, worth.latency_s)
        if self.name == "efficiency":
            return (float(worth.devices), worth.latency_s)
        if self.name == "cost":
            return (worth.price_per_hour, worth.latency_s)
        if self.name == "kv-capacity":
            assert worth.kv_capacity_tokens is not None
            return (-float(worth.kv_capacity_tokens), worth.latency_s)
        return sum(self.balanced(worth, extra).values())

    def balanced(self, worth: Evaluation, extra: Mapping[str, float]) -> dict[str, float]:
        """Return the two weighted parts of the balanced objective."""
        return {
            "latency_term": self.latency_weight * (worth.latency_s / extra["latency_star_s"]),
            "devices_term": self.devices_weight * (worth.devices / extra["devices_star"]),
        }


def name_devices(segments: Segments, modes: GroupModes, path: ClassPath) -> tuple[GroupStage, ...]:
    """Give every stage of a path the next devices of its segments, ranks in topology order."""
    unused = [iter(group) for group in segments.devices]
    return tuple(_stage(unused, modes.words[c], start, stop) for c, start, stop in path)


def _stage(unused: Sequence[object], word: Sequence[int], start: int, stop: int) -> GroupStage:
    return GroupStage(tuple(sorted(next(unused[s]) for s in word)), start, stop)  # type: ignore[call-overload]
