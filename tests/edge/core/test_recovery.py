"""Whoever starts gets exactly what follows, or is told exactly what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.delivery import Mode
from edge.core.recovery import NeedHistory, PacedStart, Rewind, Start, start_from, start_keyed, start_new
from edge.core.stream import ChannelStream, Gap, Missed
from shared.publication import Kind, Position
from tests.edge.builders import EPOCH_TEXT, deletion, full, history, keyed, stream_at, value

MOST = 50
MOST_BYTES = 100_000
NEWEST = 20


def start(
    stream: ChannelStream, offset: int, *, epoch: str = EPOCH_TEXT, most: int = MOST, most_bytes: int = MOST_BYTES
) -> Start | NeedHistory:
    return start_from(stream, Position(epoch, offset), most=most, most_bytes=most_bytes)


def got(made: Start | NeedHistory) -> list[int]:
    assert isinstance(made, Start), made
    return [item.offset for item in made.items]


class TestWithAPosition:
    @pytest.mark.parametrize("behind", range(NEWEST + 1))
    def test_gets_exactly_what_follows(self, behind: int):
        made = start(stream_at(history(1, NEWEST)), NEWEST - behind)
        assert got(made) == list(range(NEWEST - behind + 1, NEWEST + 1))
        assert isinstance(made, Start)
        assert (made.recovered, made.gap) == (True, None)

    def test_asks_for_history_that_the_ring_has_not(self):
        stream = stream_at(history(1, NEWEST), max_items=5)
        assert start(stream, 15) == Start(list(stream.ring), recovered=True)
        assert start(stream, 14) == NeedHistory(6)

    def test_gets_what_history_brought(self):
        stream = stream_at(history(1, NEWEST), max_items=5)
        items = stream.extend(history(13, NEWEST), asked=8)
        made = start_from(stream, Position(EPOCH_TEXT, 12), most=MOST, most_bytes=MOST_BYTES, items=items)
        assert got(made) == list(range(13, NEWEST + 1))

    def test_is_told_what_was_trimmed(self):
        stream = stream_at(history(16, NEWEST))
        assert got(start(stream, 15)) == [16, 17, 18, 19, 20]
        made = start(stream, 14)
        assert isinstance(made, Start)
        assert (got(made), made.recovered, made.gap) == ([20], False, Gap("history_trimmed", Missed(15, 19)))

    def test_asks_no_more_for_what_is_known_to_be_gone(self):
        stream = stream_at(history(16, NEWEST))
        assert isinstance(start(stream, 3), Start)

    def test_is_told_that_it_is_from_the_future(self):
        made = start(stream_at(history(1, NEWEST)), NEWEST + 1)
        assert isinstance(made, Start)
        assert (got(made), made.recovered, made.gap) == ([20], False, Gap("position_ahead", None))

    def test_is_told_that_it_is_of_another_epoch(self):
        made = start(stream_at(history(1, NEWEST)), 3, epoch="BBBBBBBBBBBBBBBB")
        assert isinstance(made, Start)
        assert (got(made), made.recovered, made.gap) == ([20], False, Gap("epoch_changed", None))

    @pytest.mark.parametrize("newest", [0, 1, 20])
    def test_from_before_the_first_publication_gets_all(self, newest: int):
        made = start(stream_at(history(1, newest)), 0, epoch="")
        assert got(made) == list(range(1, newest + 1))
        assert isinstance(made, Start)
        assert made.recovered

    def test_is_told_that_there_is_nothing(self):
        assert start(stream_at([]), 3) == Start([], recovered=False, gap=Gap("epoch_changed", None))

    def test_more_publications_than_may_be_sent(self):
        stream = stream_at(history(1, NEWEST))
        assert got(start(stream, 10, most=10)) == list(range(11, 21))
        made = start(stream, 9, most=10)
        assert isinstance(made, Start)
        assert (got(made), made.gap) == ([20], Gap("too_large", Missed(10, 19)))

    def test_more_bytes_than_may_be_sent(self):
        stream = stream_at(history(1, NEWEST, size=100))
        fits = sum(len(value(offset, 100)) for offset in (19, 20))
        assert got(start(stream, 18, most_bytes=fits)) == [19, 20]
        made = start(stream, 18, most_bytes=fits - 1)
        assert isinstance(made, Start)
        assert (got(made), made.gap) == ([20], Gap("too_large", Missed(19, 19)))

    def test_one_publication_is_sent_however_large(self):
        assert got(start(stream_at(history(1, 2, size=1_000)), 1, most_bytes=10)) == [2]

    @given(newest=st.integers(1, 30), kept=st.integers(1, 30), ring=st.integers(1, 30), at=st.integers(0, 35), most=st.integers(1, 30))
    def test_all_or_told_exactly(self, newest: int, kept: int, ring: int, at: int, most: int):
        """As the node does it: first with the ring, then with what the bus holds."""
        oldest = max(1, newest - kept + 1)
        stream = ChannelStream(max_items=ring, max_bytes=100_000)
        stream.refill(history(newest, newest), asked=1, most=1_000)
        position = Position(EPOCH_TEXT, at)
        made = start_from(stream, position, most=most, most_bytes=MOST_BYTES)
        if isinstance(made, NeedHistory):
            items = stream.extend(history(max(oldest, newest - made.count + 1), newest), asked=made.count)
            made = start_from(stream, position, most=most, most_bytes=MOST_BYTES, items=items)
        assert isinstance(made, Start)
        if made.recovered:
            assert got(made) == list(range(at + 1, newest + 1))
        else:
            assert got(made) == [newest]
            assert made.gap is not None
            if at > newest:
                assert made.gap == Gap("position_ahead", None)
            else:
                assert made.gap.missed == Missed(at + 1, newest - 1)
                assert oldest > at + 1 or newest - at > most


class TestNew:
    def new(
        self, stream: ChannelStream, rewind: Rewind | None = None, *, now_ms: int = 0, most_bytes: int = MOST_BYTES
    ) -> Start | NeedHistory:
        return start_new(stream, rewind, now_ms, most=MOST, most_bytes=most_bytes)

    def test_a_latest_channel_begins_with_the_newest(self):
        assert got(self.new(stream_at(history(1, 5)))) == [5]

    def test_a_stream_begins_with_the_next(self):
        assert self.new(stream_at(history(1, 5, kind=Kind.STREAM))) == Start([])

    def test_nothing_there(self):
        assert self.new(stream_at([])) == Start([])
        assert self.new(stream_at([]), Rewind(count=3)) == Start([])

    @pytest.mark.parametrize("count", [1, 2, 5, 6, 1_000])
    def test_rewind_by_count(self, count: int):
        stream = stream_at(history(1, 5, kind=Kind.STREAM))
        assert got(self.new(stream, Rewind(count=count))) == [1, 2, 3, 4, 5][-count:]

    def test_rewind_reads_what_the_ring_has_not(self):
        stream = stream_at(history(1, 9), max_items=3)
        assert got(self.new(stream, Rewind(count=3))) == [7, 8, 9]
        assert self.new(stream, Rewind(count=4)) == NeedHistory(4)
        assert self.new(stream, Rewind(count=1_000)) == NeedHistory(MOST)

    def test_rewind_by_age(self):
        stream = stream_at([full(offset, time_ms=1_000 * offset) for offset in range(1, 6)])
        assert got(self.new(stream, Rewind(age_ms=2_000), now_ms=6_000)) == [4, 5]

    def test_rewind_to_nothing_still_gives_the_state(self):
        stream = stream_at([full(1, time_ms=1_000)])
        assert got(self.new(stream, Rewind(age_ms=10), now_ms=6_000)) == [1]
        stream = stream_at([full(1, time_ms=1_000, kind=Kind.STREAM)])
        assert got(self.new(stream, Rewind(age_ms=10), now_ms=6_000)) == []

    def test_rewind_is_bounded_in_bytes(self):
        stream = stream_at(history(1, 5, size=100))
        size = len(value(1, 100))
        assert got(self.new(stream, Rewind(count=5), most_bytes=2 * size)) == [4, 5]
        assert got(self.new(stream, Rewind(age_ms=1_000), most_bytes=2 * size + 1)) == [4, 5]
        assert got(self.new(stream, Rewind(count=5), most_bytes=1)) == [5]


@pytest.mark.parametrize("mode", list(Mode))
def test_a_keyed_channel_begins_anew_for_who_holds_an_unknown_part_of_it(mode: Mode):
    """One that comes back from behind nothing may have been sent keys that are deleted now: of those nobody would tell it."""
    stream = ChannelStream(max_items=10, max_bytes=10_000)
    for envelope in (keyed(1, "a"), keyed(2, "b"), deletion(3, "a")):
        stream.apply(envelope)
    made = start_keyed(stream, Position(EPOCH_TEXT, 0), mode, most=MOST, is_read=False)
    assert made == PacedStart(0, recovered=False, gap=Gap("history_trimmed", Missed(1, 3)))
    assert start_keyed(stream, Position("", 0), mode, most=MOST, is_read=False) == PacedStart(0, recovered=True)
