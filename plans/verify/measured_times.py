"""Times of layers, recomputed from the table entries and fitted coefficients a plan embeds.

A layer's time in a pass is a sum of terms. A term of a table is a point and the entries around it: axis by axis, the
value of the one entry there, or the straight line between the two neighbours; times how often such a pass runs. An
analytic term is the roofline of its operators. A fitted term is the layer's share, by the roofline, of the model's time

    prefill p0 + p1·b·s + p2·b·s²,   decode step d0 + d1·b + d2·b·c
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gpuplan.plans.files import join_place
from gpuplan.plans.verify.findings import Ledger, agree, show
from gpuplan.plans.verify.layer_times import Pass, decode_pass, layer_seconds, prefill_pass

PHASES = ("prefill", "decode")
#: What counts as what: a reading outside of the measured range rests on an assumed form.
COUNTED = {"extrapolated": "analytic"}

Seconds = dict[str, float]


class MeasuredTimes:
    """Seconds of layers by origin, on the devices of one plan; findings go to the ledger once."""

    def __init__(self, ledger: Ledger, document: Mapping[str, Any]) -> None:
        self._ledger = ledger
        self._document = document
        self._costs = document["inputs"]["costs"]
        self._model = document["inputs"]["model"]
        self._kept: dict[tuple[str, str, str], Seconds | None] = {}
        self._fits: dict[tuple[str, str], float | None] = {}

    def slowest(self, devices: Sequence[str], operators: str, phase: str) -> Seconds | None:
        """Return the seconds of a layer on the slowest of the devices that share it, the first of equals."""
        found = [self.layer(device, operators, phase) for device in devices]
        known = [parts for parts in found if parts is not None]
        return max(known, key=lambda parts: math.fsum(parts.values())) if len(known) == len(found) else None

    def layer(self, device: str, operators: str, phase: str) -> Seconds | None:
        """Return the seconds of a layer with these operators by origin, or None when they cannot be recomputed."""
        name = self._costs["devices"][device]
        key = name, operators, phase
        if key not in self._kept:
            self._kept[key] = self._layer(name, operators, phase)
        return self._kept[key]

    def _layer(self, name: str, operators: str, phase: str) -> Seconds | None:
        place = join_place("$.inputs.costs.classes", name)
        entry = self._costs["classes"].get(name)
        if entry is None:
            self._ledger.add(place, "expected the costs of a device used, got none")
            return None
        terms = entry["layers"].get(operators)
        place = join_place(f"{place}.layers", operators)
        if terms is None:
            self._ledger.add(place, "expected the times of a layer of the model, got none")
            return None
        own = self._model["operator_sets"][operators]
        check_cover(self._ledger, terms[phase], own, f"{place}.{phase}")
        if phase == "prefill":
            check_passes(self._ledger, terms[phase], own, self._document["workload"], f"{place}.{phase}")
        seconds: Seconds = {}
        for i, term in enumerate(terms[phase]):
            value = self._term(entry, operators, phase, term, name, f"{place}.{phase}[{i}]")
            if value is None:
                return None
            origin = COUNTED.get(term["origin"], term["origin"])
            seconds[origin] = seconds.get(origin, 0.0) + value
        return seconds

    def _term(
        self, entry: Mapping[str, Any], operators: str, phase: str, term: Mapping[str, Any], name: str, place: str
    ) -> float | None:
        step = self._step(phase)
        if term["origin"] in ("analytic", "fitted"):
            if "entries" in term:
                self._ledger.add(f"{place}.entries", f"stand in a term that is {term['origin']}")
            if "roofline" not in entry:
                self._ledger.add(place, "expected the roofline's coefficients beside it, got none")
                return None
        if term["origin"] == "analytic":
            named = [o for o in self._model["operator_sets"][operators] if o["name"] in term["covers"]]
            return self._roofline(named, entry, step, place)
        if term["origin"] == "fitted":
            return self._fitted(entry, operators, phase, name, place)
        if "entries" not in term:
            self._ledger.add(place, f"says {term['origin']}, but names no entries of a table")
            return None
        chosen = [o for o in self._model["operator_sets"][operators] if o["name"] in term["covers"]]
        check_point(self._ledger, term, chosen, self._document["workload"], phase, place)
        check_shape(self._ledger, term, chosen, self._model, entry.get("tensor_parallel", 1), place)
        return check_entries(self._ledger, term, place)

    def _fitted(self, entry: Mapping[str, Any], operators: str, phase: str, name: str, place: str) -> float | None:
        if "fit" not in entry:
            self._ledger.add(place, "says fitted, but there are no coefficients beside it")
            return None
        own = self._roofline(self._model["operator_sets"][operators], entry, self._step(phase), place)
        total = self._whole(entry, phase, name, place)
        if own is None or not total:
            return None
        workload = self._document["workload"]
        b, s = workload["batch"], workload["prompt_tokens"]
        first, second, third = entry["fit"][phase]
        whole = first + second * b * s + third * b * s * s
        if phase == "decode":
            whole = first + second * b + third * b * (s + workload["output_tokens"] / 2)
        return float(whole * own / total)

    def _whole(self, entry: Mapping[str, Any], phase: str, name: str, place: str) -> float | None:
        """Return the roofline's seconds of all layers."""
        if (name, phase) not in self._fits:
            sets = [self._model["operator_sets"][layer["operators"]] for layer in self._model["layers"]]
            each = [self._roofline(own, entry, self._step(phase), place) for own in sets]
            known = [value for value in each if value is not None]
            self._fits[name, phase] = math.fsum(known) if len(known) == len(each) else None
        return self._fits[name, phase]

    def _roofline(
        self, operators: Sequence[Mapping[str, Any]], entry: Mapping[str, Any], step: Pass, place: str
    ) -> float | None:
        try:
            return layer_seconds(operators, entry["roofline"], step, entry.get("tensor_parallel", 1))
        except KeyError as error:
            self._ledger.add(place, f"expected the roofline's peak of {error.args[0]!r}, got none")
            return None

    def _step(self, phase: str) -> Pass:
        workload = self._document["workload"]
        return prefill_pass(workload) if phase == "prefill" else decode_pass(workload)


def check_cover(
    ledger: Ledger, terms: Sequence[Mapping[str, Any]], operators: Sequence[Mapping[str, Any]], place: str
) -> None:
    """Check that the terms time every operator of a layer, and none twice."""
    names = [operator["name"] for operator in operators]
    if all(term["covers"] == ["layer"] for term in terms) and len(terms) == 1:
        return
    groups = {tuple(term["covers"]) for term in terms}  # chunks of one pass cover the same operators
    covered = [name for group in groups for name in group]
    for name in names:
        if covered.count(name) != 1:
            ledger.add(place, f"times the operator {name!r} {covered.count(name)} times, expected once")
    for name in covered:
        if name not in names:
            ledger.add(place, f"times {name!r}, which the layer does not have")


def check_point(
    ledger: Ledger,
    term: Mapping[str, Any],
    operators: Sequence[Mapping[str, Any]],
    workload: Mapping[str, Any],
    phase: str,
    place: str,
) -> None:
    """Check the sizes that a term was looked up at, as far as one term says them."""
    at = dict(zip(term["axes"], term["at"], strict=False))
    b, s = workload["batch"], workload["prompt_tokens"]
    if "batch" in at:
        ledger.number(f"{place}.at", at["batch"], b)
    windows = [operator["window"] for operator in operators if operator.get("window")]
    if phase == "decode":
        context = min([s + workload["output_tokens"] / 2, *windows])
        for axis, value in (("tokens", b), ("context", context)):
            if axis in at:
                ledger.number(f"{place}.at", at[axis], value)
        ledger.same(f"{place}.count", term["count"], 1 if {"batch", "tokens"} & set(at) else b)
    elif "prompt" in at and at["prompt"] + at.get("context", 0.0) > s * (1 + 1e-9):
        ledger.add(f"{place}.at", f"says {show(list(term['at']))}, beyond the prompt of {s} tokens")


def check_shape(
    ledger: Ledger,
    term: Mapping[str, Any],
    operators: Sequence[Mapping[str, Any]],
    model: Mapping[str, Any],
    degree: int,
    place: str,
) -> None:
    """Check the shape that a term was looked up at: that of one of `degree` devices."""
    at = dict(zip(term["axes"], term["at"], strict=False))
    # n outputs and k inputs of a product make 2·n·k FLOPs a token; heads of some width make 4·heads·width a pair.
    flops = math.fsum(_share(operator, "flops_per_token", degree) for operator in operators)
    pairs = math.fsum(operator.get("flops_per_pair", 0.0) for operator in operators) / degree
    if "n" in at and "k" in at:
        ledger.number(f"{place}.at", 2.0 * at["n"] * at["k"], flops)
        if not any(agree(at[axis], model["hidden_size"]) for axis in ("n", "k")):
            ledger.add(f"{place}.at", f"says n {show(at['n'])} and k {show(at['k'])}, neither the model's width")
    if "heads" in at and "head_dim" in at:
        ledger.number(f"{place}.at", 4.0 * at["heads"] * at["head_dim"], pairs)
    touched = [_touched(operator, at.get("tokens", 0.0)) for operator in operators if operator.get("experts", 0) > 0]
    if "experts" in at and touched:
        ledger.number(f"{place}.at", at["experts"], max(touched))


def _share(operator: Mapping[str, Any], key: str, degree: int) -> float:
    return float(operator.get(key, 0.0) / (degree if operator.get("sharded", True) else 1))


def _touched(operator: Mapping[str, Any], tokens: float) -> float:
    """Return the experts that tokens are expected to touch, as a share of the most they could."""
    experts, chosen = operator["experts"], operator.get("experts_per_token", 0)
    if chosen >= experts or not tokens:
        return 1.0
    return min(1.0, float(experts * (1.0 - (1.0 - chosen / experts) ** tokens) / min(tokens * chosen, experts)))


def check_passes(
    ledger: Ledger,
    terms: Sequence[Mapping[str, Any]],
    operators: Sequence[Mapping[str, Any]],
    workload: Mapping[str, Any],
    place: str,
) -> None:
    """Check that the chunks of a prefill add up: all tokens, and with the cached positions all query-key pairs."""
    b, s = workload["batch"], workload["prompt_tokens"]
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for term in terms:
        if "axes" in term:
            groups.setdefault(tuple(term["covers"]), []).append(term)
    for covers, parts in groups.items():
        last = [o for o in operators if o["name"] in covers and o.get("tokens", "all") == "last"]
        total = b if last and len(covers) == 1 else b * s
        axes = parts[0]["axes"]
        if any(p["axes"] != axes or len(p["at"]) != len(axes) for p in parts):
            ledger.add(place, f"times {'+'.join(covers)} along different axes in one pass")
            continue
        if "prompt" in axes:
            sequences = b if "batch" in axes else 1
            done = [(p["count"] * sequences, dict(zip(p["axes"], p["at"], strict=False))) for p in parts]
            ledger.number(place, math.fsum(n * at["prompt"] for n, at in done), b * s)
            if "context" in axes:
                pairs = math.fsum(n * at["prompt"] * (at["context"] + at["prompt"] / 2) for n, at in done)
                ledger.number(place, pairs, b * s * s / 2)
        elif "tokens" in axes:
            said = math.fsum(p["count"] * p["at"][p["axes"].index("tokens")] for p in parts)
            ledger.number(place, said, total)
        elif parts[0]["count"] != (1 if "batch" in axes else b):
            ledger.add(place, f"counts {parts[0]['count']} passes of {'+'.join(covers)}, expected {b}")


def check_entries(ledger: Ledger, term: Mapping[str, Any], place: str) -> float | None:
    """Return a term's seconds from its entries, checking that they stand around the point and its tag is earned."""
    width = len(term["axes"])
    if len(term["at"]) != width or any(len(row) != width + 1 for row in term["entries"]) or not term["entries"]:
        ledger.add(f"{place}.entries", f"expected rows of {width} coordinates and a time, and a point like them")
        return None
    value, exact, inside = _value([list(row) for row in term["entries"]], list(term["at"]))
    if value is None:
        ledger.add(f"{place}.entries", "do not stand on one or two sides of the point, axis by axis")
        return None
    said = term["origin"]
    if said == "measured" and not exact:
        ledger.add(f"{place}.origin", "says measured, but no entry stands at the point")
    if said in ("measured", "interpolated") and not inside:
        ledger.add(f"{place}.origin", f"says {said}, but the point lies outside of its entries")
    if said == "extrapolated" and inside:
        ledger.add(f"{place}.origin", "says extrapolated, but its entries stand around the point")
    return float(term["count"] * max(value, 0.0))


def _value(rows: list[list[float]], at: list[float]) -> tuple[float | None, bool, bool]:
    """Return the value at a point, whether one row stands there, and whether the rows stand around it."""
    if not at:
        return (rows[0][0], True, True) if len(rows) == 1 else (None, False, False)
    groups: dict[float, list[list[float]]] = {}
    for row in rows:
        groups.setdefault(row[0], []).append(row[1:])
    sides = sorted(groups)
    inner = [_value(groups[side], at[1:]) for side in sides]
    if len(sides) > 2 or any(value is None for value, _, _ in inner):
        return None, False, False
    exact = all(e for _, e, _ in inner)
    inside = all(i for _, _, i in inner)
    if len(sides) == 1:
        here = agree(at[0], sides[0], 1e-8)
        return inner[0][0], exact and here, inside and here
    low, high = inner[0][0], inner[1][0]
    assert low is not None
    assert high is not None
    share = (at[0] - sides[0]) / (sides[1] - sides[0])
    between = -1e-9 <= share <= 1 + 1e-9
    return low + share * (high - low), False, inside and between


def check_provenance(ledger: Ledger, document: Mapping[str, Any], collectives_s: Sequence[tuple[float, float]]) -> None:
    """Check the shares of the layers' seconds in a request, by origin, of a plan with measured costs.

    `collectives_s` are each stage's in a prefill and in a decode step: they follow from the links, so are analytic.
    """
    times = MeasuredTimes(ledger, document)
    layers, steps = document["inputs"]["model"]["layers"], document["workload"]["output_tokens"] - 1
    seconds: Seconds = {"analytic": math.fsum(prefill + steps * decode for prefill, decode in collectives_s)}
    for stage in document["stages"]:
        for layer in layers[stage["layers"]["start"] : stage["layers"]["stop"]]:
            for phase, weight in (("prefill", 1), ("decode", steps)):
                for origin, value in (times.slowest(stage["devices"], layer["operators"], phase) or {}).items():
                    seconds[origin] = seconds.get(origin, 0.0) + weight * value
    total = math.fsum(seconds.values())
    for tag in ("measured", "interpolated", "fitted", "analytic"):
        share = seconds.get(tag, 0.0) / total if total > 0.0 else float(tag == "analytic")
        ledger.number(f"$.provenance.{tag}", document["provenance"][tag], share)
