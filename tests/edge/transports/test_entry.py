"""The way in: who gets a connection, when, and what those hear who do not."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest
from uvicorn.server import ServerState

from edge.transports.entry import MAX_HEAD_BYTES, Endpoint, Entry
from edge.transports.websocket import WebSocketConnection
from edge.turns import TURN_S
from tests.edge.transports.fake_transport import FakeNode, FakeTransport
from tests.edge.transports.test_frames import frame
from tests.rig.wait import wait_until_async

UPGRADE = (
    b"GET /v1/ws?format=json HTTP/1.1\r\nHost: edge.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CONNECT = frame(0x81, b'{"type":"connect","id":1}')


class RecordingHttp(asyncio.Protocol):
    """In place of uvicorn's."""

    def __init__(self) -> None:
        self.got = b""

    def data_received(self, data: bytes) -> None:
        self.got += data


class Door:
    """An endpoint, and clients that come."""

    def __init__(self, **limits: Any) -> None:
        self.node = FakeNode(**limits)
        self.endpoint = Endpoint(self.node.as_node, random=lambda: 0.0)
        self.http: list[RecordingHttp] = []

    def come(self) -> tuple[Entry, FakeTransport]:
        """A new TCP connection."""

        def http() -> RecordingHttp:
            self.http.append(RecordingHttp())
            return self.http[-1]

        entry, transport = Entry(self.endpoint, cast("ServerState", SimpleNamespace(default_headers=[])), http), FakeTransport()
        transport.protocol = entry
        entry.connection_made(transport)
        return entry, transport

    def let_seconds_pass(self, seconds: int) -> None:
        """As they do: with a tick each."""
        for _ in range(seconds):
            self.node.now += 1.0
            self.endpoint.tick()

    def ask(self, request: bytes = UPGRADE) -> FakeTransport:
        """A new connection with a request."""
        entry, transport = self.come()
        entry.data_received(request)
        return transport


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


def status_of(transport: FakeTransport) -> int:
    return int(transport.sent[9:12] or 0)


@pytest.mark.parametrize("size", [1, 7, 50, 10_000])
def test_a_request_in_pieces_opens_a_websocket(size: int):
    door = Door()
    entry, transport = door.come()
    for at in range(0, len(UPGRADE), size):
        entry.data_received(UPGRADE[at : at + size])
    assert status_of(transport) == 101
    assert isinstance(transport.protocol, WebSocketConnection)
    assert len(door.endpoint.entries) == 0
    assert door.endpoint.counter.total == 1


def test_frames_that_come_with_the_request_are_read():
    transport = Door().ask(UPGRADE + CONNECT)
    assert b'"type":"connected"' in transport.sent


def test_other_requests_are_uvicorns_byte_for_byte():
    door = Door()
    request = b"POST /v1/ws HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    entry, transport = door.come()
    entry.data_received(request[:20])
    entry.data_received(request[20:])
    assert transport.protocol is door.http[0]
    assert door.http[0].got == request
    assert transport.sent == b""
    assert len(door.endpoint.entries) == 0


def test_another_upgrade_is_uvicorns_to_pass_over():
    door = Door()
    request = (
        b"GET /v1/channels/a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
    )
    transport = door.ask(request)
    assert door.http[0].got == request
    assert transport.sent == b""


def test_what_is_no_http_is_for_uvicorn_to_refuse():
    door = Door()
    door.ask(b"\x16\x03\x01 hello\r\n\r\n")
    assert door.http[0].got == b"\x16\x03\x01 hello\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (UPGRADE.replace(b"/v1/ws", b"/v2/ws"), 404),
        (UPGRADE.replace(b": 13", b": 12"), 426),
        (UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c"), 426),
        (UPGRADE.replace(b"dGhl", b""), 400),
        (UPGRADE.replace(b"GET", b"POST"), 405),
    ],
)
def test_other_requests_for_a_websocket_are_refused(request_: bytes, status: int):
    door = Door()
    transport = door.ask(request_)
    assert status_of(transport) == status
    assert transport.is_closed
    assert door.endpoint.counter.total == 0


def test_an_endless_head_is_refused():
    door = Door()
    entry, transport = door.come()
    entry.data_received(UPGRADE[:-2] + b"X: ")
    while not transport.is_closed:
        entry.data_received(b"x" * 1_000)
        assert len(b"".join(entry._head)) < MAX_HEAD_BYTES + 2_000
    assert status_of(transport) == 431


def test_who_asks_for_nothing_is_cut():
    door = Door(connect_timeout_s=5.0)
    _, early = door.come()
    door.let_seconds_pass(4)
    _, late = door.come()
    door.let_seconds_pass(2)
    assert (early.is_aborted, late.is_aborted) == (True, False)


def test_nobody_is_late_because_the_process_stood_still():
    door = Door(connect_timeout_s=5.0)
    _, waiting = door.come()
    silent = door.ask()  # It has not introduced itself yet: what it sent is not read.
    door.let_seconds_pass(3)
    door.node.now += 25.0
    door.endpoint.tick()
    assert not waiting.is_closed
    assert b"connect_timeout" not in silent.sent
    door.let_seconds_pass(2)
    assert waiting.is_aborted
    assert b"connect_timeout" in silent.sent


def test_nobody_is_late_whose_frames_wait_for_us():
    door = Door(connect_timeout_s=5.0)
    transport = door.ask()
    door.node.now += TURN_S
    door.node.turns.is_over()
    cast("WebSocketConnection", transport.protocol).data_received(CONNECT)
    newcomer, other = door.come()
    newcomer.data_received(UPGRADE)
    door.let_seconds_pass(6)
    assert (b"connect_timeout" in transport.sent, other.is_aborted) == (False, False)
    door.node.next_turn()
    assert b'"type":"connected"' in transport.sent
    assert status_of(other) == 101


def test_many_who_go_at_once_are_ended_a_turn_of_the_event_loop_at_a_time():
    door = Door()
    transports = [door.ask(UPGRADE + CONNECT) for _ in range(3)]
    sessions = [cast("WebSocketConnection", transport.protocol).session for transport in transports]
    first, second, third = [cast("WebSocketConnection", transport.protocol) for transport in transports]
    door.node.now += TURN_S
    second.eof_received()
    third.connection_lost(ConnectionResetError())
    assert [session is not None and session.is_closed for session in sessions] == [False] * 3
    assert (transports[1].is_closed, door.endpoint.counter.total) == (False, 2)
    first.data_received(ping(1))
    order: list[str] = []
    transports[0].on_write = lambda _: order.append(f"pong, {sum(session is not None and session.is_closed for session in sessions)} ended")
    door.node.next_turn()
    assert order == ["pong, 0 ended"], "those who are there go first"
    assert [session is not None and session.is_closed for session in sessions] == [False, True, True]
    assert transports[1].is_closed
    assert third.session is None
    second.connection_lost(None)
    assert (second.session, door.endpoint.counter.total) == (None, 1)


def test_frames_of_subscribers_go_before_those_of_newcomers():
    door = Door()
    transports = [door.ask(UPGRADE + CONNECT) for _ in range(2)]
    newcomer, subscriber = [cast("WebSocketConnection", transport.protocol) for transport in transports]
    assert subscriber.session is not None
    subscriber.session._subscriptions["a:1"] = cast("Any", object())
    door.node.now += TURN_S
    newcomer.data_received(ping(1))
    subscriber.data_received(ping(2))
    order: list[FakeTransport] = []
    for transport in transports:
        transport.on_write = order.append
    door.node.next_turn()
    assert order == transports[::-1]


def test_one_who_fails_in_a_later_turn_is_cut_and_the_others_go_on():
    door = Door()
    transports = [door.ask(UPGRADE + CONNECT) for _ in range(2)]
    bad, good = [cast("WebSocketConnection", transport.protocol) for transport in transports]
    door.node.now += TURN_S
    bad.data_received(ping(1))
    good.data_received(ping(2))
    bad.session = cast("Any", SimpleNamespace(is_text=True))
    with pytest.raises(AttributeError):
        door.node.next_turn()
    door.node.next_turn()
    assert transports[0].is_aborted
    assert pongs(transports[1]) == [2]


@in_loop
async def test_too_many_at_once_wait_and_more_are_told_when_to_come_back():
    door = Door(max_connects_per_s=100.0)
    transports = [door.ask() for _ in range(300)]
    door.node.now = 0.5
    admitted = [transport for transport in transports if status_of(transport) == 101]
    refused = [transport for transport in transports if status_of(transport) == 503]
    assert len(admitted) == 5
    assert len(refused) == 300 - 5 - 100
    assert all(transport.is_closed for transport in refused)
    assert door.endpoint.gate.refused == len(refused)
    after = [int(re.findall(rb"Retry-After: (\d+)\r\n", transport.sent)[0]) for transport in refused]
    assert after == sorted(after)
    assert set(after) == {1, 2}  # 195 at 100 a second
    clock = iter(range(1_000_000))
    while len(door.endpoint.gate):
        door.node.now = 0.5 + next(clock) / 100
        await asyncio.sleep(0.006)
    assert [status_of(transport) for transport in transports].count(101) == 105


@in_loop
async def test_who_goes_while_waiting_is_forgotten():
    door = Door(max_connects_per_s=20.0)
    door.ask()
    entry, transport = door.come()
    entry.data_received(UPGRADE)
    entry.connection_lost(None)
    door.node.now = 10.0
    await wait_until_async(lambda: len(door.endpoint.gate) == 0, what="an empty queue")
    assert transport.sent == b""
    assert door.endpoint.counter.total == 1


@in_loop
async def test_frames_of_one_who_waits_are_read_when_its_turn_comes():
    door = Door(max_connects_per_s=20.0)
    door.ask()
    entry, transport = door.come()
    entry.data_received(UPGRADE)
    entry.data_received(CONNECT)
    door.node.now = 10.0
    await wait_until_async(lambda: b'"type":"connected"' in transport.sent, what="the answer")


def ping(number: int) -> bytes:
    return frame(0x81, b'{"type":"ping","id":%d}' % number)


def pongs(transport: FakeTransport) -> list[int]:
    return [int(found) for found in re.findall(rb'"type":"pong","id":(\d+)', transport.sent)]


def test_what_comes_when_a_turn_of_the_event_loop_is_over_waits_in_order():
    door = Door()
    transport = door.ask(UPGRADE + CONNECT)
    connection = cast("WebSocketConnection", transport.protocol)
    door.node.now += TURN_S
    connection.data_received(ping(1) + ping(2)[:9])
    connection.data_received(ping(2)[9:] + ping(3))
    assert pongs(transport) == []
    assert [transport.is_paused] == [True], "who sends on while it waits is not read from"
    door.node.next_turn()
    assert pongs(transport) == [1, 2, 3]
    assert [transport.is_paused] == [False]
    connection.data_received(ping(4))
    assert pongs(transport) == [1, 2, 3, 4]


def test_newcomers_wait_behind_those_who_are_in():
    door = Door()
    transport = door.ask(UPGRADE + CONNECT)
    door.node.now += TURN_S
    newcomer, other = door.come()
    newcomer.data_received(UPGRADE[:30])
    newcomer.data_received(UPGRADE[30:])
    assert [other.is_paused] == [True]
    cast("WebSocketConnection", transport.protocol).data_received(ping(1))
    order: list[FakeTransport] = []
    for one in (transport, other):
        one.on_write = order.append
    door.node.next_turn()
    assert order[:2] == [transport, other]
    assert pongs(transport) == [1]
    assert status_of(other) == 101
    assert [other.is_paused] == [False]


def test_who_goes_while_a_turn_is_waited_for_is_forgotten():
    door = Door()
    transport = door.ask(UPGRADE + CONNECT)
    connection = cast("WebSocketConnection", transport.protocol)
    door.node.now += TURN_S
    entry, other = door.come()
    entry.data_received(UPGRADE)
    connection.data_received(ping(1))
    for protocol, gone in ((entry, other), (connection, transport)):
        gone.close()
        protocol.connection_lost(None)
    door.node.next_turn()
    assert (other.sent, pongs(transport)) == (b"", [])
    assert door.endpoint.counter.total == 0


def test_a_full_edge_refuses_before_it_queues():
    door = Door(max_connections=1)
    assert status_of(door.ask()) == 101
    full = door.ask()
    assert status_of(full) == 503
    assert b"Retry-After: " in full.sent


def test_an_address_has_its_own_bound():
    door = Door(max_connections_per_address=1)
    assert [status_of(door.ask()), status_of(door.ask())] == [101, 503]


@in_loop
async def test_draining_lets_nobody_in():
    door = Door(max_connects_per_s=20.0)
    transports = [door.ask(), door.ask()]
    _, idle = door.come()
    door.endpoint.drain()
    assert [status_of(transport) for transport in transports] == [101, 503]
    assert idle.is_closed
    assert status_of(door.ask()) == 503


@in_loop
async def test_an_upgrade_on_a_connection_that_uvicorn_had():
    """It hands the request over, and then puts our entry in place of what we put there."""
    door = Door()
    entry, transport = door.come()
    entry.data_received(UPGRADE)
    transport.set_protocol(entry)
    entry.data_received(CONNECT)
    assert b'"type":"connected"' in transport.sent
    assert isinstance(transport.protocol, WebSocketConnection)
    entry.connection_lost(None)
    assert door.endpoint.counter.total == 0


def test_a_client_that_is_closed_for_its_frames_may_have_closed_in_the_same_read() -> None:
    door = Door()
    transport = door.ask()
    begun, bad, close = frame(0x01, b"{"), frame(0x80, b"") + frame(0x81, b"no JSON") * 20, frame(0x88, b"\x03\xe8")
    cast("WebSocketConnection", transport.protocol).data_received(begun + bad + close)
    assert transport.is_closed
    assert frame_of_close(transport.sent) == 1000


def frame_of_close(sent: bytes) -> int:
    """The code of the close frame at the end of what was sent."""
    assert sent[-4:-2] == b"\x88\x02"
    return int.from_bytes(sent[-2:], "big")
