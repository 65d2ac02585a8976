"""`milp-blocks`: the placement as a mixed-integer programme in block/link flow form, a cross-check of the exact solver.

Variables: y[d,i,j] = 1 when device d holds layers i..j−1 (only blocks that fit); z[d,e,i] = 1 when the cut after
layer i−1 hands over from d to e; r[d,e] = 1 when d is last and e first (return hop of several stages).

    (1) Σ_{d,j} y[d,0,j] = 1                                       one first stage
    (2) Σ_a y[d,a,i] = Σ_e z[d,e,i],  Σ_d z[d,e,i] = Σ_b y[e,i,b]  the stage before a cut hands over to the one after
    (3) Σ_{i,j} y[d,i,j] ≤ 1                                       a device holds one block (a sort of group: copies)
    (4) Σ_e r[d,e] = Σ_{i>0} y[d,i,n],  Σ_d r[d,e] = Σ_{j<n} y[e,0,j]
    (5) Σ y ≤ max_devices (= K where M is as many as the stages)
    (6) Σ devices of part s that d takes·y ≤ devices of part s      where groups share devices (`holders.Shared`)

latency minimises Σ c·y + Σ τ·z + Σ τ_r·r; bottleneck minimises θ ≥ Σ c·y[d] + Σ τ·z[d] + Σ τ_r·r[d] for each device.
Other objectives: see `goals`. Engines, limits, starts: see `linear_forms`.

The LP bound of this form is that of the Lagrangian relaxation. Size grows with D·n²/2 + D²·n; large problems are
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuplan.plans.placement_solution import StageRange
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.external.build import Terms
from gpuplan.solvers.placement.holders import Stages
from gpuplan.solvers.placement.linear_forms import LinearForm, LinearMethod, Size, Stage

MAX_VARIABLES = 150_000


class BlockForm(LinearForm):
    """The block/link model of one goal; see the module for its rows."""

    title = "block/link"
    merges = True

    @classmethod
    def size(cls, problem: DensePlacement) -> Size:
        """Return the most variables, rows and entries of its matrix."""
        n, D = problem.num_layers, problem.num_devices
        blocks, links = D * n * (n + 1) // 2, D * D * max(n - 1, 0)
        rows = 2 * D * n + 4 * D + 2
        return Size(blocks + links, rows, 4 * blocks + 2 * links + 2 * D * D)

    def make_variables(self) -> None:
        """Make y, z and r."""
        add = self.builder.add
        self.y = {key: add("y_{}_{}_{}".format(*key), 1.0, integer=True) for key in self.blocks.blocks}
        self.make_hops()

    def make_rows(self, stages: int | None) -> None:
        """Add (1) to (5)."""
        self._flow()
        if self.blocks.returns is not None:
            self._return_hop()
        if stages is not None:
            self.builder.row("stages", [(y, 1.0) for y in self.y.values()], float(stages), float(stages))

    def _flow(self) -> None:
        """Add (1) to (3)."""
        n, D = self.blocks.problem.num_layers, self.blocks.problem.num_devices
        ending, starting = _group(self.y, lambda k: (k[0], k[2])), _group(self.y, lambda k: (k[0], k[1]))
        handing, taking = _group(self.z, lambda k: (k[0], k[2])), _group(self.z, lambda k: (k[1], k[2]))
        holding = _group(self.y, lambda k: k[0])
        self.builder.row("first", [(y, 1.0) for (_, i, _), y in self.y.items() if i == 0], 1.0, 1.0)
        for d in range(D):
            if d in holding:
                copies = float(self.blocks.holders.copies[d])
                self.builder.at_most(f"once_{d}", [(y, 1.0) for y in holding[d]], copies)
            for i in range(1, n):
                for name, stage, link in (("hand", ending, handing), ("take", starting, taking)):
                    if (d, i) in stage or (d, i) in link:
                        self.builder.equal(f"{name}_{d}_{i}", stage.get((d, i), []), link.get((d, i), []))

    def _return_hop(self) -> None:
        """Add (4)."""
        n = self.blocks.problem.num_layers
        last = _group({k: y for k, y in self.y.items() if k[2] == n and k[1] > 0}, lambda k: k[0])
        first = _group({k: y for k, y in self.y.items() if k[1] == 0 and k[2] < n}, lambda k: k[0])
        sends, takes = _group(self.r, lambda k: k[0]), _group(self.r, lambda k: k[1])
        for d in range(self.blocks.problem.num_devices):
            for name, stage, link in (("last", last, sends), ("back", first, takes)):
                if d in stage or d in link:
                    self.builder.equal(f"{name}_{d}", stage.get(d, []), link.get(d, []))

    def seconds(self, timing: str) -> list[tuple[Stage, int, float]]:
        """List (stage that takes it, variable, time) of everything that takes time."""
        terms = [(self.stage(k[0], k[2]), y, self.blocks.block_s(timing, *k)) for k, y in self.y.items()]
        return terms + self.hop_seconds(timing)

    def price(self) -> Terms:
        """Return the price of each used device."""
        return [(y, float(self.blocks.problem.price_per_hour[d])) for (d, _, _), y in self.y.items()]

    def used(self) -> list[tuple[int, int]]:
        """List (holder, variable) of every block."""
        return [(d, y) for (d, _, _), y in self.y.items()]

    def stages(self, values: list[float]) -> Stages:
        """Read the pipeline from the variables' values."""
        chosen = sorted((i, j, d) for (d, i, j), y in self.y.items() if values[y] > 0.5)
        return tuple(StageRange(d, i, j) for i, j, d in chosen)

    def held(self, stages: Stages) -> list[int]:
        """Return the variables of a plan's blocks that are 1."""
        return [self.y[s.device, s.start, s.stop] for s in stages]


def _group(variables: dict[Any, int], key: Callable[[Any], Any]) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for index, column in variables.items():
        groups.setdefault(key(index), []).append(column)
    return groups


METHOD = LinearMethod("milp-blocks", BlockForm, MAX_VARIABLES)
solve = METHOD.solve
write_model = METHOD.write_model
