"""What a bridge asks of the bus, and what the bus answers."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from shared.publication import ContentType, DeltaFormat, Kind

ID_BYTES = 16


class Outcome(IntEnum):
    """What became of one push. The numbers are those of publish.lua."""

    DUPLICATE = 0
    """Its source was already published (or, for a restore, something newer is there): nothing was done."""
    UNCHANGED = 1
    """`only_changed`, and the channel's (on a keyed channel, the key's) newest payload is the same: nothing was published."""
    FULL = 2
    """Published with its full payload."""
    DELTA = 3
    """Published as the delta."""
    FAILED = 4
    """The bus holds something else under the channel's keys, or the channel has too many keys. Trying again will not help."""
    STALE = 5
    """Its version is not newer than that of the channel (of the key): nothing was published. Its source counts as published."""
    REPEATED = 6
    """Its id was published within the window: nothing was published. Its source counts as published."""
    BEHIND = 7
    """An earlier one of its source on the channel failed in the same push, and `Keep.stops_at_failure`: nothing was done. Push it again
    once the one that failed needs no more attempt."""


class Source(NamedTuple):
    """Where a publication comes from: what makes it the same publication when it is processed again."""

    id: bytes
    """12 bytes, from `source_id`."""
    offset: int
    """Kafka's offset."""
    index: int  # type: ignore[assignment]  # Hides `tuple.index`, which nobody needs here.
    """Among the record's publications on this channel."""


class Keep(msgspec.Struct, frozen=True):
    """How long and how much of a channel the bus keeps. An age of 0 means no such bound."""

    history_size: int = 100
    history_bytes: int = 1_048_576
    history_age_ms: int = 0
    ttl_ms: int = 86_400_000
    max_keys: int = 100_000
    """Of a keyed channel: a publication of one more key fails."""
    id_window_ms: int = 600_000
    """In Kafka's time: an id that was seen so long ago, or less, is repeated."""
    id_count: int = 100_000
    """So many of the ids seen last are known, and a few more: older ones are forgotten now and then."""
    max_key_bytes: int = 268_435_456
    """Of a keyed channel: of the newest publications of all its keys, as they are stored. A publication that would make them more fails."""
    stops_at_failure: bool = False
    """Whether a publication that fails lets no later one of its source on the channel pass within the same push. With one that passed, the
    one that failed would be a duplicate when it comes again, and nobody would hear of it any more. Not for restores."""


class Push(msgspec.Struct, frozen=True, gc=False):
    """One publication on its way to the bus."""

    channel: str
    payload: bytes
    payload_hash: bytes
    content_type: ContentType
    kind: Kind
    time_ms: int
    source: Source
    keep: Keep
    delta_format: DeltaFormat = DeltaFormat.NONE
    delta: bytes = b""
    base_hash: bytes = b""
    """Of the payload that `delta` applies to; if it is not the channel's newest, the bus publishes the full payload."""
    only_changed: bool = False
    restore: bool = False
    """Publish only if the channel (the key) has nothing as new, by version where there is one, else by Kafka's time: for putting
    back what the bus lost."""
    key: bytes | None = None
    """On keyed channels, and only there. With `ContentType.NONE` the push deletes the key."""
    tags: bytes = b""
    """A compact JSON object of strings for clients to see, at most MAX_TAGS_BYTES of the envelope; empty for none."""
    version: float | None = None
    """Publish only if it is greater than the newest one of the channel (of the key). A finite number."""
    id: bytes = b""
    """Publish only if the channel did not see it within the window: ID_BYTES, or empty for none."""


class Pushed(NamedTuple):
    """The bus's answer to one push."""

    outcome: Outcome
    epoch: bytes
    offset: int
    """The newest offset of the channel, after this push. 0 where it failed."""
    reason: str = ""
    """Why it failed."""


@lru_cache(maxsize=4096)
def source_id(cluster_id: str, topic_id: str, partition: int) -> bytes:
    """The 12 bytes that name a partition of a topic, as it was created, of a cluster."""
    digest = blake2b(f"{cluster_id}\0{topic_id}".encode(), digest_size=8).digest()
    return digest + partition.to_bytes(4, "big")
