"""permessage-deflate: what is agreed on, and frames that every client who agreed on it reads."""

from __future__ import annotations

import contextlib
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.headers import build_extension, parse_extension
from websockets.protocol import CLIENT, Protocol

from edge.transports.deflate import MIN_BYTES, negotiate
from edge.transports.frames import COMPRESSED, TEXT, wrap_binary, wrap_text

COMPRESSIBLE = b'{"lat":41.1,"long":2.1},' * 400


def offer(**parameters: object) -> tuple[ClientPerMessageDeflateFactory, bytes]:
    factory = ClientPerMessageDeflateFactory(**parameters)  # type: ignore[arg-type]
    return factory, build_extension([(factory.name, list(factory.get_request_params()))]).encode()


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"client_max_window_bits": None},
        {"client_max_window_bits": 9},
        {"server_max_window_bits": 9},
        {"server_max_window_bits": 12, "client_max_window_bits": 10, "server_no_context_takeover": True},
        {"client_no_context_takeover": True, "server_max_window_bits": 15},
    ],
    ids=str,
)
@pytest.mark.parametrize("is_text", [True, False])
def test_a_client_accepts_the_answer_and_reads_the_frames(parameters: dict[str, object], is_text: bool):
    factory, header = offer(**parameters)
    deflate = negotiate([header])
    assert deflate is not None
    ((_, agreed),) = parse_extension(deflate.header.decode())
    extension = factory.process_response_params(agreed, [])
    assert extension.remote_no_context_takeover
    assert extension.local_no_context_takeover
    client = Protocol(CLIENT, max_size=None)
    client.extensions = [extension]
    # Repeated from farther back than the smallest windows reach.
    noise = random.Random(1).randbytes(3_000).hex().encode()
    messages = [COMPRESSIBLE, b"short", COMPRESSIBLE[: MIN_BYTES * 2], noise + noise, b""]
    for message in messages:
        client.receive_data(deflate.wrap(is_text=is_text)(message))
    got = [bytes(event.data) for event in client.events_received() if isinstance(event, Frame)]
    assert got == messages
    assert client.close_sent is None


@pytest.mark.parametrize("bits", range(9, 16))
def test_the_window_that_was_agreed_on_is_enough(bits: int):
    """For a client with no more memory than that: a decoder that holds all of its output would not notice."""
    deflate = negotiate([offer(server_max_window_bits=bits)[1]])
    assert deflate is not None
    noise = random.Random(1).randbytes(300).hex().encode()
    message = noise * 20 + COMPRESSIBLE
    frame = deflate.wrap(is_text=True)(message)
    assert frame[:2] == bytes((TEXT | COMPRESSED, 126))
    data = frame[4:]
    assert not data.endswith(b"\x00\x00\xff\xff")  # RFC 7692, section 7.2.1
    inflater, got = zlib.decompressobj(-bits), b""
    data += b"\x00\x00\xff\xff"
    while data:
        got += inflater.decompress(data, 50)
        data = inflater.unconsumed_tail
    assert got + inflater.flush() == message


def test_only_what_becomes_smaller_is_compressed():
    deflate = negotiate([offer()[1]])
    assert deflate is not None
    wrap = deflate.wrap(is_text=True)
    frame = wrap(COMPRESSIBLE)
    assert frame[0] & COMPRESSED
    assert len(frame) < len(COMPRESSIBLE) / 10
    assert wrap(COMPRESSIBLE[: MIN_BYTES - 1]) == wrap_text(COMPRESSIBLE[: MIN_BYTES - 1])
    random_bytes = random.Random(2).randbytes(5_000)
    assert deflate.wrap(is_text=False)(random_bytes) == wrap_binary(random_bytes)


def test_clients_that_agreed_on_the_same_share_their_frames():
    first, second = negotiate([offer()[1]]), negotiate([offer(client_max_window_bits=9)[1]])
    other = negotiate([offer(server_max_window_bits=10)[1]])
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.wrap(is_text=True) is second.wrap(is_text=True)
    assert first.wrap(is_text=True) is not first.wrap(is_text=False)
    assert first.wrap(is_text=True) is not other.wrap(is_text=True)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [b"x-webkit-deflate-frame"],
        [b"permessage-deflate; server_max_window_bits=8"],  # zlib has no such window
        [b"permessage-deflate; server_max_window_bits=16"],
        [b"permessage-deflate; server_max_window_bits"],
        [b"permessage-deflate; surprise"],
        [b"permessage-deflate; client_no_context_takeover=1"],
        [b"permessage-deflate; client_no_context_takeover; client_no_context_takeover"],
    ],
    ids=str,
)
def test_offers_that_cannot_be_met_are_declined(headers: list[bytes]):
    assert negotiate(headers) is None


def test_the_first_offer_that_can_be_met():
    offers = [b"foo, permessage-deflate; server_max_window_bits=8", b"permessage-deflate; server_max_window_bits=11, permessage-deflate"]
    deflate = negotiate(offers)
    assert deflate is not None
    assert deflate.window_bits == 11


@given(header=st.binary(max_size=60))
def test_garbage_is_a_value_error_or_declined(header: bytes):
    with contextlib.suppress(ValueError):
        assert negotiate([header]) is None
