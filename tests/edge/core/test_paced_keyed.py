"""Keyed channels at a subscriber's pace: pages of the state, the newest of each key, deltas from what the client holds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import edge.core.keyed
import edge.core.paced_keyed
from edge.core.delivery import Delivery, Mode
from edge.core.hub import Channel
from edge.core.paced_keyed import KeyedPaced
from edge.core.stream import ChannelStream, Gap, Missed
from edge.core.variant import Dialect
from shared.envelope import Envelope
from shared.publication import DeltaFormat
from tests.edge.builders import LABEL, deletion, keyed, step, value, variant

CONFLATE = Delivery(Mode.CONFLATE)
PATCHES = variant(Dialect.JSON, DeltaFormat.JSON_PATCH)


def channel_of(*envelopes: Envelope, ring: int = 100) -> Channel:
    channel = Channel(LABEL, ChannelStream(max_items=ring, max_bytes=100_000))
    put(channel, *envelopes)
    return channel


def put(channel: Channel, *envelopes: Envelope) -> None:
    for envelope in envelopes:
        step(channel.stream, envelope)


def read(frames: bytes) -> list[dict[str, Any]]:
    """JSON objects without framing."""
    return [msgspec.json.decode(frame) for frame in frames.replace(b"}{", b"}\n{").split(b"\n") if frame]


def turn(subscription: KeyedPaced, now: float = 1.0, *, is_writable: bool = True) -> list[Any]:
    """What one turn sends: offsets, and the types of other frames."""
    frames = read(subscription.advance(now, is_writable=is_writable).frames)
    return [frame["offset"] if frame["type"] == "publication" else frame["type"] for frame in frames]


def pages_of(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(edge.core.paced_keyed, "MOST_AT_ONCE", count)
    monkeypatch.setattr(edge.core.keyed, "ENTRIES_A_PAGE", count)


class TestTheStart:
    def test_the_state_then_the_mark(self):
        channel = channel_of(keyed(1, "a"), keyed(2, "b"), keyed(3, "a"))
        frames = read(KeyedPaced(channel, variant(), Delivery(), 0).advance(1, is_writable=True).frames)
        assert [(frame["key"], frame["offset"]) for frame in frames[:-1]] == [("b", 2), ("a", 3)]
        assert frames[-1] == {"type": "caught_up", "number": 17, "epoch": frames[0]["epoch"], "offset": 3}

    def test_comes_in_pages_only_while_the_socket_takes_them(self, monkeypatch: pytest.MonkeyPatch):
        pages_of(monkeypatch, 2)
        channel = channel_of(*(keyed(number, str(number)) for number in range(1, 6)))
        subscription = KeyedPaced(channel, variant(), Delivery(), 0)
        assert turn(subscription) == [1, 2]
        assert turn(subscription, is_writable=False) == []
        assert turn(subscription) == [3, 4]
        assert turn(subscription) == [5, "caught_up"]

    def test_pages_are_bounded_in_bytes_too(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(edge.core.paced_keyed, "PAGE_BYTES", 250)
        channel = channel_of(*(keyed(number, str(number), value(number, 100)) for number in range(1, 5)))
        assert turn(KeyedPaced(channel, variant(), Delivery(), 0)) == [1, 2]

    def test_a_key_that_changes_while_pages_go_out_comes_once_more_and_the_mark_after_it(self, monkeypatch: pytest.MonkeyPatch):
        pages_of(monkeypatch, 2)
        channel = channel_of(*(keyed(number, str(number)) for number in range(1, 4)))
        subscription = KeyedPaced(channel, variant(), Delivery(), 0)
        assert turn(subscription) == [1, 2]
        put(channel, keyed(4, "1"), deletion(5, "2"))
        assert turn(subscription) == [3]
        assert turn(subscription) == [4, 5, "caught_up"]

    def test_of_a_large_state_what_changes_while_it_goes_out_comes_again_and_whole(self, monkeypatch: pytest.MonkeyPatch):
        pages_of(monkeypatch, 100)
        channel = channel_of(*(keyed(number, str(number), value(number, 200)) for number in range(1, 251)))
        subscription = KeyedPaced(channel, PATCHES, Delivery(), 0)
        assert turn(subscription) == list(range(1, 101))
        put(channel, keyed(251, "7", value(251, 200)), keyed(252, "200", value(252, 200)))
        rest: list[dict[str, Any]] = []
        while not rest or rest[-1]["type"] != "caught_up":
            rest += read(subscription.advance(1.0, is_writable=True).frames)
        assert [frame["offset"] for frame in rest[:-1]] == list(range(101, 253))
        assert "delta" not in rest[-3], "what it holds of this key was not remembered"
        put(channel, keyed(253, "7", value(253, 200)))
        assert subscription.advance(1.0, is_writable=True).frames.count(b"delta") == 1

    def test_keys_deleted_before_are_not_mentioned(self):
        channel = channel_of(keyed(1, "a"), deletion(2, "a"), keyed(3, "b"), deletion(4, "c"))
        assert turn(KeyedPaced(channel, variant(), Delivery(), 0)) == [3, "caught_up"]

    def test_an_empty_state_is_told(self):
        channel = channel_of(keyed(1, "a"), deletion(2, "a"))
        assert turn(KeyedPaced(channel, variant(), Delivery(), 0)) == ["caught_up"]

    def test_in_mode_ack_the_window_bounds_it(self):
        channel = channel_of(*(keyed(number, str(number)) for number in range(1, 5)))
        subscription = KeyedPaced(channel, variant(), Delivery(Mode.ACK, 0, 2), 0)
        assert turn(subscription) == [1, 2]
        assert turn(subscription) == []
        subscription.acknowledge(2)
        assert turn(subscription) == [3, 4, "caught_up"]


class TestFrames:
    def test_what_is_kept_of_them_takes_no_more_than_the_state_and_everybody_gets_all_the_same(self):
        channel = channel_of(*(keyed(offset, f"k{offset:03}", b'"' + b"x" * 500 + b'"') for offset in range(1, 51)))
        state = channel.stream.keyed
        assert state is not None
        dialects = (Dialect.JSON, Dialect.JSON_NAMED, Dialect.MSGPACK)
        for dialect in (*dialects, *dialects):
            subscription = KeyedPaced(channel, variant(dialect), Delivery(), 0)
            frames = subscription.advance(1.0, is_writable=True).frames
            assert frames.count(b"x" * 500) == 50
        kept = sum(len(frame) for item in state.after(0, 100) for frame in (item.frames or {}).values())
        assert 50 * 500 < kept < state.bytes_held + 1_000
        channel.stream.forget_frames()
        assert [item.frames for item in state.after(0, 100)] == [None] * 50


class TestConflation:
    def test_the_newest_of_each_key_in_ascending_order(self):
        channel = channel_of(keyed(1, "a"), keyed(2, "b"))
        subscription = KeyedPaced(channel, variant(), CONFLATE, 0)
        turn(subscription)
        put(channel, keyed(3, "b"), keyed(4, "a"), keyed(5, "b"))
        assert turn(subscription) == [4, 5]

    def test_jumps_by_one_delta_from_what_the_client_holds_of_the_key(self):
        pad = b"x" * 200
        channel = channel_of(keyed(1, "a", b'{"n":1,"p":"%b"}' % pad), keyed(2, "b", b'{"n":2,"p":"%b"}' % pad))
        subscription = KeyedPaced(channel, PATCHES, CONFLATE, 0)
        turn(subscription)
        put(channel, *(keyed(number, "ab"[number % 2], b'{"n":%d,"p":"%b"}' % (number, pad)) for number in range(3, 7)))
        frames = read(subscription.advance(1, is_writable=True).frames)
        assert [(frame["offset"], frame["base"], frame["data"][0]["value"]) for frame in frames] == [(5, 2, 5), (6, 1, 6)]

    def test_what_the_client_holds_is_known_within_a_sweep_of_many_pages(self, monkeypatch: pytest.MonkeyPatch):
        pages_of(monkeypatch, 1)
        pad = b"x" * 200
        channel = channel_of(*(keyed(number, "abc"[number - 1], b'{"n":%d,"p":"%b"}' % (number, pad)) for number in range(1, 4)))
        subscription = KeyedPaced(channel, PATCHES, CONFLATE, 0)
        assert turn(subscription) == [1]
        put(channel, keyed(4, "b", b'{"n":4,"p":"%b"}' % pad), keyed(5, "a", b'{"n":5,"p":"%b"}' % pad))
        seen: list[tuple[int, int | None]] = []
        while frames := read(subscription.advance(1, is_writable=True).frames):
            seen += [(frame["offset"], frame.get("base")) for frame in frames if frame["type"] == "publication"]
        # "b" was kept for this sweep, and so is what the newest value builds on; of "c" the client held nothing.
        assert seen in ([(3, None), (4, None), (5, 1)], [(2, None), (3, None), (4, 2), (5, 1)])

    def test_a_key_that_changes_all_the_time_is_not_left_out(self, monkeypatch: pytest.MonkeyPatch):
        pages_of(monkeypatch, 1)
        monkeypatch.setattr(edge.core.paced_keyed, "PINNED", 1)
        channel = channel_of(*(keyed(number, f"calm {number}") for number in range(1, 9)), keyed(9, "hot"))
        subscription = KeyedPaced(channel, variant(), CONFLATE, 0)
        newest, hot = 9, 0
        for _ in range(40):
            frames = read(subscription.advance(1, is_writable=True).frames)
            hot += sum(frame.get("key") == "hot" for frame in frames)
            newest += 2
            put(channel, keyed(newest - 1, f"calm {newest // 2 % 8 + 1}"), keyed(newest, "hot"))
        assert hot >= 3

    def test_the_rate_bounds_how_often_the_changed_keys_are_sent(self):
        channel = channel_of(keyed(1, "a"), keyed(2, "b"))
        subscription = KeyedPaced(channel, variant(), Delivery(Mode.CONFLATE, 2.0), 0)
        assert turn(subscription, 10.0) == [1, 2, "caught_up"]
        put(channel, keyed(3, "a"), keyed(4, "b"), keyed(5, "a"))
        assert subscription.advance(10.1, is_writable=True).wake_at == 10.5
        assert turn(subscription, 10.5) == [4, 5]

    def test_the_window_counts_sweeps(self, monkeypatch: pytest.MonkeyPatch):
        pages_of(monkeypatch, 2)
        channel = channel_of(*(keyed(number, str(number)) for number in range(1, 4)))
        subscription = KeyedPaced(channel, variant(), Delivery(Mode.CONFLATE, 0, 1), 0)
        assert [turn(subscription), turn(subscription)] == [[1, 2], [3, "caught_up"]]
        put(channel, keyed(4, "1"), keyed(5, "2"))
        assert turn(subscription) == []
        subscription.acknowledge(2)
        assert turn(subscription) == []
        subscription.acknowledge(3)
        assert turn(subscription) == [4, 5]

    def test_one_that_missed_a_deletion_that_is_forgotten_begins_anew(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(edge.core.keyed, "MAX_DELETIONS", 1)
        channel = channel_of(keyed(1, "a"), keyed(2, "b"), keyed(3, "c"), ring=1)
        subscription = KeyedPaced(channel, variant(), CONFLATE, 0)
        turn(subscription)
        put(channel, deletion(4, "a"), deletion(5, "b"))
        assert turn(subscription) == ["gap"]
        assert turn(subscription) == [3, "caught_up"]


class TestComingBack:
    def test_only_what_changed_each_key_whole_at_first(self):
        pad = b"x" * 200
        channel = channel_of(*(keyed(number, "abc"[number % 3], b'{"n":%d,"p":"%b"}' % (number, pad)) for number in range(1, 7)))
        subscription = KeyedPaced(channel, PATCHES, CONFLATE, 4)
        frames = read(subscription.advance(1, is_writable=True).frames)
        assert [(frame["offset"], frame.get("base")) for frame in frames] == [(5, None), (6, None), (6, None)]
        put(channel, keyed(7, "a", b'{"n":7,"p":"%b"}' % pad), keyed(8, "b", b'{"n":8,"p":"%b"}' % pad))
        frames = read(subscription.advance(1, is_writable=True).frames)
        assert [(frame["offset"], frame.get("base")) for frame in frames] == [(7, 6), (8, None)]

    def test_in_mode_queue_every_publication_where_the_ring_has_them(self):
        channel = channel_of(*(keyed(number, "a") for number in range(1, 7)))
        assert turn(KeyedPaced(channel, variant(), Delivery(), 3)) == [4, 5, 6, "caught_up"]

    def test_in_mode_queue_the_newest_of_each_key_where_it_does_not(self):
        channel = channel_of(*(keyed(number, "ab"[number % 2]) for number in range(1, 9)), ring=2)
        assert turn(KeyedPaced(channel, variant(), Delivery(), 3)) == [7, 8, "caught_up"]

    def test_in_mode_ack_the_history_is_asked(self):
        channel = channel_of(*(keyed(number, "a") for number in range(1, 9)), ring=2)
        subscription = KeyedPaced(channel, variant(), Delivery(Mode.ACK, 0, 4), 3)
        assert subscription.advance(1, is_writable=True).page_after == 3

    def test_a_gap_begins_anew(self):
        channel = channel_of(keyed(1, "a"), keyed(2, "b"))
        subscription = KeyedPaced(channel, variant(), CONFLATE, 0)
        turn(subscription)
        assert b'"gap"' in subscription.tell_gap(Gap("history_trimmed", Missed(3, 5)))
        assert turn(subscription) == [1, 2, "caught_up"]
