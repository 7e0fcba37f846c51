"""The values that travel: positions, publications, and the words that describe them."""

from __future__ import annotations

from enum import IntEnum
from hashlib import blake2b

import msgspec

from shared.errors import EnvelopeError

EPOCH_BYTES = 12
"""An epoch is 6 bytes of the shard's incarnation and 6 bytes of the channel's own."""
HASH_BYTES = 8


class Kind(IntEnum):
    """What a channel is, and so what a new subscriber gets first."""

    STREAM = 0
    """Each publication matters; a new subscriber starts with the next one."""
    LATEST = 1
    """The newest value is the state; a new subscriber gets it first."""
    KEYED = 2
    """The newest value of each key is the state."""


class DeltaFormat(IntEnum):
    """How a payload is written: whole (which is false), or as a change to its base."""

    NONE = 0
    VCDIFF = 1
    JSON_PATCH = 2


class ContentType(IntEnum):
    """What the bytes of a payload are."""

    JSON = 0
    TEXT = 1
    BINARY = 2
    NONE = 3
    """Nothing at all: the key was deleted (a Kafka tombstone). On keyed channels only."""


KIND_NAMES = {Kind.STREAM: "stream", Kind.LATEST: "latest", Kind.KEYED: "keyed"}
DELTA_NAMES = {DeltaFormat.NONE: "none", DeltaFormat.VCDIFF: "vcdiff", DeltaFormat.JSON_PATCH: "json-patch"}
CONTENT_TYPE_NAMES = {
    ContentType.JSON: "application/json",
    ContentType.TEXT: "text/plain",
    ContentType.BINARY: "application/octet-stream",
    ContentType.NONE: "none",
}


class Position(msgspec.Struct, frozen=True, order=False):
    """A place in a channel's stream: `offset` counts the channel's publications from 1, without a hole, within `epoch`."""

    epoch: str
    """16 characters (12 bytes, base64url). Opaque to clients: equal or not equal, nothing else."""
    offset: int


def payload_hash(payload: bytes) -> bytes:
    """The 8 bytes by which deltas name their base: BLAKE2b-64 of the full payload."""
    return blake2b(payload, digest_size=HASH_BYTES).digest()


def parse_position(epoch: object, offset: object) -> Position:
    """Make a position from untrusted values; raise EnvelopeError if they are none.

    An epoch of None goes with offset 0 only: the beginning of whatever there is. It becomes the empty string.
    """
    if epoch is None and offset == 0:
        return Position("", 0)
    if not isinstance(epoch, str) or not isinstance(offset, int) or isinstance(offset, bool):
        msg = "a position is an epoch (a string) and an offset (an integer)"
        raise EnvelopeError(msg)
    if not 0 <= offset < 2**53:
        msg = f"a position's offset is from 0 to 2**53-1, not {offset}"
        raise EnvelopeError(msg)
    return Position(epoch, offset)
