"""Groups of devices that share a stage: allowed by the model, asked for, inside one island, in the topology's order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gpuplan.plans.files import join_place
from gpuplan.plans.verify.findings import Ledger
from gpuplan.plans.verify.routes import Network

#: Runtimes that run one device a stage.
ONE_DEVICE = ("accelerate", "llama-cpp")
#: Runtimes that take one degree for all stages.
ONE_DEGREE = ("megatron", "sglang", "tensorrt-llm", "vllm")


def check_groups(ledger: Ledger, document: Mapping[str, Any], network: Network) -> None:
    """Check degrees and members of the stages of a plan whose devices exist and are distinct."""
    degrees = [len(stage["devices"]) for stage in document["stages"]]
    _check_degrees(ledger, degrees, document["inputs"]["options"])
    for stage in document["stages"]:
        _check_classes(ledger, stage["devices"], document["inputs"]["costs"])
    if max(degrees) == 1:
        return
    model, order, islands = document["inputs"]["model"], network.order, network.islands
    for k, stage in enumerate(document["stages"]):
        if degrees[k] == 1:
            continue
        refusal = degree_refusal(model, degrees[k])
        if refusal is not None:
            ledger.add(f"$.stages[{k}].tensor_parallel", f"says {degrees[k]}, but {refusal}")
        _check_members(ledger, stage["devices"], order, islands, f"$.stages[{k}].devices")


def _check_degrees(ledger: Ledger, degrees: Sequence[int], options: Mapping[str, Any]) -> None:
    said = options["tensor_parallel"]
    asked = said if isinstance(said, list) else [said]
    uneven = options.get("uneven_tensor_parallel", False)
    for k, degree in enumerate(degrees):
        place = f"$.stages[{k}].tensor_parallel"
        if degree not in asked:
            ledger.add(place, f"says {degree}, but the degrees asked for are {', '.join(map(str, asked))}")
        if degree > 1 and options["runtime"] in ONE_DEVICE:
            ledger.add(place, f"says {degree}, but {options['runtime']} runs one device a stage")
        if degree != degrees[0] and not uneven:
            ledger.add(place, f"says {degree}, but stage 0 has {degrees[0]} and one degree for all was asked for")
        elif degree != degrees[0] and options["runtime"] in ONE_DEGREE:
            ledger.add(place, f"says {degree}, but stage 0 has {degrees[0]} and {options['runtime']} takes one degree")


def degree_refusal(model: Mapping[str, Any], degree: int) -> str | None:
    """Return why a model cannot be shared by `degree` devices, or None: heads, KV heads and experts must divide."""
    heads, kv_heads = model.get("num_attention_heads", degree), model.get("num_kv_heads", degree)
    if heads % degree:
        return f"the model's {heads} attention heads do not divide by it"
    if kv_heads % degree and degree % kv_heads:
        return f"neither do the model's {kv_heads} KV heads divide by it, nor it by them"
    counts = {operator.get("experts", 0) for own in model["operator_sets"].values() for operator in own}
    experts = next((count for count in sorted(counts) if count % degree), None)
    return None if experts is None else f"the model's {experts} experts do not divide by it"


def _check_members(
    ledger: Ledger, names: Sequence[str], order: Mapping[str, int], islands: Mapping[str, int], place: str
) -> None:
    counts = Counter(islands[name] for name in names)
    most = max(counts.values())
    home = None if list(counts.values()).count(most) > 1 else max(counts, key=counts.__getitem__)
    for i, name in enumerate(names):
        if len(counts) > 1 and islands[name] != home:
            ledger.add(f"{place}[{i}]", f"says {name!r}, which lies in another island than the stage's other devices")
    for i in range(1, len(names)):
        if order[names[i]] < order[names[i - 1]]:
            message = f"name {names[i - 1]} before {names[i]}, expected the topology's order"
            ledger.add(place, message)
            for j in (i - 1, i):
                ledger.add(f"{place}[{j}]", f"says {names[j]!r}, which is out of the topology's order")


def _check_classes(ledger: Ledger, names: Sequence[str], costs: Mapping[str, Any]) -> None:
    """Check that measured costs are those of the stage's degree."""
    if costs["source"] == "analytic":
        return
    for name in names:
        said = costs["classes"].get(costs["devices"][name], {}).get("tensor_parallel", 1)
        if said != len(names):
            place = join_place("$.inputs.costs.classes", costs["devices"][name]) + ".tensor_parallel"
            ledger.add(place, f"says {said}, but the stage of {name} has {len(names)} devices")
