"""The workload point a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpuplan.errors import UsageError


@dataclass(frozen=True, slots=True)
class Workload:
    """`batch` sequences of `prompt_tokens` (s) and `output_tokens` (o), `micro_batches` (M) of them in flight.

    Mean decode context is ``s + o/2``; a finished sequence holds ``T = s + o`` tokens.
    """

    batch: int = 1
    prompt_tokens: int = 1024
    output_tokens: int = 128
    micro_batches: int = 1

    def __post_init__(self) -> None:
        for name in ("batch", "prompt_tokens", "output_tokens", "micro_batches"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"expected {name} to be a whole number of at least 1, got {value!r}")

    @property
    def sequence_tokens(self) -> int:
        """T = s + o."""
        return self.prompt_tokens + self.output_tokens

    @property
    def mean_context(self) -> float:
        """Context of the mean decode step, s + o/2."""
        return self.prompt_tokens + self.output_tokens / 2

    @property
    def decode_steps(self) -> int:
        """Decode steps after the first token, o − 1."""
        return self.output_tokens - 1

    def with_micro_batches(self, micro_batches: int) -> Workload:
        """Return the same point with `micro_batches` in flight."""
        return replace(self, micro_batches=micro_batches)
