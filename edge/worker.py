"""One worker of `edge run --workers N`: an edge as any other, on a port that it shares. Started by `edge.supervisor`, by no one else.

It reads its orders from standard input (they hold the bus's password, which a command line would show), and when it serves it says so in a
line on standard output. It dies with its parent, whatever the parent dies of.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import msgspec

from edge.app import run
from edge.settings import WORKER_REFUSED, WorkerOrders, WorkerStarted
from shared.errors import DistributaryError
from shared.telemetry import LogFormat, configure

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve until SIGTERM; returns the exit status."""
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerOrders)
    _die_with_parent(orders.parent)
    # Whatever a library may print goes to the log, not to the parent.
    answer = os.dup(1)
    os.dup2(2, 1)
    configure(LogFormat(orders.log_format), orders.log_level)
    try:
        run(orders.settings, worker=orders.index, on_started=lambda port: _tell(answer, port))
    except DistributaryError as error:
        sys.stderr.write(f"edge: {error}\n")
        return WORKER_REFUSED
    return 0


def _tell(answer: int, internal_port: int | None) -> None:
    os.write(answer, msgspec.json.encode(WorkerStarted(internal_port)) + b"\n")


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill us when the parent ends (prctl(2)): without it nobody could stop us, and we would keep the port."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(WORKER_REFUSED)  # It was quicker.


if __name__ == "__main__":
    sys.exit(main())
