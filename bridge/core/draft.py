"""What a route makes of a record: publications that do not have a position yet."""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b

import msgspec

from bridge.core.letter_topic import DeadLetterTopic
from shared.bus.push import ID_BYTES
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
    max_keys: int = 100_000
    """Of a keyed channel."""
    max_key_bytes: int = 268_435_456
    """Of the newest publications of all its keys."""
    id_window_ms: int = 600_000
    """Where drafts have an `id`: one that was seen so long ago, or less, by Kafka's time, is repeated."""
    id_count: int = 100_000
    """So many of the ids seen last are known, and a few more."""
    stops_at_failure: bool = False
    """What the bus refuses for good is put aside, or halts its partition: until then nothing of the same source may overtake it."""


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A publication to be, made from `record` number `index` on its channel."""

    channel: str
    payload: bytes
    content_type: ContentType
    index: int
    """Among the publications of this record on this channel, from 0."""
    settings: ChannelSettings
    route: str
    place: int | str | None = None
    """The item's place in what `split` gave; None where it is the whole record."""
    key: bytes | None = None
    """On keyed channels, and only there (at most shared.envelope.MAX_KEY_BYTES)."""
    tags: bytes = b""
    """A compact JSON object of strings, at most shared.envelope.MAX_TAGS_BYTES; empty for none."""
    version: float | None = None
    """Only a draft with a greater one than its channel's (its key's) newest is published. A finite number."""
    id: bytes = b""
    """Only a draft whose id its channel did not see within the window is published. `id_of` makes it; empty for none."""
    time_ms: int | None = None
    """Milliseconds since 1970, where the data says it; None: the record's time."""

    @property
    def is_deletion(self) -> bool:
        """Whether it deletes its key: a tombstone's. The payload is empty then."""
        return self.content_type is ContentType.NONE


class RecordProblem(msgspec.Struct, frozen=True):
    """Why a route made nothing of a record or of one of its items."""

    route: str
    on_error: OnError
    message: str
    """Whose fault, where (with the item's index), what to do. For the log and the operator."""
    reason: str = ""
    """The same without the place."""
    places: tuple[int | str, ...] = ()
    """The items' places in what `split` gave, as far as they are listed; none where it is about the whole record."""
    items: int = 1
    """How many items (or records) it is about."""
    dead_letters: DeadLetterTopic | None = None
    """Where the record goes; set with `DEAD_LETTER`."""


def id_of(value: bytes) -> bytes:
    """The id of a publication, from whatever its business calls it."""
    return blake2b(value, digest_size=ID_BYTES).digest()
