"""The answer to a dense placement problem (`gpuplan/placement-solution/1`): stages of one pipeline, or a front."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageRange:
    """Layers ``start..stop−1`` on device number `device` of the problem."""

    device: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class GroupStage:
    """Layers ``start..stop−1`` on the tensor-parallel group `devices` of one island (numbers in topology order)."""

    devices: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class PlacementSolution:
    """One pipeline, stages in order."""

    stages: tuple[StageRange, ...]


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One non-dominated (latency, bottleneck, devices) with a pipeline that reaches it."""

    latency_s: float
    bottleneck_s: float
    devices: int
    stages: tuple[StageRange, ...]


@dataclass(frozen=True, slots=True)
class PlacementFront:
    """All non-dominated points found, by rising latency; proven complete when the result says ``optimal``."""

    points: tuple[FrontPoint, ...]
