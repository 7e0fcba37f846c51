"""Many clients in one process that read and count: as cheap as Python allows, so that the server under test is what is measured.

usage: python -m bench.receivers PORT CONNECTIONS PATH [FIRST]

Connects, sends a WebSocket handshake for PATH on each connection (`*` in it becomes the number of the connection, from FIRST, in 6
digits; a server that knows none may ignore it), prints "ready", then for each line "BYTES TIMEOUT_S" on standard input reads until so
many bytes came on all connections together, and prints how many came.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Callable, Mapping

MOST_AT_ONCE = 262_144


def connect(port: int, path: str) -> socket.socket:
    """Open one connection and ask for the WebSocket; the answer is counted as any other bytes."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(
        f"GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    client.setblocking(False)  # noqa: FBT003  (the standard library's signature)
    return client


def main() -> None:
    """See the module."""
    port, connections, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    epoll = select.epoll()
    clients = {}
    first = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    for number in range(first, first + connections):
        client = connect(port, path.replace("*", f"{number:06}"))
        clients[client.fileno()] = client
        epoll.register(client.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    receivers = {number: client.recv_into for number, client in clients.items()}
    buffer = bytearray(MOST_AT_ONCE)
    for line in sys.stdin:
        wanted, timeout_s = line.split()
        print(receive(epoll, receivers, buffer, int(wanted), float(timeout_s)), flush=True)


def receive(
    epoll: select.epoll, receivers: Mapping[int, Callable[[bytearray], int]], buffer: bytearray, wanted: int, timeout_s: float
) -> int:
    """Read until `wanted` bytes came or the time is over."""
    got = 0
    deadline = time.monotonic() + timeout_s
    while got < wanted and time.monotonic() < deadline:
        for number, _ in epoll.poll(0.05):
            size = receivers[number](buffer)
            if not size:
                epoll.unregister(number)
            got += size
    return got


if __name__ == "__main__":
    main()
