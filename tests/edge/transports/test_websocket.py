"""How much may be unsent: an outbox, and on top of it what the client asked for; and what the ping is for besides."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

import pytest

from edge.session import Session
from edge.transports.websocket import MAX_UNREAD_PONGS, WebSocketConnection
from tests.edge.transports.fake_transport import FakeTransport
from tests.edge.transports.test_entry import CONNECT, UPGRADE, Door
from tests.edge.transports.test_frames import frame

OUTBOX = 100


def run(test: Callable[[WebSocketConnection, FakeTransport], None]) -> FakeTransport:
    """Do this with a client that has connected, then let the event loop go round."""

    async def main() -> FakeTransport:
        entry, transport = Door(max_outbox_bytes=OUTBOX).come()
        entry.data_received(UPGRADE + CONNECT)
        connection = transport.protocol
        assert isinstance(connection, WebSocketConnection)
        test(connection, transport)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return transport

    return asyncio.run(main())


def leave_unsent(connection: WebSocketConnection, transport: FakeTransport, size: int) -> None:
    """As asyncio does when a client does not read."""
    transport.unsent = size
    if size > OUTBOX and connection.is_writable:
        connection.pause_writing()
    connection.write(b"")


def is_closed(transport: FakeTransport) -> bool:
    return b"slow_consumer" in transport.sent


def test_an_outbox_is_no_reason_to_close():
    assert not is_closed(run(lambda connection, transport: leave_unsent(connection, transport, OUTBOX)))


def test_more_is():
    # What one publication may have comes on top (a quarter of a KB at least).
    assert is_closed(run(lambda connection, transport: leave_unsent(connection, transport, OUTBOX + 5_000)))


def test_what_was_asked_for_is_on_top_of_an_outbox():
    def ask(connection: WebSocketConnection, transport: FakeTransport) -> None:
        transport.unsent = 60
        connection.allow_burst(10_000)
        leave_unsent(connection, transport, 60 + 10_000 + OUTBOX)

    assert not is_closed(run(ask))


def test_and_no_more_than_that():
    def ask(connection: WebSocketConnection, transport: FakeTransport) -> None:
        transport.unsent = 60
        connection.allow_burst(10_000)
        leave_unsent(connection, transport, 60 + 10_000 + OUTBOX + 1)

    assert is_closed(run(ask))


def test_it_is_over_when_the_client_has_read():
    def read(connection: WebSocketConnection, transport: FakeTransport) -> None:
        connection.allow_burst(10_000)
        leave_unsent(connection, transport, 10_000)
        transport.unsent = 0
        connection.resume_writing()
        leave_unsent(connection, transport, 10_000)

    assert is_closed(run(read))


def test_nothing_new_begins_with_more_than_an_outbox_unsent():
    def fill(connection: WebSocketConnection, transport: FakeTransport) -> None:
        connection.allow_burst(10_000)
        for size, is_full in ((OUTBOX, False), (OUTBOX + 1, True), (10_000, True), (OUTBOX, False)):
            leave_unsent(connection, transport, size)
            assert connection.is_full is is_full
        connection.resume_writing()
        assert not connection.is_full

    run(fill)


@pytest.mark.parametrize(("query", "told"), [("channel=bus:1430", "'channel'"), ("mode=conflate&max_rate=2", "'mode'"), ("token=1", "")])
def test_a_url_that_meant_to_name_channels_is_told_so(query: str, told: str):
    async def main() -> None:
        entry, transport = Door().come()
        entry.data_received(UPGRADE.replace(b"/v1/ws", b"/v1/ws?" + query.encode(), 1))
        frames = transport.sent.partition(b"\r\n\r\n")[2].decode("latin-1")
        assert (told in frames and "?channels=" in frames) if told else not frames
        assert not transport.is_closed

    asyncio.run(main())


PING = frame(0x89, b"p" * 100)
IN_FRAGMENTS = frame(0x01, b'{"type":') + frame(0x80, b'"ping","id":2}')


@pytest.mark.parametrize("before", [b"", IN_FRAGMENTS], ids=["simple", "after fragments"])
def test_answers_to_pings_count(before: bytes):
    async def main() -> None:
        entry, transport = Door(max_outbox_bytes=OUTBOX).come()
        entry.data_received(UPGRADE + CONNECT + before)
        connection = transport.protocol
        assert isinstance(connection, WebSocketConnection)
        connection.allow_burst(10_000)
        leave_unsent(connection, transport, 10_000)
        await asyncio.sleep(0)
        transport.unsent += OUTBOX + 1
        connection.data_received(PING)
        await asyncio.sleep(0)
        assert is_closed(transport)

    asyncio.run(main())


@pytest.mark.parametrize("before", [b"", IN_FRAGMENTS], ids=["simple", "after fragments"])
@pytest.mark.parametrize("unsent", [0, 10])
def test_answers_to_pings_that_are_not_read_are_bounded_in_number(before: bytes, unsent: int):
    """A million of them fit into an outbox's bytes, and take 50 times its memory."""

    async def main() -> None:
        entry, transport = Door(max_outbox_bytes=OUTBOX).come()
        entry.data_received(UPGRADE + CONNECT + before)
        connection = transport.protocol
        assert isinstance(connection, WebSocketConnection)
        transport.unsent = unsent
        for _ in range(MAX_UNREAD_PONGS):
            assert not is_closed(transport)
            connection.data_received(frame(0x89, b""))
            await asyncio.sleep(0)
        assert is_closed(transport) is (unsent > 0)

    asyncio.run(main())


def test_who_reads_and_is_always_behind_may_send_pings_for_ever():
    """As clients do that conflate large values: whenever they have read, the next one is written."""

    async def main() -> None:
        entry, transport = Door(max_outbox_bytes=OUTBOX).come()
        entry.data_received(UPGRADE + CONNECT)
        connection = transport.protocol
        assert isinstance(connection, WebSocketConnection)
        with socket.socket() as transport.socket:
            connection.keep_short()
        transport.unsent = 10
        for _ in range(2 * MAX_UNREAD_PONGS):
            connection.pause_writing()
            connection.data_received(frame(0x89, b""))
            await asyncio.sleep(0)
            connection.resume_writing()
            await asyncio.sleep(0)
        assert not is_closed(transport)

    asyncio.run(main())


def test_nothing_is_answered_after_a_close():
    def close(connection: WebSocketConnection, transport: FakeTransport) -> None:
        connection.close(4001, "slow_consumer")
        sent = len(transport.sent)
        connection.data_received(PING * 10)
        assert len(transport.sent) == sent

    run(close)


def test_what_was_postponed_is_looked_at_with_each_ping():
    """Somewhat less than an outbox may stay unsent for ever, and the transport then never says that there is room."""

    class Recorder:
        count = 0

        def begin_postponed(self) -> None:
            self.count += 1

    recorder = Recorder()

    def wait(connection: WebSocketConnection, transport: FakeTransport) -> None:
        session, connection.session = connection.session, cast("Session", recorder)
        connection.ping()
        connection.session = session

    run(wait)
    assert recorder.count == 1


class Kernel:
    """A socket of which only the kernel's counts are asked for (tcp(7), TCP_INFO)."""

    def __init__(self) -> None:
        self.taken = 0
        self.on_its_way = 0

    def getsockopt(self, *_: int) -> bytes:
        return struct.pack("=24xI92xQ16xI", self.on_its_way, self.taken, 0)


@pytest.mark.parametrize(
    ("looks", "is_there"),
    [
        # (taken so far, on its way) at each ping, the first of which is sent.
        ([(0, 9), (5, 4), (8, 1)], True),
        ([(0, 9), (5, 4), (9, 0)], True),  # It has the ping now; it may need a moment to answer.
        ([(0, 9), (5, 4), (9, 0), (9, 0)], False),
        ([(0, 9), (5, 4), (5, 4)], False),
        ([(9, 0), (11, 0)], False),  # Its kernel took the ping, and nobody answers.
        ([(9, 0), (11, 0), (20, 0)], False),
    ],
)
def test_who_does_not_answer_a_ping_is_there_as_long_as_it_takes_what_came_before(looks: list[tuple[int, int]], is_there: bool):
    def look(connection: WebSocketConnection, transport: FakeTransport) -> None:
        transport.socket = kernel = Kernel()
        for kernel.taken, kernel.on_its_way in looks:
            connection.ping()

    assert (b"ping_timeout" not in run(look).sent) is is_there
