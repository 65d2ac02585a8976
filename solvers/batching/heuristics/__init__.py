"""Batching heuristics: band orders, deadline blocks, re-sequencing, dealing out, neighbourhood search."""
