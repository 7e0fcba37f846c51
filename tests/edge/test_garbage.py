"""Who is gone is freed by reference counts alone; the collector only looks through what is young."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import cast

import pytest
from uvicorn.server import ServerState
from websockets.protocol import Protocol

from edge import garbage
from edge.session import Session
from edge.transports.entry import Endpoint, Entry
from edge.transports.websocket import WebSocketConnection
from edge.turns import Turns
from tests.edge.transports.fake_transport import FakeNode, FakeTransport

REQUEST = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CONNECT = b'\x81\x99\x00\x00\x00\x00{"type":"connect","id":1}'
PING_IN_PIECES = (b"\x89\x82\x00\x00", b"\x00\x00hi")
CLOSE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"


class Circle:
    """Garbage that reference counts do not free, once it is let go."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def _own_collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.enable()
    gc.unfreeze()
    gc.collect()


def parts() -> int:
    """How many parts of connections there are, those of other tests included."""
    return sum(isinstance(part, Session | WebSocketConnection | Protocol) for part in gc.get_objects())


@pytest.mark.parametrize("sent", [[], [CLOSE], [*PING_IN_PIECES], [*PING_IN_PIECES, CLOSE]], ids=["cut", "closed", "pieces", "both"])
def test_a_connection_leaves_nothing_to_collect(sent: list[bytes]):
    gc.collect()
    gc.disable()
    before = parts()
    node = FakeNode()
    endpoint = Endpoint(node.as_node, random=lambda: 0.5)
    transport = FakeTransport()
    entry: asyncio.Protocol = Entry(endpoint, cast("ServerState", SimpleNamespace(default_headers=[])), asyncio.Protocol)
    entry.connection_made(transport)
    entry.data_received(REQUEST)
    del entry
    connection: object = transport.protocol
    assert isinstance(connection, WebSocketConnection)
    for data in [CONNECT, *sent]:
        connection.data_received(data)
    assert connection.session is not None
    assert connection.session.is_connected
    connection.connection_lost(None)
    transport.protocol = None
    del connection
    assert parts() == before


def test_work_that_waited_for_a_turn_leaves_nothing_to_collect():
    left = [2]

    def work() -> bool:
        left[0] -= 1
        return not left[0]

    async def finish(work: Callable[[], bool]) -> None:
        await Turns(lambda: 0.0).finish(work)

    gc.collect()
    gc.disable()
    asyncio.run(finish(work))
    assert left == [0]
    gone = weakref.ref(work)
    del work
    assert gone() is None


def test_what_is_old_is_not_looked_at_again():
    garbage.take_over()
    before = gc.get_freeze_count()
    kept = [[number] for number in range(2 * garbage.YOUNG)]
    garbage.put_old_aside(is_idle=False)
    assert gc.get_freeze_count() - before >= len(kept)


def test_garbage_among_the_young_is_found_and_not_kept():
    garbage.take_over()
    gone = weakref.ref(Circle())
    kept = [[number] for number in range(2 * garbage.YOUNG)]
    garbage.put_old_aside(is_idle=False)
    assert gone() is None
    assert kept


def test_old_garbage_is_found_when_nobody_is_connected():
    circle = Circle()
    gone = weakref.ref(circle)
    garbage.take_over()
    del circle
    kept = [[number] for number in range(2 * garbage.YOUNG)]
    garbage.put_old_aside(is_idle=False)
    assert gone() is not None
    kept += [[number] for number in range(2 * garbage.YOUNG)]
    garbage.put_old_aside(is_idle=True)
    assert gone() is None


def test_while_little_is_new_nothing_is_done():
    garbage.take_over()
    before = gc.get_freeze_count()
    garbage.put_old_aside(is_idle=True)
    assert gc.get_freeze_count() == before
