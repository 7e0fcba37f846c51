"""One channel as a client holds it: where its stream is, the base that the next delta needs, and what was missed. No I/O.

The rules of docs/protocol.md, sections 4, 5 and 7, live here and nowhere else. Two places in the stream are kept apart:

- `_at`: the last publication that *this subscription* brought. What comes next is judged by it. None where anything full may come.
- `position`: the last publication that the *application* was given. It survives reconnects, and gaps are counted from it.
"""

from __future__ import annotations

import msgspec

from distributary._frames import GapFrame, Incoming, Subscribed
from distributary.publication import Gap, Missed, Publication
from shared.delta import json_patch, vcdiff
from shared.errors import DeltaError
from shared.publication import DeltaFormat, Position

QUEUE = "queue"
DELTA_REFUSED = "delta_refused"
EPOCH_CHANGED = "epoch_changed"
SUBSCRIPTION_LOST = "subscription_lost"
UNKNOWN = "unknown"


class _Floor(msgspec.Struct, frozen=True):
    """A place in a stream; without an epoch, the place before the first publication of a channel that has none yet."""

    epoch: str | None
    offset: int


_NEVER = _Floor(None, 0)


class Resubscribe(msgspec.Struct, frozen=True):
    """The chain is broken: nothing more of this subscription is used, and the channel is to be subscribed to again."""

    channel: str
    position: Position | None
    """From where, or None where the value that is held cannot be trusted."""
    why: str


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
        """Where to come back: what the application was given last, or where a stream stood when it was subscribed to."""
        self.rewind = rewind
        self._max_bytes = max_bytes
        self._mode = QUEUE
        self._at: Position | None = position
        self._base: _Base | None = None
        self._gap: Gap | None = None
        """Told to the application with the next publication."""
        self._is_gap_behind = False
        """Whether `position` is past the gap, so that a recovery from there does not fill it."""
        self._floor = _Floor(position.epoch, position.offset) if position else None
        """Everything up to here was delivered or told as a gap. None: there is nothing yet to miss something of."""
        self._loss = SUBSCRIPTION_LOST
        self._counts = False
        """Whether the next publication is the first after a restart without a position, so that only we can count what is missing."""
        self._recovering: Position | None = None
        """Publications up to here are what a recovery delivers."""

    def __repr__(self) -> str:
        return f"<Chain {self.channel} at {self._at} base {self._base.offset if self._base else None}>"

    def on_subscribed(self, frame: Subscribed, asked: Position | None) -> Gap | None:
        """Start from the edge's answer; `asked` is the position that the `subscribe` named. Returns a gap that is known at once."""
        self._mode = frame.mode
        newest = Position(frame.position.epoch, frame.position.offset) if frame.position else None
        self._recovering = None
        self._counts = False
        if asked is not None and frame.recovered:
            self._at = asked
            self._recovering = newest
            if not self._is_gap_behind:
                self._gap = None  # Another edge could deliver after all what this gap had left out.
            return None
        self._at = self._base = None
        if asked is not None:
            return self._note(Gap(frame.reason or UNKNOWN, frame.missed))
        return self._start(newest, is_stream=frame.kind == "stream")

    def _start(self, newest: Position | None, *, is_stream: bool) -> Gap | None:
        """Start without a position: a stream goes on behind its newest publication, anything else begins with a value."""
        is_rewound = self.rewind is not None and self.position is None
        if is_stream and not is_rewound:
            gap = self._missing_before(newest.epoch, newest.offset + 1) if newest and self._floor else None
            self._at = newest
            self.position = newest or self.position
            self._floor = _Floor(newest.epoch, newest.offset) if newest else self._floor or _NEVER
            self._is_gap_behind = gap is not None or self._gap is not None
            return self._note(gap) if gap else None
        self._counts = self._floor is not None
        if self._floor is None and newest is None:
            self._floor = _NEVER
        elif self._floor is None and newest is not None and is_stream:
            self._floor = _Floor(newest.epoch, newest.offset)
        return None

    def on_gap(self, frame: GapFrame) -> Gap:
        """The edge skipped something; the newest value, full, is next."""
        self._at = self._base = None
        return self._note(Gap(frame.reason, frame.missed))

    def on_publication(self, incoming: Incoming, size: int) -> Publication | Resubscribe | None:
        """Take the next publication of `size` bytes on the wire. None: nothing new for the application."""
        if self._is_duplicate(incoming):
            return None
        if self._is_behind_hole(incoming):
            return Resubscribe(self.channel, self.position, f"offset {incoming.offset} came after {self._at}")
        if incoming.delta is DeltaFormat.NONE:
            assert incoming.epoch is not None  # noqa: S101 - _frames lets no full publication without an epoch through
            base = _Base(incoming.epoch, incoming.offset, incoming.body, incoming.is_exact)
            if self._at is not None and self._at.epoch != base.epoch:
                self._note(Gap(EPOCH_CHANGED, None))
        else:
            try:
                base = self._apply(incoming)
            except DeltaError as error:
                return self._refuse(str(error))
        self._base = base
        self._at = Position(base.epoch, base.offset)
        return self._deliver(incoming, base, size)

    def _is_duplicate(self, incoming: Incoming) -> bool:
        at = self._at
        return at is not None and incoming.epoch in {None, at.epoch} and incoming.offset <= at.offset

    def _is_behind_hole(self, incoming: Incoming) -> bool:
        at = self._at
        return self._mode == QUEUE and at is not None and incoming.epoch in {None, at.epoch} and incoming.offset > at.offset + 1

    def _apply(self, incoming: Incoming) -> _Base:
        base = self._base
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

    def _refuse(self, why: str) -> Resubscribe:
        self._base = self._at = None
        self._loss = DELTA_REFUSED
        return Resubscribe(self.channel, None, why)

    def _deliver(self, incoming: Incoming, base: _Base, size: int) -> Publication | None:
        at = Position(base.epoch, base.offset)
        if self._counts and self._gap is None and (gap := self._missing_before(at.epoch, at.offset)) is not None:
            self._note(gap)
        self._counts = False
        known = self.position
        if self._gap is None and known is not None and known.epoch == at.epoch and at.offset <= known.offset:
            return None  # The application has it already: it was needed as a base only.
        gap, self._gap = self._gap, None
        self._is_gap_behind = False
        recovering = self._recovering
        self.position = at
        self._floor = _Floor(at.epoch, at.offset)
        self._loss = SUBSCRIPTION_LOST
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
        )

    def _missing_before(self, epoch: str, offset: int) -> Gap | None:
        """What lies between the floor and the publication at `offset`."""
        floor = self._floor
        if floor is None:
            return None
        if floor.epoch not in {None, epoch}:
            return Gap(EPOCH_CHANGED, None)
        if offset <= floor.offset + 1:
            return None
        return Gap(self._loss, Missed(floor.offset + 1, offset - 1))

    def _note(self, gap: Gap) -> Gap:
        """Keep a gap for the next publication, joined with one that still waits; return the new one."""
        waiting = self._gap
        missed = gap.missed
        if waiting is not None:
            known = waiting.missed
            missed = Missed(min(known.first, missed.first), max(known.last, missed.last)) if known and missed else None
        self._gap = Gap(gap.reason, missed)
        return gap
