"""The answers, their files, verification and export.

Most names load on first use. `verify` and `export` are also the names of the folders they live in, so they are
imported here: the function has to win over the module, whichever is touched first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpuplan.plans.export import Export, export_details, list_runtimes
from gpuplan.plans.export import export as _export
from gpuplan.plans.verification import verify_any as _verify
from gpuplan.plans.verify import Finding, Verification, verify_solution

if TYPE_CHECKING:
    from gpuplan.plans.build import build_device_map
    from gpuplan.plans.device_map import DeviceMap, Outcome
    from gpuplan.plans.device_map_io import device_map_from_dict, device_map_to_dict, load_plan, save_plan
    from gpuplan.plans.placement_solution import (
        FrontPoint,
        GroupStage,
        PlacementFront,
        PlacementSolution,
        StageRange,
    )
    from gpuplan.plans.solution_io import load_solution, save_solution, solution_from_dict, solution_to_dict

# Plain assignments, not imports: type checkers then see the functions, too.
export = _export
verify = _verify

_HOMES = {
    "DeviceMap": "device_map",
    "FrontPoint": "placement_solution",
    "GroupStage": "placement_solution",
    "Outcome": "device_map",
    "PlacementFront": "placement_solution",
    "PlacementSolution": "placement_solution",
    "StageRange": "placement_solution",
    "build_device_map": "build",
    "device_map_from_dict": "device_map_io",
    "device_map_to_dict": "device_map_io",
    "load_plan": "device_map_io",
    "load_solution": "solution_io",
    "save_plan": "device_map_io",
    "save_solution": "solution_io",
    "solution_from_dict": "solution_io",
    "solution_to_dict": "solution_io",
}

__all__ = [
    "DeviceMap",
    "Export",
    "Finding",
    "FrontPoint",
    "GroupStage",
    "Outcome",
    "PlacementFront",
    "PlacementSolution",
    "StageRange",
    "Verification",
    "build_device_map",
    "device_map_from_dict",
    "device_map_to_dict",
    "export",
    "export_details",
    "list_runtimes",
    "load_plan",
    "load_solution",
    "save_plan",
    "save_solution",
    "solution_from_dict",
    "solution_to_dict",
    "verify",
    "verify_solution",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'gpuplan.plans' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gpuplan.plans.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
