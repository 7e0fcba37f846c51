"""A client that reads from its socket only when a test tells it to: what it does not read stays on the way, as with a really slow one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from tests.edge.service import EdgeProcess
from tests.rig.wait import PATIENCE_S


class SlowReader:
    """One connection, in JSON, with as small a receive buffer as the kernel allows."""

    def __init__(self, sock: socket.socket, url: str) -> None:
        self.bytes_read = 0
        self._sock = sock
        self._protocol = ClientProtocol(parse_uri(url), max_size=None)
        self._frames: deque[dict[str, Any]] = deque()
        self._ids = 0
        self._is_open = False

    async def open(self) -> None:
        """Shake hands and say `connect`."""
        self._protocol.send_request(self._protocol.connect())
        await self._send()
        while not self._is_open:
            await self._receive()
        await self.say(type="connect")
        assert (await self.read())["type"] == "connected"

    @property
    def close_code(self) -> int | None:
        """Of the close frame that was read, if any."""
        return self._protocol.close_rcvd.code if self._protocol.close_rcvd is not None else None

    async def say(self, **fields: Any) -> int:
        """Send a command; returns its id."""
        self._ids += 1
        self._protocol.send_text(msgspec.json.encode({"id": self._ids, **fields}))
        await self._send()
        return self._ids

    async def subscribe(self, channel: str, **wish: Any) -> dict[str, Any]:
        """Subscribe, and read the answer, which must come first."""
        asked = await self.say(type="subscribe", channel=channel, **wish)
        answer = await self.read()
        assert answer.get("id") == asked, answer
        return answer

    async def ack(self, channel: str, offset: int) -> None:
        """Acknowledge all up to here."""
        await self.say(type="ack", channel=channel, offset=offset)

    async def read(self) -> dict[str, Any]:
        """Handle the next frame. At the end of the connection, `{"type": "closed"}`."""
        while not self._frames:
            if self._protocol.close_rcvd is not None:
                return {"type": "closed"}
            await self._receive()
        return self._frames.popleft()

    async def read_all(self) -> list[dict[str, Any]]:
        """Handle all that the edge has sent so far: what comes before the answer to a ping."""
        asked = await self.say(type="ping")
        frames: list[dict[str, Any]] = []
        while (frame := await self.read()) != {"type": "pong", "id": asked}:
            assert frame["type"] != "closed"
            frames.append(frame)
        return frames

    async def _send(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def _receive(self) -> None:
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._sock, 2048), PATIENCE_S)
        self.bytes_read += len(data)
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._is_open = True
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self._frames.append(msgspec.json.decode(event.data))
        if self._protocol.close_rcvd is None:
            await self._send()  # the answer to a ping of the edge


@contextlib.asynccontextmanager
async def slow_reader(edge: EdgeProcess) -> AsyncIterator[SlowReader]:
    """A client that has introduced itself."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", edge.port))
        reader = SlowReader(sock, edge.url())
        await reader.open()
        yield reader
