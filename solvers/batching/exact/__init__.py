"""Exact batching methods: one-key programmes, subsets, integer and constraint programmes, column generation."""
