"""One worker of `bridge run --workers N`: a bridge as any other. Started by `bridge.supervisor`, by no one else.

It reads its orders from standard input, and when it works it says so in a line on standard output. It dies with its parent, whatever the
parent dies of.
"""

from __future__ import annotations

import sys

from bridge import app
from bridge.settings import decode_orders
from shared.errors import BusLayoutError, ConfigurationError, DistributaryError
from shared.telemetry import LogFormat, configure
from shared.workers.child import Answer, die_with_parent, read_orders
from shared.workers.orders import REFUSED

_FAILED = 1


def main() -> int:
    """Run until SIGTERM; returns the exit status."""
    orders = decode_orders(read_orders())
    die_with_parent(orders.parent)
    answer = Answer()
    configure(LogFormat(orders.log_format), orders.log_level, worker=orders.index)
    stop = app.Stop()
    stop.listen()
    try:
        app.run(orders.settings, *app.check(orders.settings), stop, on_started=answer.started)
    except ConfigurationError as error:
        # Of the first worker's start it ends them all. Later, it is a rules file that is broken while a worker is replaced: tried again.
        sys.stderr.writelines(f"{problem}\n" for problem in error.problems)
        return _FAILED
    except BusLayoutError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    except DistributaryError as error:
        sys.stderr.write(f"{error}\n")
        return _FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
