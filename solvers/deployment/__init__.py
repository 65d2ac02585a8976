"""Deployments: several replicas of a model over a whole cluster, with a bound on what any deployment could reach."""

from __future__ import annotations

from gpuplan.solvers.deployment.solve import deploy

__all__ = ["deploy"]
