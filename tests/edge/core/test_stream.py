"""A copy of a channel follows the bus, and knows when it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.stream import ChannelStream, Gap, Missed, OutOfStep
from shared.publication import ContentType, DeltaFormat, Kind, Position
from tests.edge.builders import EPOCH_TEXT, OTHER, delta, full, history, offsets, step, stream_at, value


def fresh(**bounds: int) -> ChannelStream:
    return ChannelStream(**{"max_items": 100, "max_bytes": 10_000, **bounds})


class TestApply:
    def test_takes_what_follows(self):
        stream = stream_at(history(1, 3))
        assert step(stream, full(4)).item.payload == value(4)
        assert (stream.epoch, stream.offset, [item.offset for item in stream.ring]) == (EPOCH_TEXT, 4, [1, 2, 3, 4])

    @pytest.mark.parametrize("offset", [1, 2, 3])
    def test_passes_over_what_is_known(self, offset: int):
        stream = stream_at(history(1, 3))
        assert stream.apply(full(offset)) is None
        assert stream.offset == 3

    def test_a_hole_is_out_of_step_and_changes_nothing(self):
        stream = stream_at(history(1, 3))
        assert isinstance(stream.apply(full(5)), OutOfStep)
        assert (stream.offset, len(stream.ring)) == (3, 3)

    @pytest.mark.parametrize("offset", [1, 3, 4])
    def test_another_epoch_is_out_of_step(self, offset: int):
        stream = stream_at(history(1, 3))
        assert isinstance(stream.apply(full(offset, epoch=OTHER)), OutOfStep)
        assert (stream.epoch, stream.offset) == (EPOCH_TEXT, 3)

    def test_a_channel_without_a_position_begins_with_offset_1(self):
        stream = stream_at([])
        assert step(stream, full(1)).item.offset == 1
        assert stream.epoch == EPOCH_TEXT

    def test_a_channel_without_a_position_does_not_begin_later(self):
        stream = stream_at([])
        assert isinstance(stream.apply(full(2)), OutOfStep)
        assert stream.epoch is None

    @pytest.mark.parametrize("form", [DeltaFormat.VCDIFF, DeltaFormat.JSON_PATCH])
    def test_a_delta_gives_the_exact_bytes(self, form: DeltaFormat):
        stream = stream_at([full(1, value(1, 50))])
        made = step(stream, delta(2, value(1, 50), value(2, 50), form=form))
        assert made.item.payload == value(2, 50)
        assert made.base is stream.ring[0]

    def test_a_delta_of_another_base_is_refused(self):
        stream = stream_at(history(1, 1))
        assert isinstance(stream.apply(delta(2, value(9), value(2))), OutOfStep)
        assert stream.offset == 1

    @given(body=st.binary(max_size=80), form=st.sampled_from([DeltaFormat.VCDIFF, DeltaFormat.JSON_PATCH]))
    def test_a_damaged_delta_never_makes_a_value(self, body: bytes, form: DeltaFormat):
        stream = stream_at(history(1, 1))
        made = stream.apply(delta(2, value(1), value(2), form=form, body=body))
        assert isinstance(made, OutOfStep) or stream.ring[-1].payload == value(2)

    def test_a_delta_that_makes_other_bytes_than_its_maker_had_is_refused(self):
        stream = stream_at(history(1, 1))
        wrong = delta(2, value(1), value(2))
        assert isinstance(stream.apply(delta(2, value(1), value(3), body=wrong.body)), OutOfStep)
        assert stream.offset == 1

    def test_keeps_no_more_than_it_may(self):
        stream = fresh(max_items=3)
        for offset in range(1, 6):
            step(stream, full(offset))
        assert [item.offset for item in stream.ring] == [3, 4, 5]

    def test_keeps_no_more_bytes_than_it_may_but_always_the_newest(self):
        stream = fresh(max_bytes=100)
        for offset in range(1, 5):
            step(stream, full(offset, value(offset, 20)))
        assert (stream.bytes_held, [item.offset for item in stream.ring]) == (2 * len(value(1, 20)), [3, 4])
        step(stream, full(5, value(5, 1_000)))
        assert (stream.bytes_held, [item.offset for item in stream.ring]) == (len(value(5, 1_000)), [5])

    def test_shrinks_to_the_newest(self):
        stream = stream_at(history(1, 5))
        stream.shrink()
        assert (stream.bytes_held, [item.offset for item in stream.ring]) == (len(value(5)), [5])


class TestKnows:
    @pytest.mark.parametrize(
        ("epoch", "offset", "knows"), [(EPOCH_TEXT, 3, True), (EPOCH_TEXT, 0, True), (EPOCH_TEXT, 4, False), ("x", 1, False)]
    )
    def test_positions_that_it_came_past(self, epoch: str, offset: int, knows: bool):
        assert stream_at(history(1, 3)).knows(Position(epoch, offset)) is knows


class TestRefill:
    def test_the_first_time_is_no_gap(self):
        stream = fresh()
        refill = stream.refill(history(7, 7), asked=1, most=10)
        assert (offsets(refill.steps), refill.gap, refill.needs_more) == ([7], None, 0)
        assert (stream.offset, stream.kind) == (7, Kind.LATEST)

    def test_nothing_new_changes_nothing(self):
        stream = stream_at(history(1, 3))
        assert stream.refill(history(2, 3), asked=2, most=10).steps == []
        assert stream.refill(history(1, 2), asked=2, most=10).steps == []  # an answer that was overtaken
        assert stream.offset == 3

    def test_brings_what_follows(self):
        stream = stream_at(history(1, 3))
        refill = stream.refill(history(3, 6), asked=4, most=10)
        assert (offsets(refill.steps), refill.gap) == ([4, 5, 6], None)
        assert [made.base.offset for made in refill.steps if made.base] == [3, 4, 5]

    def test_asks_for_more_where_there_may_be_more(self):
        stream = stream_at(history(1, 3))
        refill = stream.refill(history(8, 8), asked=1, most=10)
        assert (refill.needs_more, refill.steps, stream.offset) == (5, [], 3)

    def test_what_the_bus_no_longer_holds_is_a_gap(self):
        stream = stream_at(history(1, 3))
        refill = stream.refill(history(6, 8), asked=5, most=10)
        assert refill.gap == Gap("history_trimmed", Missed(4, 7))
        assert offsets(refill.steps) == [8]
        assert refill.steps[0].base is None
        assert [item.offset for item in stream.ring] == [6, 7, 8]

    def test_more_than_may_be_asked_for_is_a_gap(self):
        stream = stream_at(history(1, 3))
        refill = stream.refill(history(16, 20), asked=5, most=5)
        assert refill.gap == Gap("too_large", Missed(4, 19))
        assert offsets(refill.steps) == [20]

    def test_another_epoch_is_a_gap_of_unknown_size(self):
        stream = stream_at(history(1, 3))
        refill = stream.refill(history(1, 5, epoch=OTHER), asked=5, most=10)
        assert refill.gap == Gap("epoch_changed", None)
        assert offsets(refill.steps) == [5]
        assert stream.offset == 5

    def test_a_channel_that_is_no_more_has_no_position(self):
        stream = stream_at(history(1, 3))
        refill = stream.refill([], asked=1, most=10)
        assert (refill.gap, refill.steps) == (Gap("epoch_changed", None), [])
        assert (stream.epoch, stream.offset, stream.newest, stream.bytes_held) == (None, 0, None, 0)
        assert stream.refill([], asked=1, most=10).gap is None

    def test_a_channel_that_never_was_begins_without_a_gap(self):
        stream = stream_at([])
        refill = stream.refill(history(1, 3), asked=5, most=10)
        assert (offsets(refill.steps), refill.gap) == ([1, 2, 3], None)

    def test_a_channel_that_never_was_and_has_lost_its_beginning_is_a_gap(self):
        stream = stream_at([])
        refill = stream.refill(history(3, 4), asked=5, most=10)
        assert refill.gap == Gap("history_trimmed", Missed(1, 3))
        assert offsets(refill.steps) == [4]

    @given(held=st.integers(0, 12), newest=st.integers(1, 20), kept=st.integers(1, 20), most=st.integers(1, 12))
    def test_brings_all_or_tells_exactly_what_is_missing(self, held: int, newest: int, kept: int, most: int):
        """As the node asks: one, then as many as are missing."""
        stream = stream_at(history(1, held))
        oldest = max(1, newest - kept + 1)
        asked = 1
        for _ in range(4):
            refill = stream.refill(history(max(oldest, newest - asked + 1), newest), asked=asked, most=most)
            if not refill.needs_more:
                break
            asked = min(refill.needs_more + 2, most)
        assert not refill.needs_more
        got = offsets(refill.steps)
        if newest <= held:
            assert (got, refill.gap) == ([], None)
        elif refill.gap is None:
            assert got == list(range(held + 1, newest + 1))
        else:
            assert refill.gap.missed == Missed(held + 1, newest - 1)
            assert got == [newest]
            assert oldest > held + 1 or newest - held > most
        assert stream.offset == max(held, newest)
        assert stream.bytes_held == sum(len(item.payload) for item in stream.ring)


class TestExtend:
    def test_gives_older_ones_and_keeps_them(self):
        stream = fresh()
        stream.refill(history(5, 6), asked=2, most=10)
        assert [item.offset for item in stream.extend(history(2, 6), asked=5)] == [2, 3, 4, 5, 6]
        assert [item.offset for item in stream.ring] == [2, 3, 4, 5, 6]
        assert not stream.reaches_back_to_start

    def test_gives_more_than_it_keeps(self):
        stream = stream_at(history(5, 6), max_items=3)
        assert [item.offset for item in stream.extend(history(2, 6), asked=5)] == [2, 3, 4, 5, 6]
        assert [item.offset for item in stream.ring] == [4, 5, 6]

    def test_keeps_no_hole(self):
        """A small one behind a large one that does not fit is not kept either."""
        stream = stream_at([full(3)], max_bytes=100)
        stream.extend([full(1), full(2, value(2, 200)), full(3)], asked=3)
        assert [item.offset for item in stream.ring] == [3]
        assert stream.bytes_held == len(value(3))

    def test_knows_when_there_is_no_more(self):
        stream = stream_at(history(5, 6))
        stream.extend(history(2, 6), asked=6)
        assert stream.reaches_back_to_start

    def test_passes_over_another_epoch(self):
        stream = stream_at(history(5, 6))
        assert [item.offset for item in stream.extend(history(2, 4, epoch=OTHER), asked=5)] == [5, 6]

    def test_passes_over_what_does_not_join(self):
        stream = stream_at(history(5, 6))
        assert [item.offset for item in stream.extend(history(1, 3), asked=3)] == [5, 6]


def test_content_type_and_time_are_kept():
    stream = stream_at([full(1, b"\xff", content_type=ContentType.BINARY, time_ms=123, key=b"k")])
    item = stream.newest
    assert item is not None
    assert (item.content_type, item.time_ms, item.key, item.payload) == (ContentType.BINARY, 123, b"k", b"\xff")


class TestFollow:
    """What was read before goes on with what came since."""

    def test_the_newest_come_behind_what_was_read(self):
        stream = stream_at(history(1, 6), max_items=2)
        items = stream.extend(history(1, 6), asked=10)
        assert stream.follow(items) is items
        step(stream, full(7))
        assert [item.offset for item in stream.follow(items)] == [1, 2, 3, 4, 5, 6, 7]
        for offset in (8, 9):
            step(stream, full(offset))
        assert [item.offset for item in stream.follow(items)] == [8, 9], "the two no longer join"

    def test_another_epoch_has_nothing_of_it(self):
        stream = stream_at(history(1, 6), max_items=2)
        items = stream.extend(history(1, 6), asked=10)
        stream.refill(history(7, 8, epoch=OTHER), asked=10, most=10)
        assert [(item.epoch, item.offset) for item in stream.follow(items)] == [(stream.epoch, 7), (stream.epoch, 8)]
        stream.refill([], asked=10, most=10)
        assert stream.follow(items) == []
