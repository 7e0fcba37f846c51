"""What a route makes of a record: publications that do not have a position yet."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from bridge.core.letter import DeadLetterTopic
from shared.publication import ContentType, DeltaFormat, Kind


class OnError(StrEnum):
    """What happens to an item that a route cannot handle."""

    SKIP = "skip"
    HALT = "halt"
    DEAD_LETTER = "dead-letter"
    """Its record is put aside unchanged, on a topic for dead letters."""


class ChannelSettings(msgspec.Struct, frozen=True):
    """How the channels of one route are kept on the bus. Units are in the names; 0 means no such bound."""

    kind: Kind = Kind.LATEST
    delta: DeltaFormat = DeltaFormat.VCDIFF
    only_changed: bool = False
    history_size: int = 100
    history_bytes: int = 1_048_576
    history_age_ms: int = 0
    ttl_ms: int = 86_400_000


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A publication to be, made from `record` number `index` on its channel."""

    channel: str
    payload: bytes
    content_type: ContentType
    index: int
    """Among the publications of this record on this channel, from 0."""
    settings: ChannelSettings
    route: str


class RecordProblem(msgspec.Struct, frozen=True):
    """Why a route made nothing of a record or of one of its items."""

    route: str
    on_error: OnError
    message: str
    """Whose fault, where (with the item's index), what to do. For the log and the operator."""
    reason: str = ""
    """The same without the place."""
    item: int | str | None = None
    """The item's place in what `split` gave; None where it is about the whole record, or about several items."""
    items: int = 1
    """How many items (or records) it is about."""
    dead_letters: DeadLetterTopic | None = None
    """Where the record goes; set with `DEAD_LETTER`."""
