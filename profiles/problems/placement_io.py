"""Reads and writes `gpuplan/placement-problem/1`.

Fallbacks, decided once here:

* Every key of ``cycle`` that is absent takes latency's numbers.
* There is a return hop when ``return_hop`` is true, or when it is left out and a ``return`` (of the problem or of its
  cycle) is given. ``return_hop: false`` written out means none: a ``return`` beside it is read, checked and unused.
* The latency's return hop uses ``return``; without one, the hop tables with the last layer's boundary bytes.
* The cycle's return hop uses ``cycle.return``, else ``return``, else (``return_hop: true``) the cycle's own hop tables
  with the cycle's last boundary bytes.
* A pair without a route is null in either table; it is kept as latency inf and 0 seconds per byte, so that
  ``latency + bytes·s_per_byte`` is inf for every number of bytes. A diagonal is never read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from gpuplan.errors import InputError, UnsupportedError
from gpuplan.profiles.problems.documents import read_document
from gpuplan.profiles.problems.fields import Fields, FloatArray
from gpuplan.profiles.problems.hop_units import by_unit
from gpuplan.profiles.problems.hops import check_entries
from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Objective, ObjectiveName, Timing, hop_table
from gpuplan.profiles.records import show

SCHEMA = "gpuplan/placement-problem/1"

_KEYS = (
    "schema", "name", "comment", "devices", "layers", "tokens_per_micro_batch", "micro_batches", "fixed_bytes",
    "single_stage_saving_bytes", "compute_s", "hop_latency_s", "hop_s_per_byte", "return_hop", "cycle", "return",
    "objective", "max_devices", "front",
)  # fmt: skip
_DEVICE_KEYS = ("name", "available_bytes", "price_per_hour")
_LAYER_KEYS = ("name", "memory_bytes", "boundary_bytes", "kv_bytes_per_token")
_CYCLE_KEYS = ("compute_s", "hop_latency_s", "hop_s_per_byte", "boundary_bytes", "return")
_RETURN_KEYS = ("latency_s", "s_per_byte", "bytes")


def load_problem(path: str | Path) -> DensePlacement:
    """Read a placement-problem file (JSON or YAML).

    Raises
    ------
    InputError
        The file cannot be used; the message names the file and the JSON path.
    """
    return placement_from_dict(read_document(path), source=str(path))


def placement_from_dict(document: Any, source: str | None = None) -> DensePlacement:
    """Return the problem a `gpuplan/placement-problem/1` document holds.

    Raises
    ------
    InputError
        With the JSON path of the first defect found.
    """
    check_schema(document, SCHEMA, source)
    root = Fields(document, source=source, keys=_KEYS)
    devices = root.records("devices", _DEVICE_KEYS, least=1)
    layers = root.records("layers", _LAYER_KEYS, least=1)
    for rows, columns, what in ((len(devices), len(devices), "hops"), (len(devices), len(layers), "layer times")):
        check_entries(rows * columns, f"the {what} of {len(devices):,} devices")
    names = tuple(device.text("name") for device in devices)
    _check_distinct(devices, names)
    objective = _objective(root)
    latency, cycle = by_unit(*_timings(root, layers, len(devices)))
    root.text("comment", "", empty=True)
    return DensePlacement(
        name=root.text("name", "", empty=True),
        device_names=names,
        layer_names=tuple(layer.text("name") for layer in layers),
        available_bytes=np.array([device.number("available_bytes", positive=True) for device in devices]),
        price_per_hour=_prices(devices, objective),
        memory_bytes=np.array([layer.number("memory_bytes") for layer in layers]),
        kv_bytes_per_token=np.array([layer.number("kv_bytes_per_token", 0.0) for layer in layers]),
        latency=latency,
        cycle=cycle,
        tokens_per_micro_batch=root.number("tokens_per_micro_batch", 0.0),
        micro_batches=_micro_batches(root),
        fixed_bytes=root.number("fixed_bytes", 0.0),
        single_stage_saving_bytes=root.number("single_stage_saving_bytes", 0.0),
        objective=objective,
        max_devices=None if root.value.get("max_devices") is None else root.whole("max_devices", minimum=1),
        front=root.boolean("front", False),
    )


def check_schema(document: Any, expected: str, source: str | None) -> None:
    """Refuse a document that is no object or does not say `expected` under ``schema``."""
    if not isinstance(document, Mapping):
        raise InputError(f"expected an object with schema {expected!r}, got {show(document)}", source=source, place="$")
    schema = document.get("schema")
    if schema == expected:
        return
    if "schema" not in document:
        message = f"expected the schema {expected!r}, but the key is missing"
    elif isinstance(schema, str) and schema.rpartition("/")[0] == expected.rpartition("/")[0]:
        message = f"expected version {expected!r}, got {show(schema)}, which this gpuplan does not know"
    else:
        message = f"expected the schema {expected!r}, got {show(schema)}"
    raise InputError(message, source=source, place="$.schema")


def _check_distinct(devices: list[Fields], names: tuple[str, ...]) -> None:
    first: dict[str, int] = {}
    for i, name in enumerate(names):
        if name in first:
            devices[i].fail(
                f"expected distinct device names, got {name!r} again (first at $.devices[{first[name]}])", "name"
            )
        first[name] = i


def _objective(root: Fields) -> Objective:
    # A front asks for every objective at once, so it alone may leave this out.
    if "objective" not in root and root.value.get("front") is True:
        return Objective()
    raw = root.record("objective", ("name", "latency_weight", "devices_weight"))
    name = raw.choice("name", get_args(ObjectiveName))
    if name != "balanced":
        for key in ("latency_weight", "devices_weight"):
            if key in raw:
                raw.fail(f"expected weights with the objective balanced only, got one with {name}; remove it", key)
        return Objective(name)  # type: ignore[arg-type]
    weights = raw.number("latency_weight", 10.0), raw.number("devices_weight", 1.0)
    if weights == (0.0, 0.0):
        raw.fail("expected at least one weight above 0, got two zeros", "latency_weight")
    return Objective("balanced", *weights)


def _prices(devices: list[Fields], objective: Objective) -> FloatArray:
    prices = np.full(len(devices), np.nan)
    for i, device in enumerate(devices):
        if device.value.get("price_per_hour") is not None:
            prices[i] = device.number("price_per_hour")
        elif objective.name == "cost":
            device.fail(
                "expected a price for the objective cost, got none; price every device or ask for another objective",
                "price_per_hour",
            )
    return prices


def _micro_batches(root: Fields) -> int | Literal["stages"]:
    if "micro_batches" not in root:
        return 1
    value = root.value["micro_batches"]
    if value == "stages":
        return "stages"
    if isinstance(value, str):
        root.fail(f'expected a whole number of at least 1 or "stages", got {show(value)}', "micro_batches")
    return root.whole("micro_batches", minimum=1)


def _timings(root: Fields, layers: list[Fields], num_devices: int) -> tuple[Timing, Timing]:
    shape = num_devices, len(layers)
    compute = root.matrix("compute_s", *shape, ("device", "layer"))
    boundary = np.array([layer.number("boundary_bytes") for layer in layers])
    hop = _hops(root, "hop_latency_s", "hop_s_per_byte", num_devices)
    own = _own_return(root, num_devices)
    cycle = root.record("cycle", _CYCLE_KEYS) if "cycle" in root else None
    cycle_own = _own_return(cycle, num_devices) if cycle is not None else None
    asked = root.boolean("return_hop", False)
    if "return_hop" in root and not asked:
        own = cycle_own = None
    latency = Timing(compute, hop, boundary, *_return(own, asked, hop, boundary))
    if cycle is None:
        return latency, latency
    cycle_hop = _cycle_hops(cycle, hop, num_devices)
    cycle_compute = cycle.matrix("compute_s", *shape, ("device", "layer")) if "compute_s" in cycle else compute
    cycle_boundary = cycle.vector("boundary_bytes", len(layers), "layer") if "boundary_bytes" in cycle else boundary
    returns = _return(cycle_own or own, asked, cycle_hop, cycle_boundary)
    return latency, Timing(cycle_compute, cycle_hop, cycle_boundary, *returns)


def _return(
    own: tuple[HopTable, float] | None, asked: bool, hop: HopTable, boundary: FloatArray
) -> tuple[HopTable | None, float]:
    if own is not None:
        return own
    return (hop, float(boundary[-1])) if asked else (None, 0.0)


def _own_return(fields: Fields, num_devices: int) -> tuple[HopTable, float] | None:
    if "return" not in fields:
        return None
    raw = fields.record("return", _RETURN_KEYS)
    return _hops(raw, "latency_s", "s_per_byte", num_devices), raw.number("bytes")


def _cycle_hops(cycle: Fields, hop: HopTable, num_devices: int) -> HopTable:
    latency = cycle.hop_matrix("hop_latency_s", num_devices) if "hop_latency_s" in cycle else hop.latency_s
    per_byte = cycle.hop_matrix("hop_s_per_byte", num_devices) if "hop_s_per_byte" in cycle else hop.s_per_byte
    if latency is hop.latency_s and per_byte is hop.s_per_byte:
        return hop
    return hop_table(latency, per_byte)


def _hops(fields: Fields, latency_key: str, per_byte_key: str, num_devices: int) -> HopTable:
    return hop_table(fields.hop_matrix(latency_key, num_devices), fields.hop_matrix(per_byte_key, num_devices))


def placement_to_dict(problem: DensePlacement) -> dict[str, Any]:
    """Return the `gpuplan/placement-problem/1` document of a problem; `placement_from_dict` takes it back.

    Raises
    ------
    UnsupportedError
        The problem has a constraint that the file format cannot say (`must_hold`).
    """
    if problem.must_hold is not None:
        raise UnsupportedError(
            "a placement-problem file cannot say which layers every stage must hold; leave the runtime out"
        )
    latency, cycle = problem.latency, problem.cycle
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "devices": _devices(problem),
        "layers": _layers(problem),
        "tokens_per_micro_batch": problem.tokens_per_micro_batch,
        "micro_batches": problem.micro_batches,
        "fixed_bytes": problem.fixed_bytes,
        "single_stage_saving_bytes": problem.single_stage_saving_bytes,
        "compute_s": latency.compute_s.tolist(),
        "hop_latency_s": _nulls(latency.hop.latency_s),
        "hop_s_per_byte": _nulls(latency.hop.s_per_byte, latency.hop.latency_s),
        "objective": _objective_dict(problem.objective),
        "max_devices": problem.max_devices,
        "front": problem.front,
    }
    if problem.name:
        document["name"] = problem.name
    if latency.return_hop is not None:
        document |= {"return_hop": True, "return": _return_dict(latency)}
    if cycle is not latency:
        document["cycle"] = _cycle_dict(latency, cycle)
    return document


def _devices(problem: DensePlacement) -> list[dict[str, Any]]:
    rows = zip(problem.device_names, problem.available_bytes.tolist(), problem.price_per_hour.tolist(), strict=True)
    return [
        {"name": name, "available_bytes": available, "price_per_hour": None if price != price else price}
        for name, available, price in rows
    ]


def _layers(problem: DensePlacement) -> list[dict[str, Any]]:
    columns = (problem.memory_bytes, problem.latency.boundary_bytes, problem.kv_bytes_per_token)
    rows = zip(problem.layer_names, *(column.tolist() for column in columns), strict=True)
    return [dict(zip(_LAYER_KEYS, row, strict=True)) for row in rows]


def _cycle_dict(latency: Timing, cycle: Timing) -> dict[str, Any]:
    document = {
        "compute_s": cycle.compute_s.tolist(),
        "hop_latency_s": _nulls(cycle.hop.latency_s),
        "hop_s_per_byte": _nulls(cycle.hop.s_per_byte, cycle.hop.latency_s),
        "boundary_bytes": cycle.boundary_bytes.tolist(),
    }
    if cycle.return_hop is not None:
        document["return"] = _return_dict(cycle)
    elif latency.return_hop is not None:
        raise UnsupportedError(
            "a placement-problem file cannot say that the latency has a return hop and the cycle has none"
        )
    return document


def _return_dict(timing: Timing) -> dict[str, Any]:
    assert timing.return_hop is not None
    table = timing.return_hop
    return {
        "latency_s": _nulls(table.latency_s),
        "s_per_byte": _nulls(table.s_per_byte, table.latency_s),
        "bytes": timing.return_bytes,
    }


def _nulls(table: FloatArray, routes: FloatArray | None = None) -> list[list[float | None]]:
    """Return the rows of a hop table, null where there is no route, 0 on the diagonal."""
    closed = ~np.isfinite(table) if routes is None else ~(np.isfinite(table) & np.isfinite(routes))
    rows = np.where(closed, None, table.astype(object))  # type: ignore[call-overload]
    np.fill_diagonal(rows, 0.0)
    result: list[list[float | None]] = rows.tolist()
    return result


def _objective_dict(objective: Objective) -> dict[str, Any]:
    if objective.name != "balanced":
        return {"name": objective.name}
    return {
        "name": "balanced",
        "latency_weight": objective.latency_weight,
        "devices_weight": objective.devices_weight,
    }
