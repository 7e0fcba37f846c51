"""Writing takes a bounded time of a turn; the rest follows in order, and the bus waits for it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.hub import Channel, Hub
from edge.core.variant import Dialect, variant_of
from edge.deliveries import MANY, MAX_DUE_BYTES, Deliveries
from shared.publication import DeltaFormat
from tests.edge.builders import Nobody, Reader, full, history, step, value, variant


class Slow:
    """Channels with one reader each, whose every write takes a second."""

    def __init__(self, count: int = 3, many: int = MANY, max_due_bytes: int = MAX_DUE_BYTES) -> None:
        self.now = 0.0
        self.held: list[bool] = []
        self.turns: list[Callable[[], None]] = []
        self.deliveries = Deliveries(
            lambda: self.now, self.held.append, soon=self.turns.append, slice_s=1.5, look_after=1, many=many, max_due_bytes=max_due_bytes
        )
        hub = Hub(ring_items=10, ring_bytes=10_000)
        self.channels = [hub.open(f"c:{number}") for number in range(count)]
        self.readers: list[Reader] = []
        self.crowd: list[Reader] = []
        for channel in self.channels:
            channel.stream.refill(history(1, 1), asked=1, most=10)
            self.readers.append(self.reader(channel))

    def _slowly(self, writes: list[bytes]) -> Callable[[bytes], None]:
        def write(frames: bytes) -> None:
            self.now += 1
            writes.append(frames)

        return write

    def reader(self, channel: Channel) -> Reader:
        """One more subscriber of a channel."""
        reader = Reader(channel, variant(Dialect.JSON_NAMED), in_step=True)
        channel.rewrite(reader.subscription, self._slowly(reader.writes))
        return reader

    def finish(self) -> None:
        """Let the event loop go round until nothing is due."""
        for _ in range(200):
            self.next_turn()
        assert not self.deliveries
        assert not self.held[-1:] or self.held[-1] is False

    def publish(self, offset: int) -> None:
        """One read of the bus, with a publication of each channel."""
        for channel in self.channels:
            self.deliveries.add(channel, step(channel.stream, full(offset, value(offset))))
        self.deliveries.go_on()

    def next_turn(self) -> None:
        """Let the event loop go round."""
        turns, self.turns[:] = list(self.turns), []
        for begin in turns:
            begin()

    @property
    def written(self) -> list[list[int]]:
        """How many publications each write of each channel had."""
        return [[write.count(b'"publication"') for write in reader.writes] for reader in self.readers]


@pytest.fixture
def slow() -> Slow:
    return Slow()


def test_what_has_time_is_written_at_once():
    quick = Slow(2)
    quick.publish(2)
    assert quick.written == [[1], [1]]
    assert quick.held == []


def test_the_rest_is_written_in_the_next_turn_and_the_bus_waits_for_it(slow: Slow):
    slow.publish(2)
    assert (slow.written, slow.held) == ([[1], [1], []], [True])
    slow.next_turn()
    assert (slow.written, slow.held) == ([[1], [1], [1]], [True, False])


def test_a_second_read_in_one_turn_has_no_time_of_its_own(slow: Slow):
    slow.publish(2)
    slow.publish(3)
    assert slow.written == [[1], [1], []]


def test_what_comes_meanwhile_is_joined_in_order(slow: Slow):
    slow.publish(2)
    slow.publish(3)
    slow.next_turn()
    slow.next_turn()
    assert slow.written == [[1, 1], [1, 1], [2]]
    last = slow.readers[2].writes[0]
    assert last.index(b'"offset":2') < last.index(b'"offset":3')
    assert (len(slow.deliveries), slow.held) == (0, [True, False])


def test_a_flush_writes_one_channel_now_and_once(slow: Slow):
    slow.publish(2)
    slow.deliveries.flush(slow.channels[2])
    assert slow.written == [[1], [1], [1]]
    slow.next_turn()
    assert slow.written == [[1], [1], [1]]


def test_what_is_forgotten_is_not_written(slow: Slow):
    slow.publish(2)
    channel: Channel = slow.channels[2]
    slow.deliveries.forget(channel)
    slow.next_turn()
    assert slow.written == [[1], [1], []]


def test_the_bus_is_read_again_where_what_was_due_went_otherwise(slow: Slow):
    slow.publish(2)
    slow.deliveries.flush(slow.channels[2])
    slow.next_turn()
    assert slow.held == [True, False]
    slow.now += 10
    slow.publish(3)
    slow.deliveries.forget(slow.channels[2])
    slow.next_turn()
    assert slow.held == [True, False, True, False]


def test_a_channel_that_fails_takes_no_other_with_it(slow: Slow):
    def fail(_: bytes) -> bytes:
        msg = "no"
        raise LookupError(msg)

    Reader(slow.channels[0], variant_of(Dialect.JSON, DeltaFormat.NONE, fail), in_step=True)
    slow.publish(2)
    slow.next_turn()
    assert [written[:1] for written in slow.written[1:]] == [[1], [1]]
    assert slow.held.count(True) == slow.held.count(False)


def test_a_subscriber_whose_connection_is_lost_takes_no_other_with_it():
    quick = Slow(2)

    def lost(_: bytes) -> None:
        msg = "the handler is closed"
        raise RuntimeError(msg)

    quick.channels[0].rewrite(quick.readers[0].subscription, lost)
    quick.publish(2)
    assert quick.written == [[], [1]]


class TestManySubscribers:
    """One channel that is written to in parts: two subscribers a turn here."""

    @pytest.fixture
    def slow(self) -> Slow:
        slow = Slow(2, many=1)
        channel = slow.channels[0]
        slow.crowd = [slow.reader(channel) for _ in range(4)]
        return slow

    def test_are_written_to_some_a_turn_in_order(self, slow: Slow):
        slow.publish(2)
        slow.publish(3)
        assert slow.held == [True]
        written = []
        while slow.deliveries:
            written.append([offsets(reader)[-1:] for reader in (slow.readers[0], *slow.crowd)])
            slow.next_turn()
        assert written[:3] == [[[2], [2], [], [], []], [[2], [2], [2], [2], []], [[2], [2], [2], [2], [2]]]
        assert [offsets(reader) for reader in (*slow.crowd, *slow.readers)] == [[2, 3]] * 6
        assert slow.held == [True, False]

    def test_who_joins_meanwhile_is_not_among_them(self, slow: Slow):
        slow.publish(2)
        slow.deliveries.close_to_newcomers(slow.channels[0])
        newcomer = slow.reader(slow.channels[0])  # It was sent 2 at its start.
        slow.publish(3)
        slow.deliveries.close_to_newcomers(slow.channels[0])
        another = slow.reader(slow.channels[0])
        slow.publish(4)
        slow.finish()
        assert [offsets(reader) for reader in slow.crowd] == [[2, 3, 4]] * 4
        assert (offsets(newcomer), offsets(another)) == ([3, 4], [4])

    def test_joining_does_not_have_all_of_it_written_at_once(self, slow: Slow):
        slow.publish(2)
        slow.publish(3)
        before = slow.now
        slow.deliveries.close_to_newcomers(slow.channels[0])
        assert slow.now == before

    def test_who_leaves_meanwhile_gets_nothing(self, slow: Slow):
        slow.publish(2)
        slow.crowd[3].subscription.leave()
        slow.finish()
        assert [offsets(reader) for reader in slow.crowd] == [[2], [2], [2], []]

    def test_whoever_writes_elsewhere_meanwhile_gets_it_there(self, slow: Slow):
        slow.publish(2)
        writes: list[bytes] = []
        slow.channels[0].rewrite(slow.crowd[3].subscription, writes.append)
        slow.finish()
        assert (len(writes), slow.crowd[3].writes) == (1, [])

    def test_a_flush_writes_to_all_now_and_once(self, slow: Slow):
        slow.publish(2)
        slow.publish(3)
        slow.deliveries.flush(slow.channels[0])
        assert [offsets(reader) for reader in slow.crowd] == [[2, 3]] * 4
        slow.finish()
        assert [offsets(reader) for reader in slow.crowd] == [[2, 3]] * 4

    def test_those_at_their_own_pace_are_told_last_and_one_that_fails_takes_no_other_with_it(self, slow: Slow):
        told: list[int] = []

        class OwnPace(Nobody):
            def poke(self) -> None:
                told.append(sum(len(offsets(reader)) for reader in slow.crowd))
                if len(told) == 1:
                    raise LookupError

        for _ in range(3):
            slow.channels[0].add_paced(OwnPace())  # type: ignore[arg-type]  # of a gap it is never told
        slow.publish(2)
        slow.finish()
        assert told == [4, 4, 4]

    @pytest.mark.parametrize("are_many", [True, False])
    def test_who_is_told_and_joins_meanwhile_has_nothing_lost_or_twice(self, are_many: bool):
        """As a client does that was sent all of a keyed channel's state when it was told."""
        slow = Slow(1, many=305)
        channel = slow.channels[0]
        slow.crowd = [slow.reader(channel) for _ in range(14)]
        joined: list[Reader] = []

        class Joins(Nobody):
            is_over = False

            def poke(self) -> None:
                if not self.is_over:
                    self.is_over = True
                    channel.remove_paced(self)  # type: ignore[arg-type]  # of a gap it is never told
                    slow.deliveries.close_to_newcomers(channel)
                    joined.append(slow.reader(channel))

        for _ in range(300):
            channel.add_paced(Joins())  # type: ignore[arg-type]
        slow.publish(2)
        slow.publish(3)
        if not are_many:
            for reader in slow.crowd[4:]:
                reader.subscription.leave()
        there = slow.crowd[:4]
        slow.deliveries.flush(channel)
        assert [offsets(reader) for reader in there] == [[2, 3]] * 4
        slow.finish()
        slow.publish(4)
        slow.finish()
        assert [offsets(reader) for reader in joined] == [[4]] * 300
        assert [offsets(reader) for reader in there] == [[2, 3, 4]] * 4

    def test_a_flush_goes_on_after_one_that_fails(self, slow: Slow):
        told: list[Nobody] = []

        class Fails(Nobody):
            def poke(self) -> None:
                told.append(self)
                raise LookupError

        for _ in range(2):
            slow.channels[0].add_paced(Fails())  # type: ignore[arg-type]  # of a gap it is never told
        slow.publish(2)
        slow.publish(3)
        slow.deliveries.flush(slow.channels[0])
        assert len(told) == 4
        assert [offsets(reader) for reader in slow.crowd] == [[2, 3]] * 4


def test_of_what_one_read_brings_little_is_held_decoded_and_all_is_written_in_order():
    size = 1_000
    slow = Slow(2, max_due_bytes=3 * size)
    for offset in range(2, 52):
        for channel in slow.channels:
            slow.deliveries.add(channel, step(channel.stream, full(offset, value(offset, size))))
            assert sum(len(each.item.payload) for steps in slow.deliveries._due.values() for each in steps) <= 7 * size
    slow.deliveries.close_to_newcomers(slow.channels[0])
    newcomer = slow.reader(slow.channels[0])  # It was sent 51 at its start.
    slow.deliveries.go_on()
    assert slow.held == [True]
    slow.finish()
    assert [offsets(reader) for reader in slow.readers] == [list(range(2, 52))] * 2
    assert newcomer.writes == []


@pytest.mark.parametrize("max_due_bytes", [1, MAX_DUE_BYTES])
@pytest.mark.parametrize("many", [0, MANY])
@given(steps=st.lists(st.tuples(st.sampled_from(["publish", "flush", "forget", "close", "turn", "wait"]), st.integers(0, 2)), max_size=30))
def test_whatever_comes_in_between_the_bus_is_read_again_and_nothing_is_late_or_twice(
    steps: list[tuple[str, int]], many: int, max_due_bytes: int
):
    slow = Slow(many=many, max_due_bytes=max_due_bytes)
    offset = 1
    expected: list[list[int]] = [[] for _ in range(3)]
    for what, number in steps:
        channel = slow.channels[number]
        if what == "publish":
            offset += 1
            slow.publish(offset)
            for each in expected:
                each.append(offset)
        elif what == "flush":
            slow.deliveries.flush(channel)
        elif what == "close":
            slow.deliveries.close_to_newcomers(channel)
        elif what == "forget":
            slow.deliveries.forget(channel)
            expected[number] = offsets(slow.readers[number])
        elif what == "turn":
            slow.next_turn()
        else:
            slow.now += 1
        assert slow.turns or not slow.deliveries, "what is due has its turn"
    for _ in range(10):
        slow.next_turn()
    assert not slow.deliveries
    assert not slow.held[-1:] or slow.held[-1] is False
    assert slow.held == [at % 2 == 0 for at in range(len(slow.held))]
    assert [offsets(reader) for reader in slow.readers] == expected


def offsets(reader: Reader) -> list[int]:
    """Of the publications that were written."""
    return [int(found) for write in reader.writes for found in re.findall(rb'"offset":(\d+)', write)]
