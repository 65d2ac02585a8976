"""Load of shared links: what the hops of all replicas send over each direction of each link."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from gpuplan.plans.deployment import HopRoute, LinkLoad
from gpuplan.profiles.collectives import rank_pairs
from gpuplan.profiles.memory import TOKEN_BYTES
from gpuplan.solvers.deployment.fleet import Fleet
from gpuplan.solvers.deployment.replicas import Replica
from gpuplan.topology.routes import Route

#: One direction of a link.
Edge = tuple[str, str]
#: A link holds when it is overdrawn by no more than this, relatively.
SLACK = 1e-9


class Traffic:
    """Bytes that a replica sends over each link for one request served (for one token, where tokens are counted)."""

    def __init__(self, fleet: Fleet, *, tokens: bool) -> None:
        self.fleet, self.tokens = fleet, tokens
        self.bandwidth: dict[Edge, float] = {}

    def of(self, replica: Replica) -> dict[Edge, float]:
        """Return the bytes over each directed link for one request (one token) of `replica`.

        A request sends its prompt's activations once and a token's activations at each of o − 1 decode steps over
        every hop, and a sampled token over the return hop; a token sends its own activations alone.
        """
        loads: dict[Edge, float] = {}
        for _, way, sent in self._hops(replica):
            for edge, link in zip(_edges(way.components), way.links, strict=True):
                loads[edge] = loads.get(edge, 0.0) + sent
                self.bandwidth[edge] = link.bandwidth_bytes_per_s
        return loads

    def routes(self, replica: Replica) -> tuple[HopRoute, ...]:
        """Return the way of every message of `replica`, as its file lists them."""
        return tuple(HopRoute(stage, phase, way.components) for (stage, phase), way, _ in self._hops(replica))

    def _hops(self, replica: Replica) -> Iterator[tuple[tuple[int, str], Route, float]]:
        """Yield (stage, phase), route and bytes sent of every pair of ranks that talk."""
        fleet, batch = self.fleet, replica.rate.batch
        work, largest = fleet.problem.workload, float(fleet.boundary.max())
        steps = 1.0 if self.tokens else float(work.decode_steps)
        for k, (here, there) in enumerate(itertools.pairwise(replica.groups)):
            own = float(fleet.boundary[replica.cuts[k + 1] - 1])
            for i, j in rank_pairs(len(here), len(there)):
                if not self.tokens:
                    size = batch * work.prompt_tokens * largest
                    yield (k, "prefill"), fleet.ways.route(size, here[i], there[j]), own * work.prompt_tokens
                yield (k, "decode"), fleet.ways.route(batch * largest, here[i], there[j]), own * steps
        last = len(replica.groups) - 1
        if last > 0 and fleet.problem.return_hop:
            back = float(TOKEN_BYTES)
            for i, j in rank_pairs(len(replica.groups[last]), len(replica.groups[0])):
                way = fleet.ways.route(back * batch, replica.groups[last][i], replica.groups[0][j])
                yield (last, "return"), way, back * steps


def link_loads(traffic: Traffic, replicas: Sequence[Replica], rates: Sequence[float]) -> tuple[LinkLoad, ...]:
    """Return the load of every link in use when the replicas serve `rates`, by name."""
    totals: dict[Edge, float] = {}
    for replica, rate in zip(replicas, rates, strict=True):
        for edge, sent in traffic.of(replica).items():
            totals[edge] = totals.get(edge, 0.0) + rate * sent
    return tuple(
        LinkLoad(a, b, load, traffic.bandwidth[a, b], load / traffic.bandwidth[a, b])
        for (a, b), load in sorted(totals.items())
    )


def overloaded(traffic: Traffic, replicas: Sequence[Replica], rates: Sequence[float]) -> list[LinkLoad]:
    """Return the links that the rates would overdraw, the worst first."""
    found = [load for load in link_loads(traffic, replicas, rates) if load.utilization > 1 + SLACK]
    return sorted(found, key=lambda load: -load.utilization)


def throttled(traffic: Traffic, replicas: Sequence[Replica], rates: Sequence[float]) -> list[float]:
    """Return rates of at most `rates` that no link is overdrawn by, their sum the largest possible (an LP)."""
    from scipy.optimize import linprog

    usage = [traffic.of(replica) for replica in replicas]
    edges = sorted({edge for own in usage for edge in own})
    shares: list[list[float]] = [
        [own.get(edge, 0.0) * rate / traffic.bandwidth[edge] for own, rate in zip(usage, rates, strict=True)]
        for edge in edges
    ]
    if not shares:
        return list(rates)
    found = linprog([-rate for rate in rates], A_ub=shares, b_ub=[1.0] * len(shares), bounds=[(0.0, 1.0)] * len(rates))
    if found.x is None:  # all rates 0 is a solution, so HiGHS itself has failed
        return [0.0] * len(rates)
    kept = [min(max(float(x), 0.0), 1.0) for x in found.x]
    worst = max(sum(a * x for a, x in zip(row, kept, strict=True)) for row in shares)
    scale = min(1.0, 1.0 / worst) if worst > 0.0 else 1.0  # rounding must not overdraw a link
    return [rate * x * scale for rate, x in zip(rates, kept, strict=True)]


def _edges(components: Sequence[str]) -> list[Edge]:
    return list(itertools.pairwise(components))
