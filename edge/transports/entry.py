"""The way in: what a new TCP connection is before it is known what its client wants.

A request for a WebSocket is answered here: it is parsed once, and waits or is turned away before anything costly was done for it. Any other
request is uvicorn's, which gets the connection with the bytes that came.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from edge.core.admission import Gate, Verdict
from edge.core.limits import ConnectionCounter
from edge.node import Node
from edge.transports.handshake import Handshake, Refusal, read_handshake
from edge.transports.websocket import WebSocketConnection, WebSocketConnections
from shared.telemetry import Log

log = Log("distributary.edge.entry")

PATH = "/v1/ws"
MAX_HEAD_BYTES = 32_768
MAX_HTTP_BYTES = 1_048_576
"""Of all requests of one connection that stays with HTTP: they have no bodies."""
MAX_ENTRIES = 8_192
"""Connections whose request has not come, or that wait for their turn. More are cut."""
PUMP_S = 0.005
REQUEST_COST = 2_000
"""By it (`edge.turns`) newcomers let the frames of those who are in go first, up to 2 s long."""

_PATH = PATH.encode()


class Endpoint:
    """What all connections of this process share. `tick` once a second."""

    def __init__(self, node: Node, *, random: Callable[[], float], with_deflate: bool = False) -> None:
        self.node = node
        self.with_deflate = with_deflate
        self.counter = ConnectionCounter(node.limits)
        self.websockets = WebSocketConnections(node, self.counter)
        self.gate: Gate[Entry] = Gate(node.limits.max_connects_per_s, node.clock())
        self.is_draining = False
        self.entries: dict[Entry, None] = {}
        self._random = random
        self._is_pumping = False

    def __repr__(self) -> str:
        return f"<Endpoint {self.websockets!r} {self.gate!r}{' draining' if self.is_draining else ''}>"

    def http_protocol(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> Entry:
        """Make the protocol of a new connection: what uvicorn calls as its `http_protocol_class`."""
        return Entry(self, server_state, lambda: _BoundedHttp(config, server_state, app_state, _loop))

    def websocket_protocol(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> Entry:
        """Make the protocol for an upgrade on a connection that uvicorn has answered a request on: its `ws_protocol_class`."""
        return self.http_protocol(config, server_state, app_state)

    def tick(self) -> None:
        """Pings and time-outs."""
        self.websockets.tick()
        now = self.websockets.awake()
        for entry in list(self.entries):
            if entry.until > now:
                break
            if not entry.is_waiting:
                entry.cut()

    def drain(self) -> None:
        """Let nobody in any more."""
        self.is_draining = True
        for entry in list(self.entries):
            entry.admit()

    def refusal(self) -> Refusal | None:
        """Why nobody can come in now, if so."""
        if self.is_draining:
            return self.too_many("this edge is going away; try again")
        if self.counter.is_full:
            return self.too_many("too many connections; try again later")
        return None

    def too_many(self, text: str) -> Refusal:
        """A refusal that says when to come back: not all at the same time."""
        after_s = self.gate.retry_after_s(self.node.clock(), self._random())
        return Refusal(503, text, (b"Retry-After", b"%d" % after_s))

    def ask(self, entry: Entry) -> None:
        """Admit a client now, later or not at all."""
        verdict = self.gate.ask(entry, self.node.clock())
        if verdict is Verdict.ADMITTED:
            entry.admit()
        elif verdict is Verdict.REFUSED:
            entry.refuse(self.too_many("too many clients come at the same time; try again later"))
        elif not self._is_pumping:
            self._is_pumping = True
            asyncio.get_running_loop().call_later(PUMP_S, self._pump)

    def _pump(self) -> None:
        """Let those in whose turn it is; a little work at a time."""
        for entry in self.gate.due(self.node.clock()):
            entry.admit()
        self._is_pumping = bool(len(self.gate))
        if self._is_pumping:
            asyncio.get_running_loop().call_later(PUMP_S, self._pump)


class _BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol, whose parser takes headers without end: one connection gets to send so much in all, and may come again."""

    _received = 0

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > MAX_HTTP_BYTES:
            self.transport.abort()
        else:
            super().data_received(data)


class Entry(asyncio.Protocol):
    """One new connection. Its callbacks `on_...` are those of httptools' parser."""

    __slots__ = (
        "_endpoint",
        "_head",
        "_head_bytes",
        "_headers",
        "_http",
        "_is_complete",
        "_is_upgrade",
        "_later",
        "_method",
        "_parser",
        "_rest",
        "_server_state",
        "_successor",
        "_transport",
        "_url",
        "_version",
        "until",
    )

    _transport: asyncio.Transport

    def __init__(self, endpoint: Endpoint, server_state: ServerState, http: Callable[[], asyncio.Protocol]) -> None:
        self._endpoint = endpoint
        self._server_state = server_state
        self._http = http
        self._parser: Any = httptools.HttpRequestParser(self)
        self._head: list[bytes] = []
        self._head_bytes = 0
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._rest = b""
        self._later: list[bytes] | None = None
        """What came in a turn of the event loop that had no time for it; None where nothing waits."""
        self._is_complete = False
        self._is_upgrade = False
        self._method = b""
        self._version = ""
        self._successor: asyncio.Protocol | None = None
        self.until = 0.0
        """When its time is up."""

    def __repr__(self) -> str:
        return f"<Entry {self._url!r} {self._successor!r}>"

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; what it wants comes next."""
        self._transport = cast("asyncio.Transport", transport)
        endpoint = self._endpoint
        if len(endpoint.entries) >= MAX_ENTRIES:
            self._transport.abort()
            return
        endpoint.entries[self] = None
        self.until = endpoint.websockets.awake() + endpoint.node.limits.connect_timeout_s

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._successor is not None:
            self._transport.set_protocol(self._successor)  # uvicorn has put us in its place again.
            self._successor.data_received(data)
        elif self._is_complete:
            self._keep(data)
        elif self._later is not None:
            self._transport.pause_reading()  # Or somebody who never waits would fill our memory.
            self._later.append(data)
        elif self._endpoint.node.turns.is_over():
            self._later = [data]
            self._endpoint.node.turns.later(self._go_on, REQUEST_COST)
        else:
            self._read(data)

    def eof_received(self) -> bool | None:
        """The client sends no more."""
        return None if self._successor is None else self._successor.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, perhaps while it waited."""
        self._leave()
        if self._successor is not None:
            self._successor.connection_lost(exc)

    def pause_writing(self) -> None:
        """For the successor."""
        if self._successor is not None:
            self._successor.pause_writing()

    def resume_writing(self) -> None:
        """See `pause_writing`."""
        if self._successor is not None:
            self._successor.resume_writing()

    # -- httptools -----------------------------------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """All headers were read."""
        parser = self._parser
        self._is_complete = True
        # HTTP clients ask for other upgrades (h2c), and are content with none.
        self._is_upgrade = parser.should_upgrade() and any(
            name == b"upgrade" and b"websocket" in value.lower() for name, value in self._headers
        )
        self._method = parser.get_method()
        self._version = parser.get_http_version()

    # -- decisions -----------------------------------------------------------------------------------------------------------------

    def admit(self) -> None:
        """The client's turn has come: open its WebSocket."""
        if self not in self._endpoint.entries:
            return  # It went away while it waited.
        refusal = self._endpoint.refusal()
        if refusal is None:
            self._try_to_open()
        else:
            self.refuse(refusal)

    def _try_to_open(self) -> None:
        try:
            handshake = read_handshake(self._method, self._version, self._headers, with_deflate=self._endpoint.with_deflate)
        except Refusal as refusal:
            self.refuse(refusal)
            return
        address = self._address() if self._endpoint.counter.is_by_address else ""
        if self._endpoint.counter.enter(address):
            self._open(handshake, address)
        else:
            self.refuse(self._endpoint.too_many("too many connections of this address; try again later"))

    def refuse(self, refusal: Refusal) -> None:
        """Answer, and close."""
        self._leave()
        if not self._transport.is_closing():
            self._transport.write(refusal.response(self._server_state.default_headers))
            self._transport.close()

    @property
    def is_waiting(self) -> bool:
        """Whether it is for us to go on: what it sent was not read yet, or it is its turn soon."""
        return self._later is not None or self._is_complete

    def cut(self) -> None:
        """Its time is up."""
        self._leave()
        self._transport.abort()

    def _go_on(self) -> None:
        """Read what came in an earlier turn of the event loop."""
        later, self._later = self._later or [], None
        if self not in self._endpoint.entries:
            return  # It went away while it waited, or was sent away.
        if len(later) > 1:
            self._transport.resume_reading()
        self._read(b"".join(later))

    def _read(self, data: bytes) -> None:
        self._head.append(data)
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._rest = data[upgrade.args[0] :]
        except httptools.HttpParserError:
            self._hand_to_http()  # It says what is wrong.
            return
        if self._is_complete:
            self._decide()
        elif self._head_bytes > MAX_HEAD_BYTES:
            self.refuse(Refusal(431, f"the head of a request has at most {MAX_HEAD_BYTES} bytes"))

    def _decide(self) -> None:
        path = self._url.partition(b"?")[0]
        if not self._is_upgrade:
            self._hand_to_http()
        elif path == _PATH:
            refusal = self._endpoint.refusal()
            if refusal is None:
                self._endpoint.ask(self)
            else:
                self.refuse(refusal)
        else:
            self.refuse(Refusal(404, f"WebSocket clients connect to {PATH}"))

    def _open(self, handshake: Handshake, address: str) -> None:
        connection = WebSocketConnection(self._endpoint.websockets, self._transport, address)
        self._follow(connection)
        connection.open(handshake, self._url.partition(b"?")[2])
        if self._rest:
            connection.data_received(self._rest)

    def _hand_to_http(self) -> None:
        http = self._http()
        http.connection_made(self._transport)
        self._follow(http)
        http.data_received(b"".join(self._head))

    def _follow(self, successor: asyncio.Protocol) -> None:
        """From now on the connection is the successor's."""
        self._leave()
        self._successor = successor
        self._transport.set_protocol(successor)

    def _keep(self, data: bytes) -> None:
        """Frames that come before the answer; nobody should send many."""
        self._rest += data
        if len(self._rest) > MAX_HEAD_BYTES:
            self.cut()

    def _leave(self) -> None:
        """Be no longer waited for. The parser holds us, as we hold it: without this only the garbage collector would end both."""
        self._parser = None
        with contextlib.suppress(KeyError):
            del self._endpoint.entries[self]

    def _address(self) -> str:
        peer = self._transport.get_extra_info("peername")
        return str(peer[0]) if isinstance(peer, tuple) else ""
