"""WebSocket: our own asyncio protocol on websockets' Sans-I/O layer, given to uvicorn in place of its own.

uvicorn parses the HTTP request and hands the connection over. There is no task per connection: bytes in, messages to the session, finished
frames out. What websockets does for each frame on the way out (state checks, masking, extensions) is done once per publication here:
the frames of a server have no mask, so the same bytes serve everyone.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from edge.core.limits import ConnectionCounter
from edge.core.protocol import CommandError, Subscribe, read_channel, read_delta
from edge.core.variant import Dialect
from edge.node import Node
from edge.session import CLOSE_CONNECT_TIMEOUT, CLOSE_PING_TIMEOUT, CLOSE_SLOW_CONSUMER, Session
from shared.publication import DeltaFormat
from shared.telemetry import Log

log = Log("distributary.edge.websocket")

PATH = "/v1/ws"
SUBPROTOCOLS = {"distributary.v1.json": Dialect.JSON, "distributary.v1.msgpack": Dialect.MSGPACK}
CLOSE_TIMEOUT_S = 10.0
"""How long a client may take to read what is left and to answer a close."""

TCP_NOTSENT_LOWAT = 25
"""linux/tcp.h; in Python's socket module from 3.12 on."""

_TEXT, _BINARY = 0x81, 0x82
_SHORT, _MIDDLE = 126, 65_536


def _wrap(first: int, message: bytes) -> bytes:
    size = len(message)
    if size < _SHORT:
        return bytes((first, size)) + message
    if size < _MIDDLE:
        return struct.pack(">BBH", first, 126, size) + message
    return struct.pack(">BBQ", first, 127, size) + message


def wrap_text(message: bytes) -> bytes:
    """One unfragmented, unmasked text frame (RFC 6455, section 5.2)."""
    return _wrap(_TEXT, message)


def wrap_binary(message: bytes) -> bytes:
    """One unfragmented, unmasked binary frame (RFC 6455, section 5.2)."""
    return _wrap(_BINARY, message)


class WebSocketEndpoint:
    """What all WebSocket connections of this process share. `tick` once a second."""

    def __init__(self, node: Node, counter: ConnectionCounter) -> None:
        self.node = node
        self.counter = counter
        self.connections: dict[WebSocketConnection, None] = {}
        self.is_draining = False
        self.slow_consumers = 0
        self._second = 0

    def __repr__(self) -> str:
        return f"<WebSocketEndpoint {len(self.connections)} connections{' draining' if self.is_draining else ''}>"

    def protocol(self, **_: Any) -> WebSocketConnection:
        """Make the protocol for a connection: what uvicorn calls as its `ws_protocol_class`."""
        return WebSocketConnection(self)

    def tick(self) -> None:
        """Ping those whose turn it is, and close those that did not answer or did not connect in time."""
        self._second += 1
        interval = max(1, int(self.node.limits.ping_interval_s))
        now = self.node.clock()
        for connection in list(self.connections):
            if connection.number % interval == self._second % interval:
                connection.ping()
            connection.check_time(now)


class WebSocketConnection(asyncio.Protocol):
    """One connection, from the handshake to the close."""

    __slots__ = (
        "_address",
        "_burst",
        "_close_at",
        "_connect_by",
        "_endpoint",
        "_fragments",
        "_is_awaiting_pong",
        "_is_short",
        "_outbox_bytes",
        "_transport",
        "_ws",
        "is_writable",
        "number",
        "session",
        "write",
    )

    _numbers = 0

    def __init__(self, endpoint: WebSocketEndpoint) -> None:
        WebSocketConnection._numbers += 1
        self.number = WebSocketConnection._numbers
        self.session: Session | None = None
        self._endpoint = endpoint
        self._ws = ServerProtocol(
            subprotocols=[Subprotocol(name) for name in SUBPROTOCOLS],
            select_subprotocol=_select_subprotocol,
            max_size=endpoint.node.limits.max_frame_bytes,
        )
        self._fragments: list[bytes] = []
        self._address = ""
        self._burst = 0
        self._is_awaiting_pong = False
        self._is_short = False
        self._outbox_bytes = endpoint.node.limits.max_outbox_bytes
        self.is_writable = True
        self._close_at = 0.0
        self._connect_by = 0.0
        self.write: Callable[[bytes], None] = _drop

    def __repr__(self) -> str:
        return f"<WebSocketConnection {self.number} {self._ws.state.name} {self.session!r}>"

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection over from uvicorn; the bytes of the request follow."""
        self._transport = cast("asyncio.Transport", transport)
        # uvicorn does this after the handshake; by then a bare client's first values may be more than fits, and `pause_writing` not for us.
        self._transport.set_protocol(self)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._ws.receive_data(data)
        for event in self._ws.events_received():
            if isinstance(event, Request):
                self._open(event)
            elif isinstance(event, Frame):
                self._on_frame(event)
        self._flush()

    def eof_received(self) -> None:
        """The client sends no more."""
        self._ws.receive_eof()
        self._flush()

    def connection_lost(self, _exc: Exception | None) -> None:
        """The connection is gone."""
        self.write = _drop
        if self.session is not None:
            self.session.close()
        if self in self._endpoint.connections:
            del self._endpoint.connections[self]
            self._endpoint.counter.leave(self._address)

    def pause_writing(self) -> None:
        """More is unsent than should be: the client does not read fast enough. Called while others are being written to."""
        self.is_writable = False
        if not self._is_short:
            asyncio.get_running_loop().call_soon(self._end_slow)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.is_writable = True
        self._set_outbox(0)
        if self._is_short:
            asyncio.get_running_loop().call_soon(self._tell_writable)

    # -- edge.ports.ClientPipe -----------------------------------------------------------------------------------------------------

    def allow_burst(self, size: int) -> None:
        """See `edge.ports.ClientPipe`."""
        limits = self._endpoint.node.limits
        unsent = self._transport.get_write_buffer_size()
        if unsent + size <= limits.max_outbox_bytes // 2:
            return
        # Many small starts are a burst, too. But one that is asked for again and again and never read must come to an end.
        self._set_outbox(max(size, min((self._burst if unsent else 0) + size, limits.max_burst_bytes)))

    def keep_short(self) -> None:
        """See `edge.ports.ClientPipe`."""
        if self._is_short or self._ws.state is not State.OPEN:
            return
        self._is_short = True
        limit = self._endpoint.node.limits.short_outbox_bytes
        self.write = self._write_counted
        self._transport.set_write_buffer_limits(high=limit)
        # Without this the kernel takes megabytes, and the backlog is where nobody can conflate it.
        self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, limit)

    def close(self, code: int, reason: str) -> None:
        """See `edge.ports.ClientPipe`."""
        if self._ws.state is not State.OPEN:
            return
        self._ws.send_close(code, reason)
        self._flush()
        self._stop()

    # -- from the endpoint ---------------------------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Ask whether the client is there; close if it did not answer the last time."""
        if self._ws.state is not State.OPEN:
            return
        if self._is_awaiting_pong:
            self.close(*CLOSE_PING_TIMEOUT)
            return
        self._is_awaiting_pong = True
        self._ws.send_ping(b"")
        self._flush()
        if not self._is_short and self._transport.get_write_buffer_size() == 0:
            self.resume_writing()

    def check_time(self, now: float) -> None:
        """Close a client that never introduced itself; cut one that does not finish its close."""
        if self._close_at and now >= self._close_at:
            self._transport.abort()
        elif self._connect_by and now >= self._connect_by:
            self._connect_by = 0.0
            if self.session is not None and not self.session.is_connected:
                self.close(*CLOSE_CONNECT_TIMEOUT)

    def drain(self, reconnect_after_ms: int) -> None:
        """Tell the client to come back later, and close."""
        if self.session is not None and self._ws.state is State.OPEN:
            self.session.say_drain(reconnect_after_ms)
            self.close(CloseCode.GOING_AWAY, "drain")

    def shutdown(self) -> None:
        """Uvicorn is stopping and nothing more elegant has happened."""
        self.drain(0)

    # -- handshake -----------------------------------------------------------------------------------------------------------------

    def _open(self, request: Request) -> None:
        url = urlsplit(request.path)
        refusal = self._refusal(url.path)
        if refusal is not None:
            status, text = refusal
            response = self._ws.reject(status, text)
            if status == 503:
                response.headers["Retry-After"] = "2"
            self._ws.send_response(response)
            return
        response = self._ws.accept(request)
        self._ws.send_response(response)
        self._flush()
        if self._ws.state is not State.OPEN:
            self._endpoint.counter.leave(self._address)
            return
        self._endpoint.connections[self] = None
        limits = self._endpoint.node.limits
        self._transport.set_write_buffer_limits(high=limits.max_outbox_bytes)
        self._connect_by = self._endpoint.node.clock() + limits.connect_timeout_s
        self.write = self._transport.write
        self._begin(parse_qs(url.query, keep_blank_values=True))

    def _refusal(self, path: str) -> tuple[int, str] | None:
        if path != PATH:
            return 404, f"WebSocket clients connect to {PATH}\n"
        if self._endpoint.is_draining:
            return 503, "this edge is going away; try again\n"
        if not self._endpoint.counter.enter(self._address):
            return 503, "too many connections; try again later\n"
        return None

    def _begin(self, query: dict[str, list[str]]) -> None:
        dialect = SUBPROTOCOLS.get(self._ws.subprotocol or "", Dialect.JSON)
        if query.get("format") == ["msgpack"]:
            dialect = Dialect.MSGPACK
        is_bare = "channels" in query
        if is_bare:
            dialect = Dialect.JSON_NAMED if dialect.is_text else Dialect.MSGPACK_NAMED
        wrap = wrap_text if dialect.is_text else wrap_binary
        self.session = session = Session(self._endpoint.node, self, dialect, wrap)
        if is_bare:
            self._subscribe_bare(session, query)

    def _subscribe_bare(self, session: Session, query: dict[str, list[str]]) -> None:
        try:
            delta = read_delta([name for names in query.get("delta", []) for name in names.split(",")][:8], None)
        except CommandError as error:
            session.report(error)
            delta = DeltaFormat.NONE
        names = dict.fromkeys(name for names in query["channels"] for name in names.split(","))
        for name in names:
            try:
                session.subscribe(Subscribe(None, read_channel(name, None), delta=delta))
            except CommandError as error:
                session.report(error)

    # -- frames --------------------------------------------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> None:
        session = self.session
        if session is None or self._ws.state is not State.OPEN:
            return
        if frame.opcode is Opcode.PONG:
            self._is_awaiting_pong = False
        elif frame.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
            self._on_data(session, frame)

    def _on_data(self, session: Session, frame: Frame) -> None:
        self._is_awaiting_pong = False
        if frame.opcode is not Opcode.CONT and (frame.opcode is Opcode.TEXT) is not session.is_text:
            self._ws.fail(CloseCode.UNSUPPORTED_DATA, "text frames carry JSON, binary frames MessagePack")
            return
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            message = b"".join(self._fragments)
            self._fragments.clear()
            if session.is_text and not _is_utf8(message):
                self._ws.fail(CloseCode.INVALID_DATA, "text frames are UTF-8")
                return
            session.receive(message)

    def _flush(self) -> None:
        """Send what the Sans-I/O layer wants sent; an empty chunk means the end."""
        for data in self._ws.data_to_send():
            if data:
                self._transport.write(data)
            else:
                self._transport.close()
        if self._ws.state is not State.OPEN and self._ws.state is not State.CONNECTING:
            self._stop()

    def _stop(self) -> None:
        """Nothing more is delivered; what is unsent may still leave, for a while."""
        self.write = _drop
        if self.session is not None:
            self.session.close()
        if not self._close_at:
            self._close_at = self._endpoint.node.clock() + CLOSE_TIMEOUT_S

    def _set_outbox(self, burst: int) -> None:
        """Let so much more be unsent than usual, because the client asked for it."""
        self._burst = burst
        self._outbox_bytes = self._endpoint.node.limits.max_outbox_bytes + burst
        if not self._is_short:
            self._transport.set_write_buffer_limits(high=self._outbox_bytes)

    def _write_counted(self, frames: bytes) -> None:
        """Where the high-water mark means "conflate", the outbox's own bound is looked at on each write."""
        self._transport.write(frames)
        if not self.is_writable and self._transport.get_write_buffer_size() > self._outbox_bytes:
            asyncio.get_running_loop().call_soon(self._end_slow)

    def _tell_writable(self) -> None:
        if self.session is not None and self.is_writable:
            self.session.on_writable()

    def _end_slow(self) -> None:
        if self._ws.state is State.OPEN:
            self._endpoint.slow_consumers += 1
            log.info("closing a slow consumer", session=self.session, unsent_bytes=self._transport.get_write_buffer_size())
            self.close(*CLOSE_SLOW_CONSUMER)


def _drop(_: bytes) -> None:
    """Write to nobody."""


def _is_utf8(message: bytes) -> bool:
    if message.isascii():
        return True
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True


def _select_subprotocol(_: ServerProtocol, offered: Any) -> Subprotocol | None:
    """The first one that is known; none is no error: then the query decides."""
    return next((Subprotocol(name) for name in offered if name in SUBPROTOCOLS), None)
