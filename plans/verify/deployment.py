"""Deployments against the inputs they embed: every replica, link, sum, promise and change, recomputed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from gpuplan.plans.canonical import digest
from gpuplan.plans.deployment import SCHEMA, Deployment
from gpuplan.plans.deployment_io import deployment_to_dict
from gpuplan.plans.files import read_document
from gpuplan.plans.validation import check_document
from gpuplan.plans.verify.changes import check_changes
from gpuplan.plans.verify.findings import RELATIVE_TOLERANCE, Ledger, Verification, agree, show
from gpuplan.plans.verify.inputs import check_inputs
from gpuplan.plans.verify.links import check_links, check_routes
from gpuplan.plans.verify.replicas import PlacedLedger, check_replica
from gpuplan.plans.verify.routes import Network

#: Objectives of which more is better.
MAXIMISED = ("requests", "throughput")


def verify_deployment(plan: Deployment | Mapping[str, Any] | str | os.PathLike[str]) -> Verification:
    """Recompute a deployment from the inputs it embeds.

    Parameters
    ----------
    plan
        A deployment, its JSON object, or the path of its file.

    Returns
    -------
    Verification
        ``ok`` only if every replica holds as a device map does, no device serves two of them, limits, SLOs and demand
        are kept, no link is overdrawn by the hops of all replicas together, all sums and the changes follow, and the
        bound lies on the valid side of the objective.

    Raises
    ------
    InputError
        A file or object that is no deployment at all.

    Notes
    -----
    Shares no code with any solver. The traffic inside tensor-parallel groups is priced in their stages' times, not in
    the links' loads.
    """
    source = None if isinstance(plan, Deployment | Mapping) else os.fspath(plan)
    if isinstance(plan, Deployment):
        document: Mapping[str, Any] = deployment_to_dict(plan)
    else:
        document = plan if isinstance(plan, Mapping) else read_document(plan)
    check_document(document, SCHEMA, source=source)
    ledger = Ledger()
    try:
        _check(ledger, document)
    except (OverflowError, ZeroDivisionError):
        ledger.add("$.inputs", "hold numbers so large or so small that no time can be computed from them")
    return ledger.verdict()


def _check(ledger: Ledger, document: Mapping[str, Any]) -> None:
    _check_references(ledger, document)
    for i, entry in enumerate(document["inputs"]["costs"]):
        within = PlacedLedger(ledger, {"$.inputs.costs": f"$.inputs.costs[{i}].costs"})
        check_inputs(within, {**document["inputs"], "costs": entry["costs"]})
    if not _check_names(ledger, document):
        return
    network = Network(document["inputs"]["topology"])
    sound = [check_replica(ledger, document, i, network) for i in range(len(document["replicas"]))]
    _check_devices(ledger, document)
    if all(sound):
        routed = [check_routes(ledger, document, i, network) for i in range(len(document["replicas"]))]
        if all(routed):
            check_links(ledger, document)
        objective = _check_metrics(ledger, document)
        _check_result(ledger, document, objective)
    check_changes(ledger, document)


def _check_references(ledger: Ledger, document: Mapping[str, Any]) -> None:
    inputs = document["inputs"]
    for part, count, items in (("model", "num_layers", "layers"), ("topology", "num_devices", "devices")):
        said, embedded = document[part], inputs[part]
        ledger.same(f"$.{part}.name", said["name"], embedded["name"])
        ledger.same(f"$.{part}.{count}", said[count], len(embedded[items]))
        ledger.same(f"$.{part}.digest", said["digest"], digest(embedded))
    provenance = document["provenance"]
    if all(entry["costs"]["source"] == "analytic" for entry in inputs["costs"]):
        for tag in ("measured", "interpolated", "fitted", "analytic"):
            ledger.number(f"$.provenance.{tag}", provenance[tag], float(tag == "analytic"))
    for entry in inputs["costs"]:
        ledger.same("$.provenance.sources", provenance["sources"], entry["costs"]["sources"])


def _check_names(ledger: Ledger, document: Mapping[str, Any]) -> bool:
    """Check that replicas have names of their own and one entry of costs each."""
    sound = True
    seen: set[str] = set()
    for i, replica in enumerate(document["replicas"]):
        name = replica["name"]
        entries = sum(name in entry["replicas"] for entry in document["inputs"]["costs"])
        if name in seen:
            ledger.add(f"$.replicas[{i}].name", f"says {name!r}, which another replica is called")
            sound = False
        elif entries != 1:
            ledger.add("$.inputs.costs", f"expected one entry for {name}, got {entries}")
            sound = False
        seen.add(name)
    return sound


def _check_devices(ledger: Ledger, document: Mapping[str, Any]) -> None:
    """Check that no device serves two replicas, and the limits on devices and replicas."""
    options = document["inputs"]["options"]
    owner: dict[str, int] = {}
    count = 0
    for i, replica in enumerate(document["replicas"]):
        for k, stage in enumerate(replica["stages"]):
            for j, name in enumerate(stage["devices"]):
                count += 1
                if owner.setdefault(name, i) != i:
                    place = f"$.replicas[{i}].stages[{k}].devices[{j}]"
                    ledger.add(place, f"says {name!r}, which {document['replicas'][owner[name]]['name']} uses already")
    if options["max_devices"] is not None and count > options["max_devices"]:
        ledger.add("$.replicas", f"use {count} devices, more than the {options['max_devices']} allowed")
    replicas = len(document["replicas"])
    if options["max_replicas"] is not None and replicas > options["max_replicas"]:
        ledger.add("$.replicas", f"are {replicas}, more than the {options['max_replicas']} allowed")


def _check_metrics(ledger: Ledger, document: Mapping[str, Any]) -> float | None:
    """Check the sums over the replicas; return the value of the objective, None when a price is missing."""
    replicas, said = document["replicas"], document["metrics"]
    prices = {device["name"]: device.get("price_per_hour") for device in document["inputs"]["topology"]["devices"]}
    used = [name for replica in replicas for stage in replica["stages"] for name in stage["devices"]]
    priced = [prices.get(name) for name in used]
    sums: dict[str, float | None] = {
        key: math.fsum(replica[key] for replica in replicas) for key in ("requests_per_s", "tokens_per_s")
    }
    sums["replicas"], sums["devices_used"] = len(replicas), len(used)
    sums["price_per_hour"] = None if None in priced else math.fsum(own for own in priced if own is not None)
    for key, value in sums.items():
        ledger.number(f"$.metrics.{key}", said[key], value)
    weights = [replica["requests_per_s"] for replica in replicas]
    for key in ("ttft_s", "token_interval_s"):
        values = [replica["metrics"][key] for replica in replicas]
        ledger.number(f"$.metrics.{key}.worst", said[key]["worst"], max(values))
        ledger.number(f"$.metrics.{key}.mean", said[key]["mean"], _mean(values, weights))
    _check_terms(ledger, document["result"]["terms"], sums)
    name = document["inputs"]["options"]["objective"]["name"]
    parts = {"requests": "requests_per_s", "throughput": "tokens_per_s", "devices": "devices_used"}
    return sums[parts.get(name, "price_per_hour")]


def _check_terms(ledger: Ledger, terms: Mapping[str, Any], sums: Mapping[str, float | None]) -> None:
    known = {**{key: sums[key] for key in sums if key != "devices_used"}, "devices": sums["devices_used"]}
    for name, value in terms.items():
        if name in known:
            ledger.number(f"$.result.terms.{name}", value, known[name])
        else:
            ledger.add(f"$.result.terms.{name}", f"unknown term; the terms here are {', '.join(sorted(known))}")


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    whole = math.fsum(weights)
    return math.fsum(w * v for w, v in zip(weights, values, strict=True)) / whole if whole > 0.0 else max(values)


def _check_result(ledger: Ledger, document: Mapping[str, Any], objective: float | None) -> None:
    result, asked = document["result"], document["inputs"]["options"]["objective"]
    demand = asked["demand_rps"]
    if demand is not None:
        served = math.fsum(replica["requests_per_s"] for replica in document["replicas"])
        if served < demand * (1 - RELATIVE_TOLERANCE):
            ledger.add("$.replicas", f"serve {show(served)} requests/s, less than the {show(demand)} asked for")
    elif asked["name"] not in MAXIMISED:
        ledger.add("$.inputs.options.objective.demand_rps", f"says null, but {asked['name']} is under a demand")
    if objective is None:
        ledger.add("$.result.objective", f"says {show(result['objective'])}, but a device used has no price")
        return
    ledger.number("$.result.objective", result["objective"], objective)
    _check_bound(ledger, result, maximised=asked["name"] in MAXIMISED)


def _check_bound(ledger: Ledger, result: Mapping[str, Any], *, maximised: bool) -> None:
    """Check that the bound lies on the valid side, that the gap follows from it, and that ``optimal`` is earned."""
    objective, bound, gap = result["objective"], result["bound"], result["gap"]
    optimal = result["status"] == "optimal"
    if bound is None:
        if optimal:
            ledger.add("$.result.bound", "says null, but a plan is optimal only with a bound that proves it")
        if gap is not None:
            ledger.add("$.result.gap", f"says {show(gap)}, but without a bound the gap is null")
        return
    wrong = bound < objective if maximised else bound > objective
    if wrong and not agree(bound, objective):
        side = "below" if maximised else "above"
        ledger.add("$.result.bound", f"says {show(bound)}, {side} the objective {show(objective)}")
    elif optimal and not agree(bound, objective):
        ledger.add("$.result.bound", f"says {show(bound)}, which does not prove {show(objective)} optimal")
    expected = 0.0 if optimal else abs(bound - objective) / abs(objective) if objective else None
    if not agree(gap, expected):
        ledger.add("$.result.gap", f"says {show(gap)}, recomputed {show(expected)}")
