"""Models, workloads and costs: what it costs."""

from __future__ import annotations

from gpuplan.profiles.cost_sources import load_costs
from gpuplan.profiles.costs import CostProfile, LayerTimes
from gpuplan.profiles.fitted import FittedCosts
from gpuplan.profiles.huggingface import model_from_config
from gpuplan.profiles.memory import MemoryUse, kv_bytes_per_token, stage_memory, workspace_bytes
from gpuplan.profiles.model import KvState, Layer, ModelProfile, Operator
from gpuplan.profiles.model_document import model_from_dict, model_to_dict
from gpuplan.profiles.models_io import list_models, load_model
from gpuplan.profiles.problems import (
    DensePlacement,
    HopTable,
    Objective,
    Timing,
    load_problem,
    placement_from_dict,
    placement_to_dict,
)
from gpuplan.profiles.problems.build import PlacementProblem
from gpuplan.profiles.problems.objectives import parse_balance
from gpuplan.profiles.roofline import AnalyticCosts
from gpuplan.profiles.tables import TableCosts
from gpuplan.profiles.workload import Workload

__all__ = [
    "AnalyticCosts",
    "CostProfile",
    "DensePlacement",
    "FittedCosts",
    "HopTable",
    "KvState",
    "Layer",
    "LayerTimes",
    "MemoryUse",
    "ModelProfile",
    "Objective",
    "Operator",
    "PlacementProblem",
    "TableCosts",
    "Timing",
    "Workload",
    "kv_bytes_per_token",
    "list_models",
    "load_costs",
    "load_model",
    "load_problem",
    "model_from_config",
    "model_from_dict",
    "model_to_dict",
    "parse_balance",
    "placement_from_dict",
    "placement_to_dict",
    "stage_memory",
    "workspace_bytes",
]
