"""Clients that connect and subscribe, in one process, as cheaply as Python allows; then they stay.

usage: python -m bench.connectors PORT PATH IN_FLIGHT [FRAME...]

For each line "COUNT MARKER" on standard input it opens so many more connections, at most IN_FLIGHT of them under way: each asks for the
WebSocket, sends the FRAMEs (text) once it is accepted, and is done when MARKER came. Answers "DONE REFUSED SECONDS".
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time

TIMEOUT_S = 60.0


class Connector:
    """The connections, and what is missing of those under way."""

    def __init__(self, port: int, path: str, in_flight: int, frames: list[str]) -> None:
        self._port = port
        self._in_flight = in_flight
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: bench:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            "Origin: http://bench\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)\r\n"
            "Accept-Encoding: gzip, deflate\r\nAccept-Language: en\r\nCache-Control: no-cache\r\nPragma: no-cache\r\n\r\n"
        ).encode()
        self._frames = b"".join(masked(frame.encode()) for frame in frames)
        self._epoll = select.epoll()
        self._got: dict[int, tuple[socket.socket, bytes]] = {}
        self._kept: list[socket.socket] = []

    def open(self, count: int, marker: bytes) -> tuple[int, int]:
        """Open `count` more; returns how many are done and how many were refused."""
        done = refused = started = 0
        deadline = time.monotonic() + TIMEOUT_S
        while done + refused < count and time.monotonic() < deadline:
            while started < count and len(self._got) < self._in_flight:
                self._start()
                started += 1
            for number, _ in self._epoll.poll(0.05):
                client, before = self._got[number]
                received = client.recv(65_536)
                data = before + received
                if not before.startswith(b"HTTP/1.1 101") and b"\r\n\r\n" in data and data.startswith(b"HTTP/1.1 101") and self._frames:
                    client.sendall(self._frames)
                if not received or data.startswith(b"HTTP/1.1 503"):
                    refused += 1
                    client.close()
                elif marker in data:
                    done += 1
                    self._epoll.unregister(number)
                    self._kept.append(client)
                else:
                    self._got[number] = client, data
                    continue
                del self._got[number]
        return done, refused

    def _start(self) -> None:
        client = socket.create_connection(("127.0.0.1", self._port))
        client.sendall(self._request)
        client.setblocking(False)  # noqa: FBT003  (the standard library's signature)
        self._got[client.fileno()] = client, b""
        self._epoll.register(client.fileno(), select.EPOLLIN)


def masked(message: bytes) -> bytes:
    """A text frame as a client sends it, with a mask of zeros (which changes nothing, and is checked by nobody)."""
    size = len(message)
    head = bytes((0x81, 0x80 | size)) if size < 126 else struct.pack(">BBH", 0x81, 0x80 | 126, size)
    return head + b"\0\0\0\0" + message


def main() -> None:
    """See the module."""
    connector = Connector(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:])
    print("ready", flush=True)
    for line in sys.stdin:
        count, marker = line.rstrip("\n").split(" ", 1)
        start = time.monotonic()
        done, refused = connector.open(int(count), marker.encode())
        print(done, refused, f"{time.monotonic() - start:.3f}", flush=True)


if __name__ == "__main__":
    main()
