"""Batch planning: published policies, exact methods, bounds; `solve_batching` runs any of them by name."""
