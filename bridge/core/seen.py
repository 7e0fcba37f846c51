"""The ids that the bus surely knows: a memory that saves the trip for what it would refuse as repeated."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

from shared.channel import shard_of

ENTRY_BYTES = 300
"""What an id takes: measured with tracemalloc, rounded up."""


class Seen(NamedTuple):
    """When an id was published."""

    time_ms: int
    """By Kafka's time."""
    confirmed_at: float
    """By the clock of whoever asks, in seconds."""


class SeenIds:
    """Byte-bounded: those that were published longest ago are forgotten."""

    def __init__(self, max_bytes: int) -> None:
        self._most = max_bytes // ENTRY_BYTES
        self._seen: OrderedDict[tuple[str, bytes], Seen] = OrderedDict()

    def __repr__(self) -> str:
        return f"<SeenIds {len(self._seen)} of at most {self._most}>"

    @property
    def bytes_held(self) -> int:
        """What they take."""
        return len(self._seen) * ENTRY_BYTES

    def find(self, channel: str, id_: bytes) -> Seen | None:
        """When it was published on the channel, as far as that is remembered."""
        return self._seen.get((channel, id_))

    def add(self, channel: str, id_: bytes, seen: Seen) -> None:
        """The bus confirmed it as published."""
        self._seen[channel, id_] = seen
        self._seen.move_to_end((channel, id_))
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)

    def lose(self, shards: Collection[int], count: int) -> None:
        """These shards, of so many, lost their data."""
        lost = {channel for channel in {channel for channel, _ in self._seen} if shard_of(channel, count) in shards}
        for place in [place for place in self._seen if place[0] in lost]:
            del self._seen[place]
