"""WebSocket: one client's connection after the handshake, as an asyncio protocol.

There is no task per connection: bytes in, messages to the session, finished frames out. What a library does for each frame on the way out
(state checks, masking, extensions) is done once per publication here: the frames of a server have no mask, so the same bytes serve
everyone. How a connection comes to be: `edge.transports.entry`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from urllib.parse import parse_qs

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import SERVER, Protocol, State

from edge.core.awake import AwakeClock
from edge.core.delivery import Wish
from edge.core.limits import ConnectionCounter
from edge.core.protocol import CommandError, ErrorCode, Subscribe, read_channel, read_delta, read_wish
from edge.core.variant import Dialect, Wrap
from edge.node import Node
from edge.session import CLOSE_CONNECT_TIMEOUT, CLOSE_PING_TIMEOUT, CLOSE_SLOW_CONSUMER, Session
from edge.transports.deflate import Deflate
from edge.transports.frames import PING, PING_FRAME, PONG, TEXT, read_simple, wrap, wrap_binary, wrap_text
from edge.transports.handshake import Handshake
from shared.publication import DeltaFormat
from shared.telemetry import Log

log = Log("distributary.edge.websocket")

CLOSE_TIMEOUT_S = 10.0
"""How long a client may take to read what is left and to answer a close."""
MAX_FRAGMENTS = 1_000
MAX_UNREAD_PONGS = 1_000
"""Answers to pings, written behind something unsent. They have 2 bytes and take 50 times as much memory: bytes do not bound them."""
CLOSE_S = 0.00005
"""What the event loop and the kernel take to close a connection, at the end of the turn."""
NEWCOMER_COST = 1_000
"""By it (`edge.turns`) those who have no subscription yet let the frames of the others go first: thousands may come together."""
GONE_COST = 2_000
"""By it (`edge.turns`) those who are gone let the frames of those who are there go first."""
TCP_NOTSENT_LOWAT = 25
"""linux/tcp.h; in Python's socket module from 3.12 on."""
TCP_INFO_BYTES = 148
"""As much of linux/tcp.h's struct tcp_info as is read here."""
_BARE_ONLY = frozenset(("channel", "delta", "max_rate", "mode", "window"))
"""What in a URL means that `channels` was meant to be there. Other names are for those between, such as a gateway that authenticates."""
_U32, _U64 = struct.Struct("=I").unpack_from, struct.Struct("=Q").unpack_from


class WebSocketConnections:
    """The open WebSocket connections of this process. `tick` once a second."""

    def __init__(self, node: Node, counter: ConnectionCounter) -> None:
        self.node = node
        self.counter = counter
        self.awake = AwakeClock(node.clock)
        """By it clients' time is up."""
        self.open: dict[WebSocketConnection, None] = {}
        self.slow_consumers = 0
        self._numbers = 0
        self._second = 0

    def __repr__(self) -> str:
        return f"<WebSocketConnections {len(self.open)}>"

    def next_number(self) -> int:
        """A number for a new connection; by it the pings are spread over the seconds."""
        self._numbers += 1
        return self._numbers

    def let_go(self, connection: WebSocketConnection) -> None:
        """End a connection whose client is gone; soon, where thousands go at once: nobody else waits for all that it takes."""
        session, turns = connection.session, self.node.turns
        if session is not None and not session.is_closed and turns.is_over():
            turns.later(connection.end, GONE_COST)
        else:
            connection.end()

    def tick(self) -> None:
        """Ping those whose turn it is, and close those that did not answer or did not connect in time."""
        self._second += 1
        interval = max(1, int(self.node.limits.ping_interval_s))
        self.awake.tick()
        now = self.awake()
        for connection in list(self.open):
            if connection.number % interval == self._second % interval:
                connection.ping()
            connection.check_time(now)


class WebSocketConnection(asyncio.Protocol):
    """One connection, from its opening to its close."""

    __slots__ = (
        "_address",
        "_all",
        "_close_at",
        "_connect_by",
        "_deflate",
        "_fragments",
        "_is_awaiting_pong",
        "_is_behind",
        "_is_open",
        "_is_short",
        "_later",
        "_outbox_bytes",
        "_taken_bytes",
        "_transport",
        "_unread_pongs",
        "_ws",
        "is_writable",
        "number",
        "session",
        "write",
    )

    def __init__(self, all_: WebSocketConnections, transport: asyncio.Transport, address: str) -> None:
        """Take over a connection that was counted, and on which nothing was answered yet."""
        self.number = all_.next_number()
        self.session: Session | None = None
        self._all = all_
        self._transport = transport
        self._address = address
        self._ws: Protocol | None = None
        """websockets' layer, from when on something comes or goes that needs it."""
        self._fragments: list[bytes] | None = None
        self._deflate: Deflate | None = None
        self._later: list[bytes] | None = None
        """What came in a turn of the event loop that had no time for it; None where nothing waits."""
        self._is_open = True
        self._is_awaiting_pong = False
        self._is_behind = False
        """Whether something was on its way to the client when that was looked at last."""
        self._is_short = False
        self._unread_pongs = 0
        self._taken_bytes = 0
        """By the client's kernel, when it was time for the last ping."""
        self._outbox_bytes = all_.node.limits.max_outbox_bytes
        self.is_writable = True
        self._close_at = 0.0
        self._connect_by = 0.0
        self.write: Callable[[bytes], None] = transport.write

    def __repr__(self) -> str:
        return f"<WebSocketConnection {self.number} {'open' if self._is_open else 'closing'} {self.session!r}>"

    def open(self, handshake: Handshake, query: bytes) -> None:
        """Answer the handshake and begin the session."""
        self._all.open[self] = None
        limits = self._all.node.limits
        self._transport.set_write_buffer_limits(high=limits.max_outbox_bytes)
        self._connect_by = self._all.awake() + limits.connect_timeout_s
        self._deflate = handshake.deflate
        self._transport.write(handshake.response())
        self._begin(handshake, parse_qs(query.decode("latin-1"), keep_blank_values=True) if query else {})

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._later is not None:
            self._transport.pause_reading()  # Or somebody who never waits would fill our memory.
            self._later.append(data)
            return
        at, most, is_over = 0, self._all.node.limits.max_frame_bytes, self._all.node.turns.is_over
        while at < len(data):
            if is_over():
                self._later = [data[at:]]
                is_new = self.session is None or not self.session.is_subscribed
                self._all.node.turns.later(self._go_on, NEWCOMER_COST if is_new else 0)
                return
            if self._ws is not None:
                break
            simple = read_simple(data, at, most)
            if simple is None:
                break
            first, payload, at = simple
            self._on_simple(first, payload)
        else:
            return
        ws = self._protocol()
        ws.receive_data(data[at:] if at else data)
        for event in ws.events_received():
            if isinstance(event, Frame):
                self._on_frame(event)
        self._flush(ws)

    def _go_on(self) -> None:
        """Read what came in an earlier turn of the event loop."""
        later, self._later = self._later or [], None
        if self._transport.is_closing():
            return
        if len(later) > 1:
            self._transport.resume_reading()
        try:
            self.data_received(b"".join(later))
        except Exception:
            self._transport.abort()  # As the event loop does where it calls us itself: nobody waits for an answer that never comes.
            raise

    def eof_received(self) -> bool:
        """The client sends no more, so it cannot answer a close either."""
        self._all.let_go(self)
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        """The connection is gone, and its subscriptions end soon. Until then a channel that writes to it meets an error, and goes on."""
        self._is_open = False
        self.is_writable = False
        self.write = _drop
        if self in self._all.open:
            del self._all.open[self]
            self._all.counter.leave(self._address)
        self._all.let_go(self)

    def pause_writing(self) -> None:
        """More is unsent than should be: the client does not read fast enough. Called while others are being written to."""
        self.is_writable = False
        if not self._is_short:
            asyncio.get_running_loop().call_soon(self._look_at_outbox)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.is_writable = True
        self._unread_pongs = 0  # Of those who conflate something may be unsent all the time, for days.
        self._outbox_bytes = self._all.node.limits.max_outbox_bytes
        if not self._is_short and self._is_open and self.session is not None and self.write == self._write_counted:
            self.write = self._transport.write
            self.session.rewrite()
        asyncio.get_running_loop().call_soon(self._tell_writable)

    # -- edge.ports.ClientPipe -----------------------------------------------------------------------------------------------------

    def allow_burst(self, size: int) -> None:
        """See `edge.ports.ClientPipe`."""
        if not self._is_open:
            return
        limit, expected = self._all.node.limits.max_outbox_bytes, self._transport.get_write_buffer_size() + size
        if expected > limit // 2:
            self._outbox_bytes = max(self._outbox_bytes, limit + expected)

    @property
    def is_full(self) -> bool:
        """See `edge.ports.ClientPipe`."""
        return not self.is_writable and self._transport.get_write_buffer_size() > self._all.node.limits.max_outbox_bytes

    def keep_short(self) -> None:
        """See `edge.ports.ClientPipe`."""
        if self._is_short or not self._is_open:
            return
        self._is_short = True
        limit = self._all.node.limits.short_outbox_bytes
        self.write = self._write_counted
        self._transport.set_write_buffer_limits(high=limit)
        # Without this the kernel takes megabytes, and the backlog is where nobody can conflate it.
        self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, limit)

    def close(self, code: int, reason: str) -> None:
        """See `edge.ports.ClientPipe`."""
        if not self._is_open:
            return
        ws = self._protocol()
        if ws.state is State.OPEN:  # Else the client's own close was read with what we close it for, and is answered.
            ws.send_close(code, reason)
        self._flush(ws)

    def end(self) -> None:
        """The client is gone: leave everything."""
        self._stop()
        self._all.node.turns.charge(CLOSE_S)
        if self in self._all.open:
            self._transport.close()
            return
        # Without these circles all of it is freed now: the garbage collector would find it late, or never (edge/garbage.py).
        self.session = None
        if self._ws is not None:
            self._ws.parser.close()

    # -- from the endpoint ---------------------------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Ask whether the client is there; close if it did not answer the last time, and does not read what came before that either."""
        if not self._is_open:
            return
        if self.session is not None:
            self.session.begin_postponed()  # What is unsent may stay for long where all is well again, and nobody tells.
        was_behind, has_taken = self._is_behind, self._look_at_taken()
        if self._is_awaiting_pong:
            # Who took the last of it just now has not had the time to answer what was at its end.
            if not has_taken or not (was_behind or self._is_behind):
                self.close(*CLOSE_PING_TIMEOUT)
            return
        self._is_awaiting_pong = True
        self._transport.write(PING_FRAME)
        if self._transport.get_write_buffer_size() == 0:
            self._outbox_bytes = self._all.node.limits.max_outbox_bytes  # What it asked for once is read.

    def _look_at_taken(self) -> bool:
        """Note whether something is on its way to the client. Returns whether it has taken some since this was asked the last time."""
        self._is_behind = False
        connection = self._transport.get_extra_info("socket")
        if connection is None:
            return False
        try:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
            (unacknowledged,), (acknowledged,), (unsent,) = _U32(info, 24), _U64(info, 120), _U32(info, 144)
        except (OSError, struct.error):
            return False  # It is closed, or the kernel does not tell.
        before, self._taken_bytes = self._taken_bytes, acknowledged
        self._is_behind = bool(unacknowledged or unsent or self._transport.get_write_buffer_size())
        has_taken: bool = acknowledged > before
        return has_taken

    def check_time(self, now: float) -> None:
        """Close a client that never introduced itself; cut one that does not finish its close."""
        if self._close_at and now >= self._close_at:
            self._transport.abort()
        elif self._connect_by and now >= self._connect_by and self._later is None:  # Else it is we who are late.
            self._connect_by = 0.0
            if self.session is not None and not self.session.is_connected:
                self.close(*CLOSE_CONNECT_TIMEOUT)

    def drain(self, reconnect_after_ms: int) -> None:
        """Tell the client to come back later, and close."""
        if self.session is not None and self._is_open:
            self.session.say_drain(reconnect_after_ms)
            self.close(CloseCode.GOING_AWAY, "drain")

    # -- session -------------------------------------------------------------------------------------------------------------------

    def _begin(self, handshake: Handshake, query: dict[str, list[str]]) -> None:
        dialect = handshake.dialect or Dialect.JSON
        if query.get("format") == ["msgpack"]:
            dialect = Dialect.MSGPACK
        is_bare = "channels" in query
        if is_bare:
            dialect = Dialect.JSON_NAMED if dialect.is_text else Dialect.MSGPACK_NAMED
        self.session = session = Session(self._all.node, self, dialect, _wrap_for(dialect, handshake.deflate))
        if is_bare:
            self._subscribe_bare(session, query)
        elif misplaced := next((name for name in query if name in _BARE_ONLY), None):
            msg = f"the URL names no channels, and {misplaced!r} goes with them: ?channels=bus:1430,bus:1431"
            session.report(CommandError(ErrorCode.BAD_FRAME, msg))

    def _subscribe_bare(self, session: Session, query: dict[str, list[str]]) -> None:
        try:
            delta = read_delta([name for names in query.get("delta", []) for name in names.split(",")][:8], None)
        except CommandError as error:
            session.report(error)
            delta = DeltaFormat.NONE
        try:
            wish = _read_wish(query)
        except CommandError as error:
            session.report(error)  # Another mode would be a surprise.
            return
        names = dict.fromkeys(name for names in query["channels"] for name in names.split(","))
        for name in names:
            try:
                session.subscribe(Subscribe(None, read_channel(name, None), delta=delta, wish=wish))
            except CommandError as error:
                session.report(error)

    # -- frames --------------------------------------------------------------------------------------------------------------------

    def _protocol(self) -> Protocol:
        """The layer of websockets for this connection, which knows nothing of the simple frames before."""
        if self._ws is None:
            self._ws = Protocol(SERVER, state=State.OPEN, max_size=self._all.node.limits.max_frame_bytes)
            if self._deflate is not None:
                self._ws.extensions = [self._deflate.inflater()]
        return self._ws

    def _on_simple(self, first: int, payload: bytes) -> None:
        self._is_awaiting_pong = False
        if first == PING:
            self.write(wrap(PONG, payload))
            self._count_pong()
        elif first != PONG:
            self._on_message(payload, is_text=first == TEXT)

    def _on_frame(self, frame: Frame) -> None:
        if not self._is_open:
            return
        self._is_awaiting_pong = False
        if frame.opcode is Opcode.PING:  # It is answered with what else is to be sent.
            self._count_pong()
        if frame.opcode is Opcode.TEXT or frame.opcode is Opcode.BINARY:
            if frame.fin:
                self._on_message(bytes(frame.data), is_text=frame.opcode is Opcode.TEXT)
            elif self._is_kind(is_text=frame.opcode is Opcode.TEXT):
                self._fragments = [bytes(frame.data)]
        elif frame.opcode is Opcode.CONT and self._fragments is not None:
            self._fragments.append(bytes(frame.data))
            if len(self._fragments) > MAX_FRAGMENTS:
                self._fail(CloseCode.MESSAGE_TOO_BIG, f"a message has at most {MAX_FRAGMENTS} fragments")
            elif frame.fin:
                message, self._fragments = b"".join(self._fragments), None
                self._on_message(message, is_text=None)

    def _count_pong(self) -> None:
        """Who goes on to send pings and reads nothing is a slow consumer, however little is unsent."""
        self._unread_pongs = self._unread_pongs + 1 if self._transport.get_write_buffer_size() else 0
        if self._unread_pongs == MAX_UNREAD_PONGS:
            asyncio.get_running_loop().call_soon(self._end_slow)

    def _is_kind(self, *, is_text: bool) -> bool:
        """Whether the client may send such frames; if not, it is told."""
        if self.session is None or is_text is self.session.is_text:
            return True
        self._fail(CloseCode.UNSUPPORTED_DATA, "text frames carry JSON, binary frames MessagePack")
        return False

    def _on_message(self, message: bytes, *, is_text: bool | None) -> None:
        session = self.session
        if session is None or (is_text is not None and not self._is_kind(is_text=is_text)):
            return
        if session.is_text and not _is_utf8(message):
            self._fail(CloseCode.INVALID_DATA, "text frames are UTF-8")
            return
        session.receive(message)

    def _fail(self, code: CloseCode, reason: str) -> None:
        ws = self._protocol()
        ws.fail(code, reason)
        self._flush(ws)

    def _flush(self, ws: Protocol) -> None:
        """Send what the Sans-I/O layer wants sent; an empty chunk means the end."""
        for data in ws.data_to_send():
            if data:
                # As all else, so that who sends pings and reads nothing is a slow consumer; and nothing after a close, however much comes.
                self.write(data)
            else:
                self._transport.close()
        if ws.state is not State.OPEN:
            self._stop()

    def _stop(self) -> None:
        """Nothing more is delivered; what is unsent may still leave, for a while."""
        self._is_open = False
        self.write = _drop
        if self.session is not None:
            self.session.close()
        if not self._close_at:
            self._close_at = self._all.awake() + CLOSE_TIMEOUT_S

    def _write_counted(self, frames: bytes) -> None:
        """Where the high-water mark means "conflate", the outbox's own bound is looked at on each write."""
        self._transport.write(frames)
        if not self.is_writable and self._transport.get_write_buffer_size() > self._outbox_bytes:
            asyncio.get_running_loop().call_soon(self._end_slow)

    def _look_at_outbox(self) -> None:
        """Too much is unsent: close, unless it is one publication that is larger than an outbox. Then no other may come meanwhile."""
        session = self.session
        if self.is_writable or self._is_short or session is None or not self._is_open:
            return
        self._outbox_bytes = max(self._outbox_bytes, session.largest_bytes)
        if self._transport.get_write_buffer_size() > self._outbox_bytes:
            self._end_slow()
        else:
            self.write = self._write_counted
            session.rewrite()

    def _tell_writable(self) -> None:
        if self.session is not None and self.is_writable:
            self.session.on_writable()

    def _end_slow(self) -> None:
        if self._is_open:
            self._all.slow_consumers += 1
            log.info("closing a slow consumer", session=self.session, unsent_bytes=self._transport.get_write_buffer_size())
            self.close(*CLOSE_SLOW_CONSUMER)


def _wrap_for(dialect: Dialect, deflate: Deflate | None) -> Wrap:
    if deflate is not None:
        return deflate.wrap(is_text=dialect.is_text)
    return wrap_text if dialect.is_text else wrap_binary


def _read_wish(query: dict[str, list[str]]) -> Wish:
    fields: dict[str, object] = {}
    for name, read in (("mode", str), ("max_rate", float), ("window", int)):
        for text in query.get(name, ()):
            try:
                fields[name] = read(text)
            except ValueError:
                fields[name] = text
    return read_wish(fields, None)


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
