"""Costs from tables: measured where it was measured, interpolated between, the roofline only where allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles.costs import LayerTimes, Origin
from gpuplan.profiles.efficiency import Efficiency
from gpuplan.profiles.model import Layer, ModelProfile, Operator
from gpuplan.profiles.rates import device_rates
from gpuplan.profiles.roofline import AnalyticCosts
from gpuplan.profiles.tables.coordinates import Step, steps
from gpuplan.profiles.tables.series import FloatArray
from gpuplan.profiles.tables.table import CostTable
from gpuplan.profiles.tables.terms import DISTANCE, Term, layer_terms, missing_error
from gpuplan.profiles.workload import Workload
from gpuplan.topology.graph import Device

#: The two passes of each distinct kind of layer.
_Passes = tuple[list[Term], list[Term]]


@dataclass(frozen=True, slots=True)
class TableCosts:
    """Times looked up in tables.

    Parameters
    ----------
    tables
        Where to look, the first that holds a time wins. One device kind may have several (linear layers in one,
        attention in another), several kinds may be mixed.
    fallback
        The roofline that fills what no table has, operator by operator and tagged ``analytic``; None: such a gap is
        an error.
    extrapolate
        Read tables outside of what they measured (tagged ``extrapolated``): above, the line through the last two
        values continues; below, the first value stays.

    Notes
    -----
    A layer's tag is that of its part that is farthest from a measurement: extrapolated, analytic, interpolated,
    measured. `LayerTimes.by_origin` says how many of its seconds are what.

    Complexity: a few lookups for each operator of each distinct layer and device kind.
    """

    tables: tuple[CostTable, ...]
    fallback: AnalyticCosts | None = None
    extrapolate: bool = False

    def __post_init__(self) -> None:
        if not self.tables and self.fallback is None:
            raise UsageError("expected at least one cost table, got none")

    def holds(self, model: ModelProfile, device: Device, tensor_parallel: int = 1) -> bool:
        """Return whether some table was measured for this model, device and degree."""
        return any(table.refusal(model, device, tensor_parallel) is None for table in self.tables)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The device kinds that tables were measured on."""
        return tuple(dict.fromkeys(table.device_kind for table in self.tables))

    @property
    def notes(self) -> tuple[str, ...]:
        """What reading the tables assumed or changed."""
        return tuple(f"{table.name}: {note}" for table in self.tables for note in table.all_notes())

    @property
    def sources(self) -> tuple[str, ...]:
        """Citations carried into a plan's provenance."""
        own = dict.fromkeys(table.citation for table in self.tables)
        return (*own, *(self.fallback.sources if self.fallback else ()))

    def layer_times(
        self, model: ModelProfile, device: Device, workload: Workload, *, tensor_parallel: int = 1
    ) -> LayerTimes:
        """Return the times of all layers of `model` on `device` (collectives not included).

        Raises
        ------
        InputError
            No table holds for the model and device, or holds a time that is needed, and no fallback is given.
        """
        passes = self._passes(model, device, workload, tensor_parallel)
        return times_of_terms([passes[id(layer.operators), layer.kind] for layer in model.layers])

    def to_inputs(
        self,
        model: ModelProfile,
        devices: tuple[Device, ...],
        workload: Workload | None = None,
        *,
        tensor_parallel: int = 1,
    ) -> dict[str, Any]:
        """Return the table entries and coefficients that the times of `workload` follow from."""
        if workload is None:
            raise UsageError("expected the workload whose table entries are to be embedded, got none")
        return embedded(self, model, devices, workload, tensor_parallel)

    def device_inputs(
        self, model: ModelProfile, device: Device, workload: Workload, tensor_parallel: int = 1
    ) -> dict[str, Any]:
        """Return what the times of one device follow from."""
        passes = self._passes(model, device, workload, tensor_parallel)
        document: dict[str, Any] = {"layers": layer_documents(model, passes)}
        if any(term.origin == "analytic" for both in passes.values() for terms in both for term in terms):
            assert self.fallback is not None
            document["roofline"] = roofline_inputs(model, device, self.fallback.efficiency)
        return document

    def _passes(
        self, model: ModelProfile, device: Device, workload: Workload, tensor_parallel: int
    ) -> dict[tuple[int, str], _Passes]:
        tables = self._tables_for(model, device, tensor_parallel)
        made: dict[tuple[int, str], _Passes] = {}
        for layer in model.layers:
            key = id(layer.operators), layer.kind
            if key not in made:
                prefill, decode = steps(workload)
                made[key] = (
                    self._terms(tables, model, layer, prefill, device, workload, tensor_parallel),
                    self._terms(tables, model, layer, decode, device, workload, tensor_parallel),
                )
        return made

    def _tables_for(self, model: ModelProfile, device: Device, tensor_parallel: int) -> list[CostTable]:
        refusals = [(table, table.refusal(model, device, tensor_parallel)) for table in self.tables]
        fitting = [table for table, refusal in refusals if refusal is None]
        if not fitting and self.fallback is None:
            first, why = nearest_refusal(refusals, model, device)
            more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
            cap = "" if device.power_cap_w is None else f" at {device.power_cap_w:g} W"
            raise InputError(
                f"expected a cost table of {model.name} on {device.kind.name}{cap}, got none: {first.name} {why}{more};"
                " give one that does, or let the roofline fill in (--costs-fallback)"
            )
        return fitting

    def _terms(
        self,
        tables: list[CostTable],
        model: ModelProfile,
        layer: Layer,
        step: Step,
        device: Device,
        workload: Workload,
        tensor_parallel: int,
    ) -> list[Term]:
        terms, gaps = layer_terms(tables, model, layer, step, tensor_parallel, beyond=self.extrapolate)
        if not gaps:
            return terms
        if self.fallback is None:
            raise missing_error(model, layer, step, gaps[0], device.kind.name)
        missing = {name for gap in gaps for name in gap.covers}
        operators = [operator for operator in layer.operators if operator.name in missing]
        seconds = operator_seconds(self.fallback, model, layer, operators, device, workload, tensor_parallel)
        return [*terms, *_analytic(operators, seconds[0 if step.phase == "prefill" else 1])]


def nearest_refusal(refusals: Sequence[tuple[Any, str | None]], model: ModelProfile, device: Device) -> tuple[Any, str]:
    """Return the refused table or fit that is nearest to what is asked: the same kind counts most, then the model."""
    found, why = max(refusals, key=lambda pair: (pair[0].device_kind == device.kind.name, pair[0].model == model.name))
    assert why is not None
    return found, why


def _analytic(operators: Sequence[Operator], seconds: FloatArray) -> list[Term]:
    return [
        Term((operator.name,), "analytic", float(value)) for operator, value in zip(operators, seconds, strict=True)
    ]


def operator_seconds(
    costs: AnalyticCosts,
    model: ModelProfile,
    layer: Layer,
    operators: Sequence[Operator],
    device: Device,
    workload: Workload,
    tensor_parallel: int = 1,
) -> tuple[FloatArray, FloatArray]:
    """Return the roofline's prefill and decode seconds of single operators; shape (len(operators),) each."""
    alone = replace(model, layers=tuple(replace(layer, operators=(operator,)) for operator in operators))
    times = costs.layer_times(alone, device, workload, tensor_parallel=tensor_parallel)
    return times.prefill_s, times.decode_s


def times_of_terms(passes: Sequence[_Passes]) -> LayerTimes:
    """Return the times of layers given as the terms of both passes, with their seconds by origin."""
    count = len(passes)
    by_origin: dict[Origin, tuple[FloatArray, FloatArray]] = {}
    tags: list[Origin] = []
    for number, both in enumerate(passes):
        worst: Origin = "measured"
        for phase, terms in enumerate(both):
            for term in terms:
                if term.origin not in by_origin:
                    by_origin[term.origin] = (np.zeros(count), np.zeros(count))
                by_origin[term.origin][phase][number] += term.seconds
                worst = max(worst, term.origin, key=DISTANCE.__getitem__)
        tags.append(worst)
    total = [np.sum([parts[phase] for parts in by_origin.values()], axis=0) for phase in (0, 1)]
    return LayerTimes(total[0], total[1], tuple(tags), by_origin)


def layer_documents(
    model: ModelProfile, passes: Mapping[tuple[int, str], _Passes]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the terms of every operator set, named as the model's document names it."""
    from gpuplan.profiles.model_document import model_to_dict

    names = [entry["operators"] for entry in model_to_dict(model)["layers"]]
    documents = {}
    for name, layer in zip(names, model.layers, strict=True):
        if name not in documents:
            prefill, decode = passes[id(layer.operators), layer.kind]
            documents[name] = {
                "prefill": [term.to_dict() for term in prefill],
                "decode": [term.to_dict() for term in decode],
            }
    return documents


def roofline_inputs(model: ModelProfile, device: Device, efficiency: Efficiency) -> dict[str, Any]:
    """Return the roofline's coefficients of one device, as a plan embeds them."""
    rates = device_rates(model, device, efficiency)
    return asdict(rates) | {"peak_flops_per_s": dict(rates.peak_flops_per_s)}


def embedded(
    costs: Any, model: ModelProfile, devices: tuple[Device, ...], workload: Workload, tensor_parallel: int = 1
) -> dict[str, Any]:
    """Return ``inputs.costs`` of a plan: one class for all devices of a kind, power cap and degree."""
    classes: dict[str, Any] = {}
    names = {}
    for device in devices:
        key = class_key(device, tensor_parallel)
        names[device.name] = key
        if key not in classes:
            classes[key] = costs.device_inputs(model, device, workload, tensor_parallel)
            if tensor_parallel > 1:
                classes[key]["tensor_parallel"] = tensor_parallel
    return {"source": "measured", "devices": names, "classes": classes, "sources": list(costs.sources)}


def class_key(device: Device, tensor_parallel: int = 1) -> str:
    """Return the name under which devices of one kind, power cap and degree share their costs."""
    cap = "" if device.power_cap_w is None else f"@{device.power_cap_w:g}W"
    return f"{device.kind.name}{cap}" + (f"/tp{tensor_parallel}" if tensor_parallel > 1 else "")
