"""Models, workloads and costs: what it costs."""

from __future__ import annotations

from gpuplan.profiles.costs import CostProfile, LayerTimes
from gpuplan.profiles.model import KvState, Layer, ModelProfile, Operator
from gpuplan.profiles.problems import (
    DensePlacement,
    HopTable,
    Objective,
    Timing,
    load_problem,
    placement_from_dict,
    placement_to_dict,
)
from gpuplan.profiles.workload import Workload

__all__ = [
    "CostProfile",
    "DensePlacement",
    "HopTable",
    "KvState",
    "Layer",
    "LayerTimes",
    "ModelProfile",
    "Objective",
    "Operator",
    "Timing",
    "Workload",
    "load_problem",
    "placement_from_dict",
    "placement_to_dict",
]
