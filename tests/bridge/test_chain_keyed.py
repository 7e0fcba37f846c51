"""The delta chain with keys, versions and ids: a base for each key, trips that are saved, and what is put back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge.core.chain import DeltaChain
from bridge.core.draft import ChannelSettings, Draft, id_of
from shared.bus.layout import BusLayout
from shared.bus.push import Outcome, Push, Pushed, Source, source_id
from shared.delta import vcdiff
from shared.publication import ContentType, DeltaFormat, Kind, payload_hash

LAYOUT = BusLayout(shards=4)
ALL = range(LAYOUT.shards)
SOURCE, OTHER = source_id("cluster", "topic", 0), source_id("cluster", "topic", 1)
KEYED = ChannelSettings(kind=Kind.KEYED, only_changed=True)
EACH = ChannelSettings(kind=Kind.KEYED)


class World:
    """A chain and a clock, and a bus that answers what it is told to."""

    def __init__(self, max_bytes: int = 10_000_000) -> None:
        self.now_s = 0.0
        self.chain = DeltaChain(shards=LAYOUT.shards, clock=lambda: self.now_s, max_bytes=max_bytes)
        self._offset = 0

    def prepare(self, draft: Draft, *, source: bytes = SOURCE, time_ms: int = 1000, sole_writer: bool = True) -> tuple[Push, ...]:
        self._offset += 1
        return self.chain.prepare(draft, Source(source, self._offset, 0), time_ms, sole_writer=sole_writer)

    def publish(self, draft: Draft, outcome: Outcome = Outcome.FULL, **more: Any) -> Push:
        [push] = self.prepare(draft, **more)
        self.answer(push, outcome)
        return push

    def answer(self, push: Push, outcome: Outcome) -> None:
        self.chain.confirm(push, Pushed(outcome, bytes(12), 1))

    def skips(self, draft: Draft, **more: Any) -> Outcome | None:
        """Why no push is made; None where one is."""
        return None if self.prepare(draft, **more) else self.chain.skipped_as


def value(number: int) -> bytes:
    return b'{"id":"1430","vehicle":{"label":"a bus with a name that stays","position":%d}}' % number


def draft(key: str | None, payload: bytes | None, of: ChannelSettings = KEYED, channel: str = "fleet", **changes: Any) -> Draft:
    """A draft; no payload makes a deletion."""
    content_type = ContentType.JSON if payload is not None else ContentType.NONE
    return Draft(channel, payload or b"", content_type, 0, of, "route", None, None if key is None else key.encode(), **changes)


class TestKeys:
    def test_the_base_is_the_newest_of_the_same_key(self):
        world = World()
        first = world.publish(draft("a", value(1)))
        assert (first.key, first.delta) == (b"a", b"")
        assert world.publish(draft("b", value(2))).delta == b""
        push = world.publish(draft("a", value(3)))
        assert (push.delta_format, push.base_hash) == (DeltaFormat.VCDIFF, payload_hash(value(1)))
        assert vcdiff.decode(value(1), push.delta, max_size=1000) == value(3)

    def test_a_key_of_no_bytes_is_not_the_channel(self):
        world = World()
        world.publish(draft(None, value(1), ChannelSettings()))
        assert world.publish(draft("", value(2))).delta == b""

    def test_an_unchanged_value_is_skipped_for_its_key_only(self):
        world = World()
        world.publish(draft("a", value(1)))
        assert world.skips(draft("a", value(1))) is Outcome.UNCHANGED
        assert world.skips(draft("b", value(1))) is None

    def test_everything_of_a_draft_is_on_its_push(self):
        world = World()
        made = draft("a", value(1), tags=b'{"s":"1"}', version=1.5, id=id_of(b"x"))
        for push in (world.publish(made), world.publish(msgspec.structs.replace(made, payload=value(2), version=2.5, id=id_of(b"y")))):
            assert (push.key, push.tags, push.version is not None, len(push.id)) == (b"a", b'{"s":"1"}', True, 16)

    def test_a_record_that_was_skipped_is_told_before_news_of_another_partition(self):
        world = World()
        world.publish(draft("a", value(1)))
        assert world.skips(draft("a", value(1))) is Outcome.UNCHANGED
        note, push = world.prepare(draft("a", value(2)), source=OTHER)
        assert (note.key, note.payload, note.source, note.only_changed) == (b"a", value(1), Source(SOURCE, 2, 0), True)
        assert push.payload == value(2)

    def test_keys_are_bounded_in_bytes_with_what_they_take(self):
        world = World(max_bytes=100_000)
        for number in range(1000):
            world.publish(draft(f"{number}" * 50, value(number)))
        assert world.chain.bytes_held <= 100_000
        assert 20 < len(world.chain) < 100


class TestDeletions:
    def test_one_has_no_delta_and_is_no_base(self):
        world = World()
        world.publish(draft("a", value(1)))
        gone = world.publish(draft("a", None))
        assert (gone.content_type, gone.payload, gone.delta) == (ContentType.NONE, b"", b"")
        assert world.publish(draft("a", value(1))).delta == b""

    def test_of_a_deleted_key_it_is_skipped_and_a_value_of_no_bytes_is_not(self):
        world = World()
        world.publish(draft("a", None), Outcome.UNCHANGED)
        assert world.skips(draft("a", None)) is Outcome.UNCHANGED
        assert world.skips(draft("a", b"")) is None
        world.publish(draft("b", b""))
        assert world.skips(draft("b", b"")) is Outcome.UNCHANGED
        assert world.skips(draft("b", None)) is None


class TestVersions:
    @pytest.mark.parametrize("outcome", [Outcome.FULL, Outcome.DELTA, Outcome.UNCHANGED, Outcome.STALE])
    def test_what_the_bus_surely_has_as_new_is_skipped(self, outcome: Outcome):
        world = World()
        world.publish(draft("a", value(1), version=5.0), outcome)
        assert world.skips(draft("a", value(2), version=5.0)) is Outcome.STALE
        assert world.skips(draft("a", value(2), version=4.0), sole_writer=False) is Outcome.STALE
        assert world.skips(draft("a", value(2), version=6.0)) is None
        assert world.skips(draft("b", value(2), version=1.0)) is None

    @pytest.mark.parametrize("outcome", [Outcome.DUPLICATE, Outcome.FAILED, Outcome.REPEATED])
    def test_what_was_not_compared_is_not(self, outcome: Outcome):
        world = World()
        world.publish(draft("a", value(1), version=5.0), outcome)
        assert world.skips(draft("a", value(2), version=4.0)) is None

    def test_of_a_channel_without_keys_too(self):
        world = World()
        world.publish(draft(None, value(1), ChannelSettings(), version=5.0))
        assert world.skips(draft(None, value(2), ChannelSettings(), version=5.0)) is Outcome.STALE

    def test_it_holds_after_a_rebalance_but_neither_for_ever_nor_after_a_loss(self):
        world = World()
        world.publish(draft("a", value(1), version=5.0))
        world.chain.distrust()
        assert world.skips(draft("a", value(2), version=5.0)) is Outcome.STALE
        world.now_s = 301
        assert world.skips(draft("a", value(2), version=5.0)) is None
        world.now_s = 0
        world.chain.lose(ALL)
        assert world.skips(draft("a", value(2), version=5.0)) is None

    def test_an_unchanged_value_with_a_newer_version_goes_to_the_bus(self):
        world = World()
        world.publish(draft("a", value(1), version=1.0))
        push = world.publish(draft("a", value(1), version=3.0), Outcome.UNCHANGED)
        assert push.only_changed
        assert world.skips(draft("a", value(2), version=2.0)) is Outcome.STALE

    def test_a_late_arrival_within_a_batch_does_not_take_the_place_of_what_is_newer(self):
        world = World()
        [newer] = world.prepare(draft("a", value(5), version=5.0))
        [late] = world.prepare(draft("a", value(4), version=4.0))
        assert late.delta == b""
        world.answer(newer, Outcome.FULL)
        world.answer(late, Outcome.STALE)
        assert [push.payload for push in world.chain.held(ALL, ())] == [value(5)]
        assert world.publish(draft("a", value(6), version=6.0)).base_hash == payload_hash(value(5))

    def test_what_the_bus_takes_though_it_is_older_shows_that_it_forgot(self):
        world = World()
        world.publish(draft("a", value(5), version=5.0))
        world.now_s = 1000
        world.publish(draft("a", value(1), version=1.0))
        assert world.skips(draft("a", value(2), version=2.0)) is None

    def test_two_in_a_batch_in_order_show_nothing(self):
        world = World()
        pushes = [world.prepare(draft("a", value(number), version=float(number)))[0] for number in (4, 5)]
        for push in pushes:
            world.answer(push, Outcome.FULL)
        assert world.publish(draft("a", value(6), version=6.0)).base_hash == payload_hash(value(5))

    def test_a_deletion_without_a_version_keeps_that_of_its_key(self):
        world = World()
        world.publish(draft("a", value(1), version=5.0))
        world.publish(draft("a", None))
        assert world.skips(draft("a", value(1), version=5.0)) is Outcome.STALE
        assert [push.version for push in world.chain.held(ALL, ())] == [5.0]


class TestIds:
    def test_one_that_the_bus_confirmed_is_skipped_within_its_window(self):
        world = World()
        of = ChannelSettings(id_window_ms=100)
        world.publish(draft(None, value(1), of, id=id_of(b"x")))
        assert world.skips(draft(None, value(1), of, id=id_of(b"x")), time_ms=1100, source=OTHER) is Outcome.REPEATED
        assert world.skips(draft(None, value(1), of, id=id_of(b"x")), time_ms=-1) is Outcome.REPEATED
        assert world.skips(draft(None, value(1), of, id=id_of(b"x")), time_ms=1101) is None
        assert world.skips(draft(None, value(1), of, id=id_of(b"y"))) is None
        assert world.skips(draft(None, value(1), of, "other", id=id_of(b"x"))) is None

    @pytest.mark.parametrize("outcome", [Outcome.DUPLICATE, Outcome.FAILED, Outcome.STALE, Outcome.REPEATED])
    def test_one_that_was_not_published_is_not(self, outcome: Outcome):
        world = World()
        world.publish(draft("a", value(1), id=id_of(b"x")), outcome)
        assert world.skips(draft("a", value(1), id=id_of(b"x"))) is None

    def test_it_is_the_channels_whatever_the_key(self):
        world = World()
        world.publish(draft("a", value(1), id=id_of(b"x")))
        assert world.skips(draft("b", value(1), id=id_of(b"x"))) is Outcome.REPEATED

    def test_it_holds_after_a_rebalance_but_neither_for_ever_nor_after_a_loss(self):
        world = World()
        made = draft("a", value(1), id=id_of(b"x"))
        world.publish(made)
        world.chain.distrust()
        assert world.skips(made) is Outcome.REPEATED
        world.now_s = 301
        assert world.skips(made) is None
        world.now_s = 0
        world.chain.lose(set(ALL) - {LAYOUT.shard_of("fleet")})
        assert world.skips(made) is Outcome.REPEATED
        world.chain.lose([LAYOUT.shard_of("fleet")])
        assert world.skips(made) is None

    def test_an_unchanged_value_with_another_id_goes_to_the_bus(self):
        world = World()
        world.publish(draft("a", value(1), id=id_of(b"x")))
        assert world.skips(draft("a", value(1), id=id_of(b"y"))) is None

    def test_they_are_bounded_within_the_bytes_of_the_chain(self):
        world = World(max_bytes=100_000)
        for number in range(1000):
            world.publish(draft("a", value(number), EACH, id=id_of(b"%d" % number)))
        assert world.chain.bytes_held <= 100_000
        assert world.skips(draft("a", value(1), EACH, id=id_of(b"999"))) is Outcome.REPEATED
        assert world.skips(draft("a", value(1), EACH, id=id_of(b"0"))) is None


class TestHeld:
    def test_every_key_is_put_back_with_all_that_it_has_in_the_order_of_records(self):
        world = World()
        for number, key in enumerate("abcab"):
            world.publish(draft(key, value(number), tags=b"{}", version=float(number), id=id_of(b"%d" % number)))
        world.publish(draft("d", None, EACH))
        pushes = world.chain.held(ALL, ())
        assert [(push.key, push.source.offset) for push in pushes] == [(b"c", 3), (b"a", 4), (b"b", 5), (b"d", 6)]
        assert all(push.restore and not push.delta and push.kind is Kind.KEYED for push in pushes)
        assert [(push.payload, push.tags, push.version, push.id) for push in pushes[:1]] == [(value(2), b"{}", 2.0, id_of(b"2"))]
        assert [push.content_type for push in pushes] == [ContentType.JSON] * 3 + [ContentType.NONE]

    def test_keys_in_flight_are_left_out_and_the_others_are_not(self):
        world = World()
        world.publish(draft("a", value(1)))
        world.publish(draft("b", value(1)))
        [flying] = world.prepare(draft("a", value(2)))
        assert [push.key for push in world.chain.held(ALL, [flying])] == [b"b"]

    def test_what_is_newer_than_what_is_in_flight_is_put_back_before_it(self):
        world = World()
        world.publish(draft("a", value(5), version=5.0))
        world.now_s = 1000
        [late] = world.prepare(draft("a", value(4), version=4.0))
        assert [push.payload for push in world.chain.held(ALL, [late])] == [value(5)]

    @pytest.mark.parametrize("outcome", [Outcome.STALE, Outcome.REPEATED])
    def test_what_the_bus_refused_is_not_put_back(self, outcome: Outcome):
        world = World()
        world.publish(draft("a", value(1), version=1.0, id=id_of(b"x")), outcome)
        assert world.chain.held(ALL, ()) == []

    def test_what_another_bridge_feeds_now_or_no_route_feeds_any_more_is_not(self):
        world = World()
        world.publish(draft("a", value(1)), source=OTHER)
        world.publish(draft("b", value(1), EACH))
        world.publish(draft("c", value(1)))
        world.chain.forget({OTHER})
        world.chain.keep([KEYED])
        assert [push.key for push in world.chain.held(ALL, ())] == [b"c"]
