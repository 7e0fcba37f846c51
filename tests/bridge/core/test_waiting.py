from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.flow import Hold
from bridge.core.record import Partition, Record
from bridge.core.waiting import WaitingRoom

P, Q = ("t", 0), ("t", 1)


def records(partition: Partition, *offsets: int) -> list[Record]:
    return [Record(*partition, offset, 0, None, None) for offset in offsets]


def room(*partitions: Partition) -> WaitingRoom:
    made = WaitingRoom()
    made.assign(partitions)
    return made


def taken(from_: WaitingRoom) -> list[tuple[Partition, int]]:
    """All that may be taken now."""
    return [(partition_of(record), record.offset) for record in from_.take()]


def partition_of(record: Record) -> Partition:
    return record.topic, record.partition


def test_records_of_a_partition_that_waits_are_passed_and_come_in_order_afterwards():
    waiting = room(P, Q)
    waiting.add([*records(P, 1), *records(Q, 1), *records(P, 2)])
    waiting.hold([P], Hold.DEAD_LETTERS)
    waiting.add([*records(P, 3), *records(Q, 2)])
    assert len(waiting) == 2
    assert taken(waiting) == [(Q, 1), (Q, 2)]
    waiting.add(records(Q, 3))
    waiting.release([P], Hold.DEAD_LETTERS)
    waiting.add(records(P, 4))
    assert taken(waiting) == [(P, 1), (P, 2), (P, 3), (Q, 3), (P, 4)]


def test_a_partition_waits_until_its_last_reason_is_gone():
    waiting = room(P)
    waiting.hold([P], Hold.DEAD_LETTERS)
    waiting.hold([P], Hold.SCHEMA_AWAY)
    waiting.add(records(P, 1))
    waiting.release([P], Hold.DEAD_LETTERS)
    assert taken(waiting) == []
    assert not waiting.held(Hold.DEAD_LETTERS)
    assert waiting.held(Hold.SCHEMA_AWAY) == {P}
    waiting.release([P], Hold.SCHEMA_AWAY)
    assert taken(waiting) == [(P, 1)]


def test_a_record_that_is_put_back_is_the_next_of_its_partition():
    waiting = room(P, Q)
    waiting.add([*records(P, 1, 2), *records(Q, 1)])
    record = next(waiting.take(), None)
    assert record is not None
    waiting.put_back(record, Hold.SCHEMA_AWAY)
    waiting.add(records(P, 3))
    assert waiting.first(P) == record
    assert taken(waiting) == [(Q, 1)]
    waiting.release([P], Hold.SCHEMA_AWAY)
    assert taken(waiting) == [(P, 1), (P, 2), (P, 3)]


def test_of_a_partition_that_goes_nothing_is_left_and_nothing_holds_it_when_it_comes_back():
    waiting = room(P, Q)
    waiting.add([*records(P, 1), *records(Q, 1)])
    waiting.hold([P], Hold.HALTED)
    waiting.drop([P, Q])
    assert waiting.oldest() == {}
    waiting.assign([P, Q])
    waiting.add(records(P, 5))
    assert taken(waiting) == [(P, 5)]


def test_a_record_that_is_put_back_after_its_partition_went_is_not_ours():
    waiting = room(P)
    waiting.add(records(P, 1))
    record = next(waiting.take(), None)
    assert record is not None
    waiting.drop([P])
    waiting.put_back(record, Hold.SCHEMA_AWAY)
    assert (taken(waiting), waiting.oldest()) == ([], {})


def test_what_is_withdrawn_is_told_by_its_first_record_and_the_partition_waits_on():
    waiting = room(P, Q)
    waiting.hold([P], Hold.DEAD_LETTERS)
    waiting.add([*records(P, 3, 4), *records(Q, 7, 8)])
    assert waiting.withdraw([P, Q]) == {P: 3, Q: 7}
    assert waiting.withdraw([P, Q]) == {}
    waiting.add([*records(P, 3), *records(Q, 7)])
    assert taken(waiting) == [(Q, 7)]
    waiting.release([P], Hold.DEAD_LETTERS)
    assert taken(waiting) == [(P, 3)]


REASONS = (Hold.DEAD_LETTERS, Hold.SCHEMA_AWAY)
PARTITIONS = [("t", number) for number in range(3)]


class Model:
    """A waiting room beside the plain definition: a queue and a set of reasons for each partition."""

    def __init__(self) -> None:
        self.room = room(*PARTITIONS)
        self.queues: dict[Partition, list[int]] = {partition: [] for partition in PARTITIONS}
        self.reasons: dict[Partition, set[Hold]] = {partition: set() for partition in PARTITIONS}
        self.offset = 0

    def add(self, partition: Partition, _: Hold) -> None:
        self.offset += 1
        self.queues[partition].append(self.offset)
        self.room.add(records(partition, self.offset))

    def take(self, *_: object) -> Record | None:
        record = next(self.room.take(), None)
        if record is None:
            assert not any(self.queues[each] for each in PARTITIONS if not self.reasons[each])
            return None
        assert not self.reasons[partition_of(record)]
        assert self.queues[partition_of(record)].pop(0) == record.offset
        return record

    def take_and_put_back(self, _: Partition, reason: Hold) -> None:
        if (record := self.take()) is not None:
            self.queues[partition_of(record)].insert(0, record.offset)
            self.reasons[partition_of(record)].add(reason)
            self.room.put_back(record, reason)

    def hold(self, partition: Partition, reason: Hold) -> None:
        self.reasons[partition].add(reason)
        self.room.hold([partition], reason)

    def release(self, partition: Partition, reason: Hold) -> None:
        self.reasons[partition].discard(reason)
        self.room.release([partition], reason)

    def withdraw(self, partition: Partition, _: Hold) -> None:
        gone, self.queues[partition] = self.queues[partition], []
        assert self.room.withdraw([partition]) == ({partition: gone[0]} if gone else {})

    def reassign(self, partition: Partition, _: Hold) -> None:
        self.queues[partition], self.reasons[partition] = [], set()
        self.room.assign([partition])

    def check(self) -> None:
        assert self.room.oldest() == {each: queue[0] for each, queue in self.queues.items() if queue}
        for reason in REASONS:
            assert self.room.held(reason) == {each for each in PARTITIONS if reason in self.reasons[each]}


HAPPENINGS = st.sampled_from(
    [Model.add, Model.add, Model.take, Model.take_and_put_back, Model.hold, Model.release, Model.withdraw, Model.reassign]
)
EVENTS = st.tuples(HAPPENINGS, st.sampled_from(PARTITIONS), st.sampled_from(REASONS))


@given(st.lists(EVENTS, max_size=60))
def test_whatever_happens_each_partition_comes_whole_and_in_order_and_only_while_nothing_holds_it(
    events: list[tuple[Callable[[Model, Partition, Hold], object], Partition, Hold]],
):
    model = Model()
    for happen, partition, reason in events:
        happen(model, partition, reason)
        model.check()
