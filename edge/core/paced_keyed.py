"""A subscription of a keyed channel that goes at its subscriber's pace: all of them at first, and modes conflate and ack for good.

It *sweeps* the compacted log of its channel (edge/core/keyed.py): all that is newer than its cursor, in ascending order, so that a key
that changed many times meanwhile is sent once. One that has reached the newest publication holds the whole state; it is told so, and
goes on as its mode says: in mode queue as a member of the channel's groups, in mode ack with each publication in order, in mode conflate
with the next sweep. There a window counts sweeps, and so does the rate: a client that has as many keys as it can handle asks for no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial

from edge.core.delivery import Delivery, Mode
from edge.core.hub import Channel
from edge.core.item import Item, KeyedItem
from edge.core.keyed import FRAME_BYTES, KeyedState
from edge.core.paced import MOST_AT_ONCE, NOTHING, Due, PacedSubscription
from edge.core.stream import Gap, Missed
from edge.core.variant import Variant, caught_up_message, step_frame

PAGE_BYTES = 65_536
"""About as much is sent in one turn, judged by payloads."""
MANY = 64
"""So many at once are sent to one who begins by the quicker way: thousands may come together."""
PINNED = 64
"""At the start of a sweep that takes more than one turn, so many of the newest publications are kept for it: a key that changes all the
time would otherwise always be ahead of a slow client."""
PINNED_BYTES = 65_536
RECENT = 1_000
"""Publications that a subscription remembers to have sent in the sweep under way, as bases of deltas, and their bytes."""
RECENT_BYTES = 65_536


class KeyedPaced(PacedSubscription):
    """One session on one keyed channel."""

    __slots__ = ("_born_at", "_floor", "_is_sweeping", "_is_told", "_pins", "_recent", "_recent_bytes", "_sent", "_until", "_whole_at")

    def __init__(self, channel: Channel, variant: Variant, delivery: Delivery, cursor: int, *, is_whole: bool = False) -> None:
        """The client holds what it was sent up to `cursor`; 0: nothing. `is_whole`: and that was all there was."""
        super().__init__(channel, variant, delivery, cursor)
        self._pins: deque[KeyedItem] = deque()
        self._recent: dict[bytes, KeyedItem] = {}
        """What was sent last of some keys, since the client held the whole state."""
        self._restart(cursor)
        if is_whole:
            self._is_told, self._is_sweeping, self._born_at = True, False, 0

    @property
    def floor(self) -> int:
        """The client holds the newest publications of those keys that have one with a greater offset."""
        return self._floor

    def advance(self, now: float, *, is_writable: bool) -> Due:
        """See `PacedSubscription`."""
        keyed, head = self.channel.stream.keyed, self.channel.stream.offset
        room = MOST_AT_ONCE if self.delivery.mode is Mode.CONFLATE else self.room
        if keyed is None or not is_writable or room <= 0:
            return NOTHING
        if self.cursor >= head:
            return Due() if self._is_told else Due(self._tell_whole(), is_whole=True)
        if not self._is_sweeping and (self.delivery.mode is not Mode.CONFLATE or keyed.forgotten_up_to > self.cursor):
            due = self._go_on_in_order(min(room, MOST_AT_ONCE))
            if due is not None:
                return due
        return self._sweep(keyed, min(room, MOST_AT_ONCE), now)

    def take_page(self, items: Sequence[Item], *, is_all: bool) -> bytes:
        """See `PacedSubscription`. Where something is gone, the client gets the state anew."""
        following = [item for item in items if item.offset > self.cursor]
        if following and following[0].offset > self.cursor + 1 and is_all:
            return self._start_over("history_trimmed")
        if not following or following[0].offset > self.cursor + 1:
            return b""
        return b"".join([self._send_in_order(item) for item in following[: max(0, min(self.room, MOST_AT_ONCE))]])

    def tell_gap(self, gap: Gap) -> bytes:
        """See `PacedSubscription`. What the edge itself skipped, mode ack reads from the history; the others get the state anew."""
        if gap.missed is not None and self.delivery.mode is Mode.ACK and not self._is_sweeping:
            return b""
        told = self._tell(gap)
        self._restart(0)
        return told

    def _restart(self, cursor: int) -> None:
        self.cursor = self._floor = self._until = self._whole_at = cursor
        self._born_at = 0 if cursor else self.channel.stream.offset
        """Deletions up to here are of keys that the client never saw."""
        self._is_sweeping = cursor == 0
        self._is_told = False
        self._sent = self._recent_bytes = 0
        self._recent.clear()
        self._pins.clear()
        self._unacked.clear()

    def _start_over(self, why: str) -> bytes:
        told = self._tell(Gap(why, Missed(self.cursor + 1, self.channel.stream.offset)))
        self._restart(0)
        return told

    def _go_on_in_order(self, most: int) -> Due | None:
        """The next publications of the ring, or a page of the history; None where it has to be the newest of each key."""
        if self.cursor + 1 >= self.channel.stream.ring[0].offset:
            ring = self.channel.stream.ring
            first = self.cursor + 1 - ring[0].offset
            frames = b"".join([self._send_in_order(ring[at]) for at in range(first, min(first + most, len(ring)))])
            return self._finished(frames)
        if self.delivery.mode is not Mode.ACK:
            return None
        return Due(page_after=self.cursor) if 2 * self.room >= self.delivery.window else NOTHING

    def _sweep(self, keyed: KeyedState, most: int, now: float) -> Due:
        if self.cursor >= self._until:
            if self.delivery.mode is Mode.CONFLATE and self.delivery.window and self.room <= 0:
                return NOTHING
            if now < self._next_at:
                return Due(wake_at=self._next_at)
            if self.delivery.max_rate:
                self._next_at = now + 1 / self.delivery.max_rate
            self._until = self.channel.stream.offset
            self._is_sweeping = True
        if keyed.forgotten_up_to > max(self.cursor, self._born_at):
            return Due(self._start_over("history_trimmed"))
        last = self._pins[0].offset - 1 if self._pins else self._until
        frames, count, is_more = self._send_shared(keyed, last) or self._send_next(keyed, most, last)
        if is_more:
            if not self._pins:
                self._pins.extend(item for item in _last_bytes(keyed.newest(PINNED)) if self.cursor < item.offset <= self._until)
            return Due(frames, is_more=True)
        frames += self._send_page([self._pins.popleft() for _ in range(min(len(self._pins), max(0, most - count)))])
        if not self._pins:
            if self.delivery.mode is Mode.CONFLATE and self.delivery.window and self._sent > (self._unacked[-1] if self._unacked else 0):
                self._unacked.append(self._sent)
            self.cursor = self._until
        return self._finished(frames)

    def _send_shared(self, keyed: KeyedState, last: int) -> tuple[bytes, int, bool] | None:
        """Send what comes next, up to `last`, from a page that others get, too; as `_send_next`. None where that is not the better way."""
        if self.delivery.mode is Mode.ACK or self._whole_at > 0 or not self._is_much_left(keyed, last):
            return None
        page = keyed.page(self.cursor, MANY)
        if page is None or page.deleted_at > self._born_at:
            return None
        joined = keyed.joined(page, self.variant, partial(self.variant.full_frame, label=self.channel.label))
        first, end = page.places(self.cursor, last)
        self._forget_sent(page.offsets[end - 1] if first < end else self._sent)
        self.cursor = min(page.last, last)
        return joined.part(first, end), end - first, self.cursor < last

    def _is_much_left(self, keyed: KeyedState, last: int) -> bool:
        """Whether it is not worth it to remember what is sent next, up to `last`. Once much was sent, nothing is known any more."""
        if self._whole_at < 0 and not self._recent:
            return True
        ahead = keyed.after(self.cursor, MANY)
        return len(ahead) == MANY and ahead[-1].offset <= last

    def _send_next(self, keyed: KeyedState, most: int, last: int) -> tuple[bytes, int, bool]:
        """Send what comes next, up to `last`: the frames, how many entries of the log that was, and whether there are more."""
        entries = [item for item in keyed.after(self.cursor, most + 1) if item.offset <= last]
        page = _first_bytes(entries[:most])
        return self._send_page(page), len(page), len(page) < len(entries)

    def _send_page(self, items: list[KeyedItem]) -> bytes:
        # Without the deletions of keys that the client never saw.
        sent = [item for item in items if not item.is_deletion or item.offset > self._born_at]
        if len(sent) >= MANY and self._whole_at <= 0 and self.delivery.mode is not Mode.ACK:
            frames = self._send_whole(sent)
        else:
            frames = b"".join([self._send_of_sweep(item) for item in sent])
        if items:
            self.cursor = items[-1].offset
        return frames

    def _send_whole(self, items: list[KeyedItem]) -> bytes:
        """Send many to one who begins, without remembering them: of what changes meanwhile it gets no delta."""
        self._forget_sent(items[-1].offset)
        return b"".join(map(self._full_frame, items))

    def _forget_sent(self, offset: int) -> None:
        """Much was sent, up to this offset, that is not remembered."""
        self._recent.clear()
        self._recent_bytes, self._whole_at, self._sent = 0, -1, offset

    def _finished(self, frames: bytes) -> Due:
        """Look whether the client holds the whole state now."""
        if self.cursor < self.channel.stream.offset:
            return Due(frames, is_more=True)
        self._whole_at, self._recent_bytes, self._is_sweeping = self.cursor, 0, False
        self._recent.clear()
        return Due(frames) if self._is_told else Due(frames + self._tell_whole(), is_whole=True)

    def _tell_whole(self) -> bytes:
        self._is_told, self._is_sweeping = True, False
        return self.variant.wrap(caught_up_message(self.channel.label, self.channel.stream.epoch, self.cursor, self.variant.dialect))

    def _send_in_order(self, item: Item) -> bytes:
        frame = self._frame(item)
        self._whole_at = item.offset
        return frame

    def _send_of_sweep(self, item: KeyedItem) -> bytes:
        frame = self._frame(item)
        self._remember(item)
        return frame

    def _frame(self, item: Item) -> bytes:
        base = self._base(item) if isinstance(item, KeyedItem) else None
        self.cursor = self._sent = item.offset
        if self.delivery.mode is Mode.ACK:
            self._unacked.append(item.offset)
        if base is None:
            return self._full_frame(item)
        return step_frame(self.channel.step(base, item), self.channel.label, self.variant)

    def _full_frame(self, item: Item) -> bytes:
        """The frame is kept for others who come now, as long as there is room."""
        frame = None if item.frames is None else item.frames.get(self.variant)
        if frame is None:
            frame = self.variant.full_frame(item, self.channel.label)
            keyed, size = self.channel.stream.keyed, len(frame) + FRAME_BYTES
            if keyed is not None and size <= keyed.frame_room:
                keyed.frame_bytes += size
                item.frames = (item.frames or {}) | {self.variant: frame}
        return frame

    def _base(self, item: KeyedItem) -> KeyedItem | None:
        """What the client holds of the item's key, if that is known and still there."""
        base = self._recent.get(item.key)
        if base is None and self._whole_at >= 0:
            base = item.previous
            while base is not None and base.offset > self._whole_at:
                base = base.previous
            if base is not None and base.offset <= self._floor:
                return None
        return None if base is None or base.is_deletion or item.is_deletion else base

    def _remember(self, item: KeyedItem) -> None:
        recent = self._recent
        former = recent.pop(item.key, None)
        if former is not None:
            self._recent_bytes -= len(former.payload)
        recent[item.key] = item
        self._recent_bytes += len(item.payload)
        while len(recent) > RECENT or (self._recent_bytes > RECENT_BYTES and len(recent) > 1):
            # What was sent since then is not all known any more, so of the other keys nothing is.
            self._whole_at = -1
            self._recent_bytes -= len(recent.pop(next(iter(recent))).payload)


def _first_bytes(items: list[KeyedItem]) -> list[KeyedItem]:
    """As many of the first ones as fit into a page, and at least one."""
    size = 0
    for count, item in enumerate(items):
        size += len(item.payload)
        if size > PAGE_BYTES and count:
            return items[:count]
    return items


def _last_bytes(items: list[KeyedItem]) -> list[KeyedItem]:
    size = 0
    for count, item in enumerate(reversed(items)):
        size += len(item.payload)
        if size > PINNED_BYTES:
            return items[len(items) - count :]
    return items
