"""Embedded inputs against themselves: names that meet, coefficients that the data sheets bear out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from gpuplan.plans.verify.findings import Ledger, show


def check_inputs(ledger: Ledger, inputs: Mapping[str, Any]) -> None:
    """Check that device, component and operator-set names are distinct and found where they are used."""
    topology, model = inputs["topology"], inputs["model"]
    for part in ("devices", "components"):
        _distinct(ledger, (item["name"] for item in topology.get(part, ())), f"$.inputs.topology.{part}")
    _check_links(ledger, topology)
    for i, layer in enumerate(model["layers"]):
        if layer["operators"] not in model["operator_sets"]:
            place = f"$.inputs.model.layers[{i}].operators"
            ledger.add(place, f"says {show(layer['operators'])}, which is no operator set of the model")


def _check_links(ledger: Ledger, topology: Mapping[str, Any]) -> None:
    known = {item["name"] for part in ("devices", "components") for item in topology.get(part, ())}
    for i, link in enumerate(topology["links"]):
        for end in ("a", "b"):
            if link[end] not in known:
                place = f"$.inputs.topology.links[{i}].{end}"
                ledger.add(place, f"says {show(link[end])}, which is no component of the topology")


def _distinct(ledger: Ledger, names: Iterable[str], place: str) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            ledger.add(place, f"name {show(name)} {count} times")
