"""Progress of a long search on a terminal: nothing for the first second, then one living line on stderr."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gpuplan.units import format_seconds

if TYPE_CHECKING:
    from rich.status import Status

    from gpuplan.solvers.limits import Progress

#: Work shorter than this shows nothing.
QUIET_S = 1.0


class SearchProgress:
    """Shows a search's incumbent, bound and gap while the block runs; pass the object as ``on_progress``.

    Off a terminal it prints nothing at all. `seconds` says whether the objective is a time.
    """

    def __init__(self, what: str, *, seconds: bool = True, stream: Any = None) -> None:
        self._what = what
        self._seconds = seconds
        self._stream = sys.stderr if stream is None else stream
        self._terminal = bool(getattr(self._stream, "isatty", lambda: False)())
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._status: Status | None = None
        self._latest: Progress | None = None
        self._over = False

    def __enter__(self) -> SearchProgress:
        if self._terminal:
            self._timer = threading.Timer(QUIET_S, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._over = True
            if self._timer is not None:
                self._timer.cancel()
            if self._status is not None:
                self._status.stop()

    def __call__(self, progress: Progress) -> None:
        """Take a report of the search."""
        self._latest = progress
        status = self._status
        if status is not None:
            status.update(self.line(progress))

    def _show(self) -> None:
        from rich.console import Console
        from rich.status import Status

        with self._lock:
            if self._over:
                return
            self._status = Status(self.line(self._latest), console=Console(file=self._stream), spinner="dots")
            self._status.start()

    def line(self, progress: Progress | None) -> str:
        """Return the line that is shown."""
        if progress is None:
            return f"{self._what} …"
        parts = [f"{self._what}: {progress.phase}" if progress.phase else self._what]
        if progress.objective is not None:
            parts.append(f"best {self._value(progress.objective)}")
        if progress.bound is not None:
            parts.append(f"bound {self._value(progress.bound)}")
        if progress.objective and progress.bound is not None:
            parts.append(f"gap {abs(progress.objective - progress.bound) / abs(progress.objective):.2%}")
        return " · ".join(parts)

    def _value(self, value: float) -> str:
        return format_seconds(value) if self._seconds else f"{value:.6g}"
