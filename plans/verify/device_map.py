"""Device maps against the inputs they embed: every number and constraint, recomputed from the file alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gpuplan.plans.canonical import digest
from gpuplan.plans.device_map import SCHEMA, DeviceMap
from gpuplan.plans.device_map_io import device_map_to_dict
from gpuplan.plans.files import read_document
from gpuplan.plans.validation import check_document
from gpuplan.plans.verify.certificate import Goal, check_certificate
from gpuplan.plans.verify.findings import Ledger, Verification
from gpuplan.plans.verify.inputs import check_inputs
from gpuplan.plans.verify.measured_times import check_provenance
from gpuplan.plans.verify.metrics import check_metrics
from gpuplan.plans.verify.routes import Network
from gpuplan.plans.verify.stages import check_pipeline, check_stage, recompute_stages


def verify(plan: DeviceMap | Mapping[str, Any] | str | os.PathLike[str]) -> Verification:
    """Recompute a device map from the inputs it embeds.

    Parameters
    ----------
    plan
        A device map, its JSON object, or the path of its file.

    Returns
    -------
    Verification
        ``ok`` only if digests match, the stages are a pipeline over distinct existing devices that holds every
        layer once and fits the memory, every figure is within 1e-6 (relative) of the recomputed one, and the
        certificate is sound: objective, terms, bound on the valid side, gap, and no ``optimal`` without proof.

    Raises
    ------
    InputError
        A file or object that is no device map at all (`load_plan` says the same).

    Notes
    -----
    Shares no code with any solver, nor with the cost, route and memory code the plan was built by.
    That a bound is proven cannot be seen from a plan; what is checked is that nothing in the plan contradicts it.
    """
    return verify_document(_document(plan))


def verify_document(document: Mapping[str, Any]) -> Verification:
    """Recompute a device map given as a JSON object that follows its schema."""
    ledger = Ledger()
    try:
        _check(ledger, document)
    except (OverflowError, ZeroDivisionError):
        ledger.add("$.inputs", "hold numbers so large or so small that no time can be computed from them")
    return ledger.verdict()


def _check(ledger: Ledger, document: Mapping[str, Any]) -> None:
    _check_references(ledger, document)
    check_inputs(ledger, document["inputs"])
    network = Network(document["inputs"]["topology"])
    if not check_pipeline(ledger, document, network):
        return
    figures = recompute_stages(ledger, document, network)
    if figures is None:
        return
    if document["inputs"]["costs"]["source"] != "analytic":
        check_provenance(ledger, document, [figure.collectives_s for figure in figures])
    for k, figure in enumerate(figures):
        check_stage(ledger, document, k, figure, network)
    values = check_metrics(ledger, document, figures)
    objective = document["inputs"]["options"]["objective"]
    goal = Goal(objective["name"], objective.get("latency_weight", 10.0), objective.get("devices_weight", 1.0))
    check_certificate(ledger, document["result"], goal, values, "$.result")


def _document(plan: DeviceMap | Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any]:
    if isinstance(plan, DeviceMap):
        return device_map_to_dict(plan)
    source = None if isinstance(plan, Mapping) else os.fspath(plan)
    document = plan if isinstance(plan, Mapping) else read_document(plan)
    check_document(document, SCHEMA, source=source)
    return document


def _check_references(ledger: Ledger, document: Mapping[str, Any]) -> None:
    """Check names, counts and digests against the inputs, and the provenance against the cost source."""
    inputs = document["inputs"]
    for part, count, items in (("model", "num_layers", "layers"), ("topology", "num_devices", "devices")):
        said, embedded = document[part], inputs[part]
        ledger.same(f"$.{part}.name", said["name"], embedded["name"])
        ledger.same(f"$.{part}.{count}", said[count], len(embedded[items]))
        ledger.same(f"$.{part}.digest", said["digest"], digest(embedded))
    for key, value in inputs["workload"].items():
        ledger.same(f"$.workload.{key}", document["workload"][key], value)
    provenance = document["provenance"]
    if inputs["costs"]["source"] == "analytic":
        for tag in ("measured", "interpolated", "fitted", "analytic"):
            ledger.number(f"$.provenance.{tag}", provenance[tag], float(tag == "analytic"))
    ledger.same("$.provenance.sources", provenance["sources"], inputs["costs"]["sources"])
