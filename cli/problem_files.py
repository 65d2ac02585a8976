"""``--write-model``: the problem itself as a file, plain numbers or a MILP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.cli.output import to_json, write_text
from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from gpuplan.profiles.problems.placement import DensePlacement


def write_problem(problem: DensePlacement, path: str) -> None:
    """Write a problem as `gpuplan/placement-problem/1` (.json) or as a MILP (.lp, .mps)."""
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        from gpuplan.profiles import placement_to_dict

        write_text(path, to_json(placement_to_dict(problem)))
    elif suffix in (".lp", ".mps"):
        from gpuplan.solvers.placement.milp import write_model

        write_model(problem, path)
    else:
        raise UsageError(f"--write-model: expected a file ending in .json, .lp or .mps, got {path!r}")
