"""Frames from clients: the short way for simple ones says the same as websockets' layer, however the bytes arrive."""

from __future__ import annotations

import asyncio
import itertools
import struct
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT, Protocol

from edge.core.limits import ConnectionCounter
from edge.transports.deflate import Deflate
from edge.transports.frames import read_simple, wrap_binary, wrap_text
from edge.transports.websocket import WebSocketConnection, WebSocketConnections
from tests.edge.transports.fake_transport import FakeNode, FakeTransport

MOST = 1_000


class RecordingSession:
    """Takes messages as a session does, and answers none."""

    is_closed = False
    is_connected = True

    def __init__(self, is_text: bool) -> None:
        self.is_text = is_text
        self.got: list[bytes] = []

    def begin_postponed(self) -> None:
        pass

    def receive(self, message: bytes) -> None:
        self.got.append(message)

    def close(self) -> None:
        self.is_closed = True


class Served:
    """One connection of a client, without network."""

    def __init__(self, *, is_text: bool = True, by_websockets: bool = False, deflate: Deflate | None = None) -> None:
        node = FakeNode(max_frame_bytes=MOST)
        self.transport = FakeTransport()
        self.session = RecordingSession(is_text)
        self.connection = WebSocketConnection(
            WebSocketConnections(node.as_node, ConnectionCounter(node.limits)), cast("asyncio.Transport", self.transport), ""
        )
        self.connection.session = cast("Any", self.session)
        self.connection._deflate = deflate
        if by_websockets:
            self.connection._protocol()

    def feed(self, data: bytes) -> None:
        if not self.transport.is_closed:
            self.connection.data_received(data)

    def outcome(self) -> tuple[list[bytes], list[bytes], tuple[int, str] | None, bool]:
        """Messages that came, pongs and the close that were sent, and whether the connection was closed."""
        client = Protocol(CLIENT)
        client.receive_data(self.transport.sent)
        frames = [event for event in client.events_received() if isinstance(event, Frame)]
        closes = [Close.parse(frame.data) for frame in frames if frame.opcode is Opcode.CLOSE]
        pongs = [bytes(frame.data) for frame in frames if frame.opcode is Opcode.PONG]
        close = (int(closes[0].code), closes[0].reason) if closes else None
        return self.session.got, pongs, close, self.transport.is_closed


def frame(first: int, payload: bytes, *, mask: bytes = b"mask", size: int | None = None) -> bytes:
    """A client's frame, bit by bit; `size` chooses the form of the length."""
    size = len(payload) if size is None else size
    head = bytes((first, 0x80 | size)) if size < 126 else struct.pack(">BBH", first, 0xFE, len(payload))
    return head + mask + bytes(byte ^ key for byte, key in zip(payload, itertools.cycle(mask), strict=False))


texts = st.text(max_size=60).map(str.encode) | st.integers(100, 400).map(lambda size: b"x" * size)
simple = st.builds(frame, st.just(0x81), texts, mask=st.binary(min_size=4, max_size=4))
controls = st.builds(frame, st.sampled_from([0x89, 0x8A]), st.binary(max_size=125))
fragmented = st.lists(texts, min_size=2, max_size=3).map(
    lambda parts: b"".join(frame((0x80 if at == len(parts) - 1 else 0) | (1 if at == 0 else 0), part) for at, part in enumerate(parts))
)
long_form = st.builds(frame, st.just(0x81), st.binary(max_size=20).map(lambda data: data.hex().encode()), size=st.just(126))
BAD = {
    "not masked": b"\x81\x02ab",
    "reserved bit 1": frame(0xC1, b"a"),
    "reserved bit 2": frame(0xA1, b"a"),
    "reserved bit 3": frame(0x91, b"a"),
    "unknown opcode": frame(0x83, b"a"),
    "unknown control opcode": frame(0x8B, b"a"),
    "control in fragments": frame(0x09, b"a"),
    "control too long": frame(0x89, b"a" * 126),
    "control in the long form": frame(0x89, b"a", size=126),
    "continuation of nothing": frame(0x80, b"a"),
    "text within a fragmented one": frame(0x01, b"a") + frame(0x81, b"b"),
    "too large": frame(0x81, b"a" * (MOST + 1)),
    "too large in fragments": frame(0x01, b"a" * MOST) + frame(0x80, b"b"),
    "too large in the longest form": struct.pack(">BBQ", 0x81, 0xFF, 2**40) + b"mask",
    "not UTF-8": frame(0x81, b"\xff\xfe"),
    "not UTF-8 in fragments": frame(0x01, b"\xc3") + frame(0x80, b"\x28"),
    "of the wrong kind": frame(0x82, b"a"),
    "of the wrong kind in fragments": frame(0x02, b"a") + frame(0x80, b"a"),
    "close": frame(0x88, b"\x03\xe8bye"),
    "close without a code": frame(0x88, b""),
    "close with half a code": frame(0x88, b"\x03"),
    "close with a code that is never sent": frame(0x88, b"\x03\xed"),
    "close with a reason that is not UTF-8": frame(0x88, b"\x03\xe8\xff"),
    "close within a fragmented one": frame(0x01, b"a") + frame(0x88, b"\x03\xe8"),
    "nothing": b"",
    "half a frame": frame(0x81, b"abcdef")[:-3],
}


@settings(max_examples=300, deadline=None)
@given(
    frames=st.lists(simple | controls | fragmented | long_form, max_size=8),
    end=st.sampled_from(sorted(BAD.values())),
    cuts=st.lists(st.integers(0, 3_000), max_size=6),
)
def test_the_same_as_websockets_byte_by_byte(frames: list[bytes], end: bytes, cuts: list[int]):
    data = b"".join(frames) + end
    served, reference = Served(), Served(by_websockets=True)
    at = 0
    for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
        if cut > at:
            served.feed(data[at:cut])
        at = cut
    for byte in data:
        reference.feed(bytes((byte,)))
    assert served.outcome() == reference.outcome()


@pytest.mark.parametrize(
    ("name", "code"),
    {
        "not masked": 1002,
        "reserved bit 1": 1002,
        "unknown opcode": 1002,
        "control in fragments": 1002,
        "control too long": 1002,
        "continuation of nothing": 1002,
        "text within a fragmented one": 1002,
        "too large": 1009,
        "too large in fragments": 1009,
        "too large in the longest form": 1009,
        "not UTF-8": 1007,
        "not UTF-8 in fragments": 1007,
        "of the wrong kind": 1003,
        "of the wrong kind in fragments": 1003,
        "close": 1000,
        "close with half a code": 1002,
        "close with a code that is never sent": 1002,
        "close within a fragmented one": 1002,
    }.items(),
)
def test_what_breaks_the_rules_is_closed_with_its_code(name: str, code: int):
    served = Served()
    served.feed(frame(0x81, b"before") + BAD[name])
    messages, _, close, is_closed = served.outcome()
    assert messages == [b"before"]
    assert close is not None
    assert close[0] == code
    assert is_closed
    assert served.session.is_closed


def test_simple_frames_need_no_more_memory():
    served = Served()
    served.feed(frame(0x81, b"one") + frame(0x89, b"ping") + frame(0x8A, b"") + frame(0x81, b"x" * 300))
    assert served.outcome() == ([b"one", b"x" * 300], [b"ping"], None, False)
    assert served.connection._ws is None


def test_frames_after_our_close_are_not_delivered_and_the_answer_ends_it():
    served = Served()
    served.connection.close(4003, "try_again")
    served.feed(frame(0x81, b"late"))
    assert served.outcome() == ([], [], (4003, "try_again"), False)
    served.feed(frame(0x88, struct.pack(">H", 4003)))
    assert served.transport.is_closed


def test_a_connection_that_is_lost_has_left_everything_before_the_next_delivery():
    served = Served()
    served.connection.connection_lost(ConnectionResetError())
    assert served.session.is_closed


def test_a_client_that_does_not_answer_a_close_is_cut():
    served = Served()
    served.connection.close(4003, "try_again")
    served.connection.check_time(9.9)
    assert not served.transport.is_aborted
    served.connection.check_time(10.1)
    assert served.transport.is_aborted


def test_a_ping_that_is_not_answered_closes():
    served = Served()
    served.connection.ping()
    served.feed(frame(0x8A, b""))
    served.connection.ping()
    assert served.transport.sent == b"\x89\x00" * 2
    served.connection.ping()
    assert served.outcome()[2] == (4002, "ping_timeout")


@given(payload=st.binary(max_size=70_000) | st.sampled_from([b"x" * size for size in (125, 126, 65_535, 65_536)]), is_text=st.booleans())
def test_frames_that_are_sent(payload: bytes, is_text: bool):
    client = Protocol(CLIENT, max_size=None)
    client.receive_data(wrap_text(payload) if is_text else wrap_binary(payload))
    (got,) = client.events_received()
    assert isinstance(got, Frame)
    assert (got.opcode, bytes(got.data), got.fin) == (Opcode.TEXT if is_text else Opcode.BINARY, payload, True)


@given(data=st.binary(max_size=40), at=st.integers(0, 40))
def test_garbage_is_never_read_beyond_its_end(data: bytes, at: int):
    simple_ = read_simple(data, at, MOST)
    assert simple_ is None or at + 6 <= simple_[2] <= len(data)


# -- compressed ------------------------------------------------------------------------------------------------------------------------


def compressing_client() -> Protocol:
    client = Protocol(CLIENT, max_size=None)
    client.extensions = [PerMessageDeflate(True, True, 15, 15)]
    return client


def sent_by(client: Protocol) -> bytes:
    return b"".join(client.data_to_send())


DEFLATE = Deflate(15, b"")


def test_compressed_messages_are_understood():
    served, client = Served(deflate=DEFLATE), compressing_client()
    command = msgspec.json.encode({"type": "ping", "id": 1, "padding": "x" * 500})
    client.send_text(command)
    client.send_text(command[:300], fin=False)
    client.send_continuation(command[300:], fin=True)
    client.send_text(b"")
    served.feed(frame(0x81, b"plain") + sent_by(client))
    assert served.outcome() == ([b"plain", command, command, b""], [], None, False)


@pytest.mark.parametrize("fragments", [1, 3])
def test_a_message_that_is_too_large_once_inflated_is_refused(fragments: int):
    served, client = Served(deflate=DEFLATE), compressing_client()
    bomb = b"0" * 3_000_000
    if fragments == 1:
        client.send_text(bomb)
    else:
        client.send_text(b"0" * (MOST - 1), fin=False)
        client.send_continuation(b"0", fin=False)
        client.send_continuation(bomb, fin=True)
    served.feed(sent_by(client))
    messages, _, close, is_closed = served.outcome()
    assert messages == []
    assert close is not None
    assert close[0] == 1009
    assert is_closed


def test_garbage_that_says_it_is_compressed_is_refused():
    served = Served(deflate=DEFLATE)
    served.feed(frame(0xC1, b"\xff\xff\xff\xff"))
    assert served.outcome()[2] is not None
    assert served.outcome()[2][0] == 1002  # type: ignore[index]
