"""How many files this process may open: each connection is one, and many systems start a process with 1,024."""

from __future__ import annotations

import contextlib
import resource

from shared.telemetry import Log

log = Log("distributary.edge.open_files")

SPARE = 1_000
"""For all that is no client's connection: listening sockets, the bus, newcomers that are answered and closed."""


def allow_connections(count: int) -> None:
    """Raise this process's limit (RLIMIT_NOFILE, soft) to what `count` connections need; say so where the hard limit is less."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # Some systems have a bound below the hard limit.
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < wanted:
            log.warning(
                "this process may open too few files for --max-connections: raise the hard limit (`ulimit -Hn`, LimitNOFILE), or lower it",
                files=soft,
                max_connections=count,
                fits=max(0, soft - SPARE),
            )
