"""Who gets what: in step the delta, behind the whole, all of a tick in one write."""

from __future__ import annotations

import msgspec
import pytest

from edge.core.hub import Channel, Hub
from edge.core.stream import Gap, Missed
from edge.core.variant import Dialect, Variant, variant_of
from shared.publication import DeltaFormat
from tests.edge.builders import Reader, bracketed, full, history, step, value


@pytest.fixture
def channel() -> Channel:
    """With publication 1 of a size that makes deltas worth while."""
    hub = Hub(ring_items=10, ring_bytes=10_000)
    channel = hub.open("bus:1430")
    channel.stream.refill(history(1, 1, size=200), asked=1, most=10)
    return channel


def frames(write: bytes) -> list[dict[str, object]]:
    """What one write brought."""
    return [msgspec.json.decode(part) for part in write[1:-1].split(b"><")]


def wanted(form: DeltaFormat = DeltaFormat.VCDIFF) -> Variant:
    return variant_of(Dialect.JSON, form, bracketed)


def publish(channel: Channel, *offsets: int) -> None:
    """One tick."""
    channel.deliver([step(channel.stream, full(offset, value(offset, 200))) for offset in offsets])


class TestDeliver:
    def test_in_step_gets_the_delta_and_behind_the_whole(self, channel: Channel):
        ready = Reader(channel, wanted(), in_step=True)
        behind = Reader(channel, wanted(), in_step=False)
        publish(channel, 2)
        assert frames(ready.writes[0])[0]["base"] == 1
        assert "base" not in frames(behind.writes[0])[0]

    def test_who_was_behind_is_in_step_then(self, channel: Channel):
        behind = Reader(channel, wanted(), in_step=False)
        publish(channel, 2)
        publish(channel, 3)
        assert frames(behind.writes[1])[0]["base"] == 2

    @pytest.mark.parametrize("in_step", [True, False])
    def test_a_tick_is_one_write(self, channel: Channel, in_step: bool):
        reader = Reader(channel, wanted(), in_step=in_step)
        publish(channel, 2, 3, 4)
        assert len(reader.writes) == 1
        got = frames(reader.writes[0])
        assert [frame["offset"] for frame in got] == [2, 3, 4]
        assert [frame.get("base") for frame in got] == [1 if in_step else None, 2, 3]

    def test_subscribers_of_one_variant_get_the_same_bytes(self, channel: Channel):
        readers = [Reader(channel, wanted(), in_step=True) for _ in range(3)]
        publish(channel, 2)
        assert len({id(reader.writes[0]) for reader in readers}) == 1

    def test_variants_do_not_mix(self, channel: Channel):
        patch, none = Reader(channel, wanted(DeltaFormat.JSON_PATCH), in_step=True), Reader(channel, wanted(DeltaFormat.NONE), in_step=True)
        publish(channel, 2)
        assert frames(patch.writes[0])[0]["delta"] == "json-patch"
        assert "delta" not in frames(none.writes[0])[0]

    def test_who_left_gets_nothing(self, channel: Channel):
        stays, leaves, behind = (Reader(channel, wanted(), in_step=in_step) for in_step in (True, True, False))
        channel.remove(leaves.subscription)
        channel.remove(behind.subscription)
        publish(channel, 2)
        assert (len(stays.writes), leaves.writes, behind.writes, channel.subscribers) == (1, [], [], 1)
        channel.remove(stays.subscription)
        assert (channel.subscribers, channel.groups) == (0, {})

    def test_whoever_comes_leaves_or_writes_elsewhere_counts_from_the_next_publication_on(self, channel: Channel):
        first, second = Reader(channel, wanted(), in_step=True), Reader(channel, wanted(), in_step=True)
        channel.remove(second.subscription)
        publish(channel, 2)
        third, behind = Reader(channel, wanted(), in_step=True), Reader(channel, wanted(), in_step=False)
        publish(channel, 3)
        elsewhere: list[bytes] = []
        channel.rewrite(first.subscription, elsewhere.append)
        publish(channel, 4)
        publish(channel, 5)
        channel.remove(first.subscription)
        channel.remove(behind.subscription)
        publish(channel, 6)
        other = Reader(channel, wanted(DeltaFormat.NONE), in_step=True)
        publish(channel, 7)
        everybody = (first.writes, elsewhere, second.writes, third.writes, behind.writes, other.writes)
        got = [[frame["offset"] for write in writes for frame in frames(write)] for writes in everybody]
        assert got == [[2, 3], [4, 5], [], [3, 4, 5, 6, 7], [3, 4, 5], [7]]

    @pytest.mark.parametrize("count", [1, 2])
    def test_after_a_publication_one_can_write_elsewhere_hear_of_a_gap_and_leave(self, channel: Channel, count: int):
        readers = [Reader(channel, wanted(), in_step=True) for _ in range(count)]
        publish(channel, 2)
        elsewhere: list[bytes] = []
        channel.rewrite(readers[0].subscription, elsewhere.append)
        publish(channel, 3)
        refill = channel.stream.refill([], asked=1, most=10)
        assert refill.gap is not None
        channel.tell_gap(refill.gap, refill.steps)
        publish(channel, 1)
        assert [frames(write)[0].get("base") for write in elsewhere] == [2, None, None]
        publish(channel, 2)
        channel.remove(readers[0].subscription)
        publish(channel, 3)
        assert (len(readers[0].writes), len(elsewhere)) == (1, 4)

    def test_after_a_publication_all_can_be_ended(self, channel: Channel):
        reader = Reader(channel, wanted(), in_step=True)
        publish(channel, 2)
        channel.tell_too_large("its state is too large")
        publish(channel, 3)
        assert len(reader.writes) == 1

    def test_one_at_its_own_pace_is_told_from_the_next_publication_on(self, channel: Channel):
        reader, paced = Reader(channel, wanted(), in_step=True), Poked()
        publish(channel, 2)
        channel.add_paced(paced)
        publish(channel, 3)
        channel.remove_paced(paced)
        publish(channel, 4)
        assert (len(reader.writes), paced.pokes) == (3, 1)


class Poked:
    """One at its own pace that only counts."""

    def __init__(self) -> None:
        self.pokes = 0

    def poke(self) -> None:
        """See `edge.core.hub.Paced`."""
        self.pokes += 1

    def on_gap(self, gap: Gap) -> None:
        """See `edge.core.hub.Paced`."""

    def on_too_large(self, why: str) -> None:
        """See `edge.core.hub.Paced`."""


class TestGap:
    GAP = Gap("history_trimmed", Missed(2, 4))

    @pytest.mark.parametrize("form", list(DeltaFormat))
    def test_the_gap_then_the_newest_whole_in_one_write(self, channel: Channel, form: DeltaFormat):
        readers = [Reader(channel, wanted(form), in_step=in_step) for in_step in (True, False)]
        refill = channel.stream.refill(history(5, 5, size=200), asked=5, most=10)
        assert refill.gap is not None
        channel.tell_gap(refill.gap, refill.steps)
        for reader in readers:
            assert len(reader.writes) == 1
            gap, newest = frames(reader.writes[0])
            assert (gap["type"], gap["missed"], gap["number"]) == ("gap", {"from": 2, "to": 4}, channel.label.number)
            assert (newest["type"], newest["offset"]) == ("publication", 5)
            assert "base" not in newest
        publish(channel, 6)
        assert [frames(reader.writes[1])[0].get("base") for reader in readers] == [None if form is DeltaFormat.NONE else 5] * 2

    def test_with_nothing_to_give_everybody_is_behind(self, channel: Channel):
        reader = Reader(channel, wanted(), in_step=True)
        refill = channel.stream.refill([], asked=1, most=10)
        assert refill.gap is not None
        channel.tell_gap(refill.gap, refill.steps)
        (gap,) = frames(reader.writes[0])
        assert (gap["reason"], gap["epoch"]) == ("epoch_changed", None)
        publish(channel, 1)
        publish(channel, 2)
        assert [frames(write)[0].get("base") for write in reader.writes[1:]] == [None, 1]


class TestHub:
    def test_a_channel_is_one_however_often_it_is_asked_for(self):
        hub = Hub(ring_items=1, ring_bytes=1)
        assert hub.open("a") is hub.open("a")
        assert hub.get("b") is None
        assert [channel.label.name for channel in hub] == ["a"]

    def test_numbers_are_never_given_twice(self):
        hub = Hub(ring_items=1, ring_bytes=1)
        first = hub.open("a").label.number
        hub.drop("a")
        assert len(hub) == 0
        assert hub.open("a").label.number != first
