"""A worker's side: it takes its orders, tells that it has started, and never outlives its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import msgspec

from shared.workers.orders import REFUSED, WorkerStarted

_PR_SET_PDEATHSIG = 1


def read_orders() -> bytes:
    """What the parent wrote to our standard input. It holds passwords, which a command line would show."""
    return sys.stdin.buffer.read()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill us when the parent (a process id) ends (prctl(2)): without it nobody could stop us."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(REFUSED)  # It was quicker.


class Answer:
    """The line to the parent. Make it early: whatever else is printed from then on goes to standard error, not to the parent."""

    def __init__(self) -> None:
        self._file = os.dup(1)
        os.dup2(2, 1)

    def __repr__(self) -> str:
        return f"<Answer on {self._file}>"

    def started(self, internal_port: int | None) -> None:
        """We work now."""
        os.write(self._file, msgspec.json.encode(WorkerStarted(internal_port)) + b"\n")
