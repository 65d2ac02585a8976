"""A core as the kernels over many classes read it: position-major stages, links with the near ones apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.alike import symmetric
from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, trivial_upper
from gpuplan.solvers.placement.unlike.kernels import Frame, Gates, Links

#: Near links of a class: those of its host and some of its rack.
NEAR = 12
#: Rows worked on together: temporary arrays stay small.
BLOCK = 256


@dataclass(frozen=True)
class Wide:
    """A core prepared for the kernels over many classes, or over states of its classes (see `memory`).

    owner
        Class of each state, shape (S,); the first C states are the classes themselves.
    links
        Links of every state, seen from the sender.
    turned
        Links of the classes, seen from the receiver.
    gates
        States that are not open from every state.
    rows, limits
        Further constraints Σ_c rows[m, c]·v_c ≤ limits[m] on the stages v_c of each class (stage count, budget).
    trivial
        A value no plan exceeds.
    """

    core: Core
    frame: Frame
    links: Links
    turned: Links
    gates: Gates
    rows: FloatArray
    limits: FloatArray
    trivial: float
    owner: IntArray


def make_wide(core: Core) -> Wide:
    """Prepare a core. O(C²) time; no copy of the pair tables when they are symmetric."""
    rows, limits = _further_rows(core)
    hop_s, per_byte = core.hop_s, core.hop_s_per_byte
    same = symmetric(hop_s) and symmetric(per_byte)
    typical = float(np.median(core.boundary[1:-1])) if core.num_layers > 1 else 0.0
    from_s = hop_s if same else np.ascontiguousarray(hop_s.T)
    from_pb = per_byte if same else np.ascontiguousarray(per_byte.T)
    links = _make_links(hop_s, per_byte, from_s, from_pb, typical)
    turned = links if same else _make_links(from_s, from_pb, hop_s, per_byte, typical)
    owner = np.arange(core.num_classes)
    return Wide(core, _frame(core), links, turned, no_gates(core.num_classes), rows, limits, trivial_upper(core), owner)


def no_gates(size: int) -> Gates:
    """Return no gates for so many states."""
    empty = np.zeros((0, size))
    return Gates(np.zeros(0, dtype=np.int64), empty, empty)


def _frame(core: Core) -> Frame:
    """Stages position-major; under a cap the loosest windows, which only relaxes."""
    n = core.num_layers
    low = core.low if core.cap is None else core.cap.loosest
    starts = np.arange(n + 1)
    # low never falls with the end, so the last end of a start is where the search finds the next larger value.
    reach = np.stack([np.searchsorted(row, starts, side="right") - 1 for row in low], axis=1)
    nearest = np.maximum(np.searchsorted(core.top, starts, side="left"), starts + 1)
    return Frame(
        np.ascontiguousarray(core.prefix.T),
        np.ascontiguousarray(reach.astype(np.int64)),
        reach.max(axis=1).astype(np.int64),
        nearest.astype(np.int64),
        core.boundary,
        returning(core),
    )


def returning(core: Core) -> FloatArray:
    """Return the least return hop of each last class; a class of one device does not return to itself."""
    if core.back is None:
        return np.zeros(core.num_classes)
    least = np.empty(core.num_classes)
    for begin in range(0, core.num_classes, BLOCK):
        rows = np.arange(begin, min(begin + BLOCK, core.num_classes))
        back = core.back[rows]
        alone = core.counts[rows] == 1
        back[alone, rows[alone]] = np.inf
        least[rows] = back.min(axis=1)
    return least


def _make_links(
    hop_s: FloatArray, per_byte: FloatArray, into_s: FloatArray, into_pb: FloatArray, typical: float
) -> Links:
    """Set the near links of every class apart; `into_s`, `into_pb` are the tables turned."""
    num = len(hop_s)
    count = min(NEAR, num)
    near = np.empty((num, count), dtype=np.int64)
    far_s, far_pb = np.full(num, np.inf), np.full(num, np.inf)
    for begin in range(0, num, BLOCK):
        block = slice(begin, begin + BLOCK)
        times = hop_s[block] + typical * per_byte[block]
        near[block] = _nearest(times, count)
        if count < num:
            for far, table in ((far_s, hop_s), (far_pb, per_byte)):
                apart = table[block].copy()
                np.put_along_axis(apart, near[block], np.inf, axis=1)
                far[block] = apart.min(axis=1)
    first = np.arange(num + 1, dtype=np.int64) * count
    near_s, near_pb = np.take_along_axis(hop_s, near, 1), np.take_along_axis(per_byte, near, 1)
    return Links(first, near.ravel(), near_s.ravel(), near_pb.ravel(), far_s, far_pb, into_s, into_pb)


def _nearest(times: FloatArray, count: int) -> IntArray:
    """Return the `count` least entries of each row by place, the first of equal ones; shape (rows, count).

    One minimum after the other is far faster here than a partition, which suffers from equal entries.
    """
    left, rows = times.copy(), np.arange(len(times))
    near = np.empty((len(times), count), dtype=np.int64)
    for k in range(count):
        near[:, k] = left.argmin(axis=1)
        left[rows, near[:, k]] = np.inf
    shut = np.flatnonzero(np.isfinite(times).sum(axis=1) < count)
    near[shut] = np.argsort(times[shut], axis=1, kind="stable")[:, :count]
    return np.sort(near, axis=1)


def _further_rows(core: Core) -> tuple[FloatArray, FloatArray]:
    """Stage count and budget, where they bind; scaled to the size of a count."""
    rows, limits = [np.empty((0, core.num_classes))], []
    if core.modes is None and core.max_stages < min(int(core.counts.sum()), core.num_layers):
        rows.append(np.ones((1, core.num_classes)))
        limits.append(float(core.max_stages))
    if core.weights is not None:
        unit = float(core.weights.mean()) or 1.0
        rows.append(core.weights[None, :] / unit)
        limits.append(core.limit / unit)
    return np.concatenate(rows), np.array(limits)


def feasible_counts(core: Core, used: IntArray) -> bool:
    """Return whether so many stages per class keep counts, stage limit and budget."""
    if (used > core.counts).any() or not 2 <= used.sum() <= core.max_stages:
        return False
    if core.modes is not None and (core.modes.use @ used > core.modes.capacity).any():
        return False
    return core.weights is None or float(used @ core.weights) <= core.limit
