"""A process of their own for solvers that are not ours: hard limits, a stop that works, crashes told as such.

The parent sends tasks as length-prefixed pickles; the child (`child`) answers with lines of JSON, which cannot do harm
whatever a broken process prints. Improving points come as they are found, so what is known when a process has to be
killed is known here, too. The child lives in a session of its own: Ctrl-C in a terminal reaches the parent alone, which
asks the child to stop.

A child keeps to one library. `kept_workers` lets calls inside a block share their children.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

#: How often the parent looks at the clock and asks `cancel`, s.
TICK_S = 0.02
#: How long a child that was asked to stop may take to say what it has, s.
GRACE_S = 1.0

Event = dict[str, Any]
Outcome = Literal["done", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Reply:
    """How a task ended.

    outcome
        ``done`` with an answer; ``stopped``: killed at the limit or by a cancel without one; ``failed``: the process
        crashed, printed garbage or raised, and `note` says so in one sentence.
    kind
        Name of the exception that was raised in the child, if one was.
    """

    outcome: Outcome
    answer: Event | None = None
    note: str = ""
    kind: str = ""


class Worker:
    """A child process that runs tasks one after the other; started at the first one, again after a kill.

    Parameters
    ----------
    library
        What it is for, in words: ``HiGHS``.
    command
        The program; None: Python with `child`.
    """

    def __init__(self, library: str, command: Sequence[str] | None = None) -> None:
        self.library = library
        self.busy = False
        self._command = list(command or _python())
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._lines: queue.Queue[bytes | None] = queue.Queue()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def run(
        self,
        task: str,
        payload: Any,
        *,
        seconds: float | None,
        cancel: Callable[[], bool] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Reply:
        """Run a task of the child.

        Parameters
        ----------
        task
            ``module:function`` within gpuplan; called there as ``function(payload, channel)``.
        payload
            Whatever pickles.
        seconds
            Hard limit, s: past it and a short grace the child is killed. None: no limit.
        cancel
            Asked every 20 ms.
        on_event
            Called with what the child tells while it runs.
        """
        started = time.monotonic()
        try:
            self._send((task, payload))
        except OSError as error:
            note = f"the process for {self.library} did not start: {error.strerror or error}"
            return self._broken(note)
        return self._listen(started, seconds, cancel, on_event)

    def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        folder, self._folder = self._folder, None
        if process is not None:
            self._end_of(process)
        if folder is not None:
            folder.cleanup()

    @staticmethod
    def _end_of(process: subprocess.Popen[bytes]) -> None:
        _kill(process)
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        process.wait()

    def _send(self, message: object) -> None:
        data = pickle.dumps(message)
        for attempt in (0, 1):  # a child that died since its last task is started anew, once
            process = self._started()
            assert process.stdin is not None
            try:
                process.stdin.write(len(data).to_bytes(8, "big") + data)
                process.stdin.flush()
                return
            except OSError:
                self.close()
                if attempt:
                    raise

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        # A killed child cannot clear up what it wrote (models for CBC): its temporary files are the parent's.
        self._folder = tempfile.TemporaryDirectory(prefix="gpuplan-", ignore_cleanup_errors=True)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "TMPDIR": self._folder.name,
        }
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        self._lines = queue.Queue()
        threading.Thread(target=_read, args=(self._process, self._lines), daemon=True).start()
        return self._process

    def _listen(
        self,
        started: float,
        seconds: float | None,
        cancel: Callable[[], bool] | None,
        on_event: Callable[[Event], None] | None,
    ) -> Reply:
        limit = math.inf if seconds is None else started + seconds + grace_s(seconds)
        asked = False
        while True:
            now = time.monotonic()
            if now >= limit:
                self.close()
                return Reply("stopped")
            if not asked and cancel is not None and cancel():
                asked, limit = True, min(limit, now + GRACE_S)
                self._ask_to_stop()
            try:
                line = self._lines.get(timeout=min(TICK_S, max(limit - now, 0.0)))
            except queue.Empty:
                continue
            reply = self._heard(line, on_event)
            if reply is not None:
                return reply

    def _ask_to_stop(self) -> None:
        """Send the empty message, which means stop."""
        with contextlib.suppress(OSError):
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.write((0).to_bytes(8, "big"))
            self._process.stdin.flush()

    def _heard(self, line: bytes | None, on_event: Callable[[Event], None] | None) -> Reply | None:
        """Deal with one line of the child; None at its end."""
        if line is None:
            return self._broken(f"the process for {self.library} {self._end()}")
        try:
            event = json.loads(line)
            what = event["event"]
        except (ValueError, TypeError, KeyError):
            return self._broken(f"the process for {self.library} printed what is no answer ({_short(line)})")
        if what == "done":
            return Reply("done", event.get("answer"))
        if what == "error":
            return Reply("failed", note=str(event.get("message", "")), kind=str(event.get("kind", "")))
        if on_event is not None:
            on_event(event)
        return None

    def _broken(self, note: str) -> Reply:
        self.close()
        return Reply("failed", note=note)

    def _end(self) -> str:
        """Say how the child ended."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.returncode
        if code is not None and code < 0:
            return f"crashed (signal {-code})"
        return f"ended without an answer (exit code {code})"


def grace_s(seconds: float) -> float:
    """Return how long past its limit a child may live: within 10 % or 50 ms."""
    return max(0.03, min(0.08 * seconds, GRACE_S))


def _python() -> list[str]:
    """Return the command of the child; -P keeps the working folder out of its imports."""
    return [sys.executable, "-P", "-m", "gpuplan.solvers.external.child"]


def _read(process: subprocess.Popen[bytes], lines: queue.Queue[bytes | None]) -> None:
    """Hand on every line of a child, then None."""
    assert process.stdout is not None
    with contextlib.suppress(OSError, ValueError):  # closed by a kill
        for line in process.stdout:
            lines.put(line)
    lines.put(None)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a child with everything it started."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _short(line: bytes) -> str:
    text = " ".join(line.decode("utf-8", "replace").split())
    return repr(text if len(text) <= 60 else text[:60] + "…")


# ------------------------------------------------------------------------------------------------- sharing children

_KEPT: ContextVar[dict[str, Worker] | None] = ContextVar("kept_workers", default=None)


@contextlib.contextmanager
def kept_workers() -> Iterator[None]:
    """Let the calls of this thread inside the block share one child a library; they end with the block."""
    if _KEPT.get() is not None:
        yield
        return
    kept: dict[str, Worker] = {}
    token = _KEPT.set(kept)
    try:
        yield
    finally:
        _KEPT.reset(token)
        for worker in kept.values():
            worker.close()


@contextlib.contextmanager
def worker_for(library: str) -> Iterator[Worker]:
    """Give a child for a library: a kept one, or one that ends with the block."""
    kept = _KEPT.get()
    if kept is None:
        with Worker(library) as worker:
            yield worker
        return
    worker = kept.setdefault(library, Worker(library))
    if worker.busy:
        with Worker(library) as another:
            yield another
        return
    worker.busy = True
    try:
        yield worker
    finally:
        worker.busy = False
