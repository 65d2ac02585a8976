"""Costs from fitted coefficients: a whole model's time, shared out over its layers as the roofline weighs them.

A fit knows the time of all layers together. Layer l gets the share of it that it has in the roofline's total for the
same pass on the same device::

    t_l = T_fit · a_l / Σ a

so stages add up to what was measured, and layers keep their proportions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles.costs import LayerTimes, Origin
from gpuplan.profiles.fitting import Coefficients, FitResult, Triple
from gpuplan.profiles.model import ModelProfile
from gpuplan.profiles.records import Record
from gpuplan.profiles.roofline import AnalyticCosts
from gpuplan.profiles.tables.costs import embedded, layer_documents, nearest_refusal, roofline_inputs
from gpuplan.profiles.tables.table import CostTable
from gpuplan.profiles.tables.terms import Term
from gpuplan.profiles.workload import Workload
from gpuplan.topology.graph import Device

SCHEMA = "gpuplan/fitted-costs/1"


@dataclass(frozen=True, slots=True)
class Regime:
    """Decode coefficients that hold up to a batch (None: any)."""

    max_batch: int | None
    decode: Triple


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted coefficients of one model on one kind of device.

    Parameters
    ----------
    name, source
        For messages and provenance.
    device_kind, model, tensor_parallel, power_cap_w
        What was timed.
    prefill
        p0, p1, p2.
    regimes
        Decode coefficients by batch, the limits growing, the last without one.
    runs, median_error, worst_error
        How many times the coefficients rest on, and the relative errors left.
    notes
        What to know about them.
    """

    name: str
    device_kind: str
    model: str
    prefill: Triple
    regimes: tuple[Regime, ...]
    tensor_parallel: int = 1
    power_cap_w: float | None = None
    source: str = ""
    runs: int = 0
    median_error: float | None = None
    worst_error: float | None = None
    notes: tuple[str, ...] = ()

    def coefficients(self, batch: int) -> Coefficients:
        """Return the coefficients that hold for a batch."""
        regime = next(r for r in self.regimes if r.max_batch is None or batch <= r.max_batch)
        return Coefficients(self.prefill, regime.decode)

    @property
    def citation(self) -> str:
        """One line for a plan's provenance."""
        left = "" if self.median_error is None else f", median error {self.median_error:.1%} over {self.runs} times"
        return f"{self.name}, fitted on {self.device_kind}{left}" + (f", {self.source}" if self.source else "")

    def refusal(self, model: ModelProfile, device: Device, tensor_parallel: int) -> str | None:
        """Return why the fit does not hold for a model on a device, or None when it does."""
        # The rules of tables hold: same kind, degree, cap, and a model of the same shape.
        table = CostTable(
            self.name, self.device_kind, (), self.model, tensor_parallel=self.tensor_parallel,
            power_cap_w=self.power_cap_w,
        )  # fmt: skip
        return table.refusal(model, device, tensor_parallel)


@dataclass(frozen=True, slots=True)
class FittedCosts:
    """Times from fits, the first that holds for a device; layers share them as `roofline` weighs them."""

    fits: tuple[Fit, ...]
    roofline: AnalyticCosts = field(default_factory=AnalyticCosts)

    def __post_init__(self) -> None:
        if not self.fits:
            raise UsageError("expected at least one fit, got none")

    def holds(self, model: ModelProfile, device: Device, tensor_parallel: int = 1) -> bool:
        """Return whether some fit was made for this model, device and degree."""
        return any(fit.refusal(model, device, tensor_parallel) is None for fit in self.fits)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The device kinds that were timed."""
        return tuple(dict.fromkeys(fit.device_kind for fit in self.fits))

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about the fits."""
        return tuple(f"{fit.name}: {note}" for fit in self.fits for note in fit.notes)

    @property
    def sources(self) -> tuple[str, ...]:
        """Citations carried into a plan's provenance."""
        return tuple(dict.fromkeys(fit.citation for fit in self.fits))

    def layer_times(
        self, model: ModelProfile, device: Device, workload: Workload, *, tensor_parallel: int = 1
    ) -> LayerTimes:
        """Return the times of all layers of `model` on `device`; InputError when no fit holds for them."""
        coefficients = self._fit(model, device, tensor_parallel).coefficients(workload.batch)
        weights = self.roofline.layer_times(model, device, workload, tensor_parallel=tensor_parallel)
        prefill = coefficients.prefill_s(workload.batch, workload.prompt_tokens)
        step = coefficients.step_s(workload.batch, workload.mean_context)
        tag: Origin = "fitted"
        return LayerTimes(
            prefill_s=prefill * (weights.prefill_s / weights.prefill_s.sum()),
            decode_s=step * (weights.decode_s / weights.decode_s.sum()),
            origin=(tag,) * model.num_layers,
        )

    def to_inputs(
        self,
        model: ModelProfile,
        devices: tuple[Device, ...],
        workload: Workload | None = None,
        *,
        tensor_parallel: int = 1,
    ) -> dict[str, Any]:
        """Return the coefficients that the times of `workload` follow from."""
        if workload is None:
            raise UsageError("expected the workload whose coefficients are to be embedded, got none")
        return embedded(self, model, devices, workload, tensor_parallel)

    def device_inputs(
        self, model: ModelProfile, device: Device, workload: Workload, tensor_parallel: int = 1
    ) -> dict[str, Any]:
        """Return what the times of one device follow from."""
        coefficients = self._fit(model, device, tensor_parallel).coefficients(workload.batch)
        terms: dict[tuple[int, str], tuple[list[Term], list[Term]]] = {
            (id(layer.operators), layer.kind): ([Term(("layer",), "fitted", 0.0)], [Term(("layer",), "fitted", 0.0)])
            for layer in model.layers
        }
        return {
            "fit": {"prefill": list(coefficients.prefill), "decode": list(coefficients.decode)},
            "roofline": roofline_inputs(model, device, self.roofline.efficiency),
            "layers": layer_documents(model, terms),
        }

    def _fit(self, model: ModelProfile, device: Device, tensor_parallel: int) -> Fit:
        refusals = [(fit, fit.refusal(model, device, tensor_parallel)) for fit in self.fits]
        for fit, refusal in refusals:
            if refusal is None:
                return fit
        fit, why = nearest_refusal(refusals, model, device)
        raise InputError(
            f"expected fitted costs of {model.name} on {device.kind.name}, got none: {fit.name} {why}; give a fit that"
            " was made there"
        )


def fit_from_result(
    result: FitResult, runs: int, *, name: str, device_kind: str, model: str, tensor_parallel: int = 1, source: str = ""
) -> Fit:
    """Return a fit made of a `FitResult`."""
    return Fit(
        name=name,
        device_kind=device_kind,
        model=model,
        prefill=result.coefficients.prefill,
        regimes=(Regime(None, result.coefficients.decode),),
        tensor_parallel=tensor_parallel,
        source=source,
        runs=runs,
        median_error=result.median_error,
        worst_error=result.worst_error,
        notes=result.notes,
    )


def fit_to_dict(fit: Fit) -> dict[str, Any]:
    """Return a fit as its file holds it (`gpuplan/fitted-costs/1`)."""
    return {
        "schema": SCHEMA,
        "name": fit.name,
        "device_kind": fit.device_kind,
        "model": fit.model,
        "tensor_parallel": fit.tensor_parallel,
        "power_cap_w": fit.power_cap_w,
        "prefill": list(fit.prefill),
        "decode": [{"max_batch": regime.max_batch, "coefficients": list(regime.decode)} for regime in fit.regimes],
        "source": fit.source,
        "runs": fit.runs,
        "median_error": fit.median_error,
        "worst_error": fit.worst_error,
        "notes": list(fit.notes),
    }


def fit_from_dict(document: Mapping[str, Any], *, source: str | None = None) -> Fit:
    """Return the fit a document holds; InputError with the JSON path of the first defect."""
    record = Record(document, source=source, path="$")
    required = ("schema", "name", "device_kind", "model", "prefill", "decode")
    optional = (
        "tensor_parallel", "power_cap_w", "source", "runs", "median_error", "worst_error", "notes", "comment",
    )  # fmt: skip
    if document.get("schema") != SCHEMA:
        raise record.error(f"expected the schema {SCHEMA!r}, got {document.get('schema')!r}", "schema")
    record.expect_keys(required, optional)
    return Fit(
        name=record.text("name"),
        device_kind=record.text("device_kind"),
        model=record.text("model"),
        prefill=_triple(record, "prefill"),
        regimes=_regimes(record),
        tensor_parallel=record.whole("tensor_parallel", 1, minimum=1),
        power_cap_w=None if document.get("power_cap_w") is None else record.number("power_cap_w"),
        source=record.text("source", ""),
        runs=record.whole("runs", 0),
        median_error=None if document.get("median_error") is None else record.number("median_error"),
        worst_error=None if document.get("worst_error") is None else record.number("worst_error"),
        notes=record.texts("notes") if "notes" in document else (),
    )


def load_fit(path: str | Path) -> Fit:
    """Read a fitted profile (JSON or YAML)."""
    from gpuplan.profiles.tables.manifest import read_yaml

    return fit_from_dict(read_yaml(Path(path)), source=str(path))


def fit_text(fit: Fit) -> str:
    """Return a fit as JSON text."""
    return json.dumps(fit_to_dict(fit), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def _regimes(record: Record) -> tuple[Regime, ...]:
    items = record.records("decode")
    regimes = []
    for item in items:
        item.expect_keys(("coefficients",), ("max_batch",))
        regimes.append(Regime(item.optional_whole("max_batch"), _triple(item, "coefficients")))
    limits = [regime.max_batch for regime in regimes]
    growing = [limit for limit in limits[:-1] if limit is not None]
    if not limits or limits[-1] is not None or len(growing) != len(limits) - 1 or sorted(set(growing)) != growing:
        raise record.error("expected limits max_batch that grow, and none in the last entry", "decode")
    return tuple(regimes)


def _triple(record: Record, key: str) -> Triple:
    values = record.values(key)
    inner = Record({str(i): value for i, value in enumerate(values)}, source=record.source, path=f"{record.path}.{key}")
    if len(values) != 3:
        raise record.error(f"expected three coefficients, got {len(values)}", key)
    first, second, third = (inner.number(str(i)) for i in range(3))
    return first, second, third
