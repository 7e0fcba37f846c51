"""The opening handshake: what RFC 6455 asks for, and never more lenient than websockets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers as TheirHeaders
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.server import ServerProtocol

from edge.core.variant import Dialect
from edge.transports.handshake import Headers, Refusal, read_handshake

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GOOD = [
    (b"host", b"edge.example"),
    (b"upgrade", b"websocket"),
    (b"connection", b"keep-alive, Upgrade"),
    (b"sec-websocket-key", KEY),
    (b"sec-websocket-version", b"13"),
]


def changed(name: bytes, *values: bytes) -> list[tuple[bytes, bytes]]:
    """The good request with other values of one header, or without it."""
    return [header for header in GOOD if header[0] != name] + [(name, value) for value in values]


def refused(headers: Headers, method: bytes = b"GET", version: str = "1.1", *, with_deflate: bool = False) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read_handshake(method, version, headers, with_deflate=with_deflate)
    return caught.value


def test_the_answer_is_the_one_of_the_rfc():
    response = read_handshake(b"GET", "1.1", GOOD).response()
    assert response == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("offered", "chosen", "dialect"),
    [
        ([b"distributary.v1.json"], b"distributary.v1.json", Dialect.JSON),
        ([b"chat, distributary.v1.msgpack,distributary.v1.json"], b"distributary.v1.msgpack", Dialect.MSGPACK),
        ([b"chat", b",, distributary.v1.json ,"], b"distributary.v1.json", Dialect.JSON),
        ([b"chat"], None, None),
        ([b"Distributary.V1.JSON"], None, None),
    ],
)
def test_the_first_subprotocol_that_is_known(offered: list[bytes], chosen: bytes | None, dialect: Dialect | None):
    handshake = read_handshake(b"GET", "1.1", [*GOOD, *((b"sec-websocket-protocol", value) for value in offered)])
    assert handshake.subprotocol == chosen
    assert handshake.dialect is dialect
    header = b"" if chosen is None else b"Sec-WebSocket-Protocol: " + chosen + b"\r\n"
    assert (b"Sec-WebSocket-Protocol" in handshake.response()) is bool(header)
    assert header in handshake.response()


BAD_HEADERS = {
    "no host": (400, changed(b"host")),
    "two hosts": (400, changed(b"host", b"a", b"b")),
    "no upgrade": (426, changed(b"upgrade")),
    "another upgrade": (426, changed(b"upgrade", b"h2c")),
    "two upgrades": (426, changed(b"upgrade", b"websocket, h2c")),
    "garbage as upgrade": (400, changed(b"upgrade", b"web socket")),
    "no connection": (426, changed(b"connection")),
    "another connection": (426, changed(b"connection", b"keep-alive")),
    "garbage as connection": (400, changed(b"connection", b"upgrade; now")),
    "no key": (400, changed(b"sec-websocket-key")),
    "two keys": (400, changed(b"sec-websocket-key", KEY, KEY)),
    "a short key": (400, changed(b"sec-websocket-key", b"dGhlIHNhbXBsZQ==")),
    "a long key": (400, changed(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZXh4eA==")),
    "no base64": (400, changed(b"sec-websocket-key", b"dGhlIHNhbXBs*SBub25jZQ==")),
    "a key beyond ASCII": (400, changed(b"sec-websocket-key", b"\xff" * 24)),
    "an empty key": (400, changed(b"sec-websocket-key", b"")),
    "no version": (400, changed(b"sec-websocket-version")),
    "two versions": (400, changed(b"sec-websocket-version", b"13", b"13")),
    "an old version": (426, changed(b"sec-websocket-version", b"8")),
    "garbage as version": (426, changed(b"sec-websocket-version", b"13x")),
    "garbage as subprotocol": (400, [*GOOD, (b"sec-websocket-protocol", b"a b")]),
    "no subprotocol in its header": (400, [*GOOD, (b"sec-websocket-protocol", b" , ")]),
    "a body": (400, [*GOOD, (b"content-length", b"5")]),
    "a chunked body": (400, [*GOOD, (b"transfer-encoding", b"chunked")]),
}


@pytest.mark.parametrize(("status", "headers"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_what_is_no_handshake_is_refused(status: int, headers: Headers):
    refusal = refused(headers)
    assert refusal.status == status
    if status == 426:
        assert (b"Upgrade", b"websocket") in refusal.headers


def test_the_version_that_would_do_is_told():
    assert (b"Sec-WebSocket-Version", b"13") in refused(changed(b"sec-websocket-version", b"8")).headers


def test_only_get_and_only_http_1_1():
    assert refused(GOOD, b"POST").status == 405
    assert refused(GOOD, version="1.0").status == 505


def test_a_refusal_is_a_whole_http_response():
    head, _, body = Refusal(503, "later", (b"Retry-After", b"7")).response([(b"date", b"now")]).partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    assert status == b"HTTP/1.1 503 Service Unavailable"
    assert {b"date: now", b"Retry-After: 7", b"Connection: close", b"Content-Length: %d" % len(body)} <= set(headers)


# -- beside websockets -----------------------------------------------------------------------------------------------------------------

_VALUES = {
    b"upgrade": [b"websocket", b"WebSocket", b"h2c", b"websocket, websocket", b",websocket", b"", b"web/socket", b"websocket/13"],
    b"connection": [b"Upgrade", b"upgrade, keep-alive", b"close", b"", b"keep-alive,,upgrade", b"upgrade;q=1", b'"upgrade"'],
    b"sec-websocket-key": [KEY, KEY[:-1], KEY + b"=", b" " + KEY, KEY.replace(b"d", b"-"), b"", b"A" * 22 + b"==", b"A" * 24],
    b"sec-websocket-version": [b"13", b"8", b"13, 8", b"013", b""],
    b"sec-websocket-protocol": [b"distributary.v1.json", b"chat", b"a b", b"", b",", b"chat,,distributary.v1.msgpack", b"a;b"],
    b"sec-websocket-extensions": [
        b"permessage-deflate",
        b"permessage-deflate; client_max_window_bits",
        b"permessage-deflate; server_max_window_bits=10; client_max_window_bits=9",
        b"permessage-deflate; server_max_window_bits=8, permessage-deflate",
        b"permessage-deflate; server_max_window_bits=7",
        b"permessage-deflate; server_max_window_bits",
        b"permessage-deflate; unknown=1",
        b"permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        b"permessage-deflate; client_no_context_takeover=1",
        b"x-webkit-deflate-frame",
        b"permessage-deflate;",
        b"=",
        b"",
    ],
}


@given(
    headers=st.lists(
        st.one_of(*(st.tuples(st.just(name), st.sampled_from(values)) for name, values in _VALUES.items()), st.sampled_from(GOOD[1:])),
        max_size=9,
    ),
    keep_good=st.booleans(),
    with_deflate=st.booleans(),
)
def test_whatever_websockets_refuses_is_refused(headers: list[tuple[bytes, bytes]], keep_good: bool, with_deflate: bool):
    named = {name for name, _ in headers}
    request = [GOOD[0], *headers, *(header for header in GOOD[1:] if keep_good and header[0] not in named)]
    protocol = ServerProtocol(
        extensions=[ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)]
        if with_deflate
        else [],
        select_subprotocol=lambda *_: None,
    )
    their_request = Request("/v1/ws", _their_headers(request))
    theirs = protocol.accept(their_request)
    try:
        ours = read_handshake(b"GET", "1.1", request, with_deflate=with_deflate)
    except Refusal as refusal:
        assert theirs.status_code != 101, refusal  # noqa: PT017
        return
    assert theirs.status_code == 101
    assert ours.accept.decode() == theirs.headers["Sec-WebSocket-Accept"]
    assert (ours.deflate.header.decode() if ours.deflate else None) == theirs.headers.get("Sec-WebSocket-Extensions")


def _their_headers(headers: list[tuple[bytes, bytes]]) -> TheirHeaders:
    return TheirHeaders([(name.decode(), value.decode("latin-1")) for name, value in headers])
