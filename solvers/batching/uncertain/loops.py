"""The contiguous programme on expected costs, in the subset of Python that Numba compiles; see `exact.speed`."""

from __future__ import annotations

import numpy as np

from gpuplan.profiles.problems.batching import FloatArray, IntArray


def expected_ordered(
    prompt: IntArray,
    within: FloatArray,
    grid: FloatArray,
    rate: FloatArray,
    k: FloatArray,
    most: IntArray,
    f: FloatArray,
    back: IntArray,
) -> None:
    """Fill f and back as `exact.loops.ordered` does, with the expectation of each batch's cost. O(N·B·G).

    ``within[i, g]`` is P(O_i ≤ grid[g]); the product over a batch is the distribution of its longest output.
    `most[j−1]` is the largest batch that may end at j.
    """
    cells = len(grid)
    product = np.empty(cells)
    f[0] = 0.0
    for j in range(1, len(f)):
        for g in range(cells):
            product[g] = 1.0
        S, best, size = 0, np.inf, 1
        for b in range(1, min(most[j - 1], j) + 1):
            i = j - b
            S = max(S, prompt[i])
            steps, squares, output, before = 0.0, 0.0, 0.0, 0.0
            for g in range(cells):
                product[g] *= within[i, g]
                mass = product[g] - before
                before = product[g]
                step = max(grid[g] - 1.0, 0.0)
                steps += mass * step
                squares += mass * step * grid[g]
                output += mass * grid[g]
            took = k[0] + k[1] * b * S + steps * (k[2] + k[3] * b) + k[4] * b * (steps * S + 0.5 * squares)
            value = f[i] + rate[i] * took + k[5] * b * (S + output)
            if value < best:
                best, size = value, b
        f[j] = best
        back[j] = size
