"""A publication as the edge holds it, and the step that led to it.

Both are made for each publication of each channel, and hold nothing that could lead back to them: so the garbage collector need not know
of them, and holding a hundred thousand of them costs it nothing.
"""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from shared.delta import json_patch, vcdiff
from shared.envelope import NO_TIME, Envelope
from shared.publication import ContentType, DeltaFormat


class Item(msgspec.Struct, gc=False, eq=False):
    """One publication, full. Compared by identity."""

    epoch: str
    offset: int
    payload: bytes
    payload_hash: bytes
    content_type: ContentType
    time_ms: int | None
    key: bytes | None
    tags: bytes = b""
    """A JSON object of strings; empty where there are none."""
    frames: dict[Hashable, bytes] | None = None
    """Full frames by variant, for those who come later than the publication: each is made once, whoever needs it."""

    def __repr__(self) -> str:
        return f"<Item {self.offset} of {self.epoch}, {len(self.payload)} bytes>"


class KeyedItem(Item, gc=False, eq=False):
    """One publication of a keyed channel."""

    key: bytes
    previous: KeyedItem | None = None
    """The publication of the same key before this one, while this one is in the channel's ring; None after a deletion."""

    @property
    def is_deletion(self) -> bool:
        """Whether the key was deleted."""
        return self.content_type is ContentType.NONE


def item_of(epoch: str, envelope: Envelope, payload: bytes) -> Item:
    """The publication of an envelope whose full payload is `payload`."""
    time_ms: int | None = envelope.time_ms
    if time_ms == NO_TIME:
        time_ms = None
    return Item(epoch, envelope.offset, payload, envelope.payload_hash, envelope.content_type, time_ms, envelope.key, envelope.tags)


def keyed_item_of(epoch: str, envelope: Envelope, payload: bytes) -> KeyedItem:
    """The same of a keyed channel."""
    time_ms = None if envelope.time_ms == NO_TIME else envelope.time_ms
    key = envelope.key or b""
    return KeyedItem(epoch, envelope.offset, payload, envelope.payload_hash, envelope.content_type, time_ms, key, envelope.tags)


class Step(msgspec.Struct, gc=False, eq=False):
    """From one publication to the next: the new item, and the delta that the bus brought. Compared by identity.

    The bus brings at most one format; another is made here, once, if anyone asks for it.
    """

    item: Item
    base: Item | None = None
    """What subscribers in step hold; None where there is nothing to build on."""
    form: DeltaFormat = DeltaFormat.NONE
    """Of `body`, the delta from the bus."""
    body: bytes = b""
    frames: dict[Hashable, bytes] | None = None
    """Frames for subscribers in step, by variant: for those who go at their own pace."""
    made: dict[DeltaFormat, bytes | None] | None = None
    """Deltas that were made here."""

    def delta(self, form: DeltaFormat) -> bytes | None:
        """The change from base to item in this format, or None where there is none worth sending."""
        if form is self.form:
            return self.body
        if self.made is None:
            self.made = {}
        if form not in self.made:
            self.made[form] = self._make(form)
        return self.made[form]

    def _make(self, form: DeltaFormat) -> bytes | None:
        base, item = self.base, self.item
        if base is None:
            return None
        if form is DeltaFormat.VCDIFF:
            return vcdiff.encode(base.payload, item.payload)
        if base.content_type is item.content_type is ContentType.JSON:
            return json_patch.encode_value(base.payload, item.payload)
        return None
