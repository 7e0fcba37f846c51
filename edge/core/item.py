"""A publication as the edge holds it, and the step that led to it."""

from __future__ import annotations

from collections.abc import Hashable

from shared.delta import json_patch, vcdiff
from shared.envelope import NO_TIME, Envelope
from shared.publication import ContentType, DeltaFormat


class Item:
    """One publication, full. Its encoded frames are kept with it, so that each is made once, whoever needs it."""

    __slots__ = ("content_type", "epoch", "frames", "key", "offset", "payload", "payload_hash", "tags", "time_ms")

    def __init__(self, epoch: str, envelope: Envelope, payload: bytes) -> None:
        self.epoch = epoch
        self.offset = envelope.offset
        self.payload = payload
        self.payload_hash = envelope.payload_hash
        self.content_type: ContentType = envelope.content_type
        self.time_ms: int | None = None if envelope.time_ms == NO_TIME else envelope.time_ms
        self.key = envelope.key
        self.tags = envelope.tags
        self.frames: dict[Hashable, bytes] = {}
        """Full frames by variant."""

    def __repr__(self) -> str:
        return f"<Item {self.offset} of {self.epoch}, {len(self.payload)} bytes>"


class KeyedItem(Item):
    """One publication of a keyed channel."""

    __slots__ = ("previous",)

    key: bytes

    def __init__(self, epoch: str, envelope: Envelope, payload: bytes) -> None:
        super().__init__(epoch, envelope, payload)
        self.previous: KeyedItem | None = None
        """The publication of the same key before this one, while this one is in the channel's ring; None after a deletion."""

    @property
    def is_deletion(self) -> bool:
        """Whether the key was deleted."""
        return self.content_type is ContentType.NONE


class Step:
    """From one publication to the next: the new item, and the deltas that lead to it from its base.

    The bus brings at most one format; another is made here, once, if anyone asks for it.
    """

    __slots__ = ("_deltas", "base", "frames", "item")

    def __init__(self, item: Item, base: Item | None = None, delta: DeltaFormat = DeltaFormat.NONE, body: bytes = b"") -> None:
        self.item = item
        self.base = base
        """What subscribers in step hold; None where there is nothing to build on."""
        self.frames: dict[Hashable, bytes] = {}
        """Frames for subscribers in step, by variant."""
        self._deltas: dict[DeltaFormat, bytes | None] = {} if delta is DeltaFormat.NONE else {delta: body}

    def delta(self, delta_format: DeltaFormat) -> bytes | None:
        """The change from base to item in this format, or None where there is none worth sending."""
        if delta_format not in self._deltas:
            self._deltas[delta_format] = self._make(delta_format)
        return self._deltas[delta_format]

    def _make(self, delta_format: DeltaFormat) -> bytes | None:
        base, item = self.base, self.item
        if base is None:
            return None
        if delta_format is DeltaFormat.VCDIFF:
            return vcdiff.encode(base.payload, item.payload)
        if base.content_type is item.content_type is ContentType.JSON:
            return json_patch.encode_value(base.payload, item.payload)
        return None
