"""Ctrl-C: the first one asks the search to stop and hand over what it has, the second one kills."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

import click

_SHOW_CURSOR = "\x1b[?25h"


class Interrupt:
    """A flag that Ctrl-C sets while the block runs; pass the object itself as a search's ``cancel``.

    `keeping` says what is handed over.
    Outside the main thread (where Python allows no signal handlers) it is a flag that nothing sets.
    """

    def __init__(self, keeping: str = "the best plan so far") -> None:
        self._keeping = keeping
        self.requested = False
        self._previous: Any = None
        self._installed = False

    def __call__(self) -> bool:
        """Return whether the search should stop."""
        return self.requested

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True
        # The operating system's own handler works even while native code holds the interpreter.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR)  # a killed program has no moment to bring it back
        click.echo(f"gpuplan: stopping with {self._keeping} (Ctrl-C again to kill)", err=True)
