"""Why nothing fits, and what would: the smallest shortages a user can act on, each of them computed.

`shortages` goes from the plainest reason to the subtlest: the workspace alone, single layers, the total, then (where
the total would do) the device limit, missing routes, marked layers, and the loss of packing whole layers. Amounts of
memory that would help are found by bisection on the exact check of `packing`; amounts in sentences are rounded up.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpuplan.errors import UnsupportedError
from gpuplan.profiles.problems.placement import DensePlacement, FloatArray
from gpuplan.solvers.placement.baselines.common import layer_bytes, most_devices, with_micro_batches
from gpuplan.solvers.placement.packing import Packing, without
from gpuplan.units import GIB, KIB, MIB

Kind = Literal[
    "workspace",
    "layer",
    "total",
    "devices",
    "routes",
    "marked",
    "rules",
    "micro-batches",
    "packing",
    "each",
    "one",
    "kv",
    "proof",
]

#: Most layers named one by one.
NAMED_LAYERS = 3
#: Feasibility checks a bisection over bytes takes at most.
BISECTION = 60


@dataclass(frozen=True, slots=True)
class Shortage:
    """One reason why nothing fits, or one change that would help.

    kind
        ``workspace``, ``layer``, ``total``: less memory than needed. ``devices``, ``routes``, ``marked``,
        ``micro-batches``: a rule without which a plan fits; ``rules``: several of them together. ``packing``: enough
        in total, but not for whole layers. ``each``, ``one``: that many more bytes on every device, or on `device`
        alone, make it fit. ``kv``: that many KV tokens (a micro-batch) fit. ``proof``: nothing could be computed.
    amount
        Bytes, devices or tokens, exact; None where there is none.
    device, layer
        Which one, by number.
    sentence
        For a person, amounts rounded up.
    """

    kind: Kind
    sentence: str
    amount: float | None = None
    device: int | None = None
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class LargestFit:
    """What would fit where the problem does not; None where nothing does, or where it could not be decided.

    tokens_per_micro_batch
        Most KV tokens of a micro-batch (batch × context), everything else (the workspace too) unchanged.
    share
        Its part of the tokens asked for.
    micro_batches
        Most micro-batches with all their tokens.
    weights_short_bytes
        Where not even the weights fit: bytes missing in total (0.0 when only their packing fails), else None.
    """

    tokens_per_micro_batch: int | None
    share: float | None
    micro_batches: int | None
    weights_short_bytes: float | None


def explain_infeasible(problem: DensePlacement) -> tuple[str, ...]:
    """Return sentences that say why no plan exists and what would help; empty when a plan fits."""
    return tuple(shortage.sentence for shortage in shortages(problem))


def shortages(problem: DensePlacement) -> tuple[Shortage, ...]:
    """Return the reasons, then the changes that would help, each exact; nothing when a plan fits.

    Two devices of 14 bytes for three layers of 10: 2 bytes are missing in total, and 6 on each device for two layers.
    Where the states are too many to decide (`packing`), the caller must know that the problem is infeasible.
    """
    packing = Packing(problem)
    if packing.fits():
        return ()
    if problem.micro_batches == "stages":
        single = with_micro_batches(problem, 1)
        fewest = Packing(single).fewest_devices()
        if fewest:
            return (_micro_batches(fewest), *_remedies(problem, packing))
        limit = _too_few(problem) if fewest is None else None
        if limit is not None:
            return (*(_memory(single) or [limit]), *_remedies(problem, packing))
        return (*_reasons(single), *_remedies(problem, packing))
    return (*_reasons(problem), *_remedies(problem, packing))


def _reasons(problem: DensePlacement) -> list[Shortage]:
    """Find why nothing fits, M a number: the plainest reason that explains it."""
    limit = _device_limit(problem)
    return [limit] if limit is not None else _memory(problem) or _rules(problem)


def bytes_up(amount: float) -> str:
    """Return a size rounded up to one decimal, so that the printed amount is enough.

    >>> bytes_up(1.21 * 2**30), bytes_up(1000), bytes_up(1025)
    ('1.3 GiB', '1000 B', '1.1 KiB')
    """
    for unit, suffix in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if amount >= unit:
            return f"{math.ceil(amount / unit * 10.0 - 1e-9) / 10.0:.1f} {suffix}"
    return f"{math.ceil(amount)} B"


# ------------------------------------------------------------------------------------------------- memory


def _room(problem: DensePlacement) -> FloatArray:
    return problem.available_bytes - problem.fixed_bytes


def _memory(problem: DensePlacement) -> list[Shortage]:
    """Find what is short whatever the order and the cuts: workspace, single layers, the total."""
    workspace = _workspace(problem)
    if workspace is not None:
        return [workspace]
    found = _layers(problem)
    total = _total(problem)
    return found if total is None else [*found, total]


def _workspace(problem: DensePlacement) -> Shortage | None:
    largest = int(np.argmax(problem.available_bytes))
    short = problem.fixed_bytes - float(problem.available_bytes[largest])
    if short < 0.0 or problem.fixed_bytes == 0.0:
        return None
    has = bytes_up(float(problem.available_bytes[largest]))
    sentence = (
        f"the workspace alone ({bytes_up(problem.fixed_bytes)} on every device) leaves no room: the largest device, "
        f"{problem.device_names[largest]}, has {has}"
    )
    return Shortage("workspace", sentence, short, device=largest)


def _layers(problem: DensePlacement) -> list[Shortage]:
    """Find the layers that fit no device, largest first."""
    needs = layer_bytes(problem)
    if problem.num_layers == 1:
        needs = needs - problem.single_stage_saving_bytes
    room = _room(problem)
    best = int(np.argmax(room))
    slack = float(problem.available_bytes[best]) * 1e-12
    large = [layer for layer in np.argsort(-needs, kind="stable").tolist() if needs[layer] > room[best] + slack]
    found = []
    for layer in large[:NAMED_LAYERS]:
        more = (
            f" (and {len(large) - NAMED_LAYERS} more layers)" if len(large) > NAMED_LAYERS and layer == large[0] else ""
        )
        short = float(needs[layer] - room[best])
        sentence = (
            f"layer {layer} ({problem.layer_names[layer]}, {bytes_up(float(needs[layer]))}) fits no device{more}; the "
            f"most room is {bytes_up(float(room[best]))} on {problem.device_names[best]}, {bytes_up(short)} short"
        )
        found.append(Shortage("layer", sentence, short, device=best, layer=layer))
    return found


def _total(problem: DensePlacement) -> Shortage | None:
    """Find what is missing in total, on as many of the largest devices as may be used."""
    need = float(layer_bytes(problem).sum())
    room = np.sort(np.maximum(_room(problem), 0.0))[::-1]
    allowed = most_devices(problem)
    together = need - float(room[:allowed].sum())
    alone = need - problem.single_stage_saving_bytes - float(room[0])
    if min(together, alone) <= 1e-12 * float(problem.available_bytes.sum()):
        return None
    weights = float(problem.memory_bytes.sum())
    kv = f" and KV {bytes_up(need - weights)}" if need > weights else ""
    after = " after the workspace" if problem.fixed_bytes > 0.0 else ""
    if alone < together:
        sentence = (
            f"{bytes_up(alone)} short on the largest device: the layers need "
            f"{bytes_up(need - problem.single_stage_saving_bytes)} on one (weights tied, {bytes_up(need)} on several), "
            f"its room is {bytes_up(float(room[0]))}{after}; several devices together are {bytes_up(together)} short"
        )
        return Shortage("total", sentence, alone)
    where = f"all {allowed} devices together" if allowed > 1 else "one device"
    if allowed < problem.num_devices:
        where = f"the {allowed} largest devices together" if allowed > 1 else "the largest device"
    sentence = (
        f"{bytes_up(together)} short in total: the layers need {bytes_up(need)} (weights {bytes_up(weights)}{kv}), "
        f"the room of {where} is {bytes_up(float(room[:allowed].sum()))}{after}"
    )
    return Shortage("total", sentence, together)


# -------------------------------------------------------------------------------- rules that stand in the way


def _rules(problem: DensePlacement) -> list[Shortage]:
    """Find the rules without which a plan fits; the total is enough, so if none: the loss of packing."""
    found = [reason for rule in (_too_few, _routes, _marked) if (reason := rule(problem)) is not None]
    if found:
        return found
    if Packing(without(problem, limit=True, marks=True, routes=True)).fits():
        rules = [
            *(["the device limit"] if problem.max_devices is not None else []),
            *(["missing routes"] if not all(part.complete for part in Packing(problem).components) else []),
            *(["the layers every stage must hold one of"] if problem.must_hold is not None else []),
        ]
        named = f"{', '.join(rules[:-1])} and {rules[-1]}" if len(rules) > 1 else "the rules"
        sentence = f"a plan would fit without {named}, but dropping one of these alone is not enough"
        return [Shortage("rules", sentence)]
    allowed = most_devices(problem)
    room = np.sort(np.maximum(_room(problem), 0.0))[::-1]
    spare = float(room[:allowed].sum() - layer_bytes(problem).sum())
    where = "all devices" if allowed == problem.num_devices else f"the {allowed} largest devices, the most a plan uses"
    total = f"the total would do ({bytes_up(max(spare, 0.0))} to spare on {where})"
    fits = Packing(problem).fits()
    if fits is None and _never_filled(without(problem, limit=True, marks=True, routes=True)):
        sentence = f"{total}, but no order of the devices, each filled as far as it goes, holds all layers"
        return [Shortage("packing", sentence, spare)]
    if fits is None:
        sizes = len(np.unique(problem.available_bytes))
        sentence = (
            f"{total}, so whole layers, routes or the rules stand in the way; which of them is not proven: "
            f"{problem.num_devices} devices of {sizes} sizes have too many combinations"
        )
        return [Shortage("proof", sentence)]
    sentence = f"{total}, but no cut into contiguous whole layers fits the devices"
    return [Shortage("packing", sentence, spare)]


def _never_filled(problem: DensePlacement) -> bool:
    """Whether filling devices in every order, similar ones taken as the largest of them, proves that nothing fits."""
    from gpuplan.solvers.limits import Budget, Limits
    from gpuplan.solvers.placement.core import Query, make_core, single_stage, without_costs
    from gpuplan.solvers.placement.tables import class_tables
    from gpuplan.solvers.placement.unlike.fill import QUICK, fill

    micro_batches = problem.micro_batches if isinstance(problem.micro_batches, int) else 1
    try:
        tables = class_tables(problem)
    except UnsupportedError:
        return False
    query = Query(time_weight=0.0, any_plan=True)
    if single_stage(tables, query, micro_batches) is not None:
        return False
    core = without_costs(make_core(tables, query, micro_batches))
    return core.max_stages < 2 or fill(core, Budget(Limits(None)), QUICK).impossible


def _device_limit(problem: DensePlacement) -> Shortage | None:
    if problem.max_devices is None:
        return None
    fewest = Packing(without(problem, limit=True)).fewest_devices()
    if not fewest:
        return None
    sentence = f"the model needs {fewest} devices at least, and the device limit is {problem.max_devices}"
    return Shortage("devices", sentence, float(fewest))


def _too_few(problem: DensePlacement) -> Shortage | None:
    """Find that the device limit stands in the way where the fewest devices are not known."""
    if problem.max_devices is None or not Packing(without(problem, limit=True)).fits():
        return None
    sentence = f"the device limit of {problem.max_devices} stands in the way: on more devices the model fits"
    return Shortage("devices", sentence, float(problem.max_devices + 1))


def _routes(problem: DensePlacement) -> Shortage | None:
    if not Packing(without(problem, routes=True)).fits():
        return None
    parts = Packing(problem).components
    if len(parts) == 1:
        return Shortage(
            "routes", "the model would fit, but no order of the devices that fit it has a route for every hop"
        )
    need = float(layer_bytes(problem).sum())
    room = np.maximum(_room(problem), 0.0)
    best = max(parts, key=lambda part: float(room[list(part.devices)].sum()))
    most = float(room[list(best.devices)].sum())
    names = ", ".join(problem.device_names[d] for d in best.devices[:4]) + (", …" if len(best.devices) > 4 else "")
    lack = f"{bytes_up(need - most)} short" if need > most else "enough in total, but not for whole layers"
    sentence = (
        f"the devices fall into {len(parts)} groups without a route between them, and no group holds the model: "
        f"the roomiest ({names}) has {bytes_up(most)} of the {bytes_up(need)} needed, {lack}"
    )
    return Shortage("routes", sentence, max(need - most, 0.0))


def _marked(problem: DensePlacement) -> Shortage | None:
    if problem.must_hold is None or not Packing(without(problem, marks=True)).fits():
        return None
    count = int(problem.must_hold.sum())
    sentence = (
        f"every stage must hold one of {count} layers (the runtime's rule), and no plan that fits does; without the "
        "rule one would"
    )
    return Shortage("marked", sentence, float(count))


def _micro_batches(fewest: int) -> Shortage:
    sentence = (
        f"as many micro-batches as stages hold too much KV for any number of stages; 1 micro-batch would fit, on "
        f"{fewest} device{'s' if fewest > 1 else ''}"
    )
    return Shortage("micro-batches", sentence, 1.0)


# -------------------------------------------------------------------------------------------- what would help


def _remedies(problem: DensePlacement, packing: Packing) -> list[Shortage]:
    """Find how much more memory, or how much less KV, would do."""
    found = []
    if packing.cheap(BISECTION):
        each = more_on_each(problem, packing)
        if each is not None:
            names = f"each of the {problem.num_devices} devices" if problem.num_devices > 1 else problem.device_names[0]
            found.append(Shortage("each", f"it fits with {bytes_up(each)} more on {names}", float(each)))
        one = more_on_one(problem, packing) if packing.cheap(BISECTION * len(packing.unlike_devices())) else None
        if one is not None and problem.num_devices > 1:
            name = problem.device_names[one[0]]
            sentence = f"or with {bytes_up(one[1])} more on {name} alone"
            found.append(Shortage("one", sentence, float(one[1]), device=one[0]))
    largest = largest_fit(problem, packing)
    if largest.tokens_per_micro_batch is not None:
        asked = f"{problem.tokens_per_micro_batch:,.0f}"
        per = " in each micro-batch" if problem.micro_batches != 1 else ""
        sentence = f"the KV of {largest.tokens_per_micro_batch:,} tokens{per} would fit where {asked} are asked for"
        found.append(Shortage("kv", sentence, float(largest.tokens_per_micro_batch)))
    return found


def more_on_each(problem: DensePlacement, packing: Packing | None = None) -> int | None:
    """Return the least whole number of bytes that, added to every device, makes a plan fit; None when none does."""
    check = packing or Packing(problem)
    return _least(lambda more: check.fits(problem.available_bytes + more), _enough(problem))


def more_on_one(problem: DensePlacement, packing: Packing | None = None) -> tuple[int, int] | None:
    """Return (device, bytes): the least whole number of bytes on a single device that makes a plan fit."""
    check = packing or Packing(problem)
    best: tuple[int, int] | None = None
    for device in check.unlike_devices():
        unit = np.zeros(problem.num_devices)
        unit[device] = 1.0
        most = _enough(problem) if best is None else best[1] - 1
        least = _least(lambda more, unit=unit: check.fits(problem.available_bytes + more * unit), most)  # type: ignore[misc]
        if least is not None:
            best = (device, least)
    return best


def _enough(problem: DensePlacement) -> int:
    """Return bytes that let a single device hold everything, whatever it has."""
    numbers = with_micro_batches(problem, 1)
    need = problem.fixed_bytes + float(layer_bytes(numbers).sum())
    return math.ceil(max(0.0, need - float(problem.available_bytes.min()))) + 1


def _least(fits: Callable[[int], bool | None], most: int) -> int | None:
    """Return the least number in 0..most that fits (monotone), None when `most` does not or it is not decided."""
    if most < 0 or not fits(most):
        return None
    low, high = -1, most  # low does not fit, high does
    while high - low > 1:
        middle = (low + high) // 2
        verdict = fits(middle)
        if verdict is None:
            return None
        low, high = (low, middle) if verdict else (middle, high)
    return high


def largest_fit(problem: DensePlacement, packing: Packing | None = None) -> LargestFit:
    """Return how many KV tokens, or micro-batches, would fit.

    Monotone bisection over whole tokens with the exact check. The workspace stays as it is in the problem; a smaller
    batch would shrink it, too, so the figures are on the safe side.
    """
    base = packing or Packing(problem)

    def fits(**changes: float) -> bool | None:
        return Packing(dataclasses.replace(problem, **changes), base).fits()  # type: ignore[arg-type]

    weights_fit = fits(tokens_per_micro_batch=0.0)
    if weights_fit is None:
        return LargestFit(None, None, None, None)
    if not weights_fit:
        short = _total(with_micro_batches(dataclasses.replace(problem, tokens_per_micro_batch=0.0), 1))
        return LargestFit(None, None, None, 0.0 if short is None or short.amount is None else short.amount)
    asked = math.floor(problem.tokens_per_micro_batch)
    if asked == 0 or not problem.kv_bytes_per_token.any():
        return LargestFit(None, None, None, None)
    fewer = _least(lambda less: fits(tokens_per_micro_batch=float(asked - less)), asked)
    tokens = None if fewer is None else asked - fewer
    share = None if tokens is None else tokens / problem.tokens_per_micro_batch
    number = problem.micro_batches
    if number == "stages":
        return LargestFit(tokens, share, None, None)
    dropped = _least(lambda less: fits(micro_batches=number - less), number - 1)
    return LargestFit(tokens, share, None if dropped is None else number - dropped, None)
