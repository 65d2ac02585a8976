"""Independent recomputation of plans: own arithmetic, no solver code."""

from gpuplan.plans.verify.device_map import verify
from gpuplan.plans.verify.findings import Finding, Verification
from gpuplan.plans.verify.solution import verify_solution

__all__ = ["Finding", "Verification", "verify", "verify_solution"]
