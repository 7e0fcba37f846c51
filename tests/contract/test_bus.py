"""What any bus promises a bridge (docs/protocol.md, section 8; bridge/ports.py)."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from bridge.ports import Bus
from shared.bus.push import Keep, Outcome, Push, Pushed
from shared.envelope import Envelope
from shared.errors import BusUnavailableError, IncarnationError
from shared.publication import DeltaFormat, Kind
from tests.contract.backends import LAYOUT, OTHER_SOURCE, Backend, make_push

DUPLICATE, UNCHANGED, FULL, DELTA, FAILED = Outcome.DUPLICATE, Outcome.UNCHANGED, Outcome.FULL, Outcome.DELTA, Outcome.FAILED


def opened(bus: Backend, instance: str = "one") -> Bus:
    publisher = bus.publisher(instance)
    assert publisher.open() == []
    return publisher


def push_one(publisher: Bus, push: Push) -> Pushed:
    [pushed] = publisher.push([push])
    return pushed


def summary(entries: list[Envelope]) -> list[tuple[int, int, bytes]]:
    return [(entry.offset, entry.base_offset, entry.body) for entry in entries]


class TestPublishing:
    def test_first_publication_is_full_and_in_the_history(self, bus: Backend):
        pushed = push_one(opened(bus), make_push("a:1", b'"x"', 7))
        assert (pushed.outcome, pushed.offset, len(pushed.epoch)) == (FULL, 1, 12)
        [entry] = bus.history("a:1")
        assert bus.wire("a:1") == [entry]
        assert (entry.epoch, entry.offset, entry.body, entry.time_ms, entry.kind) == (pushed.epoch, 1, b'"x"', 1007, Kind.LATEST)

    def test_offsets_count_each_channel_without_a_hole(self, bus: Backend):
        publisher = opened(bus)
        answers = publisher.push([make_push(f"c:{number % 7}", b"%d" % number, number) for number in range(500)])
        assert [pushed.offset for pushed in answers] == [number // 7 + 1 for number in range(500)]
        for name in range(7):
            assert [entry.offset for entry in bus.wire(f"c:{name}")] == list(range(1, len(bus.wire(f"c:{name}")) + 1))

    def test_order_within_a_channel_holds_through_large_pushes(self, bus: Backend):
        publisher = opened(bus)
        keep = Keep(history_size=5000, history_bytes=10**9)
        pushes = [make_push(f"c:{number % 3}", b"%06d" % number * 200, number, keep=keep) for number in range(2500)]
        publisher.push(pushes)
        for name in range(3):
            bodies = [entry.body[:6] for entry in bus.wire(f"c:{name}")]
            assert bodies == sorted(bodies)
            assert len(bodies) == len(range(name, 2500, 3))

    def test_an_epoch_is_shared_by_a_stream_and_by_no_other(self, bus: Backend):
        publisher = opened(bus)
        first, second = (push_one(publisher, make_push("a:1", b"1", number)).epoch for number in (1, 2))
        assert first == second
        assert push_one(publisher, make_push("a:2", b"1", 3)).epoch != first


class TestOnce:
    @pytest.mark.parametrize(("offset", "index"), [(5, 1), (5, 0), (4, 9), (0, 0)])
    def test_a_source_that_was_published_is_not_published_again(self, bus: Backend, offset: int, index: int):
        publisher = opened(bus)
        done = push_one(publisher, make_push("a:1", b"1", 5, 1))
        assert push_one(publisher, make_push("a:1", b"2", offset, index)) == (DUPLICATE, done.epoch, 1, "")
        assert len(bus.wire("a:1")) == 1

    @pytest.mark.parametrize(("offset", "index"), [(5, 2), (6, 0)])
    def test_what_comes_after_it_is_published(self, bus: Backend, offset: int, index: int):
        publisher = opened(bus)
        push_one(publisher, make_push("a:1", b"1", 5, 1))
        assert push_one(publisher, make_push("a:1", b"2", offset, index)).outcome is FULL

    def test_sources_are_told_apart(self, bus: Backend):
        publisher = opened(bus)
        push_one(publisher, make_push("a:1", b"1", 5))
        assert push_one(publisher, make_push("a:1", b"2", 0, source=OTHER_SOURCE)).offset == 2
        assert push_one(publisher, make_push("a:1", b"2", 0, source=OTHER_SOURCE)).outcome is DUPLICATE

    def test_a_push_whose_answer_was_lost_is_completed(self, bus: Backend):
        publisher = opened(bus)
        pushes = [make_push(f"c:{number % 5}", b"%d" % number, number) for number in range(300)]
        publisher.push(pushes[:150])
        bus.disconnect()
        with pytest.raises(BusUnavailableError):
            publisher.push(pushes)
        assert publisher.open() == []
        outcomes = [pushed.outcome for pushed in publisher.push(pushes)]
        assert outcomes == [DUPLICATE] * 150 + [FULL] * 150
        assert sorted(int(entry.body) for name in range(5) for entry in bus.wire(f"c:{name}")) == list(range(300))


class TestDeltas:
    def test_a_delta_goes_out_on_its_own_base(self, bus: Backend):
        publisher = opened(bus)
        push_one(publisher, make_push("a:1", b"1", 1))
        assert push_one(publisher, make_push("a:1", b"2", 2, base=b"1")).outcome is DELTA
        [_, sent] = bus.wire("a:1")
        assert (sent.delta, sent.base_offset, sent.body) == (DeltaFormat.VCDIFF, 1, b"D")
        assert sent.base_hash == bus.history("a:1")[0].payload_hash

    def test_a_delta_to_another_base_goes_out_full(self, bus: Backend):
        publisher = opened(bus)
        push_one(publisher, make_push("a:1", b"1", 1))
        push_one(publisher, make_push("a:1", b"other", 1, source=OTHER_SOURCE))
        assert push_one(publisher, make_push("a:1", b"2", 2, base=b"1")).outcome is FULL
        assert summary(bus.wire("a:1")) == [(1, 0, b"1"), (2, 0, b"other"), (3, 0, b"2")]

    def test_a_delta_without_a_base_on_the_bus_goes_out_full(self, bus: Backend):
        assert push_one(opened(bus), make_push("a:1", b"2", 2, base=b"1")).outcome is FULL

    def test_the_history_holds_full_payloads_only(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_push("a:1", b"%d" % number, number, base=b"%d" % (number - 1)) for number in range(5)])
        assert summary(bus.history("a:1")) == [(number + 1, 0, b"%d" % number) for number in range(5)]


class TestHistory:
    def test_it_keeps_the_newest_by_count(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_push("a:1", b"%d" % number, number, keep=Keep(history_size=3)) for number in range(10)])
        assert [entry.offset for entry in bus.history("a:1")] == [8, 9, 10]

    def test_it_keeps_the_newest_by_bytes(self, bus: Backend):
        publisher = opened(bus)
        keep = Keep(history_bytes=3 * (46 + 100))
        publisher.push([make_push("a:1", bytes(100), number, keep=keep) for number in range(10)])
        assert [entry.offset for entry in bus.history("a:1")] == [8, 9, 10]

    def test_it_keeps_the_newest_by_age_in_kafka_time(self, bus: Backend):
        publisher = opened(bus)
        keep = Keep(history_age_ms=100)
        publisher.push([make_push("a:1", b"%d" % time_ms, time_ms, time_ms=time_ms, keep=keep) for time_ms in (0, 50, 100, 150, 250)])
        assert [entry.time_ms for entry in bus.history("a:1")] == [150, 250]

    def test_it_is_never_empty(self, bus: Backend):
        keep = Keep(history_size=0, history_bytes=0, history_age_ms=1)
        publisher = opened(bus)
        publisher.push([make_push("a:1", bytes(1000), number, keep=keep, time_ms=number * 1000) for number in range(3)])
        assert [entry.offset for entry in bus.history("a:1")] == [3]

    def test_without_it_a_channel_starts_over(self, bus: Backend):
        publisher = opened(bus)
        old = publisher.push([make_push("a:1", b"1", 1), make_push("a:1", b"2", 2)])[-1]
        bus.drop_history("a:1")
        new = push_one(publisher, make_push("a:1", b"3", 3, base=b"2"))
        assert (new.outcome, new.offset) == (FULL, 1)
        assert new.epoch != old.epoch

    def test_without_it_an_unchanged_payload_is_published_all_the_same(self, bus: Backend):
        publisher = opened(bus)
        push_one(publisher, make_push("a:1", b"1", 1))
        bus.drop_history("a:1")
        assert push_one(publisher, make_push("a:1", b"1", 2, only_changed=True)).outcome is FULL
        assert summary(bus.history("a:1")) == [(1, 0, b"1")]


class TestOnlyChanged:
    def test_the_same_payload_again_is_no_publication(self, bus: Backend):
        publisher = opened(bus)
        done = push_one(publisher, make_push("a:1", b"1", 1, only_changed=True))
        assert push_one(publisher, make_push("a:1", b"1", 2, only_changed=True)) == (UNCHANGED, done.epoch, 1, "")
        assert len(bus.wire("a:1")) == 1

    def test_without_it_the_same_payload_is_one(self, bus: Backend):
        publisher = opened(bus)
        push_one(publisher, make_push("a:1", b"1", 1))
        assert push_one(publisher, make_push("a:1", b"1", 2)).offset == 2

    def test_its_source_counts_as_published(self, bus: Backend):
        publisher = opened(bus)
        push_one(publisher, make_push("a:1", b"1", 1))
        push_one(publisher, make_push("a:1", b"1", 5, only_changed=True))
        assert push_one(publisher, make_push("a:1", b"2", 4)).outcome is DUPLICATE

    def test_it_compares_with_the_newest_of_any_source(self, bus: Backend):
        publisher = opened(bus)
        push_one(publisher, make_push("a:1", b"1", 1))
        push_one(publisher, make_push("a:1", b"2", 1, source=OTHER_SOURCE))
        assert push_one(publisher, make_push("a:1", b"1", 2, only_changed=True)).outcome is FULL


class TestRestore:
    def test_it_fills_an_empty_channel(self, bus: Backend):
        assert push_one(opened(bus), make_push("a:1", b"1", 1, restore=True)).outcome is FULL

    @pytest.mark.parametrize("time_ms", [1, 1000])
    def test_it_does_not_replace_what_is_as_new(self, bus: Backend, time_ms: int):
        publisher = opened(bus)
        push_one(publisher, make_push("a:1", b"new", 0, source=OTHER_SOURCE, time_ms=1000))
        assert push_one(publisher, make_push("a:1", b"old", 1, time_ms=time_ms, restore=True)).outcome is DUPLICATE
        assert bus.history("a:1")[-1].body == b"new"

    def test_it_replaces_what_is_older(self, bus: Backend):
        publisher = opened(bus)
        push_one(publisher, make_push("a:1", b"old", 0, source=OTHER_SOURCE, time_ms=999))
        assert push_one(publisher, make_push("a:1", b"new", 1, time_ms=1000, restore=True)).outcome is FULL

    def test_at_the_same_time_the_source_decides(self, bus: Backend):
        """Two bridges put back what they hold of one partition, and its records carry the same time."""
        publisher = opened(bus)
        push_one(publisher, make_push("a:1", b"old", 4, time_ms=1000, restore=True))
        assert push_one(publisher, make_push("a:1", b"new", 5, time_ms=1000, restore=True)).outcome is FULL
        assert push_one(publisher, make_push("a:1", b"old", 4, time_ms=1000, restore=True)).outcome is DUPLICATE

    def test_later_records_follow_it(self, bus: Backend):
        publisher = opened(bus)
        push_one(publisher, make_push("a:1", b"1", 4, restore=True))
        assert push_one(publisher, make_push("a:1", b"2", 5, base=b"1")).outcome is DELTA


class TestIncarnations:
    def test_a_flushed_bus_refuses_until_it_is_reopened(self, bus: Backend):
        publisher = opened(bus)
        old = push_one(publisher, make_push("a:1", b"1", 1))
        bus.flush()
        with pytest.raises(IncarnationError) as caught:
            publisher.push([make_push("a:1", b"2", 2, base=b"1")])
        assert caught.value.shards == [LAYOUT.shard_of("a:1")]
        assert publisher.reopen(caught.value.shards) == caught.value.shards
        new = push_one(publisher, make_push("a:1", b"2", 2, base=b"1"))
        assert (new.outcome, new.offset) == (FULL, 1)
        assert new.epoch[:6] != old.epoch[:6]

    def test_shards_that_are_not_lost_are_served_in_the_same_push(self, bus: Backend):
        publisher, other = opened(bus), opened(bus, "two")
        bus.flush()
        pushes = [make_push(f"c:{number}", b"1", number) for number in range(50)]
        with pytest.raises(IncarnationError) as caught:
            publisher.push(pushes)
        assert sorted(caught.value.shards) == sorted({LAYOUT.shard_of(push.channel) for push in pushes})
        assert other.beat() == list(range(LAYOUT.shards))
        publisher.reopen(caught.value.shards)
        assert {pushed.outcome for pushed in publisher.push(pushes)} == {FULL}

    def test_the_heartbeat_tells_what_was_lost(self, bus: Backend):
        publisher = opened(bus)
        assert publisher.beat() == []
        bus.flush()
        assert publisher.beat() == list(range(LAYOUT.shards))
        assert publisher.reopen(range(LAYOUT.shards)) == list(range(LAYOUT.shards))
        assert publisher.beat() == []
        assert publisher.open() == []

    def test_two_bridges_agree_on_an_incarnation(self, bus: Backend):
        one, two = opened(bus, "one"), opened(bus, "two")
        epoch = push_one(one, make_push("a:1", b"1", 1)).epoch
        assert push_one(two, make_push("a:1", b"2", 2, base=b"1")) == (DELTA, epoch, 2, "")

    def test_a_bridge_that_believes_in_an_old_one_is_refused(self, bus: Backend):
        one, two = opened(bus, "one"), opened(bus, "two")
        bus.flush()
        assert two.reopen(range(LAYOUT.shards)) == list(range(LAYOUT.shards))
        push_one(two, make_push("a:1", b"1", 1))
        with pytest.raises(IncarnationError):
            one.push([make_push("a:1", b"2", 2)])

    @pytest.mark.parametrize("first", ["open", "beat", "push", "reopen"])
    def test_an_old_snapshot_is_never_believed(self, mortal_bus: Backend, first: str):
        """The server dies and comes back with old data, incarnation included. Whatever the bridge does first, it finds out."""
        bus = mortal_bus
        publisher = opened(bus)
        publisher.push([make_push("a:1", b"1", 1), make_push("a:1", b"2", 2)])
        bus.save()
        old = push_one(publisher, make_push("a:1", b"3", 3))
        bus.restore()
        attempts: dict[str, Callable[[], object]] = {
            "open": lambda: None,
            "beat": publisher.beat,
            "push": lambda: publisher.push([make_push("a:1", b"4", 4, base=b"2")]),
            "reopen": lambda: changed.update(publisher.reopen([0])),
        }
        changed: set[int] = set()
        for attempt in (attempts[first], attempts[first], lambda: changed.update(publisher.open()), publisher.beat):
            with contextlib.suppress(BusUnavailableError):  # The first one finds that the connection is gone.
                attempt()
        changed.update(publisher.open())
        assert changed == set(range(LAYOUT.shards))
        new = push_one(publisher, make_push("a:1", b"4", 4, base=b"2"))
        assert (new.outcome, new.offset) == (FULL, 1)
        assert new.epoch != old.epoch
        assert [entry.body for entry in bus.history("a:1")] == [b"4"]

    def test_a_lost_connection_alone_changes_nothing(self, bus: Backend):
        publisher = opened(bus)
        old = push_one(publisher, make_push("a:1", b"1", 1))
        bus.disconnect()
        with pytest.raises(BusUnavailableError):
            publisher.beat()
        assert publisher.open() == []
        assert push_one(publisher, make_push("a:1", b"2", 2, base=b"1")) == (DELTA, old.epoch, 2, "")


class TestFailures:
    def test_a_foreign_key_fails_its_own_publication_only(self, bus: Backend):
        publisher = opened(bus)
        bus.put_foreign("a:2")
        answers = publisher.push([make_push(f"a:{number}", b"1", number) for number in (1, 2, 3)])
        assert [pushed.outcome for pushed in answers] == [FULL, FAILED, FULL]
        assert "WRONGTYPE" in answers[1].reason

    def test_nothing_is_served_before_it_is_open(self, bus: Backend):
        publisher = bus.publisher()
        with pytest.raises(BusUnavailableError):
            publisher.push([make_push("a:1", b"1", 1)])
        with pytest.raises(BusUnavailableError):
            publisher.beat()


def test_whatever_is_pushed_every_subscriber_and_reader_can_follow(bus: Backend):
    """Seeded chaos from two bridges: each delta's base is the publication before it, offsets have no hole, all history is readable."""
    chance = random.Random(7)
    publishers = [opened(bus, "one"), opened(bus, "two")]
    epochs: dict[str, set[bytes]] = {}
    for number in range(400):
        name, base = f"c:{chance.randrange(4)}", b"%d" % chance.randrange(5)
        payload = b"%d" % chance.randrange(5)
        push = make_push(
            name,
            payload,
            max(0, number - chance.randrange(3)),
            source=chance.choice([OTHER_SOURCE, make_push("a", b"", 0).source.id]),
            base=chance.choice([None, base]),
            keep=Keep(history_size=chance.randrange(1, 6)),
            only_changed=chance.random() < 0.3,
        )
        pushed = push_one(chance.choice(publishers), push)
        epochs.setdefault(name, set()).add(pushed.epoch)
        if chance.random() < 0.02:
            bus.drop_history(name)
    for name in epochs:
        sent = bus.wire(name)
        for before, after in pairwise(sent):
            if after.epoch != before.epoch:
                assert (after.offset, after.base_offset) == (1, 0)
                continue
            assert after.offset == before.offset + 1
            if after.base_offset:
                assert (after.base_offset, after.base_hash) == (before.offset, before.payload_hash)
        kept = bus.history(name)
        assert all(entry.base_offset == 0 for entry in kept)
        assert [entry.offset for entry in kept] == [entry.offset for entry in sent[len(sent) - len(kept) :]]
