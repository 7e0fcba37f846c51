"""The envelope: how one publication is written on the bus (docs/protocol.md, section 8, byte by byte).

The publish script writes the first `PREFIX_BYTES` (it alone knows epoch and offset), a bridge writes the rest.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64encode

import msgspec

from shared.errors import EnvelopeError
from shared.publication import HASH_BYTES, ContentType, DeltaFormat, Kind

VERSION = 1
PREFIX_BYTES = 29
NO_TIME = -1

_HEADER = struct.Struct(">B12sQQBq8s")
_REST = struct.Struct(">Bq8s")
_LENGTH = struct.Struct(">H")
_DELTA_BITS = 0x03
_KIND_BITS = 0x0C
_KEYED = Kind.KEYED << 2
_CONTENT_BITS = 0x30
_DELETION = ContentType.NONE << 4
_HAS_KEY = 0x40
_HAS_TAGS = 0x80
MAX_KEY_BYTES = 0xFFFF
MAX_TAGS_BYTES = 4096

_WORD_BITS = 0x3F
_WORDS = {
    delta | kind << 2 | content_type << 4: (delta, kind, content_type)
    for delta in DeltaFormat
    for kind in Kind
    for content_type in ContentType
}
"""What the low six bits of the flags say."""
_BODY = _HEADER.size
_DELTA_BODY = _HEADER.size + HASH_BYTES
_FULL = {
    flags: words for flags, words in _WORDS.items() if not words[0] and words[1] is not Kind.KEYED and flags & _CONTENT_BITS != _DELETION
}
_DELTA = {flags: words for flags, words in _WORDS.items() if words[0] and words[1] is not Kind.KEYED and flags & _CONTENT_BITS != _DELETION}
"""Flags of nearly all that an edge reads: full payloads and deltas without a key or tags, which say all that there is to check."""
_decode_tags = msgspec.json.Decoder(dict[str, str]).decode


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """One publication as it travels on the bus."""

    epoch: bytes
    offset: int
    base_offset: int
    """The offset of the delta's base; 0 where the body is the full payload."""
    delta: DeltaFormat
    kind: Kind
    content_type: ContentType
    time_ms: int
    """Kafka's timestamp in milliseconds since 1970; NO_TIME where the record has none."""
    payload_hash: bytes
    """Of the full payload, also where the body is a delta."""
    base_hash: bytes
    """Of the delta's base; empty where the body is the full payload."""
    key: bytes | None
    """On keyed channels, and only there."""
    body: bytes
    """The full payload or, where `delta` is not NONE, the delta."""
    tags: bytes = b""
    """A JSON object of strings, on one line, as a bridge wrote it; empty where there are none."""

    @property
    def is_deletion(self) -> bool:
        """Whether the key was deleted: then the body is empty."""
        return self.content_type is ContentType.NONE


def encode_rest(  # noqa: PLR0913  (the fields of an envelope, all by name)
    *,
    kind: Kind,
    content_type: ContentType,
    time_ms: int,
    payload_hash: bytes,
    body: bytes,
    delta: DeltaFormat = DeltaFormat.NONE,
    base_hash: bytes = b"",
    key: bytes | None = None,
    tags: bytes = b"",
) -> bytes:
    """Write everything behind the prefix. `base_hash` goes with a delta, `key` with a keyed channel, and only with those.

    The caller keeps `key` and `tags` within their bounds, MAX_KEY_BYTES and MAX_TAGS_BYTES.
    """
    flags = delta | kind << 2 | content_type << 4
    if key is None and not tags:
        return _REST.pack(flags, time_ms, payload_hash) + base_hash + body
    parts = [b"", base_hash]
    if key is not None:
        flags |= _HAS_KEY
        parts += (_LENGTH.pack(len(key)), key)
    if tags:
        flags |= _HAS_TAGS
        parts += (_LENGTH.pack(len(tags)), tags)
    parts[0] = _REST.pack(flags, time_ms, payload_hash)
    parts.append(body)
    return b"".join(parts)


def encode(envelope: Envelope) -> bytes:
    """Write a whole envelope, as the publish script does from its parts."""
    prefix = struct.pack(">B12sQQ", VERSION, envelope.epoch, envelope.offset, envelope.base_offset)
    return prefix + encode_rest(
        kind=envelope.kind,
        content_type=envelope.content_type,
        time_ms=envelope.time_ms,
        payload_hash=envelope.payload_hash,
        body=envelope.body,
        delta=envelope.delta,
        base_hash=envelope.base_hash,
        key=envelope.key,
        tags=envelope.tags,
    )


def decode(data: bytes) -> Envelope:
    """Read an envelope; raise EnvelopeError, saying what is wrong, if `data` is none that this version knows."""
    try:
        version, epoch, offset, base_offset, flags, time_ms, payload_hash = _HEADER.unpack_from(data)
    except struct.error:
        msg = f"envelope of {len(data)} bytes is shorter than its header of {_HEADER.size}"
        raise EnvelopeError(msg) from None
    if version != VERSION:
        msg = f"envelope version {version} is not {VERSION}: update whichever of bridge and edge is older"
        raise EnvelopeError(msg)
    if flags in _FULL:
        if offset and not base_offset:
            delta, kind, content_type = _FULL[flags]
            return Envelope(epoch, offset, 0, delta, kind, content_type, time_ms, payload_hash, b"", None, data[_BODY:], b"")
    elif flags in _DELTA and 0 < base_offset < offset and len(data) >= _DELTA_BODY:
        delta, kind, content_type = _DELTA[flags]
        base_hash, body = data[_BODY:_DELTA_BODY], data[_DELTA_BODY:]
        return Envelope(epoch, offset, base_offset, delta, kind, content_type, time_ms, payload_hash, base_hash, None, body, b"")
    return _decode_any(data, epoch, offset, base_offset, flags, time_ms, payload_hash)


def _decode_any(data: bytes, epoch: bytes, offset: int, base_offset: int, flags: int, time_ms: int, payload_hash: bytes) -> Envelope:
    """Read whatever has this header, or say what is wrong with it."""
    try:
        delta, kind, content_type = _WORDS[flags & _WORD_BITS]
    except KeyError:
        msg = f"envelope has unknown flags 0x{flags:02x}"
        raise EnvelopeError(msg) from None
    is_delta, is_keyed = flags & _DELTA_BITS != 0, flags & _KIND_BITS == _KEYED
    if offset == 0 or is_delta != (base_offset != 0) or base_offset >= offset or is_keyed != (flags & _HAS_KEY != 0):
        msg = f"envelope contradicts itself: flags 0x{flags:02x}, offset {offset}, base offset {base_offset}"
        raise EnvelopeError(msg)
    at = _BODY
    base_hash = b""
    if is_delta:
        base_hash = data[at : at + HASH_BYTES]
        at += HASH_BYTES
    key = None
    if is_keyed:
        key, at = _read_part(data, at, "key")
    tags = b""
    if flags & _HAS_TAGS:
        tags, at = _read_part(data, at, "tags")
        _check_tags(tags)
    if at > len(data):
        msg = f"envelope of {len(data)} bytes ends within its header"
        raise EnvelopeError(msg)
    if flags & _CONTENT_BITS == _DELETION and (not is_keyed or is_delta or at < len(data)):
        msg = f"envelope of a deletion contradicts itself: flags 0x{flags:02x}, {len(data) - at} bytes of payload"
        raise EnvelopeError(msg)
    return Envelope(epoch, offset, base_offset, delta, kind, content_type, time_ms, payload_hash, base_hash, key, data[at:], tags)


def epoch_to_text(epoch: bytes) -> str:
    """The form of an epoch that clients see: 16 characters, base64url."""
    return urlsafe_b64encode(epoch).decode("ascii")


def _read_part(data: bytes, at: int, what: str) -> tuple[bytes, int]:
    start = at + _LENGTH.size
    if start <= len(data):
        end = start + _LENGTH.unpack_from(data, at)[0]
        if end <= len(data):
            return data[start:end], end
    msg = f"envelope of {len(data)} bytes ends within its {what}"
    raise EnvelopeError(msg)


def _check_tags(tags: bytes) -> None:
    """They go into clients' frames as they are."""
    if not 0 < len(tags) <= MAX_TAGS_BYTES or b"\n" in tags or b"\r" in tags:
        msg = f"envelope has {len(tags)} bytes of tags; they are one line of 1 to {MAX_TAGS_BYTES}"
        raise EnvelopeError(msg)
    try:
        _decode_tags(tags)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        msg = f"envelope has tags that are no JSON object of strings: {error}"
        raise EnvelopeError(msg) from None
