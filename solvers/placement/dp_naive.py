"""`dp-naive`: the dynamic programme over sets of devices as a textbook writes it down, in plain Python; a baseline.

    f(0, ∅, e) = 0,  e the device that comes next
    f(l, S, e) = min over l' < l, d ∈ S of  f(l', S∖{d}, d) ⊕ ( c_d(l', l) + τ(d, e; boundary after l−1) )

⊕ is + for latency and max for the bottleneck; stages fit their devices; the last stage adds the return hop, which
needs the first device: one pass for each. The best value of every set S answers the objectives that count devices or
prices, too. No bounds, no pruning, no classes, no windows: O(2^D·D²·n²) steps, 2^D·D·n values. It is an oracle whose
lines can be checked by eye, and the figure to be compared with.

References
----------
UELLM's HELR procedure, in the form that works (docs/formulations.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from gpuplan.errors import InputError, UnsupportedError
from gpuplan.plans.placement_solution import PlacementSolution, StageRange
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.limits import Budget, Limits, refuse_memory
from gpuplan.solvers.placement.baselines.common import most_devices, stage_counts, with_micro_batches
from gpuplan.solvers.placement.cross_checks import check_start, check_supported, conclude
from gpuplan.solvers.placement.evaluate import evaluate
from gpuplan.solvers.placement.goals import TIE, Answer
from gpuplan.solvers.placement.holders import Stages, device_holders, make_blocks
from gpuplan.solvers.result import Report, Result, Value

MAX_DEVICES = 12
#: Bytes of one stored value and of where it came from, as Python keeps them.
BYTES_PER_VALUE = 150
#: Steps between two looks at the clock.
LOOK = 20_000

#: (device, layer) → where the stage before began; a state's best value beside it.
Cell = tuple[float, tuple[int, int] | None]
Row = dict[int, Cell]


@dataclass
class _Numbers:
    """Times and blocks of one pass, M a number, as plain dictionaries.

    blocks
        By device and first layer: (stop, compute time) of every stage that fits.
    hop, back
        By pair and cut, by pair: times; a missing one has no route. `back` is None without a return hop.
    """

    layers: int
    devices: int
    blocks: dict[tuple[int, int], list[tuple[int, float]]]
    hop: dict[tuple[int, int, int], float]
    back: dict[tuple[int, int], float] | None
    cap: _Cap | None = None


@dataclass
class _Cap:
    """Stages with their outgoing hop that take too long are left out: those of `cycle` above `seconds`."""

    cycle: _Numbers
    seconds: float

    def keeps(self, d: int, start: int, stop: int, hop_s: float) -> bool:
        """Return whether a stage that hands over in `hop_s` is within the cap."""
        own = next(seconds for end, seconds in self.cycle.blocks[d, start] if end == stop)
        return own + hop_s <= self.seconds * (1 + TIE)


@dataclass
class Table:
    """Best value and plan for every set of devices that makes one.

    complete
        Whether no limit stopped the search.
    """

    best: dict[int, tuple[float, Stages]] = field(default_factory=dict)
    steps: int = 0
    complete: bool = True

    def offer(self, devices: int, value: float, stages: Stages) -> None:
        """Keep a plan that is better than its set's."""
        if devices not in self.best or value < self.best[devices][0]:
            self.best[devices] = (value, stages)


def fill(problem: DensePlacement, timing: str, budget: Budget, cap_s: float | None = None) -> Table:
    """Return the best plan of every set of devices by ``latency`` or by ``cycle`` (the bottleneck).

    `cap_s`: no stage with its outgoing hop takes longer in a cycle.
    """
    table = Table()
    if problem.micro_batches != "stages":
        _fill(problem, timing, budget, table, range(1, most_devices(problem) + 1), cap_s)
        return table
    for count in stage_counts(problem):
        _fill(with_micro_batches(problem, count), timing, budget, table, range(count, count + 1), cap_s)
    return table


def _fill(
    problem: DensePlacement, timing: str, budget: Budget, table: Table, counts: range, cap_s: float | None
) -> None:
    numbers = _numbers(problem, timing)
    if cap_s is not None:
        numbers.cap = _Cap(_numbers(problem, "cycle"), cap_s)
    firsts: list[list[int]] = [list(range(problem.num_devices))]
    if numbers.back is not None:
        firsts = [[first] for first in range(problem.num_devices)]
    for first in firsts:
        _Pass(numbers, timing == "cycle", first, budget, table, counts).run()


def _numbers(problem: DensePlacement, timing: str) -> _Numbers:
    parts = make_blocks(device_holders(problem))
    blocks: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for d, i, j in parts.blocks:
        blocks.setdefault((d, i), []).append((j, parts.block_s(timing, d, i, j)))
    hop = {key: parts.link_s(timing, *key) for key in parts.links}
    back = None if parts.returns is None else {key: parts.return_s(timing, *key) for key in parts.returns}
    return _Numbers(problem.num_layers, problem.num_devices, blocks, hop, back)


class _Pass:
    """One run over all sets of devices, for the first devices it is told."""

    def __init__(
        self, numbers: _Numbers, largest: bool, firsts: list[int], budget: Budget, table: Table, counts: range
    ) -> None:
        self.numbers, self.largest, self.firsts = numbers, largest, firsts
        self.budget, self.table, self.counts = budget, table, counts
        self.rows: dict[tuple[int, int], Row] = {(0, first): {0: (0.0, None)} for first in firsts}

    def run(self) -> None:
        """Fill every set after those it is made of; more devices than a plan may have are left out."""
        sets = sorted(range(1, 1 << self.numbers.devices), key=int.bit_count)
        looked = self.table.steps
        for devices in sets:
            if devices.bit_count() > self.counts[-1]:
                return
            for after in range(self.numbers.devices):
                if not devices >> after & 1 and devices.bit_count() < self.counts[-1]:
                    self._extend(devices, after)
            if devices.bit_count() in self.counts:
                self._finish(devices)
            if self.table.steps - looked >= LOOK:
                looked = self.table.steps
                if self.budget.exhausted():
                    self.table.complete = False
                    return

    def _lasts(self, devices: int) -> Iterator[tuple[int, Row]]:
        """Yield each device of a set that may be its last, with the values it starts from."""
        for d in range(self.numbers.devices):
            row = self.rows.get((devices & ~(1 << d), d)) if devices >> d & 1 else None
            if row is not None:
                yield d, row

    def _join(self, before: float, stage: float) -> float:
        return max(before, stage) if self.largest else before + stage

    def _keeps(self, d: int, start: int, stop: int, hop: tuple[int, ...] | None) -> bool:
        """Return whether a stage and its hop, to the next device at a cut or back home, are within the cap."""
        cap = self.numbers.cap
        if cap is None:
            return True
        hop_s = 0.0
        if hop is not None:
            hop_s = cap.cycle.hop[hop] if len(hop) == 3 else (cap.cycle.back or {})[hop]  # type: ignore[index]
        return cap.keeps(d, start, stop, hop_s)

    def _extend(self, devices: int, after: int) -> None:
        """Fill f(·, S, e) for one set and the device that comes next."""
        row: Row = {}
        for d, before in self._lasts(devices):
            for start, (value, _) in before.items():
                for stop, seconds in self.numbers.blocks.get((d, start), ()):
                    hop = self.numbers.hop.get((d, after, stop))
                    self.table.steps += 1
                    if hop is None or not self._keeps(d, start, stop, (d, after, stop)):
                        continue
                    worth = self._join(value, seconds + hop)
                    if stop not in row or worth < row[stop][0]:
                        row[stop] = (worth, (d, start))
        if row:
            self.rows[devices, after] = row

    def _finish(self, devices: int) -> None:
        """Close the pipelines of a set with its last stage."""
        n, back = self.numbers.layers, self.numbers.back
        for d, before in self._lasts(devices):
            for start, (value, _) in before.items():
                seconds = next((s for stop, s in self.numbers.blocks.get((d, start), ()) if stop == n), None)
                hop = 0.0 if back is None or start == 0 else back.get((d, self.firsts[0]))
                home = None if back is None or start == 0 else (d, self.firsts[0])
                if seconds is None or hop is None or not self._keeps(d, start, n, home):
                    continue
                worth = self._join(value, seconds + hop)
                if devices not in self.table.best or worth < self.table.best[devices][0]:
                    self.table.offer(devices, worth, self._stages(devices, d, start))

    def _stages(self, devices: int, last: int, start: int) -> Stages:
        """Walk back from the last stage."""
        stages = [StageRange(last, start, self.numbers.layers)]
        while start > 0:
            devices &= ~(1 << last)
            came = self.rows[devices, last][start][1]
            assert came is not None
            stages.append(StageRange(came[0], came[1], start))
            last, start = came
        return tuple(reversed(stages))


def _pick(
    problem: DensePlacement, table: Table, *, by_latency: bool = False
) -> tuple[Stages | None, Value | None, tuple[float, float] | None]:
    """Return the plan, its value, and the starred values of a balanced objective.

    `by_latency`: the table holds plans with the least bottleneck only, of which the fastest is picked.
    """
    name, plans = problem.objective.name, [stages for _, stages in table.best.values()]
    if not plans:
        return None, None, None
    worths = {stages: evaluate(problem, stages) for stages in plans}
    if name == "bottleneck" and by_latency:
        best = min(plans, key=lambda stages: worths[stages].latency_s)
        return best, (worths[best].bottleneck_s, worths[best].latency_s), None
    if name in ("latency", "bottleneck"):
        figure = {stages: w.latency_s if name == "latency" else w.bottleneck_s for stages, w in worths.items()}
        best = min(plans, key=figure.__getitem__)
        return best, figure[best], None
    if name == "balanced":
        stars = (min(w.latency_s for w in worths.values()), float(min(w.devices for w in worths.values())))
        if stars[0] <= 0.0:
            raise InputError("the balanced objective divides by the least latency, which is 0; give the layers times")
        goal = problem.objective
        value = {
            stages: goal.latency_weight * (w.latency_s / stars[0]) + goal.devices_weight * (w.devices / stars[1])
            for stages, w in worths.items()
        }
        best = min(plans, key=value.__getitem__)
        return best, value[best], stars
    first = {stages: float(w.devices) if name == "efficiency" else w.price_per_hour for stages, w in worths.items()}
    least = min(first.values())
    near = [stages for stages in plans if first[stages] <= least + TIE * abs(least)]
    best = min(near, key=lambda stages: worths[stages].latency_s)
    return best, (first[best], worths[best].latency_s), None


def _fastest(
    problem: DensePlacement, table: Table, stages: Stages, budget: Budget
) -> tuple[Stages, Value, Value | None, Table]:
    """Return the fastest plan with the least bottleneck, its value, bound, and the table that proves it."""
    worth = evaluate(problem, stages)
    value = (worth.bottleneck_s, worth.latency_s)
    if not table.complete:
        return stages, value, None, table
    second = fill(problem, "latency", budget, worth.bottleneck_s)
    budget.spend(second.steps)
    second.offer(sum(1 << stage.device for stage in stages), worth.latency_s, stages)
    found, best, _ = _pick(problem, second, by_latency=True)
    assert found is not None
    assert isinstance(best, tuple)
    return found, best, (worth.bottleneck_s, best[1] if second.complete else 0.0), second


def _check(problem: DensePlacement, limits: Limits) -> None:
    """Refuse what is not supported, too large, or by estimate too much memory."""
    check_supported(problem, "dp-naive")
    D, n = problem.num_devices, problem.num_layers
    if D > MAX_DEVICES:
        raise UnsupportedError(
            f"dp-naive takes up to {MAX_DEVICES} devices, for it goes through every set of them, got {D}; "
            "use --solver auto"
        )
    refuse_memory("dp-naive", float(BYTES_PER_VALUE * 2**D * D * n), limits)


def solve(
    problem: DensePlacement,
    limits: Limits,
    seed: int = 0,
    *,
    warm_start: PlacementSolution | None = None,
    latency_second: bool = False,
) -> Result[PlacementSolution]:
    """Go through every set of devices.

    Parameters
    ----------
    problem
        Objectives latency, bottleneck, efficiency, cost, balanced; no front; at most 12 devices.
    limits
        Time and cancel, looked at every 20,000 steps; the work limit counts steps.
    seed
        Kept in the report.
    warm_start
        A plan that is offered beside those found.
    latency_second
        Whether the latency follows a bottleneck as second key: a second run within the least bottleneck.

    Returns
    -------
    Result
        ``optimal``, ``infeasible``, or at a limit the best plan so far without a bound (``no_solution`` without one).
    """
    _check(problem, limits)
    start = check_start(device_holders(problem), warm_start)
    budget = Budget(limits)
    timing = "cycle" if problem.objective.name == "bottleneck" else "latency"
    table = fill(problem, timing, budget)
    budget.spend(table.steps)
    if start is not None:
        worth = evaluate(problem, start)
        figure = worth.bottleneck_s if timing == "cycle" else worth.latency_s
        table.offer(sum(1 << stage.device for stage in start), figure, start)
    stages, value, stars = _pick(problem, table)
    bound = value if table.complete else None
    if latency_second and timing == "cycle" and stages is not None:
        stages, value, bound, table = _fastest(problem, table, stages, budget)
    answer = Answer(stages, value, bound, infeasible=stages is None and table.complete, stars=stars)
    if stars is not None and not table.complete:
        answer = Answer(None)  # the values it is measured by are not proven
    report = Report(
        "dp-naive",
        seed=seed,
        wall_time_s=budget.elapsed_s,
        work=budget.work,
        bound_kind="exhaustive search" if table.complete or bound is not None else None,
        proof=f"every set of devices, {budget.work:,} steps" if table.complete or bound is not None else "",
    )
    return conclude(problem, "dp-naive", answer, budget, report)
