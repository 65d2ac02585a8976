"""The child's side of `worker`: reads tasks, runs them, tells what it finds in lines of JSON.

Only functions of gpuplan are run. Standard output belongs to the channel alone: what a library prints goes nowhere.
When the parent is gone (its end of the pipe closes), the child and everything it started end at once.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import queue
import signal
import sys
import threading
from typing import Any, BinaryIO

from gpuplan.errors import GpuplanError


class Channel:
    """What a task tells its parent, and whether the parent asked it to stop."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.stop = threading.Event()

    def tell(self, **event: Any) -> None:
        """Send one event."""
        data = json.dumps(event).encode()
        with self._lock:
            self._stream.write(data + b"\n")
            self._stream.flush()

    def improved(self, x: Any, bound: float) -> None:
        """Tell a better point (None: only the bound moved) and the bound."""
        self.tell(event="improved", x=None if x is None else [float(value) for value in x], bound=float(bound))

    def stopped(self) -> bool:
        """Return whether the parent asked to stop."""
        return self.stop.is_set()


def main() -> None:
    """Run tasks until the parent is gone."""
    channel = Channel(os.fdopen(os.dup(1), "wb"))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    tasks: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read_tasks, args=(sys.stdin.buffer, tasks, channel), daemon=True).start()
    while True:
        run_task(tasks.get(), channel)


def run_task(data: bytes, channel: Channel) -> None:
    """Run one pickled task and tell its answer, or the error it raised."""
    channel.stop.clear()
    try:
        task, payload = pickle.loads(data)
        module, _, function = task.partition(":")
        if not module.startswith("gpuplan."):
            raise ValueError(f"{module} is no part of gpuplan")
        answer = getattr(importlib.import_module(module), function)(payload, channel)
    except GpuplanError as error:
        channel.tell(event="error", kind=type(error).__name__, message=str(error))
    except Exception as error:  # whatever it is, the parent has to hear of it
        channel.tell(event="error", kind=type(error).__name__, message=f"{type(error).__name__}: {error}")
    else:
        channel.tell(event="done", answer=answer)


def _read_tasks(stream: BinaryIO, tasks: queue.Queue[bytes], channel: Channel) -> None:
    while True:
        head = stream.read(8)
        if len(head) < 8:
            _end()
        size = int.from_bytes(head, "big")
        if size == 0:
            channel.stop.set()
        else:
            tasks.put(stream.read(size))


def _end() -> None:
    """End this process and what it started."""
    if hasattr(os, "killpg") and os.getpid() == os.getpgid(0):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
