"""Device maps as files: to and from plain JSON values."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from gpuplan.plans.device_map import (
    SCHEMA,
    DeviceMap,
    Hop,
    LayerSpan,
    Metrics,
    ModelRef,
    PlanResult,
    Provenance,
    Stage,
    StageMemory,
    TopologyRef,
    Value,
    WorkloadPoint,
)
from gpuplan.plans.files import read_document, write_document
from gpuplan.plans.validation import check_document


def save_plan(plan: DeviceMap, path: str | os.PathLike[str]) -> None:
    """Write `plan` to `path` as JSON, whole or not at all; UsageError when it cannot be written."""
    write_document(device_map_to_dict(plan), path)


def load_plan(path: str | os.PathLike[str]) -> DeviceMap:
    """Read the device map at `path`.

    Raises
    ------
    InputError
        The file is missing, no JSON, of another schema, or a key in it is unknown, missing or of the wrong type;
        the message gives the JSON path. What the figures say is not checked here: see `gpuplan.plans.verify`.
    """
    return device_map_from_dict(read_document(path), source=os.fspath(path))


def device_map_to_dict(plan: DeviceMap) -> dict[str, Any]:
    """Return `plan` as the JSON object its file holds."""
    document: dict[str, Any] = {"schema": SCHEMA, **plain(plan)}
    for key in ("name", "comment"):
        if document[key] is None:
            del document[key]
    return document


def device_map_from_dict(document: Mapping[str, Any], *, source: str | None = None) -> DeviceMap:
    """Return the device map that `document` holds; InputError with the JSON path of the first defect."""
    check_document(document, SCHEMA, source=source)
    return DeviceMap(
        model=ModelRef(**document["model"]),
        topology=TopologyRef(**document["topology"]),
        workload=WorkloadPoint(**document["workload"]),
        stages=tuple(stage_from_dict(stage) for stage in document["stages"]),
        metrics=Metrics(**document["metrics"]),
        result=_result(document["result"]),
        provenance=Provenance(
            **{**document["provenance"], "sources": tuple(document["provenance"]["sources"])},
        ),
        inputs=document["inputs"],
        name=document.get("name"),
        comment=document.get("comment"),
    )


def plain(value: Any) -> Any:
    """Return dataclasses, tuples and mappings as the dicts and lists JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def as_value(value: Any) -> Value | None:
    """Return a JSON number or pair as a `Value`; None stays None."""
    return (value[0], value[1]) if isinstance(value, list) else value


def stage_from_dict(stage: Mapping[str, Any]) -> Stage:
    """Return the stage that a file's object holds."""
    hop = stage["hop"]
    return Stage(
        devices=tuple(stage["devices"]),
        tensor_parallel=stage["tensor_parallel"],
        layers=LayerSpan(**stage["layers"]),
        modules=tuple(stage["modules"]),
        memory=StageMemory(**stage["memory"]),
        prefill_s=stage["prefill_s"],
        decode_s=stage["decode_s"],
        hop=None if hop is None else Hop(**{**hop, "route": tuple(hop["route"])}),
    )


def _result(result: Mapping[str, Any]) -> PlanResult:
    return PlanResult(
        **{**result, "objective": as_value(result["objective"]), "bound": as_value(result["bound"])},
    )
