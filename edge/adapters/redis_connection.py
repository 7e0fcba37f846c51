"""One connection to Redis on the event loop: commands out, replies in, parsed by hiredis.

redis-py's own costs 20 us a pub/sub message where this costs about 1.3: every publication passes here (docs/adr/0003-hiredis.md).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import hiredis
import msgspec
from redis.asyncio.connection import parse_url

from shared.bus.servers import server_url
from shared.errors import BusUnavailableError, ConfigurationError

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 5.0
MAX_IN_FLIGHT = 10_000
"""Commands without an answer on one connection."""


class Address(msgspec.Struct, frozen=True):
    """Where and as whom to connect."""

    name: str
    """For logs, without secrets."""
    host: str
    port: int
    path: str
    """Of a Unix socket; then host and port are unused."""
    username: str
    password: str
    database: int
    tls: ssl.SSLContext | None


def parse_address(url: str) -> Address:
    """Read `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://...` (TLS; `?ssl_ca_certs=FILE`, `?ssl_cert_reqs=none`) or `unix://PATH`.

    A node of a cluster (`redis+cluster://...`) is read as a server.
    """
    url = server_url(url)
    try:
        options: dict[str, Any] = dict(parse_url(url))
        query = parse_qs(urlsplit(url).query)
        tls = _tls(query) if url.startswith("rediss://") else None
    except (ValueError, OSError) as error:
        raise ConfigurationError([f"--bus: {error}"]) from None
    host, port = options.get("host") or "127.0.0.1", int(options.get("port") or 6379)
    path = options.get("path") or ""
    name = path or f"{host}:{port}"
    return Address(name, host, port, path, options.get("username") or "", options.get("password") or "", int(options.get("db") or 0), tls)


def pack(*command: bytes | str | int) -> bytes:
    """A command as it goes over the wire (RESP2)."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows tuples of one element only
    return packed


class RedisConnection(asyncio.Protocol):
    """Answers come in the order of commands; pushed pub/sub messages go to `on_messages`, all of one read at once."""

    def __init__(self, name: str, on_messages: Callable[[list[list[Any]]], None] | None = None) -> None:
        self._name = name
        self._on_messages = on_messages
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[asyncio.Future[Any] | None] = deque()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is gone."""

    def __repr__(self) -> str:
        return f"<RedisConnection {self._name} {'lost' if self.lost.done() else 'up'} {len(self._waiting)} in flight>"

    @classmethod
    async def open(cls, address: Address, on_messages: Callable[[list[list[Any]]], None] | None = None) -> RedisConnection:
        """Connect and authenticate; raise BusUnavailableError if that fails or takes too long."""
        loop = asyncio.get_running_loop()
        connection = cls(address.name, on_messages)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if address.path:
                    await loop.create_unix_connection(lambda: connection, address.path)
                else:
                    await loop.create_connection(lambda: connection, address.host, address.port, ssl=address.tls)
        except (OSError, TimeoutError) as error:
            connection.close()
            msg = f"Redis {address.name}: {str(error) or 'no connection in time'}"
            raise BusUnavailableError(msg) from error
        try:
            await connection._greet(address)
        except BusUnavailableError:
            connection.close()
            raise
        return connection

    async def ask(self, *command: bytes | str | int) -> Any:
        """Send a command and wait for its answer; raise BusUnavailableError if there is none in time, or an error."""
        future = self.ask_later((command,))
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = await future
        except TimeoutError:
            self.close()
            msg = f"Redis {self._name}: no answer to {command[0]!s} within {ANSWER_TIMEOUT_S} s"
            raise BusUnavailableError(msg) from None
        if isinstance(answer, hiredis.ReplyError):
            msg = f"Redis {self._name} refused {command[0]!s}: {answer}"
            raise BusUnavailableError(msg)
        return answer

    def ask_later(self, commands: tuple[tuple[bytes | str | int, ...], ...]) -> asyncio.Future[Any]:
        """Send commands together; the future gets the answer to the last one, which may be a hiredis.ReplyError."""
        if len(self._waiting) >= MAX_IN_FLIGHT:
            msg = f"Redis {self._name}: {MAX_IN_FLIGHT} commands wait for an answer"
            raise BusUnavailableError(msg)
        self.send(b"".join(pack(*command) for command in commands))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.extend([None] * (len(commands) - 1))
        self._waiting.append(future)
        return future

    def send(self, packed: bytes) -> None:
        """Send packed commands whose answers are pushed messages (SUBSCRIBE and the like)."""
        if self._transport is None or self.lost.done():
            msg = f"Redis {self._name}: connection lost"
            raise BusUnavailableError(msg)
        self._transport.write(packed)

    def hold(self, is_held: bool) -> None:  # noqa: FBT001  (see `edge.ports.Bus`)
        """Leave what comes where it is, in the kernel and at the server; or take it in again."""
        if self._transport is not None and not self.lost.done():
            if is_held:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def close(self) -> None:
        """Give the connection up."""
        if self._transport is not None:
            self._transport.abort()
        self._lose()

    async def _greet(self, address: Address) -> None:
        """Authenticate and choose the database; before pub/sub, so that answers are plain."""
        if address.password:
            user = (address.username,) if address.username else ()
            await self.ask("AUTH", *user, address.password)
        if address.database:
            await self.ask("SELECT", address.database)

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand out every reply that is complete."""
        try:
            self._reader.feed(data)
            replies = []
            while (reply := self._reader.gets()) is not False:
                replies.append(reply)
        except hiredis.ProtocolError:
            self.close()
            return
        messages = replies if self._on_messages is not None and not self._waiting else self._answer(replies)
        if messages and self._on_messages is not None:
            self._on_messages(messages)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Fail whoever waits."""
        self._lose()

    def _answer(self, replies: list[Any]) -> list[list[Any]]:
        """Give replies to those who wait for one; returns the rest."""
        waiting = self._waiting
        for at, reply in enumerate(replies):
            if not waiting:
                return replies[at:]
            future = waiting.popleft()
            if future is not None and not future.done():
                future.set_result(reply)
        return []

    def _lose(self) -> None:
        if self.lost.done():
            return
        self.lost.set_result(None)
        waiting, self._waiting = self._waiting, deque()
        error = BusUnavailableError(f"Redis {self._name}: connection lost")
        for future in waiting:
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()  # mark as seen: whoever asked may be gone


def _tls(query: dict[str, list[str]]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=query.get("ssl_ca_certs", [None])[0])
    if query.get("ssl_cert_reqs", ["required"])[0] == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
