"""One replica of a deployment: a device map by its own stages, and what it serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuplan.plans.deployment import replica_inputs
from gpuplan.plans.device_map import WorkloadPoint
from gpuplan.plans.verify.findings import RELATIVE_TOLERANCE, Ledger, show
from gpuplan.plans.verify.metrics import check_metrics
from gpuplan.plans.verify.routes import Network
from gpuplan.plans.verify.stages import StageFigures, check_pipeline, check_stage, recompute_stages


class PlacedLedger(Ledger):
    """A ledger whose findings land in another one, their places moved to where the part stands in the whole."""

    def __init__(self, whole: Ledger, moves: Mapping[str, str]) -> None:
        super().__init__()
        self._whole, self._moves = whole, moves

    def add(self, place: str, message: str) -> None:
        """Note a finding in the whole document's ledger."""
        for start, there in self._moves.items():
            if place.startswith(start):
                place = there + place[len(start) :]
                break
        self._whole.add(place, message)


def replica_document(document: Mapping[str, Any], i: int) -> dict[str, Any]:
    """Return replica `i` in the words of a device map: stages, workload, metrics, inputs."""
    replica, asked = document["replicas"][i], document["inputs"]["workload"]
    point = WorkloadPoint(replica["batch"], asked["prompt_tokens"], asked["output_tokens"], replica["micro_batches"])
    inputs = replica_inputs(document["inputs"], replica["name"], point)
    return {
        "stages": replica["stages"],
        "workload": inputs["workload"],
        "metrics": replica["metrics"],
        "inputs": inputs,
    }


def check_replica(ledger: Ledger, document: Mapping[str, Any], i: int, network: Network) -> bool:
    """Recompute replica `i`; return whether it could be."""
    here = f"$.replicas[{i}]"
    entry = _costs_entry(document, document["replicas"][i]["name"])
    moves = {
        "$.inputs.costs": f"$.inputs.costs[{entry}].costs",
        "$.inputs": "$.inputs",
        "$.workload": here,
        "$": here,
    }
    own, part = PlacedLedger(ledger, moves), replica_document(document, i)
    _check_asked(own, document, i)
    if not check_pipeline(own, part, network):
        return False
    figures = recompute_stages(own, part, network)
    if figures is None:
        return False
    for k, figure in enumerate(figures):
        check_stage(own, part, k, figure, network)
    check_metrics(own, part, figures)
    _check_rates(own, document, i, figures)
    return True


def _costs_entry(document: Mapping[str, Any], name: str) -> int:
    return next(i for i, entry in enumerate(document["inputs"]["costs"]) if name in entry["replicas"])


def _check_asked(ledger: Ledger, document: Mapping[str, Any], i: int) -> None:
    """Check batch and micro-batches against what was asked for."""
    replica, asked = document["replicas"][i], document["inputs"]["workload"]
    batch = replica["batch"]
    if asked["batch"] != "auto":
        ledger.same("$.batch", batch, asked["batch"])
    elif batch & (batch - 1):
        ledger.add("$.batch", f"says {batch}, expected a power of two")
    micro = len(replica["stages"]) if asked["micro_batches"] == "stages" else asked["micro_batches"]
    ledger.same("$.micro_batches", replica["micro_batches"], micro)


def _check_rates(ledger: Ledger, document: Mapping[str, Any], i: int, figures: list[StageFigures]) -> None:
    """Check what the replica can serve, what it is to serve, and the promises on its times."""
    replica, inputs = document["replicas"][i], document["inputs"]
    said, options = replica["metrics"], inputs["options"]
    count = replica["micro_batches"]
    slowest = max(own.prefill_s + own.hop_prefill_s for own in figures)
    ttft = sum(own.prefill_s + own.hop_prefill_s for own in figures)
    tpot = sum(own.decode_s + own.hop_decode_s for own in figures)
    interval = max(count * max(own.decode_s + own.hop_decode_s for own in figures), tpot)
    cycle = ttft + (count - 1) * slowest + (inputs["workload"]["output_tokens"] - 1) * interval
    capacity = count * replica["batch"] / cycle
    ledger.number("$.metrics.slowest_prefill_s", said["slowest_prefill_s"], slowest)
    ledger.number("$.metrics.token_interval_s", said["token_interval_s"], interval)
    ledger.number("$.metrics.requests_per_s", said["requests_per_s"], capacity)
    if replica["requests_per_s"] > capacity * (1 + RELATIVE_TOLERANCE):
        ledger.add("$.requests_per_s", f"says {show(replica['requests_per_s'])}, above its {show(capacity)}")
    share = replica["requests_per_s"] / capacity
    ledger.number("$.tokens_per_s", replica["tokens_per_s"], share * count * replica["batch"] / interval)
    for key, value, limit in (
        ("ttft_s", ttft, options["ttft_slo_s"]),
        ("token_interval_s", interval, options["tpot_slo_s"]),
    ):
        if limit is not None and value > limit * (1 + RELATIVE_TOLERANCE):
            ledger.add(f"$.metrics.{key}", f"is {show(value)} s, above the {show(limit)} s promised")
