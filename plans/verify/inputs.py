"""Embedded inputs against themselves: names that meet, coefficients that the data sheets bear out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from gpuplan.plans.files import join_place
from gpuplan.plans.verify.findings import Ledger, agree, show


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
    _check_data_sheets(ledger, inputs)


def _check_data_sheets(ledger: Ledger, inputs: Mapping[str, Any]) -> None:
    """Check that the coefficients start from the data sheet: its bandwidth, and peaks that it names."""
    topology, costs = inputs["topology"], inputs["costs"]
    for i, device in enumerate(topology["devices"]):
        kind = topology["kinds"].get(device["kind"])
        place, coefficients = _roofline_of(costs, device["name"])
        if kind is None:
            ledger.add(f"$.inputs.topology.devices[{i}].kind", f"says {show(device['kind'])}, which has no data sheet")
        elif coefficients is not None:
            said = coefficients["memory_bandwidth_bytes_per_s"]
            ledger.number(f"{place}.memory_bandwidth_bytes_per_s", said, kind["memory_bandwidth_bytes_per_s"])
            for dtype, peak in coefficients["peak_flops_per_s"].items():
                if not any(agree(peak, own) for own in kind["flops_per_s"].values()):
                    message = f"says {show(peak)}, which the data sheet of {device['kind']} does not have"
                    ledger.add(f"{place}.peak_flops_per_s.{dtype}", message)


def _roofline_of(costs: Mapping[str, Any], name: str) -> tuple[str, Mapping[str, Any] | None]:
    """Return where the roofline's coefficients of a device stand, and what they are; None where it needs none."""
    entry = costs["devices"].get(name)
    if costs["source"] == "analytic":
        return join_place("$.inputs.costs.devices", name), entry
    place = join_place("$.inputs.costs.classes", str(entry)) + ".roofline"
    return place, costs["classes"].get(entry, {}).get("roofline")


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
