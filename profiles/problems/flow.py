"""Flow placement as plain numbers: which layers each node of a heterogeneous cluster holds, to pass most tokens.

Layer ranges of nodes may overlap, so several nodes replicate a layer and a node may enter a token's way anywhere in
its range. The throughput of a placement is a maximum flow from source to sink (Helix, ASPLOS 2025, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class FlowProblem:
    """Nodes, their kinds and their links.

    Parameters
    ----------
    num_layers
        L; every token passes layers 0 to L−1 in order.
    kind_names
        One name a kind, shape (K,).
    throughput_tokens_per_s
        One array a kind: entry k−1 is T(k), the tokens/s a node passes that holds k layers.
        Its length is the most layers the node can hold.
    node_names
        Distinct, shape (n,).
    node_kinds
        Index of each node's kind, shape (n,).
    link_tokens_per_s
        Capacity of the link from row to column, tokens/s, shape (n, n); 0 where there is no link.
    source_tokens_per_s, sink_tokens_per_s
        Capacity of the links source → node and node → sink, tokens/s, shape (n,); 0 where there is none.
    max_hops
        Most links between nodes that a token may cross, or None. A runtime sends tokens down any chain of links with
        flow, so no such chain may be longer; links from the source and to the sink do not count.
    """

    num_layers: int
    kind_names: tuple[str, ...]
    throughput_tokens_per_s: tuple[FloatArray, ...]
    node_names: tuple[str, ...]
    node_kinds: IntArray
    link_tokens_per_s: FloatArray
    source_tokens_per_s: FloatArray
    sink_tokens_per_s: FloatArray
    max_hops: int | None = None
    name: str = ""

    @property
    def num_nodes(self) -> int:
        """Number of nodes n."""
        return len(self.node_names)

    @property
    def num_kinds(self) -> int:
        """Number of kinds K."""
        return len(self.kind_names)

    @property
    def most_layers(self) -> IntArray:
        """Most layers a node of each kind can hold, at most L, shape (K,)."""
        lengths = [min(len(row), self.num_layers) for row in self.throughput_tokens_per_s]
        return np.array(lengths, dtype=np.int64)

    def throughput_table(self) -> FloatArray:
        """Return T by kind and number of layers, tokens/s, shape (K, longest+1); 0 where there is none."""
        most = self.most_layers
        table = np.zeros((self.num_kinds, int(most.max(initial=0)) + 1))
        for kind, row in enumerate(self.throughput_tokens_per_s):
            table[kind, 1 : most[kind] + 1] = row[: most[kind]]
        return table
