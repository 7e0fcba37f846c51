"""Writing takes a bounded time of a turn; the rest follows in order, and the bus waits for it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.hub import Channel, Hub
from edge.core.variant import Dialect, variant_of
from edge.deliveries import Deliveries
from shared.publication import DeltaFormat
from tests.edge.builders import Reader, full, history, step, value, variant


class Slow:
    """Channels with one reader each, whose every write takes a second."""

    def __init__(self, count: int = 3) -> None:
        self.now = 0.0
        self.held: list[bool] = []
        self.turns: list[Callable[[], None]] = []
        self.deliveries = Deliveries(lambda: self.now, self.held.append, soon=self.turns.append, slice_s=1.5, look_after=1)
        hub = Hub(ring_items=10, ring_bytes=10_000)
        self.channels = [hub.open(f"c:{number}") for number in range(count)]
        self.readers: list[Reader] = []
        for channel in self.channels:
            channel.stream.refill(history(1, 1), asked=1, most=10)
            reader = Reader(channel, variant(Dialect.JSON_NAMED), in_step=True)
            channel.rewrite(reader.subscription, self._slowly(reader.writes))
            self.readers.append(reader)

    def _slowly(self, writes: list[bytes]) -> Callable[[bytes], None]:
        def write(frames: bytes) -> None:
            self.now += 1
            writes.append(frames)

        return write

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


@given(st.lists(st.tuples(st.sampled_from(["publish", "flush", "forget", "turn", "wait"]), st.integers(0, 2)), max_size=30))
def test_whatever_comes_in_between_the_bus_is_read_again_and_nothing_is_late_or_twice(steps: list[tuple[str, int]]):
    slow = Slow()
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
        elif what == "forget":
            due = sum(len(steps) for steps in [slow.deliveries._due.get(channel, [])])
            del expected[number][len(expected[number]) - due :]
            slow.deliveries.forget(channel)
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
