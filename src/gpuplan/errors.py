"""The error tree.

    GpuplanError
    ├── UsageError(ValueError)                  a bad option value, an unknown name or kind, an unwritable output
    ├── InputError(ValueError)                  a file or value that cannot be used; `place` says where in it
    ├── InfeasibleError                         proven: no plan exists; raised only by Result.require_plan()
    ├── NoSolutionError                         a limit was reached and no plan found; likewise
    ├── VerificationError                       a plan does not hold what it says
    ├── UnsupportedError                        a method that cannot take this problem, with the mend
    └── SolverUnavailableError(ImportError)     an optional back end is not installed; names the extra

Every message is one sentence: what was expected, what came and where, how to mend it.
"""

from __future__ import annotations


class GpuplanError(Exception):
    """Base of every error that gpuplan raises on purpose."""


class UsageError(GpuplanError, ValueError):
    """A bad option value, an unknown name or kind, or an output that cannot be written."""


class InputError(GpuplanError, ValueError):
    """Input that cannot be used.

    Parameters
    ----------
    message
        One sentence, without the place.
    source
        The file (or other origin) the input came from.
    place
        Where in the source: a JSON path such as ``$.stages[2].devices[0]`` or ``line 7``.
    """

    def __init__(self, message: str, *, source: str | None = None, place: str | None = None) -> None:
        self.message = message
        self.source = source
        self.place = place
        where = ", ".join(part for part in (source, place) if part)
        super().__init__(f"{where}: {message}" if where else message)

    def at(self, source: str) -> InputError:
        """Return the same error with its source named (unless it has one already)."""
        return InputError(self.message, source=self.source or source, place=self.place)


class InfeasibleError(GpuplanError):
    """No plan exists, and that is proven."""


class NoSolutionError(GpuplanError):
    """A limit was reached before any plan was found."""


class VerificationError(GpuplanError):
    """A plan does not hold what it says."""


class UnsupportedError(GpuplanError):
    """The chosen method cannot take this problem; the message names one that can."""


class SolverUnavailableError(GpuplanError, ImportError):
    """An optional back end is not installed; the message names the extra to install."""
