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

from edge.core.item import Item, Step, item_of
from shared.delta import json_patch, vcdiff
from shared.envelope import Envelope, epoch_to_text
from shared.errors import DeltaError
from shared.publication import DeltaFormat, Kind, Position, payload_hash

MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
"""A delta's result may not be larger. Kafka's own records rarely come near."""


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


class OutOfStep(msgspec.Struct, frozen=True):
    """An envelope that does not follow from what is held. `why` is for the log."""

    why: str


class ChannelStream:
    """Position, newest publication and ring of one channel. `ring_bytes` bounds the ring; the newest is always kept."""

    __slots__ = ("_epoch", "_floor", "_is_loaded", "_max_bytes", "_max_items", "bytes_held", "epoch", "kind", "offset", "ring")

    def __init__(self, *, max_items: int, max_bytes: int) -> None:
        self.epoch: str | None = None
        """None while the channel has no position."""
        self.offset = 0
        self.kind: Kind | None = None
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
        return self.are_all(self.ring)

    def are_all(self, items: Sequence[Item]) -> bool:
        """Whether nothing came before these of the channel's publications, as far as the bus was read."""
        return not items or items[0].offset <= max(self._floor, 1)

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
        if not envelope.delta:
            return self._append(envelope, envelope.body)
        try:
            payload = self._apply_delta(envelope)
        except DeltaError as error:
            return OutOfStep(str(error))
        return self._append(envelope, payload)

    def refill(self, history: Sequence[Envelope], *, asked: int, most: int) -> Refill:
        """Take the newest `asked` publications that the bus holds: all full, in order without a hole.

        Fewer came where the bus holds fewer, none where the channel is not there. `most` is how many may ever be asked for.
        """
        was_loaded, self._is_loaded = self._is_loaded, True
        if not history:
            return self._vanish()
        newest = history[-1]
        if newest.epoch != self._epoch and (self.epoch is not None or not was_loaded):
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
            return Refill([self._append(envelope, envelope.body) for envelope in following])
        if len(history) >= asked and asked < most:
            return Refill([], needs_more=min(newest.offset - self.offset, most))
        gap = Gap("history_trimmed" if len(history) < asked else "too_large", Missed(self.offset + 1, newest.offset - 1))
        self._start(newest)
        return Refill(self._restart(history, asked), gap)

    def extend(self, history: Sequence[Envelope], *, asked: int) -> list[Item]:
        """Take older publications and return all items from the oldest of them to the newest; the ring keeps what fits."""
        items = list(self.ring)
        if not history or not items or history[-1].epoch != self._epoch:
            return items
        if len(history) < asked:
            self._floor = history[0].offset
        is_contiguous = True
        for envelope in reversed(history):
            if envelope.offset >= items[0].offset:
                continue
            if envelope.offset != items[0].offset - 1:
                break
            item = item_of(items[0].epoch, envelope, envelope.body)
            items.insert(0, item)
            is_contiguous = is_contiguous and self._prepend(item)
        return items

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

    def shrink(self) -> None:
        """Keep only the newest publication: memory is short."""
        while len(self.ring) > 1:
            self.bytes_held -= len(self.ring.popleft().payload)

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
        self.epoch, self._epoch, self.offset, self._floor = None, b"", 0, 0
        self.ring.clear()
        self.bytes_held = 0
        return Refill([], Gap("epoch_changed", None))

    def _start(self, envelope: Envelope) -> None:
        self._epoch = envelope.epoch
        self.epoch = epoch_to_text(envelope.epoch)
        self.offset = 0
        self._floor = 0
        self.ring.clear()
        self.bytes_held = 0

    def _restart(self, history: Sequence[Envelope], asked: int) -> list[Step]:
        """Fill the ring anew. Subscribers get the newest publication only."""
        steps = [self._append(envelope, envelope.body) for envelope in history]
        self._floor = history[0].offset if len(history) < asked else 0
        return [Step(steps[-1].item)]

    def _apply_delta(self, envelope: Envelope) -> bytes:
        """Only ever to its own base, and with the result that its maker saw; raises DeltaError."""
        base = self.ring[-1]
        if envelope.base_offset != base.offset or envelope.base_hash != base.payload_hash:
            msg = f"a delta for another base than {base!r}"
            raise DeltaError(msg)
        decode = vcdiff.decode if envelope.delta is DeltaFormat.VCDIFF else json_patch.decode
        payload = decode(base.payload, envelope.body, max_size=MAX_PAYLOAD_BYTES)
        if payload_hash(payload) != envelope.payload_hash:
            msg = f"a delta for {base!r} gave other bytes than its maker had"
            raise DeltaError(msg)
        return payload

    def _append(self, envelope: Envelope, payload: bytes) -> Step:
        ring = self.ring
        base = ring[-1] if ring else None
        item = item_of(self.epoch or "", envelope, payload)
        ring.append(item)
        self.offset = item.offset
        self.kind = envelope.kind
        self.bytes_held += len(payload)
        if base is not None and base.frames is not None:
            base.frames = None  # Whoever recovers makes them anew, once; kept for all they would take more than the payloads.
        while (len(ring) > self._max_items or self.bytes_held > self._max_bytes) and len(ring) > 1:
            self.bytes_held -= len(ring.popleft().payload)
        return Step(item, base, envelope.delta, envelope.body) if envelope.delta else Step(item, base)
