"""Solvers that are not ours, at arm's length: small calls for linear models, and a process of their own with limits."""
