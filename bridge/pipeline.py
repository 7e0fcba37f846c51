"""The pipeline: records in, publications out, offsets committed. One thread, one loop, bounded work in flight.

    consume a batch -> route -> drafts -> chain -> pushes -> bus -> confirm -> checkpoint -> commit

Nothing here waits without polling the records' source, so that a bus that is away does not cost the membership in the group, and
nothing is dropped: a batch that the bus does not take is tried again until it does, or until this process is told to stop; then its
records were never committed, and whoever gets their partitions reads them again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

from bridge.core.backoff import Backoff
from bridge.core.chain import DeltaChain
from bridge.core.decoding import SchemaUnavailableError
from bridge.core.draft import Draft
from bridge.core.flow import Hold
from bridge.core.limits import PipelineSettings, Time
from bridge.core.parked import Made
from bridge.core.record import Partition, Record
from bridge.core.routing import Router
from bridge.core.tally import Tally
from bridge.dead_letters import DeadLetterQueue
from bridge.delivery import Delivery
from bridge.partitions import Partitions, names
from bridge.ports import Bus, NewRules, Records
from bridge.progress import Progress
from bridge.reading import Reader
from bridge.refusals import Refusals
from shared.bus.push import Source
from shared.envelope import NO_TIME
from shared.errors import ConfigurationError
from shared.telemetry import Log

_SOON_S = 0.001
_PARKED_AT_ONCE = 100
"""Publications that were parked, in one push: where many of them are refused, one after the other, the rest is not pushed in vain."""


class Pipeline:
    """See the module. Make it, call `run`; `stop` may be asked at any time whether to end."""

    waiting_for_schema: int = 0
    """Partitions whose next record waits for its schema."""

    def __init__(  # noqa: PLR0913 - all that it is made of
        self,
        records: Records,
        bus: Bus,
        router: Router,
        chain: DeltaChain,
        *,
        time: Time,
        stop: Callable[[], bool],
        settings: PipelineSettings | None = None,
        letters: DeadLetterQueue | None = None,
        new_rules: NewRules | None = None,
    ) -> None:
        now = time.now()
        self._settings = settings = settings or PipelineSettings()
        self.tally = Tally()
        self.letters = letters
        """What takes the records of routes with `on_error: dead-letter`; without it such a problem halts its partition."""
        if letters is not None:
            letters.tally = self.tally
        self.ticked_at = now
        """When the loop last came round: other threads see by it that it lives."""
        self.lag: int | None = None
        """How many records of its partitions are not done, looked at with each heartbeat; None while it is not known."""
        self._records = records
        self._bus = bus
        self._chain = chain
        self._time = time
        self._should_stop = stop
        self._new_rules = new_rules
        self._log = Log("bridge.pipeline")
        self._partitions = Partitions(records, letters, time, schema_retry_s=settings.schema_retry_s)
        self._room = self._partitions.room
        self._checkpoint = self._partitions.checkpoint
        self.halted = self._partitions.halted
        """Partitions that a problem halted, and which."""
        self._reader = Reader(router, self.tally, group=None if letters is None else letters.group, clock=time.now)
        self._backoff = Backoff(first_s=settings.first_backoff_s, most_s=settings.most_backoff_s, random=time.random)
        self._refusals = Refusals(self._partitions, records, self._reader)
        self._delivery = Delivery(
            bus,
            chain,
            records,
            self._checkpoint,
            self.tally,
            self._refusals,
            backoff=self._backoff,
            clock=time.now,
            max_push=settings.max_push,
            max_bytes=settings.max_batch_bytes,
        )
        self._progress = Progress(self.tally, self._log)
        self._record_bytes = 0.0
        self._stop_by: float | None = None
        self._next_beat = now
        self._next_look = now
        self._next_commit = now + settings.commit_interval_s
        self._next_report = now + settings.report_interval_s

    def __repr__(self) -> str:
        return f"<Pipeline {self.tally}, {self._delivery}, {self._partitions}>"

    @property
    def bus_away_since(self) -> float | None:
        """Since when the bus takes nothing; None while it does."""
        return self._delivery.away_since

    @property
    def is_started(self) -> bool:
        """Whether the bus was reached once."""
        return self._delivery.is_started

    def run(self) -> None:
        """Go on until told to stop; then finish the batch in flight in bounded time, commit and leave the group.

        Raises RecordsError where the source of records broke for good, BusLayoutError where the bus is set up otherwise.
        """
        self._records.start(self)
        try:
            while not self._should_stop():
                self.step()
        finally:
            self._close()

    def step(self) -> None:
        """One turn of the loop."""
        self._tick()
        self._take_new_rules()
        if self._partitions.parked:
            self._bring_parked()
        self._partitions.let_go_on(self._reader.why_unreadable)
        if not self._room:
            self._room.add(self._records.consume(self._batch_records(), self._poll_s()))
        if self._room:
            self._process()
        self.waiting_for_schema = len(self._room.held(Hold.SCHEMA_AWAY))
        now = self._time.now()
        if now >= self._next_commit:
            self._commit()
        if now >= self._next_report:
            self._report()

    # A batch: from records to the bus.

    def _process(self) -> None:
        """Bring what becomes of the records that need not wait to the bus. What comes meanwhile may be left to the next turn."""
        for record in self._room.take():
            if self._should_stop():
                break
            try:
                routed = self._reader.read(record)
            except SchemaUnavailableError as error:
                self._partitions.put_off(record, error)
                continue
            partition = record.topic, record.partition
            self._checkpoint.track(partition, record.offset)
            self._count(record)
            if routed.problems:
                verdict = self._reader.judge(record, routed.problems)
                if verdict.halt is not None:
                    self._partitions.halt(record, verdict.halt)
                    continue
                self._partitions.put_aside(record, verdict.letters)
            if not self._prepare(record, routed.drafts):
                return
        self._deliver()

    def _prepare(self, record: Record, drafts: Iterable[Draft]) -> bool:
        """Put what becomes of a record into flight; deliver whenever that is full. False where a delivery was given up."""
        self._delivery.begun = (record,)
        source_id = self._records.source_id((record.topic, record.partition))
        sole_writer = self._records.owns_all
        time_ms = NO_TIME if record.timestamp_ms is None else record.timestamp_ms
        add, offset = self._delivery.add, record.offset
        drafts = iter(drafts)
        for draft in drafts:
            at_ms = time_ms if draft.time_ms is None else draft.time_ms
            if add(draft, Source(source_id, offset, draft.index), at_ms, sole_writer=sole_writer):
                if not self._deliver():
                    return False
                sole_writer = self._records.owns_all  # A delivery that had to wait may have seen a rebalance.
                if self._refusals.left and self._is_left(record):
                    rest = [
                        Made(each, Source(source_id, offset, each.index), time_ms if each.time_ms is None else each.time_ms)
                        for each in drafts
                    ]
                    self._partitions.park_rest((record.topic, record.partition), rest, [record])
                    return True
        self._delivery.begun = ()
        return not self._delivery.add_end(record) or self._deliver()

    def _bring_parked(self) -> None:
        """Go on with partitions of which the bus refused publications, once the dead letters of these are acknowledged."""
        for partition, parked in self._partitions.unpark():
            self._delivery.begun = parked.ends
            for at, made in enumerate(parked.made):
                is_full = self._delivery.add(*made, sole_writer=self._records.owns_all)
                if is_full or len(self._delivery) >= _PARKED_AT_ONCE:
                    if not self._deliver():
                        return
                    if self._is_left(parked.ends[0]):
                        self._partitions.park_rest(partition, parked.made[at + 1 :], parked.ends)
                        break
            else:
                self._delivery.begun = ()
                for record in parked.ends:
                    self._delivery.add_end(record)
                if not self._deliver():
                    return

    def _is_left(self, record: Record) -> bool:
        """Whether a record in hand goes no further for now; asked once after each delivery."""
        left, self._refusals.left = self._refusals.left, []
        return any(each is record for each in left)

    def _poll_s(self) -> float:
        """How long to wait for records: not long where parked publications wait for an answer that will be there soon."""
        is_soon = self._partitions.parked and self.letters is not None and self.letters.away_since is None
        return _SOON_S if is_soon else self._settings.poll_s

    def _deliver(self) -> bool:
        """Bring the batch in flight to the bus, however long that takes. False where the process is told to stop before it is done."""
        while not self._delivery.attempt():
            if not self._wait():
                return False
            self._tick()
        self._tick()
        return True

    def _wait(self) -> bool:
        """Wait for the next attempt, polling. False where the process is told to stop and its time is over."""
        until = self._time.now() + self._backoff.next_s()
        while self._delivery and (left_s := until - self._time.now()) > 0:
            if self._is_out_of_time():
                self._log.warning("stopping while the bus is away: what was in flight stays in Kafka", publications=len(self._delivery))
                self._delivery.give_up()
                return False
            polled_at = self._time.now()
            self._room.add(self._records.consume(1, min(left_s, 0.1)))
            self._look_at_lag()
            if self._time.now() == polled_at:  # A source that does not wait.
                self._time.sleep(min(left_s, 0.1))
        return True

    def _is_out_of_time(self) -> bool:
        if self._stop_by is None:
            if not self._should_stop():
                return False
            self._stop_by = self._time.now() + self._settings.stop_timeout_s
        return self._time.now() >= self._stop_by

    def _count(self, record: Record) -> None:
        size = len(record.value or b"")
        self.tally.records += 1
        self.tally.record_bytes += size
        self._record_bytes += (size - self._record_bytes) / 16

    def _batch_records(self) -> int:
        """As many records as make a batch of the right size, judging by the last ones."""
        if not self._record_bytes:
            return min(16, self._settings.max_batch_records)
        return max(1, min(self._settings.max_batch_records, int(self._settings.max_batch_bytes / self._record_bytes)))

    # When the rules change: between two batches, when nothing is in flight.

    def _take_new_rules(self) -> None:
        change = self._new_rules.take() if self._new_rules is not None else None
        if change is None or self._new_rules is None:
            return
        # What was finished under the old rules must not come back under the new ones, should this process be killed.
        self._commit(wait=True)
        try:
            router = self._reader.router.with_rules(change.rules)
            self._partitions.leave(router.routes_of)
            self._records.subscribe(change.rules.topics)
        except ConfigurationError as error:
            self._new_rules.refuse(error.problems)
            return
        self._reader.router = router
        self._chain.keep(change.kept)
        self._chain.distrust()  # Other members of the group may still publish by the old rules, or by the new ones already.
        self._partitions.try_halted_again(rules_changed=not change.is_empty)
        self._new_rules.accept(change)

    # What happens to partitions (bridge.ports.Listener). Called from within `consume`, so maybe while a batch is in flight.

    def on_assigned(self, partitions: Sequence[Partition]) -> None:
        """See `bridge.ports.Listener`."""
        self._chain.distrust()
        self.lag = None  # What was known before says nothing of these.
        self._partitions.assign(partitions)
        if self.bus_away_since is not None:
            self._records.hold(partitions, Hold.BUS_AWAY)
        self._log.info("partitions assigned", partitions=names(partitions))

    def on_revoked(self, partitions: Sequence[Partition]) -> None:
        """See `bridge.ports.Listener`.

        A batch in flight that the bus does not take in time is kept all the same, and pushed as soon as it can be: dropping the
        revoked partitions' part would break the deltas of the rest. It does no harm, because it begins where this bridge's last
        publication ended: between it and the same records from their new owner, the bus takes whichever comes first, in order.
        """
        deadline = self._time.now() + self._settings.revoke_timeout_s
        while not self._delivery.attempt():
            wait_s = min(self._backoff.next_s(), deadline - self._time.now())
            if wait_s <= 0:
                self._log.warning("partitions revoked while the bus is away: their last records are left to their new owner")
                break
            self._time.sleep(wait_s)
        self._partitions.await_letters(set(partitions), deadline)
        self._commit(wait=True)
        self._chain.forget(self._sources(partitions))
        self._partitions.drop(partitions)
        self._chain.distrust()
        self._log.info("partitions revoked", partitions=names(partitions))

    def on_lost(self, partitions: Sequence[Partition]) -> None:
        """See `bridge.ports.Listener`."""
        self._partitions.drop(partitions)
        # Their new owner has published for a while: nothing that is held may be put back as the newest.
        self._chain.clear()
        self._chain.distrust()
        self._log.warning("partitions lost: the group went on without this bridge", partitions=names(partitions))

    def on_commit_failed(self, partitions: Sequence[Partition]) -> None:
        """See `bridge.ports.Listener`."""
        self.tally.commit_failures += 1
        self._checkpoint.commit_failed(partitions)

    def _sources(self, partitions: Sequence[Partition]) -> set[bytes]:
        """The source ids of these partitions, but for those of topics that are not identified: nothing was made of their records."""
        found = set()
        for partition in partitions:
            with contextlib.suppress(KeyError):
                found.add(self._records.source_id(partition))
        return found

    # Regular duties.

    def _tick(self) -> None:
        self._partitions.settle_letters()
        now = self.ticked_at = self._time.now()
        if now >= self._next_beat:
            self._next_beat = now + self._settings.beat_interval_s
            self._delivery.beat()
        self._look_at_lag()

    def _look_at_lag(self) -> None:
        """Every second or so, also between two attempts to reach the bus: each of these may take long."""
        now = self._time.now()
        if now >= self._next_look:
            self._next_look = now + self._settings.beat_interval_s
            self.lag = self._records.lag(self._partitions.unfinished())

    def _commit(self, *, wait: bool = False) -> None:
        self._next_commit = self._time.now() + self._settings.commit_interval_s
        offsets = self._checkpoint.committable()
        if offsets:
            self._checkpoint.committed(offsets)
            self.tally.commits += 1
            self._records.commit(offsets, wait=wait)

    def _report(self) -> None:
        self._next_report = self._time.now() + self._settings.report_interval_s
        self._progress.tell(lag=self.lag, letters_waiting=0 if self.letters is None else len(self.letters))

    def _close(self) -> None:
        try:
            self._partitions.await_letters(self._records.assigned, self._stop_by or self._time.now() + self._settings.stop_timeout_s)
            if self.letters is not None:
                self.letters.close()
            self._commit(wait=True)
            self._report()
        finally:
            try:
                self._records.close()
            finally:
                self._bus.close()
