"""Placement solutions (`gpuplan/placement-solution/1`) as plain JSON values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from gpuplan.errors import InputError
from gpuplan.plans.answers import Answer, ResultLike, answer_from_dict, answer_to_dict
from gpuplan.plans.device_map_io import plain
from gpuplan.plans.files import read_document, write_document
from gpuplan.plans.placement_solution import FrontPoint, GroupStage, PlacementFront, PlacementSolution, StageRange
from gpuplan.plans.validation import check_document
from gpuplan.profiles.problems.placement import DensePlacement

SCHEMA = "gpuplan/placement-solution/1"


#: A placement solution as read from a file.
SolutionDocument = Answer[PlacementSolution | PlacementFront]


def solution_to_dict(result: ResultLike, problem: DensePlacement) -> dict[str, Any]:
    """Return the `gpuplan/placement-solution/1` document of `result`, an answer to `problem`."""
    document = answer_to_dict(result, SCHEMA)
    plan = result.plan
    if isinstance(plan, PlacementFront):
        document["points"] = [_point(point, problem) for point in plan.points]
    elif isinstance(plan, PlacementSolution):
        document["stages"] = _stages(plan.stages, problem)
        document["objective"] = plain(result.objective)
    return document


def solution_from_dict(
    document: Mapping[str, Any], problem: DensePlacement, *, source: str | None = None
) -> SolutionDocument:
    """Return the solution that `document` holds, its devices as numbers of `problem`.

    Raises
    ------
    InputError
        The document does not follow its schema, or names a device that the problem does not have.
    """
    check_document(document, SCHEMA, source=source)
    return answer_from_dict(document, _plan(document, problem, source))


def save_solution(result: ResultLike, problem: DensePlacement, path: str | os.PathLike[str]) -> None:
    """Write the document of `result` to `path`, whole or not at all; UsageError when it cannot be written."""
    write_document(solution_to_dict(result, problem), path)


def load_solution(path: str | os.PathLike[str], problem: DensePlacement) -> SolutionDocument:
    """Read the solution of `problem` at `path`; InputError when the file cannot be used."""
    return solution_from_dict(read_document(path), problem, source=os.fspath(path))


def _stages(stages: Sequence[StageRange | GroupStage], problem: DensePlacement) -> list[dict[str, Any]]:
    return [{**_devices(stage, problem.device_names), "start": stage.start, "stop": stage.stop} for stage in stages]


def _devices(stage: StageRange | GroupStage, names: Sequence[str]) -> dict[str, Any]:
    if isinstance(stage, StageRange):
        return {"device": names[stage.device]}
    if len(stage.devices) == 1:
        return {"device": names[stage.devices[0]]}
    return {"devices": [names[number] for number in stage.devices]}


def _point(point: FrontPoint, problem: DensePlacement) -> dict[str, Any]:
    return {
        "latency_s": point.latency_s,
        "bottleneck_s": point.bottleneck_s,
        "devices": point.devices,
        "stages": _stages(point.stages, problem),
    }


def _plan(
    document: Mapping[str, Any], problem: DensePlacement, source: str | None
) -> PlacementSolution | PlacementFront | None:
    if "points" in document:
        return PlacementFront(
            tuple(
                FrontPoint(
                    point["latency_s"],
                    point["bottleneck_s"],
                    point["devices"],
                    _ranges(point["stages"], problem, source, f"$.points[{i}].stages"),
                )
                for i, point in enumerate(document["points"])
            )
        )
    if "stages" in document:
        return PlacementSolution(_ranges(document["stages"], problem, source, "$.stages"))
    return None


def _ranges(
    stages: Sequence[Mapping[str, Any]], problem: DensePlacement, source: str | None, place: str
) -> tuple[Any, ...]:  # of StageRange, in the front of groups of GroupStage, too
    numbers = {name: i for i, name in enumerate(problem.device_names)}

    def number(name: str, where: str) -> int:
        if name not in numbers:
            raise InputError(f"expected a device of the problem, got {name!r}", source=source, place=where)
        return numbers[name]

    def read(stage: Mapping[str, Any], where: str) -> StageRange | GroupStage:
        if "device" in stage:
            return StageRange(number(stage["device"], f"{where}.device"), stage["start"], stage["stop"])
        group = tuple(number(name, f"{where}.devices[{i}]") for i, name in enumerate(stage["devices"]))
        return GroupStage(group, stage["start"], stage["stop"])

    return tuple(read(stage, f"{place}[{k}]") for k, stage in enumerate(stages))
