from __future__ import annotations

import json
from typing import Any

import pytest

from bridge.core.draft import id_of
from bridge.core.expression import EvaluationError, compile_expression
from bridge.core.marks import MAX_KEY_BYTES, Marked, Marks, Timestamp, TimeUnit, marker
from bridge.core.record import Record
from bridge.core.scope import Scope

ITEM = compile_expression("item")


def mark(marks: Marks, item: Any) -> Marked:
    scope = Scope(Record("t", 0, 0, 1_000, b"k", b"", (("source", b"gps"),)))
    scope.put_value(item)
    make = marker(marks)
    assert make is not None
    return make(scope)


def test_a_route_without_marks_costs_nothing():
    assert marker(Marks()) is None


@pytest.mark.parametrize(
    ("item", "key"), [("a b:é", "a b:é".encode()), (7, b"7"), (-1, b"-1"), ("x" * MAX_KEY_BYTES, b"x" * MAX_KEY_BYTES)]
)
def test_a_key_is_a_text_or_an_integer(item: Any, key: bytes):
    assert mark(Marks(key=ITEM), item).key == key


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (None, "`key` (item) gave null; a key is a text or an integer: filter such items out"),
        (1.5, "gave the number 1.5"),
        (True, "gave true"),
        ([1], "gave an array of 1"),
        ("", "gave a text of 0 bytes; a key has 1 to 1024"),
        ("x" * 1_025, "of 1025 bytes"),
        (2**53 + 1, "gave the number"),
        ("\ud800", "half of a surrogate pair"),
    ],
)
def test_what_is_no_key_is_told(item: Any, told: str):
    with pytest.raises(EvaluationError) as caught:
        mark(Marks(key=ITEM), item)
    assert told in str(caught.value)


def test_tags_are_one_line_of_json_texts():
    expressions = {"source": "headers.source", "n": "item.n", "ok": "item.ok", "no": "item.missing", "text": "item.text"}
    marks = Marks(tags=tuple((name, compile_expression(text)) for name, text in expressions.items()))
    tags = mark(marks, {"n": 1.5, "ok": True, "text": "two\nlines"}).tags
    assert json.loads(tags) == {"source": "gps", "n": "1.5", "ok": "true", "text": "two\nlines"}
    assert b"\n" not in tags


def test_without_any_value_there_are_no_tags():
    assert mark(Marks(tags=(("a", compile_expression("item.a")),)), {}).tags == b""


@pytest.mark.parametrize(
    ("item", "told"),
    [([1], "the tag a (item) gave an array of 1"), ("x" * 5_000, "bytes of JSON; at most 4096"), ("\ud800", "cannot be written as JSON")],
)
def test_what_is_no_tag_is_told(item: Any, told: str):
    with pytest.raises(EvaluationError) as caught:
        mark(Marks(tags=(("a", ITEM),)), item)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("item", "version"),
    [
        (7, 7.0),
        (-1.5, -1.5),
        (2**53, 2.0**53),
        ("2026-01-02T03:04:05Z", 1_767_323_045_000.0),
        ("2026-01-02T04:04:05.25+01:00", 1_767_323_045_250.0),
        ("2026-01-02T03:04:05", 1_767_323_045_000.0),
        ("2026-01-02", 1_767_312_000_000.0),
    ],
)
def test_a_version_is_a_number_or_a_time(item: Any, version: float):
    assert mark(Marks(version=ITEM), item).version == version


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (None, "gave null; a version is a number or an ISO 8601 time"),
        (True, "gave true"),
        ("17", "which is no time; a number in a text is read by to_number()"),
        (float("inf"), "gave the number inf"),
        (2**53 + 1, "cannot be told from the next"),
        (10**400, "cannot be told from the next"),
        ("20260102", "which is no time"),
    ],
)
def test_what_is_no_version_is_told(item: Any, told: str):
    with pytest.raises(EvaluationError) as caught:
        mark(Marks(version=ITEM), item)
    assert told in str(caught.value)


def test_an_id_is_made_of_any_value_that_says_something():
    assert mark(Marks(id=ITEM), "order-7").id == id_of(b"order-7")
    assert mark(Marks(id=ITEM), 7).id == mark(Marks(id=ITEM), "7").id
    assert mark(Marks(id=ITEM), ["a", 1]).id == id_of(b'["a",1]')
    for item in (None, "", True):
        with pytest.raises(EvaluationError, match="which identifies nothing"):
            mark(Marks(id=ITEM), item)


@pytest.mark.parametrize(
    ("unit", "item", "time_ms"),
    [
        (TimeUnit.MILLISECONDS, 1_700_000_000_123, 1_700_000_000_123),
        (TimeUnit.MILLISECONDS, 5.9, 5),
        (TimeUnit.SECONDS, 1_700_000_000, 1_700_000_000_000),
        (TimeUnit.SECONDS, 1.25, 1_250),
        (TimeUnit.ISO, "1970-01-01T00:00:01Z", 1_000),
        (TimeUnit.ISO, None, None),
    ],
)
def test_a_time_is_read_in_the_unit_that_the_rules_say(unit: TimeUnit, item: Any, time_ms: int | None):
    assert mark(Marks(timestamp=Timestamp(ITEM, unit)), item).time_ms == time_ms


@pytest.mark.parametrize(
    ("unit", "item"),
    [
        (TimeUnit.MILLISECONDS, "5"),
        (TimeUnit.MILLISECONDS, -1),
        (TimeUnit.MILLISECONDS, True),
        (TimeUnit.MILLISECONDS, float("nan")),
        (TimeUnit.SECONDS, 1_700_000_000_000),
        (TimeUnit.ISO, 5),
        (TimeUnit.ISO, "yesterday"),
    ],
)
def test_what_is_no_time_in_that_unit_is_told(unit: TimeUnit, item: Any):
    with pytest.raises(EvaluationError, match=f"it says {unit.value}: "):
        mark(Marks(timestamp=Timestamp(ITEM, unit)), item)


def test_without_the_value_only_what_needs_none_is_marked():
    key, item = compile_expression("key"), compile_expression("item.v")
    marks = Marks(key, (("a", key), ("b", item)), Timestamp(item, TimeUnit.SECONDS), item, key)
    assert marks.without_value == Marks(key, (("a", key),), None, None, key)
