"""The opening handshake of a WebSocket (RFC 6455, section 4.2), without I/O: a parsed request in, the bytes of the answer out.

The headers come parsed, and once: to have them parsed again by a library's handshake costs more than all that is done here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence
from http import HTTPStatus

import msgspec

from edge.core.variant import Dialect
from edge.transports.deflate import Deflate, negotiate

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, values without the white space around them."""

SUBPROTOCOLS = {b"distributary.v1.json": Dialect.JSON, b"distributary.v1.msgpack": Dialect.MSGPACK}

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES = 16
_is_token = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+").fullmatch
_is_upgrade_protocol = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+(?:/[-!#$%&'*+.^_`|~0-9a-zA-Z]+)?").fullmatch


class Refusal(Exception):  # noqa: N818  (an answer, no error of ours)
    """The request is answered with this status instead."""

    def __init__(self, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers

    def response(self, default_headers: Headers = ()) -> bytes:
        """The whole answer; the connection is closed after it."""
        body = self.text.encode() + b"\n"
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}".encode()]
        lines += [b"%b: %b" % header for header in (*default_headers, *self.headers)]
        lines += [b"Connection: close", b"Content-Type: text/plain; charset=utf-8", b"Content-Length: %d" % len(body), b"", body]
        return b"\r\n".join(lines)


class Handshake(msgspec.Struct, frozen=True):
    """What was agreed on."""

    accept: bytes
    subprotocol: bytes | None
    deflate: Deflate | None

    @property
    def dialect(self) -> Dialect | None:
        """What the subprotocol says; None where the client named none that is known."""
        return None if self.subprotocol is None else SUBPROTOCOLS[self.subprotocol]

    def response(self) -> bytes:
        """The answer that opens the WebSocket."""
        lines = [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + self.accept]
        if self.subprotocol is not None:
            lines.append(b"Sec-WebSocket-Protocol: " + self.subprotocol)
        if self.deflate is not None:
            lines.append(b"Sec-WebSocket-Extensions: " + self.deflate.header)
        return b"\r\n".join(lines) + b"\r\n\r\n"


_WANTED = frozenset(
    {
        b"connection",
        b"content-length",
        b"host",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"transfer-encoding",
        b"upgrade",
    }
)


def read_handshake(method: bytes, http_version: str, headers: Headers, *, with_deflate: bool = False) -> Handshake:
    """Check a request for a WebSocket; raise Refusal, with the answer, where it is none."""
    if method != b"GET":
        raise Refusal(405, "a WebSocket is opened with GET", (b"Allow", b"GET"))
    if http_version != "1.1":
        raise Refusal(505, "a WebSocket is opened over HTTP/1.1")
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _WANTED:
            found.setdefault(name, []).append(value)
    if len(found.get(b"host", ())) != 1:
        raise Refusal(400, "a request has one Host header")
    if b"transfer-encoding" in found or found.get(b"content-length", [b"0"]) != [b"0"]:
        raise Refusal(400, "a request for a WebSocket has no body")
    _check_upgrade(found)
    accept = _accept_key(_one(found, b"sec-websocket-key"))
    version = _one(found, b"sec-websocket-version")
    if version != b"13":
        raise Refusal(426, "the version of WebSocket here is 13", (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13"))
    offered = _tokens(found, b"sec-websocket-protocol") if b"sec-websocket-protocol" in found else ()
    # None that is known is no error: then the query decides.
    subprotocol = next((name for name in offered if name in SUBPROTOCOLS), None)
    return Handshake(accept, subprotocol, _deflate(found) if with_deflate else None)


def _deflate(found: dict[bytes, list[bytes]]) -> Deflate | None:
    try:
        return negotiate(found.get(b"sec-websocket-extensions", ()))
    except ValueError:
        raise Refusal(400, "sec-websocket-extensions is no list of extensions") from None


def _check_upgrade(found: dict[bytes, list[bytes]]) -> None:
    connection = [value.lower() for value in _tokens(found, b"connection")]
    upgrade = [value.lower() for value in _tokens(found, b"upgrade", _is_upgrade_protocol)]
    if b"upgrade" not in connection or upgrade != [b"websocket"]:
        raise Refusal(426, "this is a place for WebSocket clients", (b"Upgrade", b"websocket"))


def _tokens(found: dict[bytes, list[bytes]], name: bytes, is_item: Callable[[bytes], object] = _is_token) -> list[bytes]:
    """The items of a comma-separated list, which may be spread over several headers; empty items are passed over (RFC 9110, 5.6.1)."""
    items: list[bytes] = []
    for value in found.get(name, ()):
        got = [stripped for item in value.split(b",") if (stripped := item.strip(b" \t"))]
        if not got or not all(map(is_item, got)):
            raise Refusal(400, f"{name.decode()} is no list of names")
        items += got
    return items


def _one(found: dict[bytes, list[bytes]], name: bytes) -> bytes:
    values = found.get(name, ())
    if len(values) != 1:
        raise Refusal(400, f"a request for a WebSocket has one {name.decode()}")
    return values[0]


def _accept_key(key: bytes) -> bytes:
    try:
        raw = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise Refusal(400, f"sec-websocket-key is {_KEY_BYTES} bytes in base64")
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
