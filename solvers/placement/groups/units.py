"""One degree for all stages, islands of alike devices: groups become the devices of a dense problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuplan.errors import UnsupportedError
from gpuplan.plans.placement_solution import GroupStage, StageRange
from gpuplan.profiles.problems.build import PlacementProblem, micro_batches_of, must_hold_of
from gpuplan.profiles.problems.groups import Word, group_modes, shares_at
from gpuplan.profiles.problems.hops import FloatArray, Hops, IntArray, unit_hops
from gpuplan.profiles.problems.objectives import dense_objective
from gpuplan.profiles.problems.placement import DensePlacement, Timing
from gpuplan.profiles.problems.segments import Segments


@dataclass(frozen=True, slots=True)
class UnitProblem:
    """A dense problem whose devices are groups of `degree` devices; `members` of each by number."""

    degree: int
    dense: DensePlacement
    members: tuple[tuple[int, ...], ...]

    def to_groups(self, stages: Sequence[StageRange]) -> tuple[GroupStage, ...]:
        """Return stages on groups of devices."""
        return tuple(GroupStage(self.members[stage.device], stage.start, stage.stop) for stage in stages)


def unit_problem(
    problem: PlacementProblem, segments: Segments, degree: int, *, chosen: bool = False
) -> UnitProblem | None:
    """Return the problem over groups of one degree, cut from each island in topology order; None without a group.

    With `chosen` islands of unlike devices are cut all the same: its plans are plans, its bounds hold for these groups.

    Raises
    ------
    UnsupportedError
        An island has devices that are not alike, so that it matters which of them form a group.
    """
    if not segments.all_alike and not chosen:
        island = next(k for k, parts in enumerate(segments.islands) if len(parts) > 1)
        raise UnsupportedError(
            f"devices or links of {segments.island_names[island]} are not alike, so that groups of {degree} differ; "
            "this solver takes islands of alike devices only, use auto, dp or labels"
        )
    groups = [group for island in range(len(segments.islands)) for group in _cut(segments, island, degree)]
    modes = group_modes(problem, segments, list(dict.fromkeys(word for word, _ in groups)))
    place = {word: c for c, word in enumerate(modes.words)}
    members = [devices for word, devices in groups if word in place]
    home = [place[word] for word, _ in groups if word in place]
    most = None if problem.max_devices is None else problem.max_devices // degree
    if not members or most == 0:
        return None
    fixed, saving, memory, kv = shares_at(problem, degree)
    homes = np.array(home, dtype=np.int64)
    dense = DensePlacement(
        name=f"{problem.model.name} on groups of {degree} of {problem.topology.name}",
        device_names=tuple(_name(problem, group) for group in members),
        layer_names=tuple(layer.name for layer in problem.model.layers),
        available_bytes=modes.available_bytes[homes],
        price_per_hour=modes.price_per_hour[homes],
        memory_bytes=memory,
        kv_bytes_per_token=kv,
        latency=repeated(modes.latency, homes),
        cycle=repeated(modes.cycle, homes),
        tokens_per_micro_batch=float(problem.workload.batch * problem.workload.sequence_tokens),
        micro_batches=micro_batches_of(problem),
        fixed_bytes=fixed,
        single_stage_saving_bytes=saving,
        objective=dense_objective(problem.objective),
        max_devices=most,
        front=problem.front,
        must_hold=must_hold_of(problem),
    )
    return UnitProblem(degree, dense, tuple(members))


def _cut(segments: Segments, island: int, degree: int) -> list[tuple[Word, tuple[int, ...]]]:
    """Return the groups of an island, neighbours in topology order together."""
    ranks = [(device, s) for s in segments.islands[island] for device in segments.devices[s]]
    ranks.sort()
    cuts = range(0, len(ranks) - degree + 1, degree)
    parts = [ranks[first : first + degree] for first in cuts]
    return [(tuple(s for _, s in part), tuple(device for device, _ in part)) for part in parts]


def _name(problem: PlacementProblem, group: tuple[int, ...]) -> str:
    first = problem.topology.devices[group[0]].name
    return first if len(group) == 1 else f"{first} and {len(group) - 1} more"


def repeated(timing: Timing, homes: IntArray) -> Timing:
    """Return the numbers of groups whose modes are `homes`."""
    compute: FloatArray = timing.compute_s[homes]
    back = None if timing.return_hop is None else _hops(timing.return_hop, homes)
    return Timing(compute, _hops(timing.hop, homes), timing.boundary_bytes, back, timing.return_bytes)


def _hops(hops: Hops, homes: IntArray) -> Hops:
    return unit_hops(homes, hops.unit_latency_s, hops.unit_s_per_byte)
