"""What any bus promises about keys, deletions, versions and ids (docs/protocol.md, section 8)."""

from __future__ import annotations

import math

import msgspec
import pytest

from shared.bus.push import Keep, Outcome, Push
from shared.errors import BusUnavailableError
from shared.publication import ContentType, Kind, payload_hash
from tests.contract.backends import OTHER_SOURCE, Backend, make_keyed, make_push
from tests.contract.test_bus import DELTA, DUPLICATE, FAILED, FULL, UNCHANGED, opened, push_one, summary

STALE, REPEATED, BEHIND = Outcome.STALE, Outcome.REPEATED, Outcome.BEHIND


def state(bus: Backend, channel: str = "k:1") -> dict[str, tuple[int, bytes]]:
    """Offset and payload of each key."""
    return {key.decode(): (entry.offset, entry.body) for key, entry in bus.keys(channel).items()}


def id_(number: int) -> bytes:
    return number.to_bytes(16, "big")


def plain(push: Push, channel: str) -> Push:
    """The same on a channel that is not keyed."""
    return msgspec.structs.replace(push, key=None, kind=Kind.LATEST, channel=channel)


class TestKeys:
    def test_the_newest_publication_of_each_key_is_the_state(self, bus: Backend):
        publisher = opened(bus)
        answers = publisher.push([make_keyed("ab"[number % 2], b"%d" % number, number) for number in range(5)])
        assert [(pushed.outcome, pushed.offset) for pushed in answers] == [(FULL, offset) for offset in range(1, 6)]
        assert state(bus) == {"a": (5, b"4"), "b": (4, b"3")}
        assert [entry.key for entry in bus.history("k:1")] == [b"a", b"b", b"a", b"b", b"a"]
        assert bus.wire("k:1") == bus.history("k:1")
        assert bus.keys("k:1")[b"a"] == bus.history("k:1")[-1]

    def test_a_key_outlives_the_history(self, bus: Backend):
        publisher = opened(bus)
        keep = Keep(history_size=2)
        publisher.push(
            [make_keyed("old", b"1", 0, keep=keep), *(make_keyed("new", b"%d" % number, number, keep=keep) for number in range(1, 9))]
        )
        assert [entry.offset for entry in bus.history("k:1")] == [8, 9]
        assert state(bus) == {"old": (1, b"1"), "new": (9, b"8")}

    def test_a_key_may_be_any_bytes(self, bus: Backend):
        publisher = opened(bus)
        keys = ["", "\0", "é", "a b", "x" * 60_000]
        publisher.push([make_keyed(key, b"1", number) for number, key in enumerate(keys)])
        assert set(bus.keys("k:1")) == {key.encode() for key in keys}

    def test_tags_travel_with_every_publication(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, tags=b'{"s":"1"}'), make_keyed("a", b"2", 2, tags=b'{"s":"2"}', base=b"1")])
        assert [(entry.tags, entry.base_offset) for entry in bus.wire("k:1")] == [(b'{"s":"1"}', 0), (b'{"s":"2"}', 1)]
        assert [entry.tags for entry in bus.history("k:1")] == [b'{"s":"1"}', b'{"s":"2"}']

    def test_a_source_that_was_published_is_not_published_again_under_another_key(self, bus: Backend):
        publisher = opened(bus)
        done = push_one(publisher, make_keyed("a", b"1", 5, index=1))
        assert push_one(publisher, make_keyed("b", b"2", 5, index=1)) == (DUPLICATE, done.epoch, 1, "")
        assert push_one(publisher, make_keyed("b", b"2", 5, index=2)).outcome is FULL

    def test_an_unchanged_payload_is_that_of_the_same_key(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1), make_keyed("b", b"2", 2)])
        assert push_one(publisher, make_keyed("a", b"1", 3, only_changed=True)).outcome is UNCHANGED
        assert push_one(publisher, make_keyed("a", b"2", 4, only_changed=True)).outcome is FULL
        assert push_one(publisher, make_keyed("a", b"2", 3)).outcome is DUPLICATE

    def test_one_more_key_than_the_limit_is_refused_and_the_others_live_on(self, bus: Backend):
        publisher = opened(bus)
        keep = Keep(max_keys=2)
        keys = ["a", "b", "c", "a"]
        answers = publisher.push([make_keyed(key, b"%d" % number, number, keep=keep) for number, key in enumerate(keys)])
        assert [pushed.outcome for pushed in answers] == [FULL, FULL, FAILED, FULL]
        assert "as many keys as it may: 2" in answers[2].reason
        assert state(bus) == {"a": (3, b"3"), "b": (2, b"1")}
        assert push_one(publisher, make_keyed("b", None, 4, keep=keep)).outcome is FULL
        assert push_one(publisher, make_keyed("c", b"5", 5, keep=keep)).outcome is FULL

    def test_more_bytes_than_the_limit_are_refused_and_the_others_live_on(self, bus: Backend):
        publisher = opened(bus)
        keep = Keep(max_key_bytes=500)
        payloads = {"a": 100, "b": 100, "c": 200, "a ": 100}
        answers = publisher.push(
            [make_keyed(key.strip(), b"x" * size, number, keep=keep) for number, (key, size) in enumerate(payloads.items())]
        )
        assert [pushed.outcome for pushed in answers] == [FULL, FULL, FAILED, FULL]
        assert "as many bytes as they may: 500" in answers[2].reason
        assert set(state(bus)) == {"a", "b"}
        assert push_one(publisher, make_keyed("b", b"x" * 310, 4, keep=keep)).outcome is FAILED
        assert push_one(publisher, make_keyed("b", None, 5, keep=keep)).outcome is FULL
        assert push_one(publisher, make_keyed("c", b"x" * 200, 6, keep=keep)).outcome is FULL
        assert set(state(bus)) == {"a", "c"}

    def test_nothing_of_the_same_source_overtakes_one_that_failed_and_stops(self, bus: Backend):
        publisher = opened(bus)
        keep = Keep(max_keys=1, stops_at_failure=True)
        pushes = [make_keyed(key, b"1", number, keep=keep) for number, key in enumerate("abcad")]
        pushes.append(make_keyed("a", None, 5, keep=keep))
        pushes.append(make_keyed("a", b"other source", 9, source=OTHER_SOURCE, keep=keep))
        pushes.append(make_keyed("a", b"other channel", 9, channel="k:2", keep=keep))
        answers = publisher.push(pushes)
        # Those that fail all the same do so at once; from the first one on that would not, all wait.
        assert [pushed.outcome for pushed in answers] == [FULL, FAILED, FAILED, BEHIND, BEHIND, BEHIND, FULL, FULL]
        # They are tried again, and are no duplicates; what failed is, from then on.
        again = publisher.push(pushes[3:6])
        assert [pushed.outcome for pushed in again] == [FULL, FAILED, BEHIND]
        assert [pushed.outcome for pushed in publisher.push([pushes[4]])] == [FAILED]
        assert [pushed.outcome for pushed in publisher.push([pushes[5], pushes[4]])] == [FULL, DUPLICATE]

    def test_not_in_a_later_batch_of_the_same_push_either(self, bus: Backend):
        publisher = opened(bus)
        keep = Keep(max_keys=1, stops_at_failure=True)
        keys = ["a", "b", *["a"] * 500]
        answers = publisher.push([make_keyed(key, b"%d" % number, number, keep=keep) for number, key in enumerate(keys)])
        assert [pushed.outcome for pushed in answers] == [FULL, FAILED, *[BEHIND] * 500]

    def test_restores_do_not_stop(self, bus: Backend):
        publisher = opened(bus)
        keep = Keep(max_keys=1, stops_at_failure=True)
        answers = publisher.push([make_keyed(key, b"1", number, keep=keep, restore=True) for number, key in enumerate("aba")])
        assert [pushed.outcome for pushed in answers] == [FULL, FAILED, FULL]

    def test_beyond_a_limit_that_was_lowered_values_may_still_become_smaller(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"x" * 300, 1), make_keyed("b", b"x" * 300, 2)])
        keep = Keep(max_key_bytes=400)
        assert push_one(publisher, make_keyed("a", b"x" * 301, 3, keep=keep)).outcome is FAILED
        assert push_one(publisher, make_keyed("a", b"y" * 299, 4, keep=keep)).outcome is FULL

    def test_the_first_value_must_fit_too(self, bus: Backend):
        publisher = opened(bus)
        keep = Keep(max_key_bytes=400)
        assert push_one(publisher, make_keyed("a", b"x" * 400, 1, keep=keep)).outcome is FAILED
        assert state(bus) == {}
        assert push_one(publisher, make_keyed("a", b"x" * 300, 2, keep=keep)).outcome is FULL


class TestDeltasOfKeys:
    def test_the_base_is_the_newest_of_the_same_key(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1), make_keyed("b", b"2", 2), make_keyed("b", b"3", 3)])
        assert push_one(publisher, make_keyed("a", b"4", 4, base=b"1")).outcome is DELTA
        sent = bus.wire("k:1")[-1]
        assert (sent.key, sent.offset, sent.base_offset, sent.base_hash, sent.body) == (b"a", 4, 1, payload_hash(b"1"), b"D")
        assert summary(bus.history("k:1"))[-1] == (4, 0, b"4")
        assert state(bus)["a"] == (4, b"4")

    def test_that_of_another_key_is_none(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1), make_keyed("b", b"2", 2)])
        assert push_one(publisher, make_keyed("a", b"3", 3, base=b"2")).outcome is FULL

    def test_a_deleted_key_has_none(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"", 1), make_keyed("a", None, 2)])
        assert push_one(publisher, make_keyed("a", b"2", 3, base=b"")).outcome is FULL


class TestDeletions:
    def test_it_removes_the_key_and_is_a_publication(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1), make_keyed("b", b"2", 2)])
        assert push_one(publisher, make_keyed("a", None, 3)).offset == 3
        assert state(bus) == {"b": (2, b"2")}
        sent = bus.wire("k:1")[-1]
        assert (sent.is_deletion, sent.key, sent.body, sent.content_type, sent.payload_hash) == (
            True,
            b"a",
            b"",
            ContentType.NONE,
            payload_hash(b""),
        )
        assert bus.history("k:1")[-1] == sent

    def test_the_last_key_leaves_a_channel_that_lives(self, bus: Backend):
        publisher = opened(bus)
        first = push_one(publisher, make_keyed("a", b"1", 1))
        publisher.push([make_keyed("a", None, 2)])
        assert state(bus) == {}
        assert push_one(publisher, make_keyed("a", b"1", 3)) == (FULL, first.epoch, 3, "")

    def test_of_what_is_not_there_it_is_published_unless_only_changes_are(self, bus: Backend):
        publisher = opened(bus)
        push_one(publisher, make_keyed("b", b"1", 1))
        assert push_one(publisher, make_keyed("a", None, 2)).outcome is FULL
        assert push_one(publisher, make_keyed("a", None, 3, only_changed=True)).outcome is UNCHANGED
        assert push_one(publisher, make_keyed("a", None, 3)).outcome is DUPLICATE
        assert len(bus.wire("k:1")) == 2

    def test_the_first_of_a_channel_is_remembered(self, bus: Backend):
        """Processed again after a crash, it must not delete what another partition has published since."""
        publisher = opened(bus)
        assert push_one(publisher, make_keyed("a", None, 1, only_changed=True)).outcome is FULL
        push_one(publisher, make_keyed("a", b"1", 1, source=OTHER_SOURCE))
        assert push_one(publisher, make_keyed("a", None, 1, only_changed=True)).outcome is DUPLICATE
        assert set(state(bus)) == {"a"}

    def test_the_same_value_after_it_is_news(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"", 1, only_changed=True), make_keyed("a", None, 2, only_changed=True)])
        assert push_one(publisher, make_keyed("a", b"", 3, only_changed=True)).offset == 3


class TestKinds:
    def test_a_channel_that_becomes_keyed_starts_anew_and_forgets_no_source(self, bus: Backend):
        publisher = opened(bus)
        old = push_one(publisher, make_push("k:1", b"1", 5))
        assert push_one(publisher, make_keyed("a", b"1", 5)).outcome is DUPLICATE
        new = push_one(publisher, make_keyed("a", b"2", 6, base=b"1"))
        assert (new.outcome, new.offset) == (FULL, 1)
        assert new.epoch != old.epoch
        assert [entry.key for entry in bus.history("k:1")] == [b"a"]
        assert push_one(publisher, make_keyed("b", b"2", 5)).outcome is DUPLICATE

    def test_one_that_ceases_to_be_does_so_too(self, bus: Backend):
        publisher = opened(bus)
        old = push_one(publisher, make_keyed("a", b"1", 5, version=3.0))
        new = push_one(publisher, make_push("k:1", b"2", 6, base=b"1"))
        assert (new.outcome, new.offset) == (FULL, 1)
        assert new.epoch != old.epoch
        assert (state(bus), bus.versions("k:1")) == ({}, set())
        assert [entry.kind for entry in bus.history("k:1")] == [Kind.LATEST]
        assert push_one(publisher, make_push("k:1", b"3", 6)).outcome is DUPLICATE

    def test_without_its_history_it_starts_over(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, version=1.0, id=id_(1)), make_keyed("b", b"2", 2)])
        bus.drop_history("k:1")
        new = push_one(publisher, make_keyed("a", b"1", 3, only_changed=True, version=1.0, id=id_(1)))
        assert (new.outcome, new.offset) == (FULL, 1)
        assert state(bus) == {"a": (1, b"1")}


class TestVersions:
    def test_of_a_channel_what_is_not_newer_is_stale(self, bus: Backend):
        publisher = opened(bus)
        outcomes = []
        for offset, version in enumerate([10, 9, 10, 10.5, -3, 1e300, 11], start=1):
            push = make_keyed("", b"%d" % offset, offset, version=float(version))
            outcomes.append(push_one(publisher, plain(push, "a:1")).outcome)
        assert outcomes == [FULL, STALE, STALE, FULL, STALE, FULL, STALE]
        assert [entry.body for entry in bus.wire("a:1")] == [b"1", b"4", b"6"]

    def test_negative_ones_count_too(self, bus: Backend):
        publisher = opened(bus)
        assert push_one(publisher, make_keyed("a", b"1", 1, version=-5.0)).outcome is FULL
        assert push_one(publisher, make_keyed("a", b"2", 2, version=-6.0)).outcome is STALE
        assert push_one(publisher, make_keyed("a", b"2", 3, version=0.0)).outcome is FULL

    def test_each_key_has_its_own(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, version=10.0), make_keyed("b", b"2", 2, version=5.0)])
        assert push_one(publisher, make_keyed("b", b"3", 3, version=6.0)).outcome is FULL
        assert push_one(publisher, make_keyed("a", b"4", 4, version=6.0)).outcome is STALE
        assert state(bus) == {"a": (1, b"1"), "b": (3, b"3")}

    def test_the_source_of_a_stale_one_counts_as_published(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, version=10.0), make_keyed("a", b"2", 5, version=1.0)])
        assert push_one(publisher, make_keyed("a", b"3", 5, version=11.0)).outcome is DUPLICATE

    def test_one_of_an_unchanged_value_is_kept(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, version=1.0), make_keyed("a", b"1", 2, version=3.0, only_changed=True)])
        assert push_one(publisher, make_keyed("a", b"late", 1, version=2.0, source=OTHER_SOURCE)).outcome is STALE

    def test_a_late_arrival_does_not_bring_a_deleted_key_back(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, version=1.0), make_keyed("a", None, 2)])
        assert push_one(publisher, make_keyed("a", b"1", 1, version=1.0, source=OTHER_SOURCE)).outcome is STALE
        publisher.push([make_keyed("a", None, 3, version=4.0)])
        assert push_one(publisher, make_keyed("a", b"3", 2, version=3.0, source=OTHER_SOURCE)).outcome is STALE
        assert push_one(publisher, make_keyed("a", b"5", 3, version=5.0, source=OTHER_SOURCE)).outcome is FULL

    def test_the_first_of_a_channel_may_be_a_deletion(self, bus: Backend):
        publisher = opened(bus)
        assert push_one(publisher, make_keyed("a", None, 1, version=4.0, only_changed=True)).outcome is FULL
        assert push_one(publisher, make_keyed("a", b"3", 2, version=3.0)).outcome is STALE

    def test_without_one_a_publication_is_never_stale(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, version=10.0), make_keyed("a", b"2", 2)])
        assert state(bus) == {"a": (2, b"2")}
        assert push_one(publisher, make_keyed("a", b"3", 3, version=10.0)).outcome is STALE

    def test_one_that_is_no_number_is_refused(self, bus: Backend):
        publisher = opened(bus)
        push_one(publisher, make_keyed("a", b"1", 1, version=1.0))
        pushed = push_one(publisher, make_keyed("a", b"2", 2, version=math.nan))
        assert (pushed.outcome, pushed.reason) == (FAILED, "the version is not a number")
        assert push_one(publisher, make_keyed("a", b"2", 3, version=2.0)).outcome is FULL

    def test_those_of_deleted_keys_are_bounded(self, bus: Backend):
        publisher = opened(bus)
        keep = Keep(max_keys=10)
        pushes = [make_keyed("stays", b"1", 0, version=1.0, keep=keep)]
        for number in range(1, 1000):
            pushes += [
                make_keyed(f"k{number}", b"1", number, version=1.0, keep=keep),
                make_keyed(f"k{number}", None, number, index=1, version=2.0, keep=keep),
            ]
        assert {pushed.outcome for pushed in publisher.push(pushes)} == {FULL}
        assert len(bus.versions("k:1")) <= 21
        assert {b"stays", b"k999"} <= bus.versions("k:1")


class TestIds:
    def test_one_that_was_seen_within_the_window_is_repeated(self, bus: Backend):
        publisher = opened(bus)
        keep = Keep(id_window_ms=100)
        times = [1000, 1000, 1100, 1101, 1150, 1301]
        outcomes = [
            push_one(publisher, plain(make_keyed("", b"%d" % offset, offset, time_ms=time_ms, id=id_(7), keep=keep), "a:1")).outcome
            for offset, time_ms in enumerate(times)
        ]
        assert outcomes == [FULL, REPEATED, REPEATED, FULL, REPEATED, FULL]

    def test_another_one_is_not(self, bus: Backend):
        publisher = opened(bus)
        assert {push_one(publisher, make_keyed("a", b"1", number, id=id_(number))).outcome for number in range(5)} == {FULL}

    def test_it_is_the_channels_whatever_the_key(self, bus: Backend):
        publisher = opened(bus)
        push_one(publisher, make_keyed("a", b"1", 1, id=id_(1)))
        assert push_one(publisher, make_keyed("b", b"2", 2, id=id_(1))).outcome is REPEATED
        assert push_one(publisher, make_keyed("b", b"2", 3, "k:2", id=id_(1))).outcome is FULL

    def test_the_source_of_a_repeated_one_counts_as_published(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, id=id_(1)), make_keyed("a", b"1", 5, id=id_(1))])
        assert push_one(publisher, make_keyed("a", b"2", 5)).outcome is DUPLICATE

    def test_a_second_cluster_says_the_same_later(self, bus: Backend):
        publisher = opened(bus)
        first = [make_keyed("a", b"%d" % number, number, id=id_(number)) for number in range(5)]
        second = [
            make_keyed("a", b"%d" % number, 100 + number, id=id_(number), source=OTHER_SOURCE, time_ms=1000 + number) for number in range(8)
        ]
        assert {pushed.outcome for pushed in publisher.push(first)} == {FULL}
        assert [pushed.outcome for pushed in publisher.push(second)] == [REPEATED] * 5 + [FULL] * 3

    def test_a_repeated_one_that_is_stale_as_well_is_repeated(self, bus: Backend):
        publisher = opened(bus)
        push_one(publisher, make_keyed("a", b"1", 1, id=id_(1), version=2.0))
        assert push_one(publisher, make_keyed("a", b"1", 2, id=id_(1), version=2.0)).outcome is REPEATED
        assert push_one(publisher, make_keyed("a", b"1", 3, id=id_(2), version=1.0)).outcome is STALE

    def test_the_id_of_a_stale_one_was_not_seen(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, version=5.0), make_keyed("a", b"2", 2, version=1.0, id=id_(1))])
        assert push_one(publisher, make_keyed("a", b"3", 3, version=6.0, id=id_(1))).outcome is FULL

    def test_they_are_bounded_in_number(self, bus: Backend):
        publisher = opened(bus)
        keep = Keep(id_count=10)
        publisher.push([make_keyed("a", b"%d" % number, number, id=id_(number), keep=keep) for number in range(100)])
        known = bus.ids("k:1")
        assert known >= {id_(number) for number in range(90, 100)}
        assert len(known) < 10 + 16
        assert push_one(publisher, make_keyed("a", b"x", 100, id=id_(90), keep=keep)).outcome is REPEATED
        assert push_one(publisher, make_keyed("a", b"x", 101, id=id_(0), keep=keep)).outcome is FULL

    def test_they_are_bounded_in_time(self, bus: Backend):
        publisher = opened(bus)
        keep = Keep(id_window_ms=50)
        publisher.push(
            [make_keyed("a", b"%d" % number, number, id=id_(number), time_ms=1000 + 10 * number, keep=keep) for number in range(100)]
        )
        known = bus.ids("k:1")
        assert known >= {id_(number) for number in range(94, 100)}
        assert len(known) < 6 + 16

    def test_without_a_time_an_id_that_is_known_is_repeated(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, id=id_(1), time_ms=-1), make_keyed("a", b"2", 2, id=id_(2), time_ms=10**12)])
        assert push_one(publisher, make_keyed("a", b"3", 3, id=id_(2), time_ms=-1)).outcome is REPEATED


class TestMixed:
    def test_what_has_neither_does_not_forget_the_versions_and_ids_of_others(self, bus: Backend):
        publisher = opened(bus)
        publisher.push(
            [plain(make_keyed("", b"1", 1, version=5.0, id=id_(1)), "a:1"), make_push("a:1", b"2", 2), make_push("a:1", b"3", 3, base=b"2")]
        )
        assert [entry.base_offset for entry in bus.wire("a:1")] == [0, 0, 2]
        assert push_one(publisher, plain(make_keyed("", b"4", 4, version=4.0), "a:1")).outcome is STALE
        assert push_one(publisher, plain(make_keyed("", b"4", 5, id=id_(1)), "a:1")).outcome is REPEATED
        assert push_one(publisher, make_push("a:1", b"3", 6, only_changed=True)).outcome is UNCHANGED
        assert push_one(publisher, make_push("a:1", b"3", 6)).outcome is DUPLICATE

    def test_all_kinds_in_one_batch(self, bus: Backend):
        publisher = opened(bus)
        pushes = []
        for number in range(300):
            pushes += [
                make_push("a:1", b"p%d" % number, number, base=b"p%d" % (number - 1)),
                make_keyed("xyz"[number % 3], b"k%d" % number, number, base=b"k%d" % (number - 3)),
                plain(make_keyed("", b"v%d" % number, number, version=number + 0.5, base=b"v%d" % (number - 1)), "a:2"),
            ]
        answers = publisher.push(pushes)
        assert [pushed.offset for pushed in answers] == [number + 1 for number in range(300) for _ in range(3)]
        assert [pushed.outcome for pushed in answers[12:]] == [DELTA] * 888
        assert [entry.base_offset for entry in bus.wire("k:1")] == [0, 0, 0, *range(1, 298)]


class TestAgain:
    def test_a_push_whose_answer_was_lost_is_completed(self, bus: Backend):
        publisher = opened(bus)
        pushes = [make_keyed(f"{number % 7}", b"%d" % number, number, version=float(number), id=id_(number)) for number in range(300)]
        publisher.push(pushes[:150])
        bus.disconnect()
        with pytest.raises(BusUnavailableError):
            publisher.push(pushes)
        publisher.open()
        assert [pushed.outcome for pushed in publisher.push(pushes)] == [DUPLICATE] * 150 + [FULL] * 150
        assert [entry.body for entry in bus.wire("k:1")] == [b"%d" % number for number in range(300)]

    def test_a_new_incarnation_begins_with_no_keys_versions_or_ids(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, version=9.0, id=id_(1)), make_keyed("b", b"1", 2)])
        bus.flush()
        publisher.reopen(range(4))
        new = push_one(publisher, make_keyed("a", b"2", 3, version=1.0, id=id_(1), base=b"1"))
        assert (new.outcome, new.offset) == (FULL, 1)
        assert state(bus) == {"a": (1, b"2")}

    @pytest.mark.parametrize("first", ["keyed", "plain"])
    def test_of_an_old_snapshot_nothing_counts(self, mortal_bus: Backend, first: str):
        bus = mortal_bus
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, version=9.0, id=id_(1)), make_keyed("b", b"1", 2)])
        bus.save()
        bus.restore()
        with pytest.raises(BusUnavailableError):
            publisher.beat()
        publisher.open()
        if first == "plain":
            assert push_one(publisher, make_push("k:1", b"2", 3)).offset == 1
            assert (state(bus), bus.versions("k:1"), bus.ids("k:1")) == ({}, set(), set())
        else:
            assert push_one(publisher, make_keyed("a", b"2", 3, version=1.0, id=id_(1))).offset == 1
            assert state(bus) == {"a": (1, b"2")}


class TestRestore:
    def test_it_fills_an_empty_channel_key_by_key(self, bus: Backend):
        publisher = opened(bus)
        answers = publisher.push([make_keyed(key, b"1", number, restore=True, time_ms=50 - number) for number, key in enumerate("abc")])
        assert [pushed.outcome for pushed in answers] == [FULL] * 3
        assert set(state(bus)) == {"a", "b", "c"}

    def test_it_does_not_replace_what_is_as_new(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"new", 0, source=OTHER_SOURCE, time_ms=1000)])
        for time_ms in (1, 1000):
            assert push_one(publisher, make_keyed("a", b"old", 1, time_ms=time_ms, restore=True)).outcome is DUPLICATE
        assert push_one(publisher, make_keyed("b", b"old", 1, time_ms=1, restore=True)).outcome is FULL
        assert push_one(publisher, make_keyed("a", b"newer", 2, time_ms=1001, restore=True)).outcome is FULL

    def test_where_there_are_versions_they_decide(self, bus: Backend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"5", 0, source=OTHER_SOURCE, time_ms=1000, version=5.0)])
        assert push_one(publisher, make_keyed("a", b"4", 1, time_ms=2000, version=4.0, restore=True)).outcome is STALE
        assert push_one(publisher, make_keyed("a", b"6", 2, time_ms=500, version=6.0, restore=True)).outcome is FULL

    def test_a_deletion_removes_what_is_older_and_is_nothing_where_nothing_is(self, bus: Backend):
        publisher = opened(bus)
        publisher.push(
            [make_keyed("a", b"1", 0, source=OTHER_SOURCE, time_ms=1000), make_keyed("b", b"1", 1, source=OTHER_SOURCE, time_ms=3000)]
        )
        assert push_one(publisher, make_keyed("a", None, 1, time_ms=2000, restore=True)).outcome is FULL
        assert push_one(publisher, make_keyed("b", None, 2, time_ms=2000, restore=True)).outcome is DUPLICATE
        assert push_one(publisher, make_keyed("c", None, 3, time_ms=2000, restore=True)).outcome is UNCHANGED
        assert set(state(bus)) == {"b"}

    def test_an_id_that_is_put_back_is_known(self, bus: Backend):
        publisher = opened(bus)
        push_one(publisher, make_keyed("a", b"1", 1, id=id_(1), restore=True))
        assert push_one(publisher, make_keyed("a", b"1", 2, id=id_(1))).outcome is REPEATED
