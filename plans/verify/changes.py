"""What re-planning says it changes, against the placement it started from.

A device holds rank r of t of a layer as the share [r/t, (r+1)/t); a new share inside one it holds is not moved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from gpuplan.plans.verify.findings import Ledger, show
from gpuplan.plans.verify.memory import layer_weight_bytes

Shares = dict[tuple[str, int], list[tuple[Fraction, Fraction]]]


def check_changes(ledger: Ledger, document: Mapping[str, Any]) -> None:
    """Check ``changes`` against ``inputs.current``; both are there or neither."""
    changes, current = document.get("changes"), document["inputs"].get("current")
    if changes is None or current is None:
        if changes is not None or current is not None:
            ledger.add("$.changes", "expected both the changes and the placement they start from, or neither")
        return
    old = {replica["name"]: _placement(replica["stages"]) for replica in current}
    new = {replica["name"]: _placement(replica["stages"]) for replica in document["replicas"]}
    kept = [name for name in new if name in old]
    for name in kept:
        if new[name] != old[name]:
            ledger.add("$.changes.kept", f"say {name} stays, but it stands elsewhere than before")
    ledger.same("$.changes.kept", sorted(changes["kept"]), sorted(kept))
    ledger.same("$.changes.appeared", sorted(changes["appeared"]), sorted(new.keys() - old.keys()))
    ledger.same("$.changes.disappeared", sorted(changes["disappeared"]), sorted(old.keys() - new.keys()))
    _check_moved(ledger, document, changes, current)


def _placement(stages: Sequence[Mapping[str, Any]]) -> list[tuple[list[str], int, int]]:
    return [(list(stage["devices"]), stage["layers"]["start"], stage["layers"]["stop"]) for stage in stages]


def _shares(replicas: Sequence[Mapping[str, Any]]) -> Shares:
    found: Shares = {}
    for replica in replicas:
        for stage in replica["stages"]:
            count = len(stage["devices"])
            for rank, name in enumerate(stage["devices"]):
                for layer in range(stage["layers"]["start"], stage["layers"]["stop"]):
                    share = Fraction(rank, count), Fraction(rank + 1, count)
                    found.setdefault((name, layer), []).append(share)
    return found


def _check_moved(
    ledger: Ledger, document: Mapping[str, Any], changes: Mapping[str, Any], current: Sequence[Mapping[str, Any]]
) -> None:
    layers, before = document["inputs"]["model"]["layers"], _shares(current)
    moved: dict[str, float] = {}
    for (name, layer), shares in _shares(document["replicas"]).items():
        if not 0 <= layer < len(layers):
            return  # the stages' own check says so
        for low, high in shares:
            if not any(a <= low and high <= b for a, b in before.get((name, layer), ())):
                degree = (high - low).denominator
                moved[name] = moved.get(name, 0.0) + layer_weight_bytes(layers[layer], degree)
    said = changes["moved_bytes"]
    for name in sorted(moved.keys() | said.keys()):
        if name not in said or name not in moved:
            have, want = show(said.get(name)), show(moved.get(name))
            ledger.add("$.changes.moved_bytes", f"say {have} for {name}, recomputed {want}")
        else:
            ledger.number(f"$.changes.moved_bytes.{name}", said[name], moved[name])
    ledger.number("$.changes.total_moved_bytes", changes["total_moved_bytes"], math.fsum(moved.values()))
