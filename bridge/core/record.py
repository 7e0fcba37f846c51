"""A record as it came from Kafka, whatever client library read it."""

from __future__ import annotations

import msgspec

Partition = tuple[str, int]
"""A topic's name and a partition's number."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One Kafka record. `value` is None for a tombstone."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    @property
    def where(self) -> str:
        """The record's place, as messages and logs name it."""
        return f"{self.topic}[{self.partition}]@{self.offset}"
