"""Ports for servers that are stopped and started again on the same one."""

from __future__ import annotations

import random
import socket

# Below the range from which the kernel takes ports for outgoing connections: while a server is down, no client may be given
# its port (nor, trying to reconnect, connect to itself).
_FIRST, _LAST = 10_240, 32_000

_taken: set[int] = set()
_random = random.SystemRandom()


def free_port() -> int:
    """A loopback port that nobody listens on, and that was not given out by this process before."""
    for _ in range(1000):
        port = _random.randrange(_FIRST, _LAST)
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


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections on this loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
