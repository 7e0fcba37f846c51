"""One worker of `edge run --workers N`: an edge as any other, on a port that it shares. Started by `edge.supervisor`, by no one else.

It reads its orders from standard input, and when it serves it says so in a line on standard output. It dies with its parent, whatever the
parent dies of.
"""

from __future__ import annotations

import sys

import msgspec

from edge.app import run
from edge.settings import WorkerOrders
from shared.errors import DistributaryError
from shared.telemetry import LogFormat, configure
from shared.workers.child import Answer, die_with_parent, read_orders
from shared.workers.orders import REFUSED


def main() -> int:
    """Serve until SIGTERM; returns the exit status."""
    orders = msgspec.json.decode(read_orders(), type=WorkerOrders)
    die_with_parent(orders.parent)
    answer = Answer()
    configure(LogFormat(orders.log_format), orders.log_level)
    try:
        run(orders.settings, worker=orders.index, on_started=answer.started)
    except DistributaryError as error:
        sys.stderr.write(f"edge: {error}\n")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
