"""`milp-layers`: the placement in the compact form layer by layer, the model most papers write down; a baseline.

Variables: x[l,d] = 1 when device d holds layer l; s[l,d] ≥ 1 where d's stage starts at l; u[d] ≥ 1 where d is used;
z[d,e,i] and r[d,e] as in `milp`; w[d] ≤ 1 only where d holds every layer.

    (1) Σ_d x[l,d] = 1                                        every layer somewhere
    (2) s[0,d] = x[0,d],  s[l,d] ≥ x[l,d] − x[l−1,d],  Σ_l s[l,d] ≤ u[d] ≤ 1      one stage a device
    (3) Σ_l memory_l·x[l,d] ≤ room_d + saving·w[d],  w[d] ≤ x[l,d];  room_d·u[d] where the room is below 0
    (4) z[d,e,i] ≥ x[i−1,d] + x[i,e] − 1;  without a route (or a stage to end or start there): x[i−1,d] + x[i,e] ≤ 1
    (5) r[d,e] ≥ x[n−1,d] + x[0,e] − 1, d ≠ e;  without a route: x[n−1,d] + x[0,e] ≤ 1
    (6) x[k,d] ≤ Σ_{marked l} x[l,d]                          where every stage must hold a marked layer
    (7) Σ_d u[d] ≤ max_devices (≤ K where M is as many as the stages: fewer stages need less memory)
    (8) Σ_d devices of part s that d takes·u[d] ≤ devices of part s      where groups share devices (`holders.Shared`)

Objectives as in `milp`. Far fewer variables than the block form where layers are many, and a far weaker LP bound
(5-8 % against 0-0.5 %): a hop costs nothing until two x are integers.
"""

from __future__ import annotations

import itertools

from gpuplan.plans.placement_solution import StageRange
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.external.build import Terms
from gpuplan.solvers.placement.holders import Stages
from gpuplan.solvers.placement.linear_forms import LinearForm, LinearMethod, Size, Stage

MAX_VARIABLES = 150_000


class LayerForm(LinearForm):
    """The compact model of one goal; see the module for its rows."""

    title = "layer"

    @classmethod
    def size(cls, problem: DensePlacement) -> Size:
        """Return the most variables, rows and entries of its matrix."""
        n, D = problem.num_layers, problem.num_devices
        pairs = D * (D - 1) * n
        return Size(2 * n * D + 2 * D + pairs, n + 4 * n * D + 3 * D + pairs, 14 * n * D + 6 * D + 4 * pairs)

    def make_variables(self) -> None:
        """Make x, s, u, z, r and w."""
        add, problem = self.builder.add, self.blocks.problem
        D, n = problem.num_devices, problem.num_layers
        held = sorted({(layer, d) for d, i, j in self.blocks.blocks for layer in range(i, j)})
        self.x = {key: add("x_{}_{}".format(*key), 1.0, integer=True) for key in held}
        self.s = {key: add("s_{}_{}".format(*key), 1.0) for key in held}
        self.u = {d: add(f"u_{d}", 1.0) for d in range(D)}
        self.make_hops()
        self.layer_bytes = self.blocks.holders.layer_bytes.tolist()
        saving = self.blocks.holders.saving_bytes
        whole = [d for d in range(D) if saving[d] and all((i, d) in self.x for i in range(n))]
        self.w = {d: add(f"w_{d}", 1.0) for d in whole}

    def make_rows(self, stages: int | None) -> None:
        """Add (1) to (7)."""
        self._layers()
        for d in range(self.blocks.problem.num_devices):
            self._contiguous(d)
            self._memory(d)
            self._marked(d)
        self._hops()
        if self.blocks.returns is not None:
            self._returns()
        if stages is not None:
            self.builder.at_most("stages", [(u, 1.0) for u in self.u.values()], float(stages))

    def _layers(self) -> None:
        """Add (1)."""
        D = self.blocks.problem.num_devices
        for layer in range(self.blocks.problem.num_layers):
            terms = [(self.x[layer, d], 1.0) for d in range(D) if (layer, d) in self.x]
            self.builder.row(f"layer_{layer}", terms, 1.0, 1.0)

    def _contiguous(self, d: int) -> None:
        """Add (2)."""
        mine = [layer for layer in range(self.blocks.problem.num_layers) if (layer, d) in self.x]
        for layer in mine:
            terms = [(self.x[layer, d], 1.0), (self.s[layer, d], -1.0)]
            if (layer - 1, d) in self.x:
                terms.append((self.x[layer - 1, d], -1.0))
            self.builder.at_most(f"start_{layer}_{d}", terms, 0.0)
        self.builder.at_most(f"once_{d}", [*((self.s[i, d], 1.0) for i in mine), (self.u[d], -1.0)], 0.0)

    def _memory(self, d: int) -> None:
        """Add (3), in units of the room, so that the engines' tolerances are relative."""
        holders, layers = self.blocks.holders, range(self.blocks.problem.num_layers)
        sizes, room, saving = self.layer_bytes[d], float(holders.room_bytes[d]), float(holders.saving_bytes[d])
        mine = [layer for layer in layers if (layer, d) in self.x]
        if not mine:
            return
        unit = max(abs(room), saving, max(sizes)) or 1.0
        terms = [(self.x[layer, d], sizes[layer] / unit) for layer in mine if sizes[layer]]
        if d in self.w:
            terms.append((self.w[d], -saving / unit))
            for layer in mine:
                self.builder.at_most(f"whole_{layer}_{d}", [(self.w[d], 1.0), (self.x[layer, d], -1.0)], 0.0)
        if room < 0:  # only what is saved makes room here: an unused device must not be asked for it
            terms.append((self.u[d], -room / unit))
        self.builder.at_most(f"memory_{d}", terms, max(room, 0.0) / unit)

    def _marked(self, d: int) -> None:
        """Add (6)."""
        held = self.blocks.problem.must_hold
        if held is None:
            return
        layers = [layer for layer in range(self.blocks.problem.num_layers) if (layer, d) in self.x]
        marked = [(self.x[layer, d], -1.0) for layer in layers if held[layer]]
        for layer in layers:
            if not held[layer]:
                self.builder.at_most(f"marked_{layer}_{d}", [(self.x[layer, d], 1.0), *marked], 0.0)

    def _hops(self) -> None:
        """Add (4)."""
        D, n = self.blocks.problem.num_devices, self.blocks.problem.num_layers
        for i, d, e in itertools.product(range(1, n), range(D), range(D)):
            if d != e and (i - 1, d) in self.x and (i, e) in self.x:
                self._pair(f"hop_{d}_{e}_{i}", self.x[i - 1, d], self.x[i, e], self.z.get((d, e, i)))

    def _returns(self) -> None:
        """Add (5)."""
        D, last = self.blocks.problem.num_devices, self.blocks.problem.num_layers - 1
        for d, e in itertools.permutations(range(D), 2):
            if (last, d) in self.x and (0, e) in self.x:
                self._pair(f"back_{d}_{e}", self.x[last, d], self.x[0, e], self.r.get((d, e)))

    def _pair(self, name: str, first: int, second: int, hop: int | None) -> None:
        """Add first + second − 1 ≤ hop, 0 without one."""
        terms = [(first, 1.0), (second, 1.0)]
        self.builder.at_most(name, terms if hop is None else [*terms, (hop, -1.0)], 1.0)

    def seconds(self, timing: str) -> list[tuple[Stage, int, float]]:
        """List (stage that takes it, variable, time) of everything that takes time."""
        blocks, n = self.blocks, self.blocks.problem.num_layers
        terms = [(self.stage(d, n), x, blocks.block_s(timing, d, i, i + 1)) for (i, d), x in self.x.items()]
        return terms + self.hop_seconds(timing)

    def price(self) -> Terms:
        """Return the price of each used device."""
        return [(u, float(self.blocks.problem.price_per_hour[d])) for d, u in self.u.items()]

    def used(self) -> list[tuple[int, int]]:
        """List (holder, variable)."""
        return list(self.u.items())

    def stages(self, values: list[float]) -> Stages:
        """Read the pipeline from the variables' values."""
        holder = {layer: d for (layer, d), x in self.x.items() if values[x] > 0.5}
        found: list[StageRange] = []
        for device, run in itertools.groupby(sorted(holder), key=lambda layer: holder[layer]):
            layers = list(run)
            found.append(StageRange(device, layers[0], layers[-1] + 1))
        return tuple(found)

    def held(self, stages: Stages) -> list[int]:
        """Return the variables of a plan's blocks that are 1."""
        columns = [self.x[layer, s.device] for s in stages for layer in range(s.start, s.stop)]
        columns += [self.s[s.start, s.device] for s in stages] + [self.u[s.device] for s in stages]
        if len(stages) == 1 and stages[0].device in self.w:
            columns.append(self.w[stages[0].device])
        return columns


METHOD = LinearMethod("milp-layers", LayerForm, MAX_VARIABLES)
solve = METHOD.solve
write_model = METHOD.write_model
