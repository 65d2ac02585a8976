"""All-reduces and gathers inside stages of several devices, recomputed from the links a plan embeds.

A ring over t devices takes ``2(t−1)/t·m·β + 2(t−1)·α`` s for a message of m bytes, α and β the largest latency and the
largest seconds per byte over all its pairs, each pair on the route that is fastest for the pass's largest boundary. A
decoder layer has two rings of tokens·hidden·activation bytes, the embedding one, the head one of b·vocab·4.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gpuplan.plans.verify.findings import Ledger
from gpuplan.plans.verify.memory import LOGIT_BYTES
from gpuplan.plans.verify.routes import Network
from gpuplan.units import DTYPE_BYTES

#: Latency (s) and bandwidth (bytes/s) of the equally fast routes of a pair.
Ways = list[tuple[float, float]]


def collective_seconds(
    ledger: Ledger, document: Mapping[str, Any], k: int, network: Network
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the seconds that the collectives of stage `k` may take in a prefill and in a decode step.

    Several values only where equally fast routes differ; None when two of the devices have no route.
    """
    stage, workload = document["stages"][k], document["workload"]
    if len(stage["devices"]) == 1:
        return (0.0,), (0.0,)
    largest = max(layer["boundary_bytes_per_token"] for layer in document["inputs"]["model"]["layers"])
    found = []
    for tokens in (workload["batch"] * workload["prompt_tokens"], workload["batch"]):
        pairs = {pair: network.fastest(*pair, tokens * largest) for pair in itertools.combinations(stage["devices"], 2)}
        for (one, other), ways in pairs.items():
            if not ways:
                ledger.add(f"$.stages[{k}].devices", f"there is no route from {one} to {other}")
                return None
        found.append(_pass_seconds(document, stage, tokens, list(pairs.values())))
    return found[0], found[1]


def _pass_seconds(
    document: Mapping[str, Any], stage: Mapping[str, Any], tokens: int, pairs: Sequence[Ways]
) -> tuple[float, ...]:
    model, batch, count = document["inputs"]["model"], document["workload"]["batch"], len(stage["devices"])
    kinds = Counter(layer["kind"] for layer in model["layers"][stage["layers"]["start"] : stage["layers"]["stop"]])
    activations = tokens * model["hidden_size"] * DTYPE_BYTES[model["activation_dtype"]]
    rings = 2 * kinds["decoder"] + kinds["embedding"] + kinds["head"]
    message = activations * (2 * kinds["decoder"] + kinds["embedding"])
    message += batch * model["vocab_size"] * LOGIT_BYTES * kinds["head"]
    steps = 2 * (count - 1)
    latencies = _largest([[latency for latency, _ in ways] for ways in pairs])
    slowness = _largest([[1.0 / bandwidth for _, bandwidth in ways] for ways in pairs])
    return tuple(steps * (message / count * beta + rings * alpha) for alpha in latencies for beta in slowness)


def _largest(choices: Sequence[Sequence[float]]) -> list[float]:
    """Return what the largest of one value from each may be."""
    least = max(min(values) for values in choices)
    return sorted({value for values in choices for value in values if value >= least})
