"""A subscription that goes at its subscriber's pace: modes conflate and ack.

Nothing waits for it anywhere: what it was not sent yet is in the channel's ring or in the bus's history, and all that is kept of it is
where it is and what is not acknowledged. So a slow client costs its window, however far behind it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from edge.core.delivery import Delivery, Mode
from edge.core.hub import Channel
from edge.core.item import Item
from edge.core.stream import Gap, Missed
from edge.core.variant import Variant, full_frame, gap_message, step_frame

MOST_AT_ONCE = 256
"""Publications that one turn sends to one subscriber, whatever its window."""


class Due(msgspec.Struct, frozen=True):
    """What a paced subscription may be sent now, and what else is to be done for it."""

    frames: bytes = b""
    wake_at: float = 0.0
    """When to ask again, where only time holds it up; 0 where something else does."""
    page_after: int = -1
    """Read the publications after this offset from the bus, and hand them to `take_page`; -1 where none are needed."""
    is_more: bool = False
    """Ask again at once, even where there are no frames."""
    is_whole: bool = False
    """Only of keyed channels: with these frames the client holds the whole state, for the first time."""


NOTHING = Due()


class PacedSubscription:
    """One session on one channel, in mode conflate or ack. Compared by identity."""

    __slots__ = ("_held", "_next_at", "_unacked", "channel", "cursor", "delivery", "variant")

    def __init__(self, channel: Channel, variant: Variant, delivery: Delivery, cursor: int) -> None:
        self.channel = channel
        self.variant = variant
        self.delivery = delivery
        self.cursor = cursor
        """The offset of what was sent last; what follows it comes next."""
        self._held: Item | None = None
        """What the client holds, as a base for a delta; None where that is not known."""
        self._unacked: deque[int] = deque()
        self._next_at = 0.0

    def __repr__(self) -> str:
        return f"<PacedSubscription {self.channel.label.name} {self.delivery.mode} at {self.cursor}, {len(self._unacked)} unacknowledged>"

    @property
    def unacknowledged(self) -> int:
        """How many publications are under way."""
        return len(self._unacked)

    @property
    def room(self) -> int:
        """How many publications may be sent before the next acknowledgement."""
        window = self.delivery.window
        return window - len(self._unacked) if window else MOST_AT_ONCE

    def acknowledge(self, offset: int, epoch: str | None = None) -> None:
        """The client has handled everything up to `offset`. What is of another epoch than the channel's came too late."""
        if epoch not in {None, self.channel.stream.epoch}:
            return
        unacked = self._unacked
        while unacked and unacked[0] <= offset:
            unacked.popleft()

    def advance(self, now: float, *, is_writable: bool) -> Due:
        """Take what may be sent now; it counts as sent. `now` is in seconds on a clock that never goes back."""
        room = self.room
        newest = self.channel.stream.newest
        if not is_writable or room <= 0 or newest is None or self.cursor >= newest.offset:
            return NOTHING
        if self.delivery.mode is Mode.CONFLATE:
            return self._conflate(newest, now)
        if self.cursor + 1 < self.channel.stream.ring[0].offset:
            # Not for each acknowledgement: a page costs the bus as much for one publication as for half a window.
            return Due(page_after=self.cursor) if 2 * room >= self.delivery.window else NOTHING
        return self._next_in_order(min(room, MOST_AT_ONCE))

    def take_page(self, items: Sequence[Item], *, is_all: bool) -> bytes:
        """Take a page that was read: frames of what follows the cursor, as far as there is room.

        `is_all` says that the bus holds nothing older than the first item: what is missing before it is gone, and the client is told.
        """
        following = [item for item in items if item.offset > self.cursor]
        if not following:
            return b""
        told = b""
        if following[0].offset > self.cursor + 1:
            if not is_all:
                return b""
            told = self._tell(Gap("history_trimmed", Missed(self.cursor + 1, following[0].offset - 1)))
        taken = following[: max(0, min(self.room, MOST_AT_ONCE))]
        return told + b"".join(self._send(item) for item in taken)

    def tell_gap(self, gap: Gap) -> bytes:
        """The stream was lost or skipped. Returns the frame that says so, where it means something to this subscription.

        What the edge has skipped within an epoch is no gap here: conflation skips anyway, and ack reads it from the history. In another
        epoch conflation goes on with the newest publication, and ack with the first one that the history holds.
        """
        if gap.missed is not None:
            return b""
        newest = self.channel.stream.newest
        self.cursor = newest.offset - 1 if newest is not None and self.delivery.mode is Mode.CONFLATE else 0
        self._unacked.clear()
        return self._tell(gap)

    def _tell(self, gap: Gap) -> bytes:
        self._held = None
        return self.variant.wrap(gap_message(gap, self.channel.label, self.channel.stream.epoch, self.variant.dialect))

    def _conflate(self, newest: Item, now: float) -> Due:
        if now < self._next_at:
            return Due(wake_at=self._next_at)
        if self.delivery.max_rate:
            self._next_at = now + 1 / self.delivery.max_rate
        return Due(self._send(newest))

    def _next_in_order(self, most: int) -> Due:
        ring = self.channel.stream.ring
        first = self.cursor + 1 - ring[0].offset
        last = min(first + most, len(ring))
        return Due(b"".join([self._send(ring[at]) for at in range(first, last)]))

    def _send(self, item: Item) -> bytes:
        held = self._held
        if held is None:
            frame = full_frame(item, self.channel.label, self.variant)
        else:
            frame = step_frame(self.channel.step(held, item), self.channel.label, self.variant)
        self._held = item
        self.cursor = item.offset
        if self.delivery.window:
            self._unacked.append(item.offset)
        return frame
