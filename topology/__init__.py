"""Hardware: devices, links, routes, islands and classes of exchangeable devices, and the readers that find them."""

from __future__ import annotations

from gpuplan.topology.catalog import (
    Catalog,
    LinkKind,
    device_kind,
    list_clusters,
    list_kinds,
    list_link_kinds,
    load_catalog,
)
from gpuplan.topology.compact import CompactTable
from gpuplan.topology.domains import failure_domains
from gpuplan.topology.drawing import draw
from gpuplan.topology.graph import Component, Device, DeviceKind, Link, Topology
from gpuplan.topology.islands import Island, islands
from gpuplan.topology.loading import load_topology, topology_from_dict
from gpuplan.topology.replicate import replicate
from gpuplan.topology.report import topology_report
from gpuplan.topology.routes import Route, Router, RouteTable, route, route_tables
from gpuplan.topology.serialize import topology_to_dict
from gpuplan.topology.symmetry import exchangeable_classes, exchangeable_hosts

__all__ = [
    "Catalog",
    "CompactTable",
    "Component",
    "Device",
    "DeviceKind",
    "Island",
    "Link",
    "LinkKind",
    "Route",
    "RouteTable",
    "Router",
    "Topology",
    "device_kind",
    "draw",
    "exchangeable_classes",
    "exchangeable_hosts",
    "failure_domains",
    "islands",
    "list_clusters",
    "list_kinds",
    "list_link_kinds",
    "load_catalog",
    "load_topology",
    "replicate",
    "route",
    "route_tables",
    "topology_from_dict",
    "topology_report",
    "topology_to_dict",
]
