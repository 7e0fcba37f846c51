"""What a bridge asks of the bus, and what the bus answers."""

from __future__ import annotations

from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from shared.publication import ContentType, DeltaFormat, Kind


class Outcome(IntEnum):
    """What became of one push. The numbers are those of publish.lua."""

    DUPLICATE = 0
    """Its source was already published (or, for a restore, something newer is there): nothing was done."""
    UNCHANGED = 1
    """`only_changed`, and the channel's newest payload is the same: nothing was published."""
    FULL = 2
    """Published with its full payload."""
    DELTA = 3
    """Published as the delta."""
    FAILED = 4
    """The bus holds something else under the channel's keys. Trying again will not help."""


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
    """Publish only if the channel has nothing as new by Kafka's time: for putting back what the bus lost."""


class Pushed(NamedTuple):
    """The bus's answer to one push."""

    outcome: Outcome
    epoch: bytes
    offset: int
    """The newest offset of the channel, after this push. 0 where it failed."""
    reason: str = ""
    """Why it failed."""


def source_id(cluster_id: str, topic_id: str, partition: int) -> bytes:
    """The 12 bytes that name a partition of a topic, as it was created, of a cluster."""
    digest = blake2b(f"{cluster_id}\0{topic_id}".encode(), digest_size=8).digest()
    return digest + partition.to_bytes(4, "big")
