"""``gpuplan list``: what ships, and what is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from gpuplan.cli.errors import ExitCode
from gpuplan.cli.options import catalog_option, format_option
from gpuplan.cli.output import Output

if TYPE_CHECKING:
    from rich.table import Table

Rows = list[dict[str, Any]]


@click.command("list")
@click.argument("what", type=click.Choice(["gpus", "models", "clusters", "solvers", "runtimes"]))
@catalog_option
@format_option
def list_command(what: str, catalog: str | None, form: str) -> int:
    """List the gpus, models, clusters, solvers or runtimes that gpuplan knows."""
    output = Output(data=form == "json")
    rows = _SUBJECTS[what](catalog)
    if output.data:
        output.document({what: rows})
    else:
        output.show(_table(what, rows))
    return ExitCode.DONE


def _gpus(catalog: str | None) -> Rows:
    from gpuplan.topology import list_kinds

    return [
        {
            "name": kind.name,
            "memory_bytes": kind.memory_bytes,
            "memory_bandwidth_bytes_per_s": kind.memory_bandwidth_bytes_per_s,
            "flops_per_s": dict(kind.flops_per_s),
            "power_w": kind.power_w,
            "price_per_hour": kind.price_per_hour,
        }
        for kind in list_kinds(catalog=catalog)
    ]


def _models(catalog: str | None) -> Rows:
    from gpuplan.profiles import list_models, load_model

    models = [(name, load_model(name, catalog=catalog)) for name in list_models(catalog=catalog)]
    return [
        {
            "name": name,
            "parameters": model.parameters,
            "num_layers": model.num_layers,
            "weight_bytes": model.weight_bytes,
            "kv_bytes_per_token": model.kv_bytes_per_token,
            "dtype": model.dtype,
        }
        for name, model in models
    ]


def _clusters(catalog: str | None) -> Rows:
    from gpuplan.topology import list_clusters, load_topology

    clusters = [(name, load_topology(name, catalog=catalog)) for name in list_clusters(catalog=catalog)]
    return [
        {
            "name": name,
            "hosts": len(cluster.hosts),
            "devices": cluster.num_devices,
            "kinds": list(dict.fromkeys(device.kind.name for device in cluster.devices)),
        }
        for name, cluster in clusters
    ]


def _solvers(catalog: str | None) -> Rows:
    from gpuplan.solvers.batching.registry import ENTRIES
    from gpuplan.solvers.flow.registry import list_flow_solvers
    from gpuplan.solvers.registry import list_solvers

    placement = [_solver(entry, "placement", list(entry.objectives)) for entry in list_solvers()]
    flow = [_solver(entry, "flow", ["flow"]) for entry in list_flow_solvers()]
    return placement + flow + [_solver(entry, "batching", ["batching"]) for entry in ENTRIES]


def _solver(entry: Any, problem: str, objectives: list[str]) -> dict[str, Any]:
    return {
        "name": entry.name,
        "problem": problem,
        "kind": entry.kind,
        "installed": entry.available(),
        "objectives": objectives,
        "about": entry.doc,
    }


def _runtimes(catalog: str | None) -> Rows:
    from gpuplan.plans import list_runtimes

    return [{"name": runtime.name, "about": runtime.summary} for runtime in list_runtimes()]


_SUBJECTS: dict[str, Callable[[str | None], Rows]] = {
    "gpus": _gpus,
    "models": _models,
    "clusters": _clusters,
    "solvers": _solvers,
    "runtimes": _runtimes,
}


def _table(what: str, rows: Rows) -> Table:
    from gpuplan.cli.style import plain_table

    columns = _COLUMNS[what]
    table = plain_table(*columns, right=tuple(name for name, (numeric, _) in columns.items() if numeric))
    for row in rows:
        table.add_row(*(write(row) for _, write in columns.values()))
    return table


def _size(key: str) -> Callable[[dict[str, Any]], str]:
    from gpuplan.units import format_bytes

    return lambda row: format_bytes(row[key])


def _peak(row: dict[str, Any]) -> str:
    peaks = row["flops_per_s"]
    name = next((dtype for dtype in ("bf16", "fp16", "fp32") if dtype in peaks), None)
    return "" if name is None else f"{peaks[name] / 1e12:.0f} TFLOP/s {name}"


def _price(row: dict[str, Any]) -> str:
    return "" if row["price_per_hour"] is None else f"{row['price_per_hour']:.2f}"


#: Columns of each subject: heading → (is it a number, how a row is written).
_COLUMNS: dict[str, dict[str, tuple[bool, Callable[[dict[str, Any]], str]]]] = {
    "gpus": {
        "name": (False, lambda row: row["name"]),
        "memory": (True, _size("memory_bytes")),
        "bandwidth": (True, lambda row: f"{row['memory_bandwidth_bytes_per_s'] / 1e9:,.0f} GB/s"),
        "dense compute": (True, _peak),
        "power": (True, lambda row: f"{row['power_w']:.0f} W"),
        "price/h": (True, _price),
    },
    "models": {
        "name": (False, lambda row: row["name"]),
        "parameters": (True, lambda row: f"{row['parameters'] / 1e9:,.2f} B"),
        "layers": (True, lambda row: str(row["num_layers"])),
        "weights": (True, _size("weight_bytes")),
        "KV/token": (True, _size("kv_bytes_per_token")),
        "dtype": (False, lambda row: row["dtype"]),
    },
    "clusters": {
        "name": (False, lambda row: row["name"]),
        "hosts": (True, lambda row: str(row["hosts"])),
        "devices": (True, lambda row: str(row["devices"])),
        "kinds": (False, lambda row: ", ".join(row["kinds"])),
    },
    "solvers": {
        "name": (False, lambda row: row["name"]),
        "for": (False, lambda row: row["problem"]),
        "kind": (False, lambda row: row["kind"]),
        "here": (False, lambda row: "yes" if row["installed"] else "no"),
        "about": (False, lambda row: row["about"]),
    },
    "runtimes": {"name": (False, lambda row: row["name"]), "about": (False, lambda row: row["about"])},
}
