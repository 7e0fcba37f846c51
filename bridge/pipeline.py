"""The pipeline: records in, publications out, offsets committed. One thread, one loop, bounded work in flight.

    consume a batch -> route -> drafts -> chain -> pushes -> bus -> confirm -> checkpoint -> commit

Nothing here waits without polling the records' source, so that a bus that is away does not cost the membership in the group, and
nothing is dropped: a batch that the bus does not take is tried again until it does, or until this process is told to stop; then its
records were never committed, and whoever gets their partitions reads them again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

import msgspec

from bridge.core.backoff import Backoff
from bridge.core.chain import DeltaChain
from bridge.core.checkpoint import Checkpoint
from bridge.core.decoding import SchemaUnavailableError
from bridge.core.draft import Draft, OnError, RecordProblem
from bridge.core.flow import Hold
from bridge.core.letter import Replay, replay_of
from bridge.core.record import Partition, Record
from bridge.core.reload import Change
from bridge.core.routing import Routed, Router
from bridge.core.tally import RouteTally, Tally, saving
from bridge.dead_letters import DeadLetterQueue
from bridge.ports import Bus, NewRules, Records
from shared.bus.push import Outcome, Push, Pushed, Source
from shared.envelope import NO_TIME
from shared.errors import BusError, BusLayoutError, BusUnavailableError, ConfigurationError, IncarnationError
from shared.telemetry import Log, Throttle

T = TypeVar("T")

_MAX_QUICK_TRIES = 3
"""A lost incarnation is answered at once so many times in a row; a bus that is flushed again and again is one that is away."""

_SHOWN_ROUTES = 10
"""Whose savings a line of progress tells; metrics tell all."""


class PipelineSettings(msgspec.Struct, frozen=True):
    """Bounds and intervals."""

    max_batch_records: int = 500
    max_batch_bytes: int = 8_388_608
    """Of record values in one batch, about; and of payloads and deltas in one push."""
    max_push: int = 2000
    """Publications in one push."""
    poll_s: float = 0.05
    commit_interval_s: float = 1.0
    beat_interval_s: float = 1.0
    report_interval_s: float = 60.0
    revoke_timeout_s: float = 10.0
    """For what was begun when partitions are revoked."""
    stop_timeout_s: float = 10.0
    """For what was begun when the process is told to stop."""
    schema_retry_s: float = 0.25
    """Between two attempts to read records whose schema could not be had; how often the registry is asked is its client's business."""
    first_backoff_s: float = 0.1
    most_backoff_s: float = 2.0


class Time(msgspec.Struct, frozen=True):
    """Time and chance, passed in."""

    now: Callable[[], float]
    """Seconds that only go forward."""
    sleep: Callable[[float], None]
    random: Callable[[], float]
    """From 0 to 1."""


class _Flight:
    """The batch in flight: pushes that were prepared, and the records that are finished once they are on the bus."""

    def __init__(self) -> None:
        self.pushes: list[Push] = []
        self.counts: list[RouteTally] = []
        """Of each push, whose it is."""
        self.bytes = 0
        self.records: list[tuple[Partition, int]] = []


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
        self.tally = Tally()
        self.letters = letters
        """What takes the records of routes with `on_error: dead-letter`; without it such a problem halts its partition."""
        if letters is not None:
            letters.tally = self.tally
        self.bus_away_since: float | None = None
        """Since when the bus takes nothing; None while it does."""
        self.halted: dict[Partition, str] = {}
        """Partitions that a problem halted, and which."""
        self.ticked_at = time.now()
        """When the loop last came round: other threads see by it that it lives."""
        self.lag: int | None = None
        self.is_started = False
        """Whether the bus was reached once."""
        self._records = records
        self._bus = bus
        self._router = router
        self._chain = chain
        self._time = time
        self._should_stop = stop
        self._settings = settings or PipelineSettings()
        self._checkpoint = Checkpoint()
        self._flight = _Flight()
        self._backlog: list[Record] = []
        """Records that came while the bus was away: consumed, nothing made of them yet."""
        self._blocked: set[Partition] = set()
        """Partitions whose dead letters must be written before more of their records are looked at."""
        self._parked: list[Record] = []
        """Records of such partitions that had been consumed already."""
        self._new_rules = new_rules
        self._halted_at: dict[Partition, int] = {}
        """The kafka offsets of the records that halted partitions."""
        self._unreadable: dict[Partition, list[Record]] = {}
        """Records that wait for a schema, and those behind them. Nothing was made of them yet; their partitions are held."""
        self._next_reading = 0.0
        self._gone: set[Partition] = set()
        """Partitions that were taken from us while the present batch is processed; what is left of them in it is not ours."""
        self._to_reopen: set[int] = set()
        self._to_restore: set[int] = set()
        self._stop_by: float | None = None
        self._record_bytes = 0.0
        self._backoff = Backoff(first_s=self._settings.first_backoff_s, most_s=self._settings.most_backoff_s, random=time.random)
        now = time.now()
        self._next_beat = now
        self._next_commit = now + self._settings.commit_interval_s
        self._next_report = now + self._settings.report_interval_s
        self._reported = (0, 0, 0, 0, 0, 0)
        self._reported_routes: dict[str, tuple[int, int]] = {}
        self._throttle = Throttle(10, clock=time.now)
        self._log = Log("bridge.pipeline")

    def __repr__(self) -> str:
        bus = "away" if self.bus_away_since is not None else "there"
        return f"<Pipeline {self.tally}, {len(self._flight.pushes)} pushes in flight, bus {bus}, {len(self.halted)} partitions halted>"

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
        self._unblock()
        records, self._backlog = self._backlog, []
        if not records:
            records = self._records.consume(self._batch_records(), self._settings.poll_s)
        if records:
            self._process(records)
        if self._unreadable and self._time.now() >= self._next_reading:
            self._read_again()
        self.waiting_for_schema = len(self._unreadable)
        now = self._time.now()
        if now >= self._next_commit:
            self._commit()
        if now >= self._next_report:
            self._report()

    # What happens to partitions (bridge.ports.Listener). Called from within `consume`, so maybe while a batch is in flight.

    def on_assigned(self, partitions: Sequence[Partition]) -> None:
        """See `bridge.ports.Listener`."""
        self._chain.distrust()
        self._forget(partitions)
        if self.bus_away_since is not None:
            self._records.hold(partitions, Hold.BUS_AWAY)
        self._log.info("partitions assigned", partitions=_names(partitions))

    def on_revoked(self, partitions: Sequence[Partition]) -> None:
        """See `bridge.ports.Listener`.

        A batch in flight that the bus does not take in time is kept all the same, and pushed as soon as it can be: dropping the
        revoked partitions' part would break the deltas of the rest. It does no harm, because it begins where this bridge's last
        publication ended: between it and the same records from their new owner, the bus takes whichever comes first, in order.
        """
        deadline = self._time.now() + self._settings.revoke_timeout_s
        while self._flight.pushes and not self._try_flight():
            wait_s = min(self._backoff.next_s(), deadline - self._time.now())
            if wait_s <= 0:
                self._log.warning("partitions revoked while the bus is away: their last records are left to their new owner")
                break
            self._time.sleep(wait_s)
        self._await_letters(set(partitions), deadline)
        self._commit(wait=True)
        self._chain.forget(self._sources(partitions))
        self._forget(partitions)
        self._chain.distrust()
        self._log.info("partitions revoked", partitions=_names(partitions))

    def _sources(self, partitions: Sequence[Partition]) -> set[bytes]:
        """The source ids of these partitions, but for those of topics that are not identified: nothing was made of their records."""
        found = set()
        for partition in partitions:
            with contextlib.suppress(KeyError):
                found.add(self._records.source_id(partition))
        return found

    def on_lost(self, partitions: Sequence[Partition]) -> None:
        """See `bridge.ports.Listener`."""
        self._forget(partitions)
        # Their new owner has published for a while: nothing that is held may be put back as the newest.
        self._chain.clear()
        self._chain.distrust()
        self._log.warning("partitions lost: the group went on without this bridge", partitions=_names(partitions))

    def on_commit_failed(self, partitions: Sequence[Partition]) -> None:
        """See `bridge.ports.Listener`."""
        self.tally.commit_failures += 1
        self._checkpoint.commit_failed(partitions)

    # When the rules change. Called between two batches, when nothing is in flight.

    def _take_new_rules(self) -> None:
        change = self._new_rules.take() if self._new_rules is not None else None
        if change is None or self._new_rules is None:
            return
        # What was finished under the old rules must not come back under the new ones, should this process be killed.
        self._commit(wait=True)
        try:
            router = Router(change.rules, clock=self._time.now)
            self._put_back(router)
            self._records.subscribe(change.rules.topics)
        except ConfigurationError as error:
            self._new_rules.refuse(error.problems)
            return
        self._router = router
        self._chain.keep(change.kept)
        self._chain.distrust()  # Other members of the group may still publish by the old rules, or by the new ones already.
        self._try_halted_again(change)
        self._new_rules.accept(change)

    def _put_back(self, router: Router) -> None:
        """What was read ahead of topics that have no route any more: whoever reads them next gets it."""
        waiting = [*self._backlog, *self._parked, *(record for records in self._unreadable.values() for record in records)]
        first: dict[Partition, int] = {}
        for record in waiting:
            if not router.routes_of(record.topic):
                partition = record.topic, record.partition
                first[partition] = min(record.offset, first.get(partition, record.offset))
        if first:
            self._backlog = [record for record in self._backlog if (record.topic, record.partition) not in first]
            self._parked = [record for record in self._parked if (record.topic, record.partition) not in first]
            self._unreadable = {partition: records for partition, records in self._unreadable.items() if partition not in first}
            self._records.release(first, Hold.SCHEMA_AWAY)
            self._records.rewind(first)

    def _try_halted_again(self, change: Change) -> None:
        """A partition that was halted under the old rules goes on with the record that halted it.

        Or with an older one whose dead letter is not acknowledged: that is made anew.
        """
        halted, self._halted_at = self._halted_at, {}
        self.halted.clear()
        if not halted:
            return
        self._backlog = [record for record in self._backlog if (record.topic, record.partition) not in halted]
        self._parked = [record for record in self._parked if (record.topic, record.partition) not in halted]
        if self.letters:
            for partition, oldest in self.letters.oldest().items():
                if partition in halted:
                    halted[partition] = min(oldest, halted[partition])
            self.letters.forget(halted)
        self._records.release(halted, Hold.HALTED)
        self._records.rewind(halted)
        self._log.info("halted partitions are tried again", partitions=_names(list(halted)), rules_changed=not change.is_empty)

    # From records to pushes.

    def _process(self, records: Iterable[Record]) -> None:
        self._gone.clear()
        for record in records:
            if self._should_stop():
                break
            partition = record.topic, record.partition
            if partition in self.halted or partition in self._gone:
                continue
            if (self._unreadable or self._blocked) and self._must_wait(record):
                continue
            try:
                routed = self._route(record)
            except SchemaUnavailableError as error:
                self._put_off(record, error)
                continue
            self._checkpoint.track(partition, record.offset)
            self._count(record)
            if partition in self.halted:
                continue
            if self.letters is not None and routed.problems:
                self._put_aside(self.letters, record, routed.problems)
            if not self._prepare(record, routed.drafts):
                return
            self._flight.records.append((partition, record.offset))
            if self._is_full() and not self._deliver():
                return
        self._deliver()

    def _must_wait(self, record: Record) -> bool:
        """Whether records before this one wait for a schema or for dead letters; then it joins them."""
        partition = record.topic, record.partition
        if partition in self._unreadable:
            self._unreadable[partition].append(record)
        elif partition in self._blocked:
            self._parked.append(record)
        else:
            return False
        return True

    def _route(self, record: Record) -> Routed:
        try:
            replay = replay_of(record.headers) if record.headers else None
            if replay is None:
                routed = self._router.route(record)
            elif self._is_for_others(replay):
                self.tally.filtered += 1
                return Routed()
            else:
                routed = self._router.route(record, replay)
        except SchemaUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001  (a fault of ours must not lose a record: its partition stops, visibly)
            self._log.exception("routing failed", record=record.where)
            self._halt(record, f"routing failed: {error!r}")
            return Routed()
        self.tally.filtered += routed.filtered
        self.tally.over_cap += routed.over_cap
        self.tally.tombstones += routed.is_tombstone
        for problem in routed.problems:
            self._tell(record, problem)
        return routed

    # When a schema cannot be had: its partition waits, and the others go on.

    def _put_off(self, record: Record, error: SchemaUnavailableError) -> None:
        partition = record.topic, record.partition
        self._unreadable[partition] = [record]
        self._records.hold([partition], Hold.SCHEMA_AWAY)
        self._next_reading = self._time.now() + self._settings.schema_retry_s
        if (silenced := self._throttle.admit("schema")) is not None:
            self._log.warning("records wait for a schema", record=record.where, reason=str(error), not_shown=silenced)

    def _read_again(self) -> None:
        """Try the records that waited for schemas, and let those partitions flow that need not wait any more."""
        waiting, self._unreadable = self._unreadable, {}
        self._process([record for records in waiting.values() for record in records])
        self._records.release([partition for partition in waiting if partition not in self._unreadable], Hold.SCHEMA_AWAY)

    def _prepare(self, record: Record, drafts: Iterable[Draft]) -> bool:
        """Put the pushes of a record into flight; deliver whenever that is full. False where a delivery was given up."""
        source_id = self._records.source_id((record.topic, record.partition))
        sole_writer = self._records.owns_all
        time_ms = NO_TIME if record.timestamp_ms is None else record.timestamp_ms
        prepare, offset, of = self._chain.prepare, record.offset, self.tally.of
        for draft in drafts:
            counts = of(draft.route)
            at_ms = time_ms if draft.time_ms is None else draft.time_ms
            pushes = prepare(draft, Source(source_id, offset, draft.index), at_ms, sole_writer=sole_writer)
            if not pushes:
                counts.skip(self._chain.skipped_as)
                continue
            flight = self._flight
            for push in pushes:
                flight.pushes.append(push)
                flight.counts.append(counts)
                flight.bytes += len(push.payload) + len(push.delta)
            if self._is_full():
                if not self._deliver():
                    return False
                sole_writer = self._records.owns_all  # A delivery that had to wait may have seen a rebalance.
        return True

    def _tell(self, record: Record, problem: RecordProblem) -> None:
        key = problem.route, problem.on_error
        self.tally.problems[key] = self.tally.problems.get(key, 0) + 1
        if problem.on_error is OnError.HALT:
            self._halt(record, problem.message)
            return
        if problem.on_error is OnError.DEAD_LETTER and (trouble := self._trouble_with_letter(record, problem)):
            self._halt(record, f"{problem.message}; {trouble}")
        elif (silenced := self._throttle.admit(key)) is not None:
            what = "record put aside" if problem.on_error is OnError.DEAD_LETTER else "record skipped"
            self._log.warning(what, route=problem.route, problem=problem.message, not_shown=silenced)

    def _halt(self, record: Record, message: str) -> None:
        partition = record.topic, record.partition
        if partition in self.halted:
            self._halted_at[partition] = min(record.offset, self._halted_at[partition])
            return
        self.halted[partition] = message
        self._halted_at[partition] = record.offset
        self._records.hold([partition], Hold.HALTED)
        self._log.error(
            "partition halted: correct the rules (or skip the record), then reload them or restart", record=record.where, problem=message
        )

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

    def _is_full(self) -> bool:
        return len(self._flight.pushes) >= self._settings.max_push or self._flight.bytes >= self._settings.max_batch_bytes

    # Dead letters.

    def _trouble_with_letter(self, record: Record, problem: RecordProblem) -> str:
        """Why the record cannot be put aside; nothing where it can."""
        if self.letters is None or problem.dead_letters is None:
            return "and there is nowhere to put its dead letter"
        topic = problem.dead_letters.of(record.topic)
        if self._router.routes_of(topic):
            return f"its dead letter would go to {topic}, which these rules consume: name another topic in dead_letters.topic"
        return ""

    def _put_aside(self, letters: DeadLetterQueue, record: Record, problems: Iterable[RecordProblem]) -> None:
        """Write a dead letter for each route that wants one of these problems."""
        by_route: dict[str, list[RecordProblem]] = {}
        for problem in problems:
            if problem.on_error is OnError.DEAD_LETTER:
                by_route.setdefault(problem.route, []).append(problem)
        partition = record.topic, record.partition
        self._checkpoint.owe(partition, record.offset, len(by_route))
        for those in by_route.values():
            letters.post(record, those, self._records.cluster_id)
        if by_route and letters.is_full:
            self._block({partition})

    def _is_for_others(self, replay: Replay) -> bool:
        """Whether a record comes again for another group's bridges."""
        return self.letters is not None and replay.group not in {"", self.letters.group}

    def _block(self, partitions: set[Partition]) -> None:
        self._blocked |= partitions
        self._records.hold(partitions, Hold.DEAD_LETTERS)

    def _unblock(self) -> None:
        """Between two batches: go on with partitions whose dead letters are written, their parked records first."""
        if self.letters is None or (not self.letters and not self._blocked):
            return
        blocked = self.letters.blocked()
        if new := blocked - self._blocked:
            self._block(new)
        freed = self._blocked - blocked
        if not freed:
            return
        self._blocked -= freed
        self._records.release(freed, Hold.DEAD_LETTERS)
        ready = [record for record in self._parked if (record.topic, record.partition) in freed]
        self._parked = [record for record in self._parked if (record.topic, record.partition) not in freed]
        self._backlog[:0] = ready

    def _settle_letters(self) -> None:
        if not self.letters:
            return
        done, refused = self.letters.poll()
        for partition, offset in done:
            self._checkpoint.done(partition, offset)
        for record, why in refused:
            self._halt(record, why)

    def _await_letters(self, partitions: Collection[Partition], deadline: float) -> None:
        """Wait for the letters of these partitions, whose records can be committed then; but not for ever."""
        while self.letters and self.letters.has(partitions):
            self._settle_letters()
            left_s = deadline - self._time.now()
            if left_s <= 0:
                self._log.warning("dead letters are not acknowledged in time: their records are left to the next owner of the partition")
                return
            if self.letters.has(partitions):
                self._time.sleep(min(left_s, 0.02))

    # From pushes to the bus.

    def _deliver(self) -> bool:
        """Bring the batch in flight to the bus, however long that takes. False where the process is told to stop before it is done."""
        while not self._try_flight():
            if not self._wait():
                return False
            self._tick()
        self._tick()
        return True

    def _try_flight(self) -> bool:
        """Try to push the batch in flight. True where nothing is in flight afterwards."""
        flight = self._flight
        if flight.pushes:
            answers = self._try(lambda: self._bus.push(flight.pushes))
            if answers is None:
                return False
            self._confirm(flight, answers)
        for partition, offset in flight.records:
            self._checkpoint.done(partition, offset)
        self._flight = _Flight()
        return True

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
                self._on_bus_away(error)
                return None
            self._on_bus_back()
            return result
        self._on_bus_away(BusUnavailableError("its data are lost again and again"))
        return None

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
        self.tally.incarnations_lost += len(shards)
        self._log.warning("the bus lost or replaced its data: putting the newest values back", shards=sorted(shards))

    def _restore(self) -> None:
        pushes = self._chain.held(self._to_restore, self._flight.pushes)
        start = 0
        while start < len(pushes):
            end, size = start, 0
            while end < len(pushes) and end - start < self._settings.max_push and size < self._settings.max_batch_bytes:
                size += len(pushes[end].payload)
                end += 1
            part = pushes[start:end]
            for push, pushed in zip(part, self._bus.push(part), strict=True):
                self._chain.confirm(push, pushed)
                self.tally.restored += pushed.outcome is Outcome.FULL
            start = end
        self._log.info("values put back", values=len(pushes), shards=sorted(self._to_restore))
        self._to_restore.clear()

    def _confirm(self, flight: _Flight, answers: Sequence[Pushed]) -> None:
        confirm = self._chain.confirm
        for push, counts, pushed in zip(flight.pushes, flight.counts, answers, strict=True):
            confirm(push, pushed)
            counts.count(push, pushed)
            if pushed.outcome is Outcome.FAILED and (silenced := self._throttle.admit(push.channel)) is not None:
                self._log.error("the bus refused a publication", channel=push.channel, reason=pushed.reason, not_shown=silenced)

    # When the bus is away.

    def _on_bus_away(self, error: Exception) -> None:
        self.tally.bus_failures += 1
        if self.bus_away_since is None:
            self.bus_away_since = self._time.now()
            self._log.warning("the bus is away: records wait in Kafka", reason=str(error))
        elif (silenced := self._throttle.admit("bus")) is not None and silenced:
            self._log.warning("the bus is still away", reason=str(error), for_s=round(self._time.now() - self.bus_away_since))
        self._records.hold(self._records.assigned, Hold.BUS_AWAY)

    def _on_bus_back(self) -> None:
        self.is_started = True
        self._backoff.reset()
        if self.bus_away_since is None:
            return
        self._log.info("the bus is back", after_s=round(self._time.now() - self.bus_away_since, 1))
        self.bus_away_since = None
        self._records.release(self._records.assigned, Hold.BUS_AWAY)

    def _wait(self) -> bool:
        """Wait for the next attempt, polling. False where the process is told to stop and its time is over."""
        until = self._time.now() + self._backoff.next_s()
        while self._flight.pushes and (left_s := until - self._time.now()) > 0:
            if self._is_out_of_time():
                self._give_up()
                return False
            polled_at = self._time.now()
            self._backlog += self._records.consume(1, min(left_s, 0.1))
            if self._time.now() == polled_at:  # A source that does not wait.
                self._time.sleep(min(left_s, 0.1))
        return True

    def _is_out_of_time(self) -> bool:
        if self._stop_by is None:
            if not self._should_stop():
                return False
            self._stop_by = self._time.now() + self._settings.stop_timeout_s
        return self._time.now() >= self._stop_by

    def _give_up(self) -> None:
        self._log.warning("stopping while the bus is away: what was in flight stays in Kafka", publications=len(self._flight.pushes))
        self._flight = _Flight()
        self._chain.clear()

    # Regular duties.

    def _tick(self) -> None:
        self._settle_letters()
        now = self.ticked_at = self._time.now()
        if now < self._next_beat:
            return
        self._next_beat = now + self._settings.beat_interval_s
        lost = self._try(self._bus.beat)
        if lost:
            self._lose(lost)
            self._try(self._bus.beat)
        self.lag = self._records.lag()

    def _commit(self, *, wait: bool = False) -> None:
        self._next_commit = self._time.now() + self._settings.commit_interval_s
        offsets = self._checkpoint.committable()
        if offsets:
            self._checkpoint.committed(offsets)
            self.tally.commits += 1
            self._records.commit(offsets, wait=wait)

    def _forget(self, partitions: Sequence[Partition]) -> None:
        gone = set(partitions)
        self._gone |= gone
        self._checkpoint.forget(gone)
        self._backlog = [record for record in self._backlog if (record.topic, record.partition) not in gone]
        self._parked = [record for record in self._parked if (record.topic, record.partition) not in gone]
        self._blocked -= gone
        if self.letters:
            self.letters.forget(gone)
        for partition in gone:
            self.halted.pop(partition, None)
            self._halted_at.pop(partition, None)
            self._unreadable.pop(partition, None)

    def _report(self) -> None:
        self._next_report = self._time.now() + self._settings.report_interval_s
        tally = self.tally
        unchanged = tally.skipped + tally.unchanged
        now = tally.records, tally.publications, unchanged, tally.payload_bytes, tally.sent_bytes, tally.letters
        records, publications, same, payload_bytes, sent_bytes, letters = (new - old for new, old in zip(now, self._reported, strict=True))
        self._reported = now
        self._log.info(
            "progress",
            records=records,
            publications=publications,
            unchanged=same,
            bytes_full=payload_bytes,
            bytes_sent=sent_bytes,
            saving=f"{saving(payload_bytes, sent_bytes):.0%}" if payload_bytes else "-",
            by_route=self._savings_by_route(),
            dead_letters=letters,
            dead_letters_waiting=0 if self.letters is None else len(self.letters),
            lag="-" if self.lag is None else self.lag,
        )

    def _savings_by_route(self) -> str:
        """What each route with publications saved since the last report: of those with the most bytes."""
        now = {name: (route.payload_bytes, route.sent_bytes) for name, route in self.tally.routes.items()}
        before, self._reported_routes = self._reported_routes, now
        new = []
        for name, (full, sent) in now.items():
            full_before, sent_before = before.get(name, (0, 0))
            if full > full_before:
                new.append((full - full_before, name, saving(full - full_before, sent - sent_before)))
        new.sort(reverse=True)
        shown = [f"{name}={saved:.0%}" for _, name, saved in new[:_SHOWN_ROUTES]]
        return ",".join([*shown, *(["..."] if len(new) > _SHOWN_ROUTES else [])]) or "-"

    def _close(self) -> None:
        try:
            self._await_letters(self._records.assigned, self._stop_by or self._time.now() + self._settings.stop_timeout_s)
            if self.letters is not None:
                self.letters.close()
            self._commit(wait=True)
            self._report()
        finally:
            try:
                self._records.close()
            finally:
                self._bus.close()


def _names(partitions: Sequence[Partition]) -> str:
    shown = [f"{topic}[{number}]" for topic, number in sorted(partitions)]
    return ", ".join(shown if len(shown) <= 20 else [*shown[:20], f"and {len(shown) - 20} more"]) or "none"
