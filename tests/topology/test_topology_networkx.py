"""The graph as NetworkX sees it."""

from __future__ import annotations

import networkx as nx

from gpuplan.topology import load_topology


def test_graph_carries_components_and_links() -> None:
    """DGX-1: eight devices; the widest path between GPU 0 and GPU 1 is their own NVLink pair of 2 × 25 GB/s."""
    topology = load_topology("dgx-1-v100")
    graph = topology.to_networkx()
    devices = [name for name, data in graph.nodes(data=True) if data["role"] == "device"]
    assert devices == [device.name for device in topology.devices]
    assert graph.number_of_edges() == len({frozenset((link.a, link.b)) for link in topology.links})
    assert nx.is_connected(graph)
    assert graph.edges["host0/gpu0", "host0/gpu1"]["bandwidth_bytes_per_s"] in (25e9, 50e9)
