"""Metrics of a device map, recomputed from the recomputed stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gpuplan.plans.verify.certificate import PlanValues, kv_agrees
from gpuplan.plans.verify.findings import Ledger, show
from gpuplan.plans.verify.memory import kv_room_tokens
from gpuplan.plans.verify.stages import StageFigures


def check_metrics(ledger: Ledger, document: Mapping[str, Any], figures: Sequence[StageFigures]) -> PlanValues:
    """Compare the stated metrics with the recomputed ones; return what the plan is worth."""
    workload, said = document["workload"], document["metrics"]
    ttft = math.fsum([*(own.prefill_s for own in figures), *(own.hop_prefill_s for own in figures)])
    tpot = math.fsum([*(own.decode_s for own in figures), *(own.hop_decode_s for own in figures)])
    values = plan_values(figures, ttft, tpot, workload["output_tokens"] - 1)
    used = math.fsum(own.memory.used_bytes * own.devices for own in figures)
    available = math.fsum(own.available_bytes * own.devices for own in figures)
    recomputed = {
        "ttft_s": ttft,
        "tpot_s": tpot,
        "latency_s": values.latency_s,
        "bottleneck_s": values.bottleneck_s,
        "throughput_tokens_per_s": _rate(workload, values.bottleneck_s, tpot),
        "devices_used": values.devices,
        "memory_utilization": used / available,
    }
    for name, value in recomputed.items():
        ledger.number(f"$.metrics.{name}", said[name], value)
    if not kv_agrees(said["kv_capacity_tokens"], values.kv_room_tokens):
        message = f"says {show(said['kv_capacity_tokens'])}, recomputed {show(values.kv_capacity_tokens)}"
        ledger.add("$.metrics.kv_capacity_tokens", message)
    return values


def plan_values(figures: Sequence[StageFigures], ttft: float, tpot: float, steps: int) -> PlanValues:
    """Return what a plan is worth; `steps` decode steps follow the first token."""
    prices = [own.price_per_hour for own in figures]
    back = figures[-1].hop_decode_s if figures[-1].hop is not None else 0.0
    forward = math.fsum(own.hop_prefill_s + steps * own.hop_decode_s for own in figures[:-1])
    return PlanValues(
        latency_s=ttft + steps * tpot,
        bottleneck_s=max(own.decode_s + own.hop_decode_s for own in figures),
        devices=sum(own.devices for own in figures),
        price_per_hour=None if None in prices else math.fsum(price for price in prices if price is not None),
        kv_room_tokens=kv_room_tokens([(own.memory, own.available_bytes) for own in figures]),
        compute_s=math.fsum(own.prefill_s + steps * own.decode_s for own in figures),
        hops_s=forward,
        return_hop_s=steps * back,
    )


def _rate(workload: Mapping[str, Any], bottleneck: float, tpot: float) -> float | None:
    count = workload["micro_batches"]
    slowest = max(count * bottleneck, tpot)
    return count * workload["batch"] / slowest if slowest > 0 else None
