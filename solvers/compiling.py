"""Compiled kernels made ready beside a search: loaded by a thread, compiled by a process of its own.

numba cannot be stopped once it compiles (seconds a kernel, once an installation), and loading compiled kernels takes
half a second, once a process. A search that did either by itself would pass a small time limit, and not hear Ctrl-C.
So kernels that belong together form a `KernelSet`; a search asks it to `prepare`, and answers by plainer means where
its limits come first. Loading goes on for the next call; what a process that had to be ended has compiled stays in
numba's cache. `python -m gpuplan.solvers.compiling` compiles ahead.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gpuplan.solvers.limits import Budget

#: Where kernel sets are: module and attribute. What is listed here is compiled ahead.
SETS: Final = {
    "placement": ("gpuplan.solvers.placement.compiling", "LARGE"),
    "bottleneck": ("gpuplan.solvers.placement.bottleneck_compiling", "CAPS"),
    "batching": ("gpuplan.solvers.batching.compiling", "MOVES"),
    "flow": ("gpuplan.solvers.flow.compiling", "ANNEAL"),
    "hierarchy": ("gpuplan.solvers.placement.hierarchy.compiling", "HIERARCHY"),
}
#: What the compiling process runs, the set's name last; it ends with its parent.
COMMAND: Final = ("-P", "-m", "gpuplan.solvers.compiling", "--with-parent")
#: Seconds between two looks at the clock.
PAUSE_S: Final = 0.005
#: With so much time left compiled kernels are loaded where they are used.
PLENTY_S: Final = 10.0
#: Share of the limit, and seconds, that are kept back for the answer.
RESERVE, LEAST_RESERVE_S = 0.03, 0.015


@dataclass(eq=False)
class KernelSet:
    """Kernels that are used together.

    Parameters
    ----------
    name
        Its name in `SETS`.
    dispatchers
        Imports and returns the compiled functions that are called from Python.
    exercise
        Calls each of them with every combination of types it is used with, on next to nothing; yields in between.
    """

    name: str
    dispatchers: Callable[[], Sequence[Any]]
    exercise: Callable[[], Iterator[None]]
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _preparation: _Preparation | None = field(default=None, repr=False)
    _loaded: bool = field(default=False, repr=False)
    _compiled: bool = field(default=False, repr=False)

    def loaded(self) -> bool:
        """Return whether this process has the kernels already; imports nothing."""
        return self._loaded

    def compiled(self) -> bool:
        """Return whether every kernel is compiled, in this process or in numba's cache for this source and machine."""
        if not self._compiled:
            try:
                self._compiled = all(_is_compiled(kernel) for kernel in self.dispatchers())
            except (AttributeError, OSError):
                return False
        return self._compiled

    def compile_now(self) -> None:
        """Compile the kernels, or load them from the cache."""
        for _ in self.exercise():
            pass
        self._loaded = True

    def prepare(self, budget: Budget, meanwhile: Callable[[], bool] | None = None) -> bool:
        """Make the kernels ready within the budget; return whether they are.

        Parameters
        ----------
        budget
            Its end is the end of waiting.
        meanwhile
            Called while it returns True and the time is sure to suffice for another call.

        Notes
        -----
        With plenty of time nothing is done for compiled kernels: they load where they are used. Errors of the kernels
        show there, too.
        """
        if self._loaded or (budget.remaining_s > PLENTY_S and self.compiled()):
            return True
        budget.report("loading kernels (compiled once per installation)", None, None)
        with self._waiting() as preparation:
            return _wait(preparation, budget, meanwhile)

    @contextlib.contextmanager
    def coming(self) -> Iterator[Callable[[Budget], bool]]:
        """Have the kernels made ready during a block; gives what waits for them as `prepare` does."""
        if self._loaded:
            yield lambda budget: True
            return
        with self._waiting() as preparation:
            yield lambda budget: _wait(preparation, budget, None)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[_Preparation]:
        """Give the preparation under way, or a new one; count who waits for it."""
        with self._lock:
            # One that gave up for nobody waited is on its way out: to wait for it would end this search, too.
            if self._preparation is None or self._preparation.given_up or not self._preparation.is_alive():
                self._preparation = _Preparation(self)
                self._preparation.start()
            preparation = self._preparation
            preparation.waiting += 1
        try:
            yield preparation
        finally:
            with self._lock:
                preparation.waiting -= 1


def _is_compiled(kernel: Any) -> bool:
    return bool(kernel.overloads or kernel._cache._cache_file._load_index())


class _Preparation(threading.Thread):
    """Loads a set; has a child compile it first where it is not compiled. The child ends when nobody waits."""

    def __init__(self, kernels: KernelSet) -> None:
        super().__init__(name=f"gpuplan-kernels-{kernels.name}", daemon=True)
        self.kernels = kernels
        self.waiting = 0
        self.over = self.given_up = False

    def run(self) -> None:
        try:
            if _at_exit(self) and (self.kernels.compiled() or self._compile_apart()):
                self.over = self._load()
        except Exception:  # whatever it is, it shows where the kernels are used
            self.over = True
        finally:
            _at_exit_no_more(self)

    def _load(self) -> bool:
        for _ in self.kernels.exercise():
            if _LEAVING.is_set():
                return False
        self.kernels._loaded = True
        return True

    def _unwanted(self) -> bool:
        """Return whether nobody waits any more; whoever comes later starts another one."""
        with self.kernels._lock:
            self.given_up = self.waiting < 1
            return self.given_up

    def _compile_apart(self) -> bool:
        """Wait for a child that compiles; return whether it ended by itself."""
        quiet = subprocess.DEVNULL
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, *COMMAND, self.kernels.name]
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, env=environment, start_new_session=True
            )
        except OSError:
            return True
        with child:
            while child.poll() is None:
                if self._unwanted() or _LEAVING.is_set():
                    child.kill()
                    return False
                time.sleep(PAUSE_S)
        return True


def _wait(preparation: _Preparation, budget: Budget, meanwhile: Callable[[], bool] | None) -> bool:
    """Wait for a preparation; return whether it ended within the budget."""
    limit = budget.limits.time_limit_s
    reserve = 0.0 if limit is None else max(RESERVE * limit, LEAST_RESERVE_S)
    more, took = meanwhile is not None, 0.0
    while preparation.is_alive():
        left = budget.remaining_s - reserve
        if budget.exhausted() or left <= 0.0:
            return preparation.over
        if more and meanwhile is not None and left > 1.5 * took:
            before = time.perf_counter()
            more = meanwhile()
            took = max(took, time.perf_counter() - before)
        else:
            preparation.join(PAUSE_S)
    return preparation.over


# ------------------------------------------------------------------------------------------ the end of the process

#: LLVM must not be left working while a process ends: threads end between two kernels, children at once.
_LEAVING: Final = threading.Event()
_RUNNING: set[_Preparation] = set()


def _at_exit(preparation: _Preparation) -> bool:
    """Have the end of the process wait for a preparation; False when it has begun."""
    if not _RUNNING:
        atexit.unregister(_leave)
        atexit.register(_leave)
    _RUNNING.add(preparation)
    return not _LEAVING.is_set()


def _at_exit_no_more(preparation: _Preparation) -> None:
    _RUNNING.discard(preparation)


def _leave() -> None:
    _LEAVING.set()
    for preparation in list(_RUNNING):
        preparation.join()


def main(names: Sequence[str]) -> None:
    """Compile sets of kernels: those named, or all; after ``--with-parent`` until standard input closes."""
    if names and names[0] == COMMAND[-1]:
        names = names[1:]
        threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in names or SETS:
        home, attribute = SETS[name]
        kernels: KernelSet = getattr(importlib.import_module(home), attribute)
        kernels.compile_now()


def _end_with_parent() -> None:
    with contextlib.suppress(OSError, ValueError):
        while sys.stdin.buffer.read(4096):
            pass
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
