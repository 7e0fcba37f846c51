"""Dead letters keep the record as it was, and tell of it what is needed to make it again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.draft import OnError, RecordProblem
from bridge.core.letter import (
    MAX_ERROR_CHARACTERS,
    Headers,
    Origin,
    Replay,
    make_letter,
    read_letter,
    replay_headers,
    replay_of,
)
from bridge.core.letter_topic import DeadLetterTopic
from bridge.core.record import Record

ORIGIN = Origin(version="1.2", group="g", cluster="c1")
headers = st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=20)), max_size=4).map(tuple)
items = st.integers(0, 2**31) | st.text(max_size=20)


def problem(*places: int | str, reason: str = "it is bad", count: int = 1) -> RecordProblem:
    return RecordProblem("route-1", OnError.DEAD_LETTER, f"t[3]@7: {reason}", reason, places, count, DeadLetterTopic())


def record(own: tuple[tuple[str, bytes | None], ...] = ()) -> Record:
    return Record("t", 3, 7, 1_700_000_000_000, b"k", b"v", own)


@given(headers, st.none() | st.binary(max_size=10), st.none() | st.binary(max_size=10), st.none() | st.integers(0, 2**40))
def test_the_record_is_unchanged_and_its_place_is_told(own: Headers, key: bytes | None, value: bytes | None, time_ms: int | None):
    before = Record("t", 3, 7, time_ms, key, value, own)
    letter = make_letter(before, [problem()], ORIGIN, 0.5)
    assert (letter.record, letter.topic, letter.value) == (before, "t.dead-letters", value)
    facts = read_letter(letter.headers)
    assert facts is not None
    assert facts.headers == own
    assert facts.identity == ("c1", "t", 3, 7, "route-1")
    assert (facts.timestamp_ms, facts.error, facts.group, facts.version) == (time_ms, "it is bad", "g", "1.2")
    assert facts.at is not None
    assert facts.at.timestamp() == 0.5


@given(st.lists(items, min_size=1, max_size=40, unique=True))
def test_its_items_are_listed_and_come_again_alone(places: list[int | str]):
    letter = make_letter(record(), [problem(item) for item in places], ORIGIN, 0)
    facts = read_letter(letter.headers)
    assert facts is not None
    assert facts.items == tuple(places)
    assert replay_of(replay_headers(facts, "l:0:1")) == Replay("g", "route-1", frozenset(places))


def test_where_not_all_items_are_known_the_whole_record_comes_again():
    letter = make_letter(record(), [problem(1), problem(reason="3 more", count=3)], ORIGIN, 0)
    facts = read_letter(letter.headers)
    assert facts is not None
    assert (facts.items, facts.failed) == (None, 4)
    assert replay_of(replay_headers(facts, "l:0:1")) == Replay("g", "route-1", None)


def test_what_is_too_much_to_be_listed_is_left_out():
    many = tuple(f"{'x' * 100}{number}" for number in range(500))
    facts = read_letter(make_letter(record(), [problem(*many, count=500)], ORIGIN, 0).headers)
    assert facts is not None
    assert (facts.items, facts.failed) == (None, 500)


def test_a_letter_of_a_replayed_record_tells_the_newest_place_and_is_replayed_with_one_set_of_headers():
    first = make_letter(record((("own", b"1"),)), [problem(4)], ORIGIN, 0)
    facts = read_letter(first.headers)
    assert facts is not None
    again = Record("t", 3, 99, None, b"k", b"v", replay_headers(facts, "l:0:1"))
    second = read_letter(make_letter(again, [problem(4)], ORIGIN, 0).headers)
    assert second is not None
    assert second.offset == 99
    names = [name for name, _ in replay_headers(second, "l:0:2")]
    assert names == ["own", "distributary.replay-of", "distributary.replay-group", "distributary.replay-route", "distributary.replay-items"]


def test_a_letter_that_became_a_letter_again_tells_of_the_last_time():
    first = make_letter(record(), [problem()], ORIGIN, 0)
    again = Record("t.dead-letters", 0, 1, None, b"k", b"v", first.headers)
    facts = read_letter(make_letter(again, [problem(reason="again")], ORIGIN, 0).headers)
    assert facts is not None
    assert (facts.topic, facts.error, facts.headers) == ("t.dead-letters", "again", first.headers)


def test_headers_are_bounded_and_always_utf8():
    letter = make_letter(record(), [problem(reason="\ud800" + "x" * 10_000)], ORIGIN, 0)
    facts = read_letter(letter.headers)
    assert facts is not None
    assert len(facts.error) == MAX_ERROR_CHARACTERS


def test_without_its_value_a_letter_still_tells_where_that_is():
    letter = make_letter(record(), [problem()], ORIGIN, 0).without_value()
    facts = read_letter(letter.headers)
    assert facts is not None
    assert (letter.value, facts.left_out, facts.source) == (None, 1, "t[3]@7")


@given(headers)
def test_headers_of_others_are_no_letter_and_no_replay(own: Headers):
    assert read_letter(own) is None
    assert replay_of(own) is None


@given(st.lists(st.tuples(st.sampled_from(["letter", "topic", "partition", "offset", "items", "at", "failed"]), st.binary(max_size=9))))
def test_broken_headers_never_raise(pairs: list[tuple[str, bytes]]):
    read_letter(tuple((f"distributary.{name}", value) for name, value in pairs))
