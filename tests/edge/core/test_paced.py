"""A subscription at its subscriber's pace: what it is sent when, and that nothing is kept for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.delivery import Delivery, Mode
from edge.core.hub import MAX_STEPS, MAX_STEPS_BYTES, Channel, Hub
from edge.core.item import Item, item_of
from edge.core.paced import MOST_AT_ONCE, NOTHING, Due, PacedSubscription
from edge.core.stream import Gap, Missed
from edge.core.variant import Dialect, variant_of
from shared.publication import DeltaFormat
from tests.edge.builders import EPOCH_TEXT, OTHER, bracketed, full, history, step, value


def make_channel(newest: int, *, ring_items: int = 10, size: int = 200) -> Channel:
    """A channel whose ring holds the newest publications up to this one."""
    channel = Hub(ring_items=ring_items, ring_bytes=10_000_000).open("bus:1430")
    if newest:
        channel.stream.refill(history(max(1, newest - ring_items + 1), newest, size=size), asked=ring_items, most=100)
    return channel


def publish(channel: Channel, *offsets: int, size: int = 200) -> None:
    """One tick."""
    channel.deliver([step(channel.stream, full(offset, value(offset, size))) for offset in offsets])


def subscribe(
    channel: Channel, mode: Mode, *, cursor: int, window: int = 0, max_rate: float = 0, form: DeltaFormat = DeltaFormat.JSON_PATCH
) -> PacedSubscription:
    return PacedSubscription(channel, variant_of(Dialect.JSON, form, bracketed), Delivery(mode, max_rate, window), cursor)


def frames(due: Due | bytes) -> list[dict[str, Any]]:
    written = due if isinstance(due, bytes) else due.frames
    return [msgspec.json.decode(part) for part in written[1:-1].split(b"><")] if written else []


def places(due: Due | bytes) -> list[tuple[int, int | None]]:
    """Offset and base of what is sent."""
    return [(frame["offset"], frame.get("base")) for frame in frames(due)]


def items(first: int, last: int, size: int = 0) -> list[Item]:
    return [item_of(EPOCH_TEXT, envelope, envelope.body) for envelope in history(first, last, size=size)]


class TestConflate:
    def test_the_newest_whole_and_then_one_delta_over_all_that_was_skipped(self):
        channel = make_channel(3)
        paced = subscribe(channel, Mode.CONFLATE, cursor=2)
        assert places(paced.advance(0, is_writable=True)) == [(3, None)]
        publish(channel, 4, 5)
        publish(channel, 6)
        due = paced.advance(0, is_writable=True)
        assert places(due) == [(6, 3)]
        assert frames(due)[0]["data"] == [{"op": "replace", "path": "/n", "value": 6}]
        assert paced.advance(0, is_writable=True) == NOTHING

    def test_a_jump_is_made_once_for_all_that_hold_the_same(self):
        channel = make_channel(3)
        group = [subscribe(channel, Mode.CONFLATE, cursor=2) for _ in range(3)]
        other = subscribe(channel, Mode.CONFLATE, cursor=2)
        for paced in group:
            paced.advance(0, is_writable=True)
        publish(channel, 4)
        other.advance(0, is_writable=True)
        publish(channel, 5)
        made = [paced.advance(0, is_writable=True).frames for paced in group]
        # Joining a list of one gives that very object: the frame that is kept with the jump.
        assert len({id(frame) for frame in made}) == 1
        assert places(made[0]) == [(5, 3)]
        assert places(other.advance(0, is_writable=True)) == [(5, 4)]

    def test_who_follows_each_publication_shares_the_step_that_the_bus_brought(self):
        channel = make_channel(3)
        paced = subscribe(channel, Mode.CONFLATE, cursor=2)
        paced.advance(0, is_writable=True)
        publish(channel, 4)
        newest = channel.stream.newest
        assert newest is not None
        assert channel.step(channel.stream.ring[-2], newest) is channel.step(channel.stream.ring[-2], newest)
        assert places(paced.advance(0, is_writable=True)) == [(4, 3)]

    def test_whole_where_that_is_smaller(self):
        channel = make_channel(3)
        paced = subscribe(channel, Mode.CONFLATE, cursor=2)
        paced.advance(0, is_writable=True)
        channel.deliver([step(channel.stream, full(4, b"[]"))])
        assert places(paced.advance(0, is_writable=True)) == [(4, None)]

    def test_nothing_while_the_socket_takes_nothing(self):
        paced = subscribe(make_channel(3), Mode.CONFLATE, cursor=0)
        assert paced.advance(0, is_writable=False) == NOTHING
        assert places(paced.advance(0, is_writable=True)) == [(3, None)]

    def test_the_window_opens_with_an_acknowledgement(self):
        channel = make_channel(3)
        paced = subscribe(channel, Mode.CONFLATE, cursor=2, window=2)
        paced.advance(0, is_writable=True)
        publish(channel, 4)
        assert places(paced.advance(0, is_writable=True)) == [(4, 3)]
        publish(channel, 5, 6)
        assert paced.advance(0, is_writable=True) == NOTHING
        assert paced.unacknowledged == 2
        paced.acknowledge(2)
        assert paced.advance(0, is_writable=True) == NOTHING
        paced.acknowledge(3)
        assert places(paced.advance(0, is_writable=True)) == [(6, 4)]

    def test_the_rate(self):
        channel = make_channel(3)
        paced = subscribe(channel, Mode.CONFLATE, cursor=2, max_rate=4)
        assert places(paced.advance(10, is_writable=True)) == [(3, None)]
        publish(channel, 4)
        publish(channel, 5)
        assert paced.advance(10.2, is_writable=True) == Due(wake_at=10.25)
        assert places(paced.advance(10.25, is_writable=True)) == [(5, 3)]

    def test_a_gap_within_the_epoch_is_none(self):
        channel = make_channel(3)
        paced = subscribe(channel, Mode.CONFLATE, cursor=2)
        paced.advance(0, is_writable=True)
        refill = channel.stream.refill(history(8, 9, size=200), asked=3, most=10)
        assert refill.gap == Gap("history_trimmed", Missed(4, 8))
        assert paced.tell_gap(refill.gap) == b""
        assert places(paced.advance(0, is_writable=True)) == [(9, 3)]

    def test_another_epoch_starts_with_its_newest_whole(self):
        channel = make_channel(3)
        paced = subscribe(channel, Mode.CONFLATE, cursor=2, window=1)
        paced.advance(0, is_writable=True)
        refill = channel.stream.refill(history(1, 5, epoch=OTHER, size=200), asked=10, most=10)
        assert refill.gap is not None
        assert [frame["reason"] for frame in frames(paced.tell_gap(refill.gap))] == ["epoch_changed"]
        # What was under way belongs to an epoch that is over, and an acknowledgement of it opens nothing.
        assert places(paced.advance(0, is_writable=True)) == [(5, None)]
        paced.acknowledge(1_000, EPOCH_TEXT)
        assert paced.unacknowledged == 1
        paced.acknowledge(5, channel.stream.epoch)
        assert paced.unacknowledged == 0


class TestAck:
    def test_in_order_up_to_the_window(self):
        channel = make_channel(6)
        paced = subscribe(channel, Mode.ACK, cursor=1, window=3)
        assert places(paced.advance(0, is_writable=True)) == [(2, None), (3, 2), (4, 3)]
        assert paced.advance(0, is_writable=True) == NOTHING
        paced.acknowledge(3)
        assert places(paced.advance(0, is_writable=True)) == [(5, 4), (6, 5)]
        assert paced.unacknowledged == 3

    def test_a_large_window_goes_in_parts(self):
        channel = make_channel(600, ring_items=600, size=0)
        paced = subscribe(channel, Mode.ACK, cursor=0, window=500)
        assert [len(frames(paced.advance(0, is_writable=True))) for _ in range(3)] == [MOST_AT_ONCE, 500 - MOST_AT_ONCE, 0]

    def test_what_the_ring_does_not_hold_is_a_page(self):
        channel = make_channel(30)
        paced = subscribe(channel, Mode.ACK, cursor=5, window=4)
        assert paced.advance(0, is_writable=True) == Due(page_after=5)
        # More than there is room for, and some that were sent before.
        assert places(paced.take_page(items(4, 12, 200), is_all=False)) == [(6, None), (7, 6), (8, 7), (9, 8)]
        assert paced.advance(0, is_writable=True) == NOTHING
        paced.acknowledge(6)
        assert paced.advance(0, is_writable=True) == NOTHING, "not a page for each acknowledgement"
        paced.acknowledge(7)
        assert paced.advance(0, is_writable=True) == Due(page_after=9)

    def test_from_pages_to_the_ring_without_a_hole(self):
        channel = make_channel(30)
        paced = subscribe(channel, Mode.ACK, cursor=17, window=50)
        assert places(paced.take_page(items(18, 20, 200), is_all=False))[-1] == (20, 19)
        assert [offset for offset, _ in places(paced.advance(0, is_writable=True))] == list(range(21, 31))

    def test_a_page_that_begins_too_late_is_no_use_unless_it_is_all(self):
        paced = subscribe(make_channel(30), Mode.ACK, cursor=5, window=4)
        assert paced.take_page(items(8, 9), is_all=False) == b""
        gap, *following = frames(paced.take_page(items(8, 9), is_all=True))
        assert (gap["type"], gap["reason"], gap["missed"]) == ("gap", "history_trimmed", {"from": 6, "to": 7})
        assert [frame["offset"] for frame in following] == [8, 9]

    def test_what_the_edge_skipped_is_read_from_the_history(self):
        channel = make_channel(3)
        paced = subscribe(channel, Mode.ACK, cursor=3, window=4)
        refill = channel.stream.refill(history(8, 9), asked=2, most=2)
        assert refill.gap == Gap("too_large", Missed(4, 8))
        assert paced.tell_gap(refill.gap) == b""
        assert paced.advance(0, is_writable=True) == Due(page_after=3)

    def test_another_epoch_starts_with_its_first(self):
        channel = make_channel(3)
        paced = subscribe(channel, Mode.ACK, cursor=3, window=4)
        refill = channel.stream.refill(history(1, 2, epoch=OTHER), asked=10, most=10)
        assert refill.gap is not None
        assert frames(paced.tell_gap(refill.gap))[0]["missed"] is None
        assert [offset for offset, _ in places(paced.advance(0, is_writable=True))] == [1, 2]

    def test_reading_pages_leaves_nothing_behind(self):
        channel = make_channel(5_000)
        paced = subscribe(channel, Mode.ACK, cursor=0, window=200)
        for first in range(1, 4_001, 200):
            paced.take_page(items(first, first + 199), is_all=False)
            paced.acknowledge(first + 199)
        assert paced.cursor == 4_000
        assert len(channel._steps) <= MAX_STEPS

    def test_nor_do_pages_of_large_publications(self):
        size = MAX_STEPS_BYTES // 8
        channel = make_channel(2, size=size)
        paced = subscribe(channel, Mode.ACK, cursor=0, window=1)
        for offset in range(1, 30):
            paced.take_page(items(offset, offset, size), is_all=False)
            paced.acknowledge(offset)
            assert sum(len(step.item.payload) for step in channel._steps.values()) <= MAX_STEPS_BYTES + 2 * size


def test_what_one_tick_brought_is_not_kept_beyond_the_ring():
    channel = make_channel(3, ring_items=10)
    slow = subscribe(channel, Mode.CONFLATE, cursor=2)
    channel.add_paced(OwnPace())
    slow.advance(0, is_writable=True)
    publish(channel, *range(4, 204))
    assert {step.item for step in channel._steps.values()} <= set(channel.stream.ring)
    assert places(slow.advance(0, is_writable=True)) == [(203, 3)]


class OwnPace:
    """One more who goes at their own pace, and takes nothing."""

    def poke(self) -> None:
        """See `edge.core.hub.Paced`."""

    def on_gap(self, gap: Gap) -> None:
        """See `edge.core.hub.Paced`."""

    def on_too_large(self, why: str) -> None:
        """See `edge.core.hub.Paced`."""


@pytest.mark.parametrize("mode", [Mode.CONFLATE, Mode.ACK])
def test_a_channel_without_publications_has_nothing_to_give(mode: Mode):
    paced = subscribe(make_channel(0), mode, cursor=0, window=1)
    assert paced.advance(0, is_writable=True) == NOTHING


moves = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 4)),
        st.tuples(st.just("ack"), st.integers(0, 5)),
        st.tuples(st.just("advance"), st.booleans()),
        st.tuples(st.just("page"), st.integers(0, 5)),
    ),
    max_size=60,
)


@given(moves, st.sampled_from([Mode.CONFLATE, Mode.ACK]), st.integers(1, 5), st.integers(1, 12), st.sampled_from(DeltaFormat))
def test_whatever_happens(what: Sequence[tuple[str, int]], mode: Mode, window: int, ring_items: int, form: DeltaFormat):
    """Ascending, in mode ack without a hole, each delta to what is held, never more than the window, and at the end all there is."""
    channel = make_channel(1, ring_items=ring_items)
    paced = subscribe(channel, mode, cursor=0, window=window, form=form)
    held, got, acked = 0, [], 0

    def take(written: bytes) -> None:
        nonlocal held
        for offset, base in places(written):
            assert base in {None, held}
            assert offset == held + 1 if mode is Mode.ACK else offset == channel.stream.offset
            held = offset
            got.append(offset)
        assert len([offset for offset in got if offset > acked]) <= window

    def advance(is_writable: bool, margin: int) -> None:
        due = paced.advance(0, is_writable=is_writable)
        assert is_writable or due == NOTHING
        take(due.frames)
        if due.page_after >= 0:
            assert due.page_after == held
            take(paced.take_page(items(max(1, held - margin), min(channel.stream.offset, held + 3), 200), is_all=margin == 0))

    for kind, number in what:
        if kind == "publish":
            publish(channel, *range(channel.stream.offset + 1, channel.stream.offset + 1 + number))
        elif kind == "ack":
            acked = max(acked, held - number)
            paced.acknowledge(held - number)
        else:
            advance(kind == "page" or bool(number), number)
    for _ in range(4 * channel.stream.offset):
        acked = held
        paced.acknowledge(held)
        advance(True, 0)
    assert held == channel.stream.offset
