"""The edge's copy of one channel: its newest publication and a ring of those before, fed by the bus.

live envelope --apply--> Step                 it follows: deliver it
                         None                 known already
                         OutOfStep            something is missing: read the bus, then `refill`
what was read --refill-> Refill               publications to deliver, or a gap to tell
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from edge.core.item import Item, KeyedItem, Step, item_of, keyed_item_of
from edge.core.keyed import KeyedLoad, KeyedState, payload_of
from shared.envelope import Envelope, epoch_to_text
from shared.errors import DeltaError
from shared.publication import DeltaFormat, Kind, Position


class Missed(msgspec.Struct, frozen=True):
    """A range of offsets, both ends included."""

    first: int
    last: int


class Gap(msgspec.Struct, frozen=True):
    """What a subscriber is told instead of publications that cannot be had."""

    reason: str
    missed: Missed | None
    """None where the number is unknown, because the epoch changed, or zero."""


class Refill(msgspec.Struct, frozen=True):
    """What reading the bus brought: what subscribers get, after `gap` where there is one."""

    steps: list[Step]
    gap: Gap | None = None
    needs_more: int = 0
    """So many of the newest publications must be read for the rest to follow; nothing was changed. 0: enough was read."""
    needs_keys: bool = False
    """The state of a keyed channel must be read; nothing was changed."""


class OutOfStep(msgspec.Struct, frozen=True):
    """An envelope that does not follow from what is held. `why` is for the log."""

    why: str


class ChannelStream:
    """Position, newest publication and ring of one channel. `ring_bytes` bounds the ring; the newest is always kept."""

    __slots__ = ("_epoch", "_floor", "_is_loaded", "_max_bytes", "_max_items", "bytes_held", "epoch", "keyed", "kind", "offset", "ring")

    def __init__(self, *, max_items: int, max_bytes: int) -> None:
        self.epoch: str | None = None
        """None while the channel has no position."""
        self.offset = 0
        self.kind: Kind | None = None
        self.keyed: KeyedState | None = None
        """Of a keyed channel: the newest publication of each key."""
        self.ring: deque[Item] = deque()
        self._epoch = b""
        self.bytes_held = 0
        """Payload bytes in the ring."""
        self._floor = 0
        self._is_loaded = False
        self._max_items = max_items
        self._max_bytes = max_bytes

    def __repr__(self) -> str:
        return f"<ChannelStream {self.epoch}:{self.offset}, {len(self.ring)} held, {self.bytes_held} bytes>"

    @property
    def newest(self) -> Item | None:
        """The newest publication, or None where there never was one."""
        return self.ring[-1] if self.ring else None

    @property
    def reaches_back_to_start(self) -> bool:
        """Whether the ring holds all that the bus held when it was last read for more: asking again brings nothing."""
        return not self.ring or self.ring[0].offset <= max(self._floor, 1)

    def knows(self, position: Position) -> bool:
        """Whether the position is one that this copy of the channel has come past; before the first publication, every copy is."""
        if not position.epoch and position.offset == 0:
            return True
        return position.epoch == self.epoch and position.offset <= self.offset

    def apply(self, envelope: Envelope) -> Step | OutOfStep | None:
        """Take a live envelope. None where it is known already; OutOfStep, and nothing changed, where the bus must be read."""
        if self.epoch is None and envelope.offset == 1 and envelope.delta is DeltaFormat.NONE:
            self._start(envelope)
        if envelope.offset != self.offset + 1 or envelope.epoch != self._epoch:
            if envelope.epoch == self._epoch and envelope.offset <= self.offset:
                return None
            return OutOfStep(f"{epoch_to_text(envelope.epoch)}:{envelope.offset} came after {self.epoch}:{self.offset}")
        if self.keyed is not None:
            return self._apply_keyed(self.keyed, envelope)
        if not envelope.delta:
            return self._append(envelope, envelope.body)
        try:
            payload = payload_of(envelope, self.ring[-1])
        except DeltaError as error:
            return OutOfStep(str(error))
        return self._append(envelope, payload)

    def refill(self, history: Sequence[Envelope], *, asked: int, most: int) -> Refill:  # noqa: PLR0911  (a case each)
        """Take the newest `asked` publications that the bus holds: all full, in order without a hole.

        Fewer came where the bus holds fewer, none where the channel is not there. `most` is how many may ever be asked for.
        """
        was_loaded, self._is_loaded = self._is_loaded, True
        if not history:
            return self._vanish()
        newest = history[-1]
        if newest.epoch != self._epoch and (self.epoch is not None or not was_loaded):
            if newest.kind is Kind.KEYED:
                self._is_loaded = was_loaded
                return Refill([], needs_keys=True)
            gap = Gap("epoch_changed", None) if self.epoch is not None else None
            self._start(newest)
            return Refill(self._restart(history, asked), gap)
        # A channel that was known to have no position is at offset 0 of whatever epoch it gets.
        if self.epoch is not None and newest.offset <= self.offset:
            return Refill([])
        following = [envelope for envelope in history if envelope.offset > self.offset]
        if following[0].offset == self.offset + 1:
            if self.epoch is None:
                self._start(newest)
            return Refill([self._take(envelope) for envelope in following])
        if len(history) >= asked and asked < most:
            return Refill([], needs_more=min(newest.offset - self.offset, most))
        gap = Gap("history_trimmed" if len(history) < asked else "too_large", Missed(self.offset + 1, newest.offset - 1))
        if newest.kind is Kind.KEYED:
            return Refill([], gap, needs_keys=True)
        self._start(newest)
        return Refill(self._restart(history, asked), gap)

    def adopt(self, load: KeyedLoad, why: str) -> Refill:
        """Take the state of a keyed channel, read anew, because of a gap of this reason; whoever is subscribed gets all of it."""
        was_loaded, self._is_loaded = self._is_loaded, True
        newest, gap = load.newest, None
        if newest.epoch == self._epoch or (self.epoch is None and was_loaded):
            gap = Gap(why, Missed(self.offset + 1, newest.offset))
        elif self.epoch is not None:
            gap = Gap("epoch_changed", None)
        self._start(newest)
        self.keyed, self.kind, self.offset = load.state, newest.kind, newest.offset
        self._keep(load.newest_item)
        return Refill([], gap)

    def extend(self, history: Sequence[Envelope], *, asked: int) -> list[Item]:
        """Take older publications and return all items from the oldest of them to the newest; the ring keeps what fits."""
        items = list(self.ring)
        if not history or not items or history[-1].epoch != self._epoch:
            return items
        if len(history) < asked:
            self._floor = history[0].offset
        if self.keyed is not None:
            self.keyed.learn(history, items[0].epoch)
        is_contiguous = True
        for envelope in reversed(history):
            if envelope.offset >= items[0].offset:
                continue
            if envelope.offset != items[0].offset - 1:
                break
            item = (item_of if self.keyed is None else keyed_item_of)(items[0].epoch, envelope, envelope.body)
            items.insert(0, item)
            is_contiguous = is_contiguous and self._prepend(item)
        return items

    def forget(self) -> None:
        """Let go of everything, as if the channel had never been read."""
        self._vanish()
        self.kind, self._is_loaded = None, False

    def follow(self, items: list[Item]) -> list[Item]:
        """What `extend` returned a while ago, up to the newest; the ring alone where the two no longer join."""
        newest = self.newest
        if newest is None or not items or items[-1] is newest:
            return items if newest is not None else []
        newer = [item for item in self.ring if item.offset > items[-1].offset]
        joins = items[-1].epoch == self.epoch and newer and newer[0].offset == items[-1].offset + 1
        return items + newer if joins else list(self.ring)

    def forget_frames(self) -> None:
        """Let go of frames that were made for those who recovered. The next ones make them anew."""
        for item in self.ring:
            item.frames = None
        if self.keyed is not None:
            self.keyed.forget_frames()

    def shrink(self) -> None:
        """Keep only the newest publication: memory is short."""
        while len(self.ring) > 1:
            self.bytes_held -= self._let_go(self.ring.popleft())

    def _prepend(self, item: Item) -> bool:
        if len(self.ring) >= self._max_items or self.bytes_held + len(item.payload) > self._max_bytes:
            return False
        self.ring.appendleft(item)
        self.bytes_held += len(item.payload)
        return True

    def _vanish(self) -> Refill:
        """The bus has no such channel (any more): there is no position, and no value to give."""
        if self.epoch is None:
            return Refill([])
        self.epoch, self._epoch, self.offset, self._floor, self.keyed = None, b"", 0, 0, None
        self.ring.clear()
        self.bytes_held = 0
        return Refill([], Gap("epoch_changed", None))

    def _start(self, envelope: Envelope) -> None:
        self._epoch = envelope.epoch
        self.epoch = epoch_to_text(envelope.epoch)
        self.offset = 0
        self._floor = 0
        self.keyed = KeyedState() if envelope.kind is Kind.KEYED else None
        self.ring.clear()
        self.bytes_held = 0

    def _restart(self, history: Sequence[Envelope], asked: int) -> list[Step]:
        """Fill the ring anew. Subscribers get the newest publication only."""
        steps = [self._append(envelope, envelope.body) for envelope in history]
        self._floor = history[0].offset if len(history) < asked else 0
        return [Step(steps[-1].item)]

    def _apply_keyed(self, keyed: KeyedState, envelope: Envelope) -> Step | OutOfStep:
        try:
            payload = payload_of(envelope, keyed.get(envelope.key or b""))
        except DeltaError as error:
            return OutOfStep(str(error))
        return self._append_keyed(keyed, envelope, payload)

    def _take(self, envelope: Envelope) -> Step:
        """Take the next publication, full."""
        return self._append(envelope, envelope.body) if self.keyed is None else self._append_keyed(self.keyed, envelope, envelope.body)

    def _append_keyed(self, keyed: KeyedState, envelope: Envelope, payload: bytes) -> Step:
        item = keyed_item_of(self.epoch or "", envelope, payload)
        former = keyed.get(item.key)
        keyed.put(item)
        if former is not None:
            former.frames = None
            if not former.is_deletion and not item.is_deletion:
                item.previous = former
        self.offset = envelope.offset
        self.kind = envelope.kind
        self._keep(item)
        return Step(item, item.previous, envelope.delta, envelope.body) if envelope.delta else Step(item, item.previous)

    def _keep(self, item: KeyedItem) -> None:
        """Put it into the ring. With it go the publications of the same keys before: who holds those can be given deltas."""
        ring = self.ring
        ring.append(item)
        self.bytes_held += _weight(item)
        while len(ring) > 1 and (len(ring) > self._max_items or self.bytes_held > self._max_bytes):
            self.bytes_held -= self._let_go(ring.popleft())

    @staticmethod
    def _let_go(item: Item) -> int:
        """What an item that leaves the ring had added to its bytes."""
        weight = _weight(item)
        if isinstance(item, KeyedItem):
            item.previous = None
        return weight

    def _append(self, envelope: Envelope, payload: bytes) -> Step:
        ring = self.ring
        base = ring[-1] if ring else None
        item = item_of(self.epoch or "", envelope, payload)
        ring.append(item)
        self.offset = envelope.offset
        self.kind = envelope.kind
        held = self.bytes_held + len(payload)
        if base is not None and base.frames is not None:
            base.frames = None  # Whoever recovers makes them anew, once; kept for all they would take more than the payloads.
        while (len(ring) > self._max_items or held > self._max_bytes) and len(ring) > 1:
            held -= len(ring.popleft().payload)
        self.bytes_held = held
        return Step(item, base, envelope.delta, envelope.body) if envelope.delta else Step(item, base)


def _weight(item: Item) -> int:
    """Bytes that an item in the ring holds; a keyed one also those of the publication before."""
    size = len(item.payload)
    if isinstance(item, KeyedItem) and item.previous is not None:
        size += len(item.previous.payload)
    return size
