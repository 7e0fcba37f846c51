"""WebSocket frames (RFC 6455, section 5.2): the ones that are sent, and the simple ones among those that come.

Nearly all that a client sends is a whole, short, unfragmented frame. Those are read here; anything else (fragments, a frame that arrives in
pieces, a close, whatever is wrong) is for websockets' Sans-I/O layer, which a connection gets when it needs it: it takes 3 KB.
"""

from __future__ import annotations

import functools
import struct

try:
    from websockets.speedups import apply_mask
except ImportError:  # Where websockets has no compiled part.
    from websockets.utils import apply_mask

FIN = 0x80
COMPRESSED = 0x40
"""RSV1: RFC 7692, section 6."""
TEXT, BINARY, PING, PONG = FIN | 1, FIN | 2, FIN | 9, FIN | 10

PING_FRAME = bytes((PING, 0))

_MASKED = 0x80
_SHORT, _MIDDLE = 126, 65_536
_CONTROL = 0x08
_SIMPLE = frozenset({TEXT, BINARY, PING, PONG})
_short_head, _middle_head, _long_head = struct.Struct(">BB").pack, struct.Struct(">BBH").pack, struct.Struct(">BBQ").pack
_short_size = struct.Struct(">H").unpack_from


def wrap(first: int, message: bytes) -> bytes:
    """One unmasked frame with this first byte."""
    size = len(message)
    if size < _SHORT:
        return _short_head(first, size) + message
    if size < _MIDDLE:
        return _middle_head(first, 126, size) + message
    return _long_head(first, 127, size) + message


_SHORT_TEXT = [_short_head(TEXT, size) for size in range(_SHORT)]


def wrap_text(message: bytes) -> bytes:
    """One unfragmented, unmasked text frame. Every publication passes here: its head is looked up, not packed."""
    size = len(message)
    return _SHORT_TEXT[size] + message if size < _SHORT else wrap(TEXT, message)


wrap_binary = functools.partial(wrap, BINARY)
"""One unfragmented, unmasked binary frame."""


def read_simple(data: bytes, at: int, most: int) -> tuple[int, bytes, int] | None:
    """Read one whole simple frame of at most `most` bytes at `at`: (first byte, payload, end). None where something else is there."""
    if len(data) - at < 6:
        return None
    first, second = data[at], data[at + 1]
    if first not in _SIMPLE or not second & _MASKED:
        return None
    size = second & ~_MASKED
    start = at + 6
    if size == 126:
        if first & _CONTROL or len(data) - at < 8:
            return None
        (size,) = _short_size(data, at + 2)
        start = at + 8
    elif size == 127:
        return None
    end = start + size
    if size > most or end > len(data):
        return None
    return first, bytes(apply_mask(data[start:end], data[start - 4 : start])), end
