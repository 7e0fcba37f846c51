"""A scripted edge on a real WebSocket server, for the tests of the client's driver."""

from __future__ import annotations

import asyncio
import http
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

EPOCH = "AAECAwQFBgcICQoL"
PATIENCE_S = 60.0
"""After this a test fails instead of hanging. Nothing waits that long where the code is right."""


class Peer:
    """One client's connection, as the script sees it. It speaks the format that the client chose."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.is_binary = socket.subprotocol == "distributary.v1.msgpack"

    async def expect(self, kind: str) -> dict[str, Any]:
        """The next frame, which must be of type `kind`."""
        data = await asyncio.wait_for(self.socket.recv(decode=False), PATIENCE_S)
        frame: dict[str, Any] = (msgspec.msgpack if self.is_binary else msgspec.json).decode(data)
        assert frame["type"] == kind, frame
        return frame

    async def send(self, frame: dict[str, Any] | list[Any]) -> None:
        """Send a frame."""
        await self.raw((msgspec.msgpack if self.is_binary else msgspec.json).encode(frame))

    async def raw(self, data: bytes) -> None:
        """Send bytes."""
        await self.socket.send(data, text=not self.is_binary)

    async def welcome(self, **fields: Any) -> dict[str, Any]:
        """Shake hands."""
        frame = await self.expect("connect")
        await self.send({"type": "connected", "id": frame["id"], "session": "s", "version": 1, "ping_interval_s": 25, **fields})
        return frame

    async def take(self, number: int = 17, **fields: Any) -> dict[str, Any]:
        """Accept the next subscription."""
        frame = await self.expect("subscribe")
        answer = {"type": "subscribed", "id": frame["id"], "channel": frame["channel"], "number": number, "kind": "stream", "mode": "queue"}
        await self.send({**answer, "delta": None, "position": None, "recovered": None, **fields})
        return frame

    async def publish(self, offset: int, value: Any, *, number: int = 17) -> None:
        """Send a full publication."""
        payload = msgspec.json.encode(value)
        if self.is_binary:
            await self.send([0, number, offset, EPOCH, None, None, 0, payload])
        else:
            await self.send({"type": "publication", "number": number, "epoch": EPOCH, "offset": offset, "data": value})

    async def patch(self, offset: int, operations: list[Any], *, number: int = 17) -> None:
        """Send a JSON Patch to the publication before."""
        if self.is_binary:
            await self.send([2, number, offset, offset - 1, None, None, 0, msgspec.json.encode(operations)])
        else:
            frame = {
                "type": "publication",
                "number": number,
                "offset": offset,
                "base": offset - 1,
                "delta": "json-patch",
                "data": operations,
            }
            await self.send(frame)

    async def vcdiff(self, offset: int, delta: bytes, *, number: int = 17) -> None:
        """Send a VCDIFF delta to the publication before."""
        if self.is_binary:
            await self.send([1, number, offset, offset - 1, None, None, 0, delta])
        else:
            frame = {"type": "publication", "number": number, "offset": offset, "base": offset - 1, "delta": "vcdiff", "encoding": "base64"}
            await self.send({**frame, "data": b64encode(delta).decode()})

    async def stay(self) -> None:
        """Read until the client goes."""
        with suppress(ConnectionClosed):
            while True:
                await self.socket.recv()

    def cut(self) -> None:
        """Break the connection without a word."""
        self.socket.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class FakeEdge:
    """Plays one script a connection, in the order of connections; the last one plays for all that follow."""

    def __init__(self, *scripts: Script, refuse: tuple[int, dict[str, str]] | None = None) -> None:
        self._scripts = scripts
        self._refuse = refuse
        self._server: Server | None = None
        self.connections = 0
        self.problems: list[BaseException] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._handle,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol("distributary.v1.json"), Subprotocol("distributary.v1.msgpack")],
            process_request=self._judge,
            compression=None,
            close_timeout=1,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        if kind is None and self.problems:
            raise self.problems[0]

    def _judge(self, connection: ServerConnection, request: Request) -> Response | None:
        assert request.path == "/v1/ws"
        if self._refuse is None:
            return None
        self.connections += 1
        status, headers = self._refuse
        response = connection.respond(http.HTTPStatus(status), "no\n")
        response.headers.update(headers)
        return response

    async def _handle(self, socket: ServerConnection) -> None:
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        try:
            await script(Peer(socket))
        except ConnectionClosed:
            pass
        except (AssertionError, TimeoutError) as problem:
            self.problems.append(problem)


class FastClock:
    """Time that stands still, and waits that are noted and end at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        """The present moment; it moves when a test moves it."""
        return self.now

    async def sleep(self, delay_s: float) -> None:
        """Note the wait; give the others a turn."""
        self.waits.append(delay_s)
        await asyncio.sleep(0.001)


def run(main: Coroutine[Any, Any, Any]) -> None:
    """Run a test's coroutine within bounds, and see that it leaves no task behind."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await main
            await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    asyncio.run(bounded())


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - the conditions are of many kinds, and few of them have an event
            await asyncio.sleep(0.001)
