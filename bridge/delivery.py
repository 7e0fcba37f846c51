"""Delivery: one batch of pushes at a time, in flight to the bus until the bus has all of it.

A batch that the bus does not take stays in flight, and the caller tries again: nothing here waits. A bus that lost its data gets back what
the chain holds before anything else. While it is away, Kafka's client is told to keep the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from bridge.core.backoff import Backoff
from bridge.core.chain import DeltaChain, Place, place_of
from bridge.core.checkpoint import Checkpoint
from bridge.core.draft import Draft
from bridge.core.flow import Hold
from bridge.core.parked import Made
from bridge.core.record import Record
from bridge.core.tally import RouteTally, Tally
from bridge.ports import Bus, Records
from bridge.refusals import Refusals, Refused
from shared.bus.push import Outcome, Push, Pushed, Source
from shared.errors import BusError, BusLayoutError, BusUnavailableError, IncarnationError
from shared.telemetry import Log, Throttle

T = TypeVar("T")

_FAILED = Outcome.FAILED
"""Looking it up in the enumeration takes longer than what is done with it."""

_MAX_SKIPPED = 10_000
"""So many drafts that made no push are in flight at most: each is remembered until the bus has answered."""

_MAX_QUICK_TRIES = 3
"""A lost incarnation is answered at once so many times in a row; a bus that is flushed again and again is one that is away."""


class Delivery:
    """See the module. `clock` tells seconds that only go forward. `max_push` bounds the pushes of a call, `max_bytes`, about, their bytes.

    `backoff` is the caller's, who waits by it; here it begins anew when the bus is there.
    """

    def __init__(  # noqa: PLR0913 - all that it is made of
        self,
        bus: Bus,
        chain: DeltaChain,
        records: Records,
        checkpoint: Checkpoint,
        tally: Tally,
        refusals: Refusals,
        *,
        backoff: Backoff,
        clock: Callable[[], float],
        max_push: int,
        max_bytes: int,
    ) -> None:
        self.away_since: float | None = None
        """Since when the bus takes nothing; None while it does."""
        self.is_started = False
        """Whether the bus was reached once."""
        self.begun: Sequence[Record] = ()
        """The records of which publications are being added: those without `add_end` yet."""
        self._bus = bus
        self._chain = chain
        self._records = records
        self._checkpoint = checkpoint
        self._tally = tally
        self._refusals = refusals
        self._backoff = backoff
        self._clock = clock
        self._max_push = max_push
        self._max_bytes = max_bytes
        self._to_reopen: set[int] = set()
        """Shards that are not what was believed: their incarnations are to be learnt."""
        self._to_restore: set[int] = set()
        """Shards that lost their data."""
        self._throttle = Throttle(10, clock=clock)
        self._log = Log("bridge.delivery")
        self._clear()

    def __repr__(self) -> str:
        return f"<Delivery {len(self._pushes)} pushes in flight, bus {'there' if self.away_since is None else 'away'}>"

    def __len__(self) -> int:
        """How many pushes are in flight."""
        return len(self._pushes)

    # What goes into flight.

    def add(self, draft: Draft, source: Source, time_ms: int, *, sole_writer: bool) -> bool:
        """Prepare the pushes of a draft (see `DeltaChain.prepare`). Returns whether as much is in flight as one call may bring."""
        counts = self._tally.of(draft.route)
        pushes = self._chain.prepare(draft, source, time_ms, sole_writer=sole_writer)
        if not pushes:
            counts.skip(self._chain.skipped_as)
            if draft.key is not None and draft.settings.stops_at_failure:
                self._skipped.append((place_of(draft), source))
            return self._is_full()
        for push in pushes:
            self._pushes.append(push)
            self._counts.append(counts)
            self._drafts.append(draft)
            self._bytes += len(push.payload) + len(push.delta)
        return self._is_full()

    def add_end(self, record: Record) -> bool:
        """All pushes of this record were added: it is done once they are on the bus. The answer is that of `add`."""
        self._ends.append(record)
        return self._is_full()

    def give_up(self) -> None:
        """Nothing of what is in flight will be pushed; then the chain must not be used any more, as it holds what never came."""
        self._clear()
        self._chain.clear()

    # To the bus.

    def attempt(self) -> bool:
        """Try to push what is in flight. True where nothing is in flight afterwards; else the bus is away: try again later.

        Raises BusLayoutError where the bus is set up otherwise.
        """
        if self._pushes:
            answers = self._try(lambda: self._bus.push(self._pushes))
            if answers is None:
                return False
            self._confirm(answers)
        for record in self._ends:
            self._checkpoint.done((record.topic, record.partition), record.offset)
        self._clear()
        return True

    def beat(self) -> None:
        """Tell the edges that this bridge lives, and see whether the bus is what it was. To be called every second or so."""
        lost = self._try(self._bus.beat)
        if lost:
            self._lose(lost)
            self._try(self._bus.beat)

    def _is_full(self) -> bool:
        return len(self._pushes) >= self._max_push or self._bytes >= self._max_bytes or len(self._skipped) >= _MAX_SKIPPED

    def _clear(self) -> None:
        self._pushes: list[Push] = []
        self._counts: list[RouteTally] = []
        """Of each push, whose it is."""
        self._drafts: list[Draft] = []
        """And what it was made of."""
        self._skipped: list[tuple[Place, Source]] = []
        """What made no push, of keyed channels: it may turn out to be behind one that failed."""
        self._bytes = 0
        self._ends: list[Record] = []

    def _confirm(self, answers: Sequence[Pushed]) -> None:
        confirm = self._chain.confirm
        for push, counts, pushed in zip(self._pushes, self._counts, answers, strict=True):
            if pushed.outcome is _FAILED:
                self._confirm_with_failures(answers, answers.index(pushed))
                return
            confirm(push, pushed)
            counts.count(push, pushed)

    def _confirm_with_failures(self, answers: Sequence[Pushed], first: int) -> None:
        """The same, from the first one that failed on. Only from there on others can be behind."""
        refused: list[Refused] = []
        behind: list[Made] = []
        for at in range(first, len(answers)):
            push, draft, pushed = self._pushes[at], self._drafts[at], answers[at]
            is_note = at + 1 < len(answers) and self._drafts[at + 1] is draft  # Of another record, which is done (DeltaChain.prepare).
            if pushed.outcome is Outcome.BEHIND:
                self._chain.withdraw(push)
                if not is_note:
                    behind.append(Made(draft, push.source, push.time_ms))
                continue
            self._chain.confirm(push, pushed)
            self._counts[at].count(push, pushed)
            if pushed.outcome is not _FAILED:
                continue
            if draft.settings.stops_at_failure and not is_note:
                self._chain.withdraw(push)
                refused.append(Refused(draft, push.source, pushed.reason))
            elif (silenced := self._throttle.admit(push.channel)) is not None:
                self._log.error("the bus refused a publication", channel=push.channel, reason=pushed.reason, not_shown=silenced)
        self._unskip(refused)
        if refused or behind:
            self._ends = self._refusals.settle(refused, behind, self.begun, self._ends)

    def _unskip(self, refused: Sequence[Refused]) -> None:
        """What was skipped behind these comes again with them after a crash, or when their partition goes on."""
        stopped = {(each.draft.channel, each.source.id) for each in refused}
        for place, source in self._skipped if stopped else ():
            if (place[0], source.id) in stopped:
                self._chain.unskip(place, source)

    def _try(self, call: Callable[[], T]) -> T | None:
        """Bring the bus into order, then call. None where the bus is away, or lost its data too often."""
        for _ in range(_MAX_QUICK_TRIES):
            try:
                self._open()
                result = call()
            except IncarnationError as error:
                self._lose(error.shards)
                continue
            except BusLayoutError:
                raise
            except BusError as error:
                self._on_away(error)
                return None
            self._on_back()
            return result
        self._on_away(BusUnavailableError("its data are lost again and again"))
        return None

    def _on_away(self, error: Exception) -> None:
        self._tally.bus_failures += 1
        if self.away_since is None:
            self.away_since = self._clock()
            self._log.warning("the bus is away: records wait in Kafka", reason=str(error))
        elif (silenced := self._throttle.admit("bus")) is not None and silenced:
            self._log.warning("the bus is still away", reason=str(error), for_s=round(self._clock() - self.away_since))
        self._records.hold(self._records.assigned, Hold.BUS_AWAY)

    def _on_back(self) -> None:
        self.is_started = True
        self._backoff.reset()
        if self.away_since is None:
            return
        self._log.info("the bus is back", after_s=round(self._clock() - self.away_since, 1))
        self.away_since = None
        self._records.release(self._records.assigned, Hold.BUS_AWAY)

    # A bus that lost its data.

    def _open(self) -> None:
        """Connect where need be, learn what was lost, and put it back."""
        self._lose(self._bus.open(), known=True)
        if self._to_reopen:
            self._lose(self._bus.reopen(sorted(self._to_reopen)), known=True)
            self._to_reopen.clear()
        if self._to_restore:
            self._restore()

    def _lose(self, shards: Iterable[int], *, known: bool = False) -> None:
        """These shards lost their data; `known`: their new incarnation is known already."""
        shards = set(shards)
        if not shards:
            return
        self._chain.lose(shards)
        self._to_restore |= shards
        if not known:
            self._to_reopen |= shards
            return
        self._tally.incarnations_lost += len(shards)
        self._log.warning("the bus lost or replaced its data: putting the newest values back", shards=sorted(shards))

    def _restore(self) -> None:
        pushes = self._chain.held(self._to_restore, self._pushes)
        start = 0
        while start < len(pushes):
            end, size = start, 0
            while end < len(pushes) and end - start < self._max_push and size < self._max_bytes:
                size += len(pushes[end].payload)
                end += 1
            part = pushes[start:end]
            for push, pushed in zip(part, self._bus.push(part), strict=True):
                self._chain.confirm(push, pushed)
                self._tally.restored += pushed.outcome is Outcome.FULL
            start = end
        self._log.info("values put back", values=len(pushes), shards=sorted(self._to_restore))
        self._to_restore.clear()
