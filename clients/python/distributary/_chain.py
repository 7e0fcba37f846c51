"""One channel as a client holds it: where its stream is, the base that the next delta needs, and what was missed. No I/O.

The rules of docs/protocol.md, sections 4, 5 and 7, live here and nowhere else. Two places in the stream are kept apart:

- `_at`: the last publication that *this subscription* brought. What comes next is judged by it. None where anything full may come.
- `position`: the last publication that the *application* was given or, in mode ack, that it acknowledged. It survives reconnects: every new
  subscription begins behind it, so nothing has to be counted here, and what cannot be had is told by the edge.
"""

from __future__ import annotations

import msgspec

from distributary._frames import CaughtUp, GapFrame, Incoming, Subscribed
from distributary.publication import BEGINNING, Gap, Missed, Publication
from shared.delta import json_patch, vcdiff
from shared.errors import DeltaError
from shared.publication import ContentType, DeltaFormat, Position

QUEUE = "queue"
CONFLATE = "conflate"
ACK = "ack"
EPOCH_CHANGED = "epoch_changed"
UNKNOWN = "unknown"


class Resubscribe(msgspec.Struct, frozen=True):
    """The chain is broken: nothing more of this subscription is used, and the channel is to be subscribed to again."""

    channel: str
    why: str


class Whole(msgspec.Struct, frozen=True):
    """The application was given the whole state of a keyed channel."""

    channel: str
    position: Position | None
    starts_state: bool
    """Whether it is an empty one that no publication has begun."""


class _Base(msgspec.Struct, frozen=True, gc=False):
    """What the next delta applies to."""

    epoch: str
    offset: int
    body: bytes
    is_exact: bool


class Chain:
    """The stream of one channel, from frames to publications."""

    def __init__(self, channel: str, position: Position | None = None, rewind: dict[str, float] | None = None, *, max_bytes: int) -> None:
        self.channel = channel
        self.position = position
        """Where to come back: what the application was given (or acknowledged) last or, before that, where a stream or an empty channel
        stood."""
        self.acked: Position | None = None
        """What the application acknowledged last."""
        self.rewind = rewind
        self._max_bytes = max_bytes
        self._mode = QUEUE
        self._at: Position | None = position
        self._base: _Base | None = None
        self._bases: dict[str, _Base] = {}
        """On a keyed channel: what the next delta of each key applies to."""
        self._has_deltas = True
        self._is_keyed = False
        self._is_catching_up = True
        """Whether offsets of a keyed channel skip, because of each key only the newest value comes."""
        self._starts_state = True
        """Told to the application with the next publication of a keyed channel."""
        self._gap: Gap | None = None
        """Told to the application with the next publication."""
        self._is_gap_behind = False
        """Whether `position` is past the gap, so that a recovery from there does not fill it."""
        self._recovering: Position | None = None
        """Publications up to here are what a recovery delivers."""

    def __repr__(self) -> str:
        return f"<Chain {self.channel} at {self._at} base {self._base.offset if self._base else None}>"

    def on_subscribed(self, frame: Subscribed, asked: Position | None) -> Gap | None:
        """Start from the edge's answer; `asked` is the position that the `subscribe` named. Returns a gap that is known at once."""
        self._mode = frame.mode
        newest = Position(frame.position.epoch, frame.position.offset) if frame.position else None
        self._recovering = self._base = None  # The first publication (of each key) is full.
        self._bases.clear()
        self._has_deltas = frame.delta is not None
        self._is_catching_up = newest is not None
        if asked is not None and frame.recovered:
            self._at = asked
            self._starts_state = False
            self._recovering = newest
            if not self._is_gap_behind:
                self._gap = None  # Another edge could deliver after all what this gap had left out.
            return None
        self._at = None
        self._starts_state = True
        if asked is None:
            self._start(newest, is_stream=frame.kind == "stream")
            return None
        if newest is None:
            # The channel is gone. Whatever comes of it now is new, and can be had from its beginning.
            self.position = BEGINNING
            self._is_gap_behind = True
        return self._note(Gap(frame.reason or UNKNOWN, frame.missed))

    def _start(self, newest: Position | None, *, is_stream: bool) -> None:
        """Start without a position. Only a stream, and a channel without publications, go on from a place that is known already."""
        if newest is None:
            self._at = self.position = BEGINNING
        elif is_stream:
            self.position = newest
            if self.rewind is None:
                self._at = newest

    def acknowledge(self, position: Position) -> bool:
        """The application has handled everything up to here. False where that is no news, or of an epoch that is over."""
        last, at = self.acked, self._at
        if last is not None and last.epoch == position.epoch:
            # Where a keyed channel's state comes anew, its offsets begin far below what was acknowledged before.
            if position.offset == last.offset or (position.offset < last.offset and not self._is_keyed):
                return False
        elif (last is not None or self.position == BEGINNING) and (at is None or at.epoch != position.epoch):
            return False
        self.acked = position
        if self._mode == ACK:
            self.position = position
        return True

    def begin_anew(self, at: Position) -> None:
        """The application has let go of the state that it had, and this publication is the first of the new one.

        Its offset may be far below what was acknowledged: each key's newest publication comes, however old it is.
        """
        self.acked = None
        if self._mode == ACK:
            self.position = Position(at.epoch, at.offset - 1)

    def on_gap(self, frame: GapFrame) -> Gap:
        """The edge skipped something; what is next is full."""
        self._at = self._base = None
        self._bases.clear()
        self._is_catching_up = frame.epoch is not None
        self._starts_state = True
        return self._note(Gap(frame.reason, frame.missed))

    def on_caught_up(self, frame: CaughtUp) -> Whole:
        """All of the state has come."""
        self._at = at = Position(frame.epoch, frame.offset)
        self._is_catching_up = False
        if self._mode != ACK:
            self.position = at
        starts_state, self._starts_state = self._starts_state, False
        return Whole(self.channel, at, starts_state)

    def on_publication(self, incoming: Incoming, size: int) -> Publication | Resubscribe | None:
        """Take the next publication of `size` bytes on the wire. None: nothing new for the application."""
        if self._is_duplicate(incoming):
            return None
        if self._is_behind_hole(incoming):
            return Resubscribe(self.channel, f"offset {incoming.offset} came after {self._at}")
        if incoming.delta is DeltaFormat.NONE:
            assert incoming.epoch is not None  # noqa: S101 - _frames lets no full publication without an epoch through
            base = _Base(incoming.epoch, incoming.offset, incoming.body, incoming.is_exact)
            if self._at is not None and self._at.epoch not in {base.epoch, BEGINNING.epoch}:
                self._note(Gap(EPOCH_CHANGED, None))
        else:
            try:
                base = self._apply(incoming)
            except DeltaError as error:
                return Resubscribe(self.channel, str(error))
        self._hold(incoming, base)
        self._at = Position(base.epoch, base.offset)
        return self._deliver(incoming, base, size)

    def _is_duplicate(self, incoming: Incoming) -> bool:
        at = self._at
        return at is not None and incoming.epoch in {None, at.epoch} and incoming.offset <= at.offset

    def _is_behind_hole(self, incoming: Incoming) -> bool:
        at = self._at
        if self._mode == CONFLATE or at is None or incoming.offset <= at.offset + 1:
            return False
        if incoming.key is not None and self._is_catching_up:
            return False
        return at.epoch == BEGINNING.epoch or incoming.epoch in {None, at.epoch}

    def _hold(self, incoming: Incoming, base: _Base) -> None:
        """Keep what the next delta (of the key) applies to."""
        key = incoming.key
        self._is_keyed = key is not None
        if key is None:
            self._base = base
        elif incoming.content_type is ContentType.NONE:
            self._bases.pop(key, None)
        elif self._has_deltas:
            self._bases[key] = base

    def _apply(self, incoming: Incoming) -> _Base:
        base = self._base if incoming.key is None else self._bases.get(incoming.key)
        if base is None:
            msg = f"a delta at offset {incoming.offset}, but there is no base"
            raise DeltaError(msg)
        if incoming.base != base.offset or incoming.epoch not in {None, base.epoch}:
            msg = f"the delta at offset {incoming.offset} is for base {incoming.base}, held is {base.offset}"
            raise DeltaError(msg)
        if incoming.delta is DeltaFormat.JSON_PATCH:
            body = json_patch.decode(base.body, incoming.body, max_size=self._max_bytes)
            return _Base(base.epoch, incoming.offset, body, is_exact=False)
        if not base.is_exact:
            msg = f"the VCDIFF delta at offset {incoming.offset} needs the exact bytes of offset {base.offset}, which are not known"
            raise DeltaError(msg)
        body = vcdiff.decode(base.body, incoming.body, max_size=self._max_bytes)
        return _Base(base.epoch, incoming.offset, body, is_exact=True)

    def _deliver(self, incoming: Incoming, base: _Base, size: int) -> Publication:
        at = Position(base.epoch, base.offset)
        if self._mode != ACK:
            self.position = at
        elif self.position is None or (self.acked is None and self.position.epoch == at.epoch and self.position.offset >= at.offset):
            # The first one, or a rewind: as long as nothing is acknowledged, it is to be delivered again.
            self.position = Position(at.epoch, at.offset - 1)
        gap, self._gap = self._gap, None
        self._is_gap_behind = False
        recovering = self._recovering
        starts_state = False
        if incoming.key is not None:
            starts_state, self._starts_state = self._starts_state, False
        return Publication(
            channel=self.channel,
            position=at,
            time_ms=incoming.time_ms,
            key=incoming.key,
            content_type=incoming.content_type,
            body=base.body,
            is_exact=base.is_exact,
            is_delta=incoming.delta is not DeltaFormat.NONE,
            bytes_received=size,
            recovered=recovering is not None and recovering.epoch == at.epoch and at.offset <= recovering.offset,
            gap=gap,
            tags=incoming.tags,
            starts_state=starts_state,
        )

    def _note(self, gap: Gap) -> Gap:
        """Keep a gap for the next publication, joined with one that still waits; return the new one."""
        waiting = self._gap
        missed = gap.missed
        if waiting is not None:
            known = waiting.missed
            missed = Missed(min(known.first, missed.first), max(known.last, missed.last)) if known and missed else None
        self._gap = Gap(gap.reason, missed)
        return gap
