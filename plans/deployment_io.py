"""Deployments as files: to and from plain JSON values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gpuplan.plans.deployment import (
    SCHEMA,
    Changes,
    Deployment,
    DeploymentMetrics,
    HopRoute,
    LinkLoad,
    ReplicaMetrics,
    ReplicaPlan,
    Spread,
)
from gpuplan.plans.device_map import ModelRef, PlanResult, Provenance, TopologyRef
from gpuplan.plans.device_map_io import plain, stage_from_dict
from gpuplan.plans.files import read_document, write_document
from gpuplan.plans.validation import check_document


def save_deployment(deployment: Deployment, path: str | os.PathLike[str]) -> None:
    """Write `deployment` to `path` as JSON, whole or not at all; UsageError when it cannot be written."""
    write_document(deployment_to_dict(deployment), path)


def load_deployment(path: str | os.PathLike[str]) -> Deployment:
    """Read the deployment at `path`; InputError with the JSON path of the first defect."""
    return deployment_from_dict(read_document(path), source=os.fspath(path))


def deployment_to_dict(deployment: Deployment) -> dict[str, Any]:
    """Return `deployment` as the JSON object its file holds."""
    document: dict[str, Any] = {"schema": SCHEMA, **plain(deployment)}
    document["links"] = [_link_to_dict(link) for link in document["links"]]
    for key in ("name", "comment", "changes"):
        if document[key] is None:
            del document[key]
    return document


def deployment_from_dict(document: Mapping[str, Any], *, source: str | None = None) -> Deployment:
    """Return the deployment that `document` holds; InputError with the JSON path of the first defect."""
    check_document(document, SCHEMA, source=source)
    metrics, provenance = document["metrics"], document["provenance"]
    spreads = {key: Spread(**metrics[key]) for key in ("ttft_s", "token_interval_s")}
    changes = document.get("changes")
    return Deployment(
        model=ModelRef(**document["model"]),
        topology=TopologyRef(**document["topology"]),
        replicas=tuple(_replica(replica) for replica in document["replicas"]),
        metrics=DeploymentMetrics(**{**metrics, **spreads}),
        links=tuple(_link(link) for link in document["links"]),
        result=PlanResult(**document["result"]),
        provenance=Provenance(**{**provenance, "sources": tuple(provenance["sources"])}),
        inputs=document["inputs"],
        changes=None if changes is None else _changes(changes),
        name=document.get("name"),
        comment=document.get("comment"),
    )


def _replica(replica: Mapping[str, Any]) -> ReplicaPlan:
    return ReplicaPlan(
        **{
            **replica,
            "routes": tuple(HopRoute(**{**way, "route": tuple(way["route"])}) for way in replica["routes"]),
            "stages": tuple(stage_from_dict(stage) for stage in replica["stages"]),
            "metrics": ReplicaMetrics(**replica["metrics"]),
        }
    )


def _changes(changes: Mapping[str, Any]) -> Changes:
    names = {key: tuple(changes[key]) for key in ("kept", "appeared", "disappeared")}
    return Changes(**{**changes, **names})


def _link_to_dict(link: Mapping[str, Any]) -> dict[str, Any]:
    row = dict(link)
    return {"from": row.pop("sender"), "to": row.pop("receiver"), **row}


def _link(link: Mapping[str, Any]) -> LinkLoad:
    row = dict(link)
    return LinkLoad(row.pop("from"), row.pop("to"), **row)
