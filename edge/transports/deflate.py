"""permessage-deflate (RFC 7692) without context takeover, so that what is compressed once serves every client.

With a context of its own each client would need its own compression of each publication, and 300 KB of memory.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence

import msgspec
from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension
from websockets.typing import ExtensionHeader

from edge.core.variant import Wrap
from edge.transports.frames import BINARY, COMPRESSED, TEXT, wrap

MIN_BYTES = 256
"""Smaller messages are sent as they are: compressing them costs more than it saves."""
LEVEL = 6
MEMORY_LEVEL = 5
"""Of zlib: 16 KB for the hash table, where 8, the default, takes 128 KB that have to be cleared each time."""

_TAIL = b"\x00\x00\xff\xff"
_FULL_WINDOW_BITS = 15
_factory = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)


class Deflate(msgspec.Struct, frozen=True):
    """What was agreed on with one client."""

    window_bits: int
    """Of our compression: 9 to 15."""
    header: bytes
    """For the answer."""

    def wrap(self, *, is_text: bool) -> Wrap:
        """Puts a frame around a message, compressed where that makes it smaller. The same function for all who agreed on the same."""
        return _wrap_for(is_text, self.window_bits)

    def inflater(self) -> PerMessageDeflate:
        """For what the client sends. Any window that it may use is a part of the largest one."""
        return PerMessageDeflate(
            remote_no_context_takeover=True,
            local_no_context_takeover=True,
            remote_max_window_bits=_FULL_WINDOW_BITS,
            local_max_window_bits=self.window_bits,
        )


def negotiate(headers: Sequence[bytes]) -> Deflate | None:
    """Take the first offer of a client (its Sec-WebSocket-Extensions) that can be met; raise ValueError where they are no extensions."""
    for name, parameters in _offers(headers):
        if name != _factory.name:
            continue
        try:
            agreed, extension = _factory.process_request_params(parameters, [])
        except NegotiationError:
            continue
        return Deflate(extension.local_max_window_bits, build_extension([(name, agreed)]).encode())
    return None


def _offers(headers: Sequence[bytes]) -> list[ExtensionHeader]:
    try:
        return [offer for header in headers for offer in parse_extension(header.decode("latin-1"))]
    except InvalidHeader as error:
        raise ValueError(str(error)) from None


@functools.cache
def _wrap_for(is_text: bool, window_bits: int) -> Wrap:  # noqa: FBT001  (the key of a cache)
    first = TEXT if is_text else BINARY

    def deflating_wrap(message: bytes) -> bytes:
        if len(message) >= MIN_BYTES:
            compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -window_bits, MEMORY_LEVEL)
            data = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
            if len(data) - len(_TAIL) < len(message):
                return wrap(first | COMPRESSED, data[: -len(_TAIL)])
        return wrap(first, message)

    return deflating_wrap
