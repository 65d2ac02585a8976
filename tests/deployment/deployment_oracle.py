"""Every replica there is and every packing of them, by the formulas of the model, with arithmetic of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from gpuplan.profiles import stage_memory
from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.profiles.workload import Workload
from gpuplan.topology import islands, route_tables


class Oracle:
    """Best value of every set of devices, then the best packing, by enumeration."""

    def __init__(self, problem: DeploymentProblem, batches: list[int], degrees: list[int]) -> None:
        self.problem, self.batches, self.degrees = problem, batches, degrees
        self.devices = problem.topology.devices
        numbers = {device.name: i for i, device in enumerate(self.devices)}
        self.island = {numbers[name]: k for k, own in enumerate(islands(problem.topology)) for name in own.devices}
        self.tables = {}
        for batch in batches:
            boundary = max(layer.boundary_bytes_per_token for layer in problem.model.layers)
            prompt = problem.workload.prompt_tokens
            sizes = batch * prompt * boundary, batch * boundary, 4.0 * batch
            self.tables[batch] = [route_tables(problem.topology, size) for size in sizes]
        self.best: dict[frozenset[int], float] = {}
        self.times: dict[tuple[int, int, int], tuple[list[float], list[float]]] = {}
        for size in range(1, len(self.devices) + 1):
            for members in itertools.combinations(range(len(self.devices)), size):
                value = max((self.value(*plan) for plan in self.plans(members)), default=0.0)
                if value > 0.0:
                    self.best[frozenset(members)] = value

    def plans(self, members: tuple[int, ...]) -> Iterator[tuple[list[tuple[int, ...]], tuple[int, ...], int]]:
        """Yield groups in order, cuts and batch of every replica on exactly these devices."""
        n = self.problem.model.num_layers
        for degree in self.degrees:
            if len(members) % degree:
                continue
            count = len(members) // degree
            for groups in self.groupings(members, degree):
                for inner in itertools.combinations(range(1, n), count - 1):
                    for batch in self.batches:
                        yield groups, (0, *inner, n), batch

    def groupings(self, members: tuple[int, ...], degree: int) -> Iterator[list[tuple[int, ...]]]:
        """Yield every sequence of groups of one island each."""
        if not members:
            yield []
            return
        for group in itertools.combinations(members, degree):
            if len({self.island[d] for d in group}) > 1:
                continue
            rest = tuple(d for d in members if d not in group)
            for tail in self.groupings(rest, degree):
                yield [group, *tail]

    def layer_times(self, device: int, degree: int, batch: int) -> tuple[list[float], list[float]]:
        """Return prefill and decode seconds of every layer."""
        key = device, degree, batch
        if key not in self.times:
            asked = self.problem.workload
            point = Workload(batch, asked.prompt_tokens, asked.output_tokens)
            own = self.problem.costs.layer_times(
                self.problem.model, self.devices[device], point, tensor_parallel=degree
            )
            self.times[key] = own.prefill_s.tolist(), own.decode_s.tolist()
        return self.times[key]

    def value(self, groups: list[tuple[int, ...]], cuts: tuple[int, ...], batch: int) -> float:
        """Return the requests/s (tokens/s) of a replica, 0 when it does not fit or breaks an SLO."""
        problem = self.problem
        count, degree = len(groups), len(groups[0])
        micro = count if problem.micro_batches_from_stages else problem.workload.micro_batches
        asked, model = problem.workload, problem.model
        point = Workload(batch, asked.prompt_tokens, asked.output_tokens, micro)
        prefill, decode = [], []
        for k, group in enumerate(groups):
            start, stop = cuts[k], cuts[k + 1]
            use = stage_memory(model, start, stop, point, reserve_bytes=problem.reserve_bytes, tensor_parallel=degree)
            if use.total_bytes > min(self.devices[d].available_bytes for d in group) * (1 + 1e-12):
                return 0.0
            rings = self.rings(group, batch)
            for phase, total in ((0, prefill), (1, decode)):
                rows = [self.layer_times(d, degree, batch)[phase] for d in group]
                total.append(sum(max(row[i] for row in rows) + rings[phase][i] for i in range(start, stop)))
        if count > 1:
            for k in range(count - 1):
                own = model.layers[cuts[k + 1] - 1].boundary_bytes_per_token
                prefill[k] += self.hop(batch, 0, groups[k], groups[k + 1], batch * asked.prompt_tokens * own)
                decode[k] += self.hop(batch, 1, groups[k], groups[k + 1], batch * own)
            if problem.return_hop:
                decode[-1] += self.hop(batch, 2, groups[-1], groups[0], 4.0 * batch)
        ttft, interval = sum(prefill), max(micro * max(decode), sum(decode))
        if ttft > (problem.ttft_slo_s or math.inf) or interval > (problem.tpot_slo_s or math.inf):
            return 0.0
        if problem.objective == "throughput":
            return micro * batch / interval
        return micro * batch / (ttft + (micro - 1) * max(prefill) + (asked.output_tokens - 1) * interval)

    def rings(self, group: tuple[int, ...], batch: int) -> list[list[float]]:
        """Return the collectives of every layer, 2(t−1)/t·m·β + 2(t−1)·α each, in prefill and decode."""
        t, model = len(group), self.problem.model
        if t == 1:
            return [[0.0] * model.num_layers] * 2
        found = []
        for phase, tokens in ((0, batch * self.problem.workload.prompt_tokens), (1, batch)):
            table = self.tables[batch][phase]
            pairs = list(itertools.permutations(group, 2))
            alpha = max(table.latency_s[a, b] for a, b in pairs)
            beta = max(table.s_per_byte[a, b] for a, b in pairs)
            row = []
            for layer in model.layers:
                message = batch * model.vocab_size * 4 if layer.kind == "head" else tokens * model.hidden_size * 2
                times = 2 if layer.kind == "decoder" else 1
                row.append(times * (2 * (t - 1) / t * message * beta + 2 * (t - 1) * alpha))
            found.append(row)
        return found

    def hop(self, batch: int, phase: int, here: tuple[int, ...], there: tuple[int, ...], message: float) -> float:
        """Return the seconds of the slowest pair of ranks."""
        table = self.tables[batch][phase]
        pairs = [(here[i % len(here)], there[i % len(there)]) for i in range(max(len(here), len(there)))]
        return max(float(table.latency_s[a, b] + message * table.s_per_byte[a, b]) for a, b in pairs)

    def packings(self, left: frozenset[int] | None = None) -> Iterator[list[frozenset[int]]]:
        """Yield every choice of disjoint sets that hold a replica each."""
        left = frozenset(range(len(self.devices))) if left is None else left
        if not left:
            yield []
            return
        first = min(left)
        for rest in self.packings(left - {first}):
            yield rest
        for own in self.best:
            if first in own and own <= left:
                for rest in self.packings(left - own):
                    yield [own, *rest]

    def optimum(self) -> float | None:
        """Return the best objective of any deployment, None when there is none."""
        found = []
        for sets in self.packings():
            used = sum(map(len, sets))
            rate = sum(self.best[own] for own in sets)
            problem = self.problem
            if not sets or used > (problem.max_devices or used) or len(sets) > (problem.max_replicas or len(sets)):
                continue
            if problem.demand_rps is None:
                found.append(rate)
            elif rate >= problem.demand_rps:
                price = sum(self.devices[d].price_per_hour or 0.0 for own in sets for d in own)
                found.append(-float(used) if problem.objective == "devices" else -price)
        return abs(max(found)) if found else None
