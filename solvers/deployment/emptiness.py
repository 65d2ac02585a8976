"""Whether any replica keeps to what is asked at all, where there are too many to look at each: boxes tell."""

from __future__ import annotations

from typing import Final

from gpuplan.solvers.deployment.boxes import Maker
from gpuplan.solvers.deployment.ceilings import Ceilings, Counts, Reached
from gpuplan.solvers.deployment.chain import Slo
from gpuplan.solvers.limits import Budget

#: Boxes up to which they are split, and the range of slowest stages, largest to least, of those that are not.
MOST: Final = 5_000
FINE: Final = 1.015


def no_replica(maker: Maker, budget: Budget) -> bool:
    """Return whether every box is empty; False where a small one may not be, or there are too many to tell."""
    boxes = maker.roots()
    while 0 < len(boxes) <= MOST and maker.splittable(boxes, FINE).all() and not budget.exhausted():
        boxes = maker.halves(boxes)
    return len(boxes) == 0


def reached_by_any(ceilings: Ceilings, counts: Counts) -> Reached:
    """Return the least TTFT and seconds between tokens of the boxes that the devices' memory leaves."""
    maker = Maker(Ceilings(ceilings.fleet, ceilings.units, Slo(), ceilings.tokens), counts)
    boxes, reached = maker.roots(), Reached()
    for point, stages in zip(boxes.point, boxes.stages, strict=True):
        ttft_s, token_s = maker.least_seconds(int(point), stages[:1])
        reached.ttft_s = min(reached.ttft_s, float(ttft_s[0]))
        reached.token_s = min(reached.token_s, float(token_s[0]))
        reached.fits = True
    return reached
