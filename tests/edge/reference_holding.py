"""What a client of the edge reads, and what it knows of one channel."""

from __future__ import annotations

from typing import Any

import msgspec

from edge.core.delivery import Mode
from shared.publication import ContentType, DeltaFormat, Kind, Position


class Publication(msgspec.Struct, frozen=True):
    """A publication frame of any dialect, as it was read."""

    who: str | int
    offset: int
    epoch: str | None
    base: int | None
    delta: DeltaFormat
    content_type: ContentType
    data: Any
    """JSON value, or the bytes of payload or delta."""
    key: str | None = None
    tags: dict[str, str] | None = None


class Holding:
    """What a client knows of one channel."""

    def __init__(self, channel: str, kind: Kind, delta: DeltaFormat) -> None:
        self.channel = channel
        self.kind = kind
        self.delta = delta
        self.is_subscribed = False
        self.number: int | None = None
        self.epoch: str | None = None
        self.offset = 0
        self.is_anchored = False
        """Whether the next publication's offset is known: a bare client of a stream learns its place from the first one."""
        self.may_jump = False
        """Whether the next publication need not be the next offset: the edge has just told why."""
        self.expected_after: int | None = None
        """Where the edge named what was missed: the offset that must come next."""
        self.has_value = False
        """Whether a delta can be applied."""
        self.is_resumed = False
        """Whether it holds the value of its position from before."""
        self.is_invented = False
        """Whether it subscribed with a position that nobody had been given at that time."""
        self.value: Any = None
        self.gaps: list[tuple[str, Any]] = []
        self.received = 0
        self.mode = Mode.QUEUE
        self.window = 0
        self.max_rate = 0.0
        self.unacked: list[int] = []
        """Offsets that were received and not acknowledged, in modes conflate and ack."""
        self.acked: Position | None = None
        """Where a client in mode ack comes back."""
        self.received_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Holding {self.channel} {self.epoch}:{self.offset} {'with' if self.has_value else 'without'} value, gaps {self.gaps}>"

    @property
    def position(self) -> Position | None:
        """Where a client would resume."""
        return None if self.epoch is None else Position(self.epoch, self.offset)
