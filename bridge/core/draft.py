"""What a route makes of a record: publications that do not have a position yet."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shared.publication import ContentType, DeltaFormat, Kind


class OnError(StrEnum):
    """What happens to an item that a route cannot handle."""

    SKIP = "skip"
    HALT = "halt"


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
