"""``--write-model``: the problem itself as a file, plain numbers or a MILP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.cli.output import to_json, write_text
from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from gpuplan.profiles import PlacementProblem
    from gpuplan.profiles.problems.placement import DensePlacement


def write_problem(problem: DensePlacement, path: str, solver: str = "auto") -> None:
    """Write a problem as `gpuplan/placement-problem/1` (.json), or as the model of a solver that writes that ending.

    `solver` decides where it writes such files itself; else .lp and .mps are of milp-blocks, .pb and .txt of cp-sat.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        from gpuplan.profiles import placement_to_dict

        write_text(path, to_json(placement_to_dict(problem)))
        return
    from gpuplan.solvers.registry import list_solvers

    writers = {entry.name: entry for entry in list_solvers() if suffix in entry.model_suffixes}
    entry = writers.get(solver) or next(iter(writers.values()), None)
    if entry is None:
        raise UsageError(f"--write-model: expected a file ending in .json, .lp, .mps, .pb or .txt, got {path!r}")
    entry.write_model(problem, path)


def check_single_devices(problem: PlacementProblem) -> None:
    """Refuse to write a problem whose stages are groups: its format knows single devices."""
    if not problem.single_devices:
        raise UsageError("--write-model: expected stages of single devices, got groups; use --tensor-parallel 1")
