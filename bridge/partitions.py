"""Our partitions: which of them wait, and why; and how far each of them is.

A partition waits, while others go on, as long as
- its dead letters are not taken, or there are too many on their way (`Hold.DEAD_LETTERS`),
- its next record has a schema that cannot be had (`Hold.SCHEMA_AWAY`),
- a record halted it (`Hold.HALTED`),
- the bus refused a publication of it, whose dead letter is not acknowledged (`Hold.REFUSED`): what was behind that is parked.
Its records that were consumed already wait in the room (bridge/core/waiting.py); those behind them stay in Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from bridge.core.checkpoint import Checkpoint
from bridge.core.decoding import SchemaUnavailableError
from bridge.core.draft import RecordProblem
from bridge.core.flow import Hold
from bridge.core.limits import Time
from bridge.core.parked import Made, Parked
from bridge.core.record import Partition, Record
from bridge.core.waiting import WaitingRoom
from bridge.dead_letters import DeadLetterQueue
from bridge.ports import Records
from shared.telemetry import Log, Throttle


class Partitions:
    """See the module. `schema_retry_s` lies between two attempts to read records whose schema could not be had."""

    def __init__(self, records: Records, letters: DeadLetterQueue | None, time: Time, *, schema_retry_s: float) -> None:
        self.room = WaitingRoom()
        self.checkpoint = Checkpoint()
        self.halted: dict[Partition, str] = {}
        """Those that a problem halted, and which."""
        self.parked: dict[Partition, Parked] = {}
        """Those that wait for the dead letters of what the bus refused."""
        self._records = records
        self._letters = letters
        self._time = time
        self._schema_retry_s = schema_retry_s
        self._next_reading = 0.0
        self._throttle = Throttle(10, clock=time.now)
        self._log = Log("bridge.partitions")

    def __repr__(self) -> str:
        return f"<Partitions {self.room}, {self.checkpoint}, {len(self.halted)} halted, {len(self.parked)} parked>"

    def assign(self, partitions: Sequence[Partition]) -> None:
        """They became ours."""
        self.drop(partitions)
        self.room.assign(partitions)

    def drop(self, partitions: Sequence[Partition]) -> None:
        """They are ours no more: what is not committed is done anew by whoever has them now."""
        self.room.drop(partitions)
        self.checkpoint.forget(partitions)
        if self._letters:
            self._letters.forget(partitions)
        for partition in partitions:
            self.halted.pop(partition, None)
            self.parked.pop(partition, None)

    def unfinished(self) -> dict[Partition, int]:
        """The kafka offset of the oldest record of each partition that was consumed and is not done."""
        return {**self.room.oldest(), **self.checkpoint.unfinished_from(self._records.assigned)}

    def leave(self, is_read: Callable[[str], object]) -> None:
        """What was read ahead of topics that are not read any more is left to whoever reads them next."""
        first = self.room.withdraw({partition for partition in self.room.oldest() if not is_read(partition[0])})
        if first:
            self._release(first.keys(), Hold.SCHEMA_AWAY)
            self._records.rewind(first)

    def let_go_on(self, why_unreadable: Callable[[Record], SchemaUnavailableError | None]) -> None:
        """Between two batches: release what need not wait any more, and hold the partitions whose dead letters are not taken."""
        blocked = self._letters.blocked() if self._letters else set()
        held = self.room.held(Hold.DEAD_LETTERS)
        if blocked != held:
            self._hold(blocked - held, Hold.DEAD_LETTERS)
            self._release(held - blocked, Hold.DEAD_LETTERS)
        unreadable = self.room.held(Hold.SCHEMA_AWAY)
        if unreadable and self._time.now() >= self._next_reading:
            for partition in unreadable:
                record = self.room.first(partition)
                if record is not None and (error := why_unreadable(record)):
                    self._tell_unreadable(record, error)
                else:
                    self._release([partition], Hold.SCHEMA_AWAY)

    # When a schema cannot be had.

    def put_off(self, record: Record, error: SchemaUnavailableError) -> None:
        """The record that was taken last waits for its schema."""
        self.room.put_back(record, Hold.SCHEMA_AWAY)
        self._records.hold([(record.topic, record.partition)], Hold.SCHEMA_AWAY)
        self._tell_unreadable(record, error)

    def _tell_unreadable(self, record: Record, error: SchemaUnavailableError) -> None:
        self._next_reading = self._time.now() + self._schema_retry_s
        if (silenced := self._throttle.admit("schema")) is not None:
            self._log.warning("records wait for a schema", record=record.where, reason=str(error), not_shown=silenced)

    # When a record halts.

    def halt(self, record: Record, why: str) -> None:
        """Nothing more is made of its partition until `try_halted_again`."""
        partition = record.topic, record.partition
        if partition in self.halted:
            return
        self.halted[partition] = why
        self.parked.pop(partition, None)
        self._hold([partition], Hold.HALTED)
        self.room.withdraw([partition])
        self._log.error(
            "partition halted: correct the rules (`on_error: skip` or `dead-letter` lets the record go), then reload them or restart",
            record=record.where,
            problem=why,
        )

    def try_halted_again(self, *, rules_changed: bool) -> None:
        """Go on with the oldest unfinished record of each. To be called while nothing is in flight.

        That is the record that halted its partition, or an older one whose dead letters are not acknowledged: they are made anew. So is
        what is parked: it was made by the rules that were.
        """
        halted = set(self.halted)
        again = halted | self.parked.keys()
        if not again:
            return
        self.halted.clear()
        self.parked.clear()
        if self._letters:
            self._letters.forget(again)
        self.room.withdraw(again)
        self._release(again, Hold.HALTED)
        self._release(again, Hold.REFUSED)
        self._records.rewind(self.checkpoint.unfinished_from(again))
        if halted:
            self._log.info("halted partitions are tried again", partitions=names(halted), rules_changed=rules_changed)

    # When the bus refuses a publication.

    def park(self, partition: Partition) -> Parked:
        """Hold it until its dead letters are acknowledged. Returns what is parked of it, to be added to."""
        parked = self.parked.get(partition)
        if parked is None:
            parked = self.parked[partition] = Parked()
            self._hold([partition], Hold.REFUSED)
        return parked

    def park_rest(self, partition: Partition, made: Iterable[Made], ends: Iterable[Record]) -> None:
        """Park this, too, of a partition that is parked; it is dropped where that halted, or is ours no more."""
        if (parked := self.parked.get(partition)) is not None:
            parked.made.extend(made)
            parked.ends.extend(ends)

    def unpark(self) -> Iterator[tuple[Partition, Parked]]:
        """The partitions that were parked and flow again, with what comes before anything else of each."""
        for partition in list(self.parked):
            if partition in self.parked and not (self._letters and self._letters.has([partition])):
                parked = self.parked.pop(partition)
                self._release([partition], Hold.REFUSED)
                yield partition, parked

    # Dead letters.

    def put_aside(self, record: Record, letters: Sequence[Sequence[RecordProblem]]) -> None:
        """Write dead letters of a record whose processing began: one for each of `letters`, the problems of one route."""
        if self._letters is None or not letters:
            return
        partition = record.topic, record.partition
        self.checkpoint.owe(partition, record.offset, len(letters))
        for problems in letters:
            self._letters.post(record, problems, self._records.cluster_id)
        if self._letters.is_full:
            self._hold([partition], Hold.DEAD_LETTERS)

    def settle_letters(self) -> None:
        """Take notice of dead letters that were written or refused, and try others again. To be called often."""
        if not self._letters:
            return
        done, refused = self._letters.poll()
        for partition, offset in done:
            self.checkpoint.done(partition, offset)
        for record, why in refused:
            self.halt(record, why)

    def await_letters(self, partitions: Collection[Partition], deadline: float) -> None:
        """Wait for the letters of these partitions, whose records can be committed then; but not for ever."""
        while self._letters and self._letters.has(partitions):
            self.settle_letters()
            left_s = deadline - self._time.now()
            if left_s <= 0:
                self._log.warning("dead letters are not acknowledged in time: their records are left to the next owner of the partition")
                return
            if self._letters.has(partitions):
                self._time.sleep(min(left_s, 0.02))

    def _hold(self, partitions: Collection[Partition], reason: Hold) -> None:
        self.room.hold(partitions, reason)
        self._records.hold(partitions, reason)

    def _release(self, partitions: Collection[Partition], reason: Hold) -> None:
        self.room.release(partitions, reason)
        self._records.release(partitions, reason)


def names(partitions: Collection[Partition]) -> str:
    """Partitions as logs name them: not too many."""
    shown = [f"{topic}[{number}]" for topic, number in sorted(partitions)]
    return ", ".join(shown if len(shown) <= 20 else [*shown[:20], f"and {len(shown) - 20} more"]) or "none"
