"""Ports for servers that are stopped and started again on the same one."""

from __future__ import annotations

import random
import socket
from functools import cache
from pathlib import Path

_FIRST, _END = 10_240, 65_536
_LEAST = 2_000

_taken: set[int] = set()
_random = random.SystemRandom()


def free_port() -> int:
    """A loopback port that nobody listens on, and that was not given out by this process before."""
    for _ in range(1000):
        port = _random.choice(_ports())
        if port in _taken:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _taken.add(port)
        return port
    msg = "no free port found"
    raise RuntimeError(msg)


@cache
def _ports() -> range:
    try:
        first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        first, last = 32_768, 60_999
    return beside(first, last)


def beside(first: int, last: int) -> range:
    """Ports for servers, where the kernel takes those from `first` to `last` for outgoing connections.

    Others, if there are enough of them: while a server is down, no client may be given its port (nor, trying to reconnect, connect to
    itself).
    """
    ranges = range(_FIRST, min(first, _END)), range(max(last + 1, _FIRST), _END), range(_FIRST, _END)
    return next(ports for ports in ranges if len(ports) >= _LEAST)


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections on this loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
