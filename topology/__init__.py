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
from gpuplan.topology.graph import Component, Device, DeviceKind, Link, Topology
from gpuplan.topology.loading import load_topology, topology_from_dict
from gpuplan.topology.replicate import replicate
from gpuplan.topology.routes import Route, Router, RouteTable, route, route_tables
from gpuplan.topology.serialize import topology_to_dict

__all__ = [
    "Catalog",
    "Component",
    "Device",
    "DeviceKind",
    "Link",
    "LinkKind",
    "Route",
    "RouteTable",
    "Router",
    "Topology",
    "device_kind",
    "list_clusters",
    "list_kinds",
    "list_link_kinds",
    "load_catalog",
    "load_topology",
    "replicate",
    "route",
    "route_tables",
    "topology_from_dict",
    "topology_to_dict",
]
