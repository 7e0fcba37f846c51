"""What an application gets: publications, and the gaps that precede them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec

from distributary.errors import PayloadError
from shared.publication import CONTENT_TYPE_NAMES, ContentType, Position

BEGINNING = Position("", 0)
"""Of a channel that had no publication yet: from its beginning, whatever the epoch. On its way to the edge the epoch is null."""


class Missed(msgspec.Struct, frozen=True, rename={"first": "from", "last": "to"}):
    """Offsets that were not received, both ends included."""

    first: int
    last: int


class Gap(msgspec.Struct, frozen=True):
    """Publications that this subscription did not get, and never will."""

    reason: str
    """One of docs/protocol.md, section 7, or `unknown` where the edge gave none."""
    missed: Missed | None
    """Which, or None where the number is unknown (another epoch)."""


class Publication(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One publication of a channel, whole, however it travelled."""

    channel: str
    position: Position
    """Keep it: `subscribe(channel, position=...)` goes on right behind it."""
    time_ms: int | None
    """Kafka's timestamp in milliseconds since 1970, if the record has one."""
    key: str | None
    content_type: ContentType
    body: bytes
    """What `data` is read from: the payload, or JSON text of the same value where the exact bytes are not known."""
    is_exact: bool
    """Whether `body` is the payload byte for byte."""
    is_delta: bool
    """Whether it travelled as a delta."""
    bytes_received: int
    """The size of its frame."""
    recovered: bool
    """Whether it is older than the subscription on this connection: part of what a recovery delivered, without a hole."""
    gap: Gap | None
    """What is missing right before this publication."""
    tags: dict[str, str] = {}
    """What the rules say of the publication besides its payload."""
    starts_state: bool = False
    """Whether the newest values of all keys come anew, this one first: what was held of a keyed channel counts no more."""

    @property
    def is_deleted(self) -> bool:
        """Whether the key was deleted: there is no payload."""
        return self.content_type is ContentType.NONE

    @property
    def payload(self) -> bytes | None:
        """The payload as it was published, or None where only its value is known (ask for `vcdiff` or MessagePack to know it).

        None for a deletion, too.
        """
        return self.body if self.is_exact and not self.is_deleted else None

    @cached_property
    def data(self) -> Any:
        """The JSON value, the text, or the bytes, by content type, None for a deletion; read at the first access.

        Raises PayloadError where the payload is not what its content type says. It belongs to the caller, who may change it.
        """
        try:
            if self.content_type is ContentType.JSON:
                return msgspec.json.decode(self.body)
            if self.content_type is ContentType.TEXT:
                return self.body.decode("utf-8")
            if self.content_type is ContentType.NONE:
                return None
        except ValueError as error:
            msg = f"{self.channel} at offset {self.position.offset} is not {CONTENT_TYPE_NAMES[self.content_type]}: {error}"
            raise PayloadError(msg) from error
        return self.body
