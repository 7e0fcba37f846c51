from __future__ import annotations

import copy
from typing import Any

import jsonpatch
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.delta.json_apply import apply
from shared.delta.json_diff import diff
from tests.shared.delta.strategies import json_values

thorough = settings(derandomize=True, deadline=None, max_examples=150)


def as_json(value: Any, *, ordered: bool) -> bytes:
    """Text that is equal where values are, types included."""
    return msgspec.json.encode(value, order=None if ordered else "deterministic")


@st.composite
def edited_pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    """A value, and another one that shares most of it."""
    base = draw(json_values)
    target = copy.deepcopy(base)
    for _ in range(draw(st.integers(0, 3))):
        place: Any = {"": target}
        key: Any = ""
        while isinstance(place[key], (dict, list)) and place[key] and draw(st.booleans()):
            place = place[key]
            key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if draw(st.booleans()) and isinstance(place, (dict, list)) and place is not target and "" not in place:
            del place[key]
        else:
            place[key] = draw(json_values)
            if "" in place and len(place) == 1 and key == "":
                target = place[""]
    return base, target


@thorough
@given(pair=st.one_of(edited_pairs(), st.tuples(json_values, json_values)), ordered=st.booleans())
def test_a_patch_gives_the_target(pair: tuple[Any, Any], ordered: bool):
    base, target = pair
    before = repr(pair)
    patch = diff(base, target, ordered=ordered)
    assert repr(pair) == before
    made = apply(copy.deepcopy(base), copy.deepcopy(patch))
    assert as_json(made, ordered=ordered).replace(b"-0.0", b"0.0") == as_json(target, ordered=ordered).replace(b"-0.0", b"0.0")


@thorough
@given(pair=edited_pairs(), ordered=st.booleans())
def test_jsonpatch_applies_our_patches(pair: tuple[Any, Any], ordered: bool):
    base, target = pair
    made = jsonpatch.apply_patch(base, diff(base, target, ordered=ordered))
    assert as_json(made, ordered=ordered).replace(b"-0.0", b"0.0") == as_json(target, ordered=ordered).replace(b"-0.0", b"0.0")


@thorough
@given(value=json_values)
def test_equal_values_need_no_operation(value: Any):
    assert diff(value, copy.deepcopy(value)) == []


@pytest.mark.parametrize(("old", "new"), [(1, True), (True, 1), (1, 1.0), (1.0, 1), (0, False), (None, False), ("1", 1), ([], {})])
def test_types_count(old: Any, new: Any):
    assert diff({"a": old}, {"a": new}) == [{"op": "replace", "path": "/a", "value": new}]
    assert diff({"a": [old]}, {"a": [new]}) == [{"op": "replace", "path": "/a/0", "value": new}]
    # Also where arrays differ in length and the heads are compared as a whole.
    made = apply([old, 5], diff([old, 5], [new, 5, 6]))
    assert repr(made) == repr([new, 5, 6])


def test_only_what_changed_is_named():
    base = {"id": "1430", "position": {"lat": 41.7, "long": -72.6}, "trips": [{"a": 1}, {"a": 2}], "old": 1}
    target = {"id": "1430", "position": {"lat": 41.8, "long": -72.6}, "trips": [{"a": 1}, {"a": 3}], "new": 2}
    assert diff(base, target) == [
        {"op": "remove", "path": "/old"},
        {"op": "replace", "path": "/position/lat", "value": 41.8},
        {"op": "replace", "path": "/trips/1/a", "value": 3},
        {"op": "add", "path": "/new", "value": 2},
    ]


def test_keys_are_escaped():
    assert diff({"a/b~c": 1, "": {"/": 1}}, {"a/b~c": 2, "": {}}) == [
        {"op": "replace", "path": "/a~1b~0c", "value": 2},
        {"op": "remove", "path": "//~1"},
    ]


def test_the_root_is_replaced_where_it_changes_its_type():
    assert diff({"a": 1}, [1]) == [{"op": "replace", "path": "", "value": [1]}]
    assert diff(1, 2) == [{"op": "replace", "path": "", "value": 2}]


def test_items_put_in_or_taken_out_in_one_place():
    base = [{"id": index} for index in range(200)]
    new = {"id": "new"}
    assert diff(base, [*base[:70], new, new, *base[70:]]) == [{"op": "add", "path": f"/{index}", "value": new} for index in (70, 71)]
    assert diff(base, base[:10] + base[13:]) == [{"op": "remove", "path": "/10"}] * 3
    assert diff({"list": base}, {"list": base[1:]}) == [{"op": "remove", "path": "/list/0"}]


def test_items_that_repeat_are_not_counted_twice():
    assert diff([1, 1], [1, 1, 1]) == [{"op": "add", "path": "/2", "value": 1}]
    assert diff([1, 1, 1], [1, 1]) == [{"op": "remove", "path": "/2"}]


def test_arrays_of_other_lengths_are_searched_behind_their_common_head():
    base = {"list": [1, 2, {"a": 1, "b": "x" * 50}, 4, 5]}
    target = {"list": [1, 2, {"a": 2, "b": "x" * 50}, 5]}
    patch = diff(base, target)
    assert apply(base, copy.deepcopy(patch)) == target
    assert all(operation["path"].startswith("/list/2") or operation["path"].startswith("/list/3") for operation in patch)


def test_what_jsonpatch_finds_is_moved_to_its_place(monkeypatch: pytest.MonkeyPatch):
    found = [{"op": "remove", "path": "/1"}, {"op": "move", "from": "/1/x", "path": "/0"}, {"op": "remove", "path": "/2"}]
    monkeypatch.setattr(jsonpatch, "make_patch", lambda *_: jsonpatch.JsonPatch(found))
    base, target = {"a/b": [0, 5, 4, {"x": 7}]}, {"a/b": [0, 7, 5]}
    assert diff(base, target) == [
        {"op": "remove", "path": "/a~1b/2"},
        {"op": "move", "from": "/a~1b/2/x", "path": "/a~1b/1"},
        {"op": "remove", "path": "/a~1b/3"},
    ]
    assert apply(base, diff(base, target)) == target


def test_a_search_that_costs_too_much_replaces_the_array(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jsonpatch, "make_patch", lambda *_: pytest.fail("jsonpatch was asked"))
    base, target = list(range(1000)), list(range(2000, 0, -3))
    assert diff({"a": base}, {"a": target}) == [{"op": "replace", "path": "/a", "value": target}]
    long = ["x" * 10_000, "y" * 10_000]
    assert diff(long, ["z", *long, "z"]) == [{"op": "replace", "path": "", "value": ["z", *long, "z"]}]


def test_what_jsonpatch_gets_wrong_is_not_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jsonpatch, "make_patch", lambda *_: jsonpatch.JsonPatch([{"op": "remove", "path": "/0"}]))
    assert diff([1, 2, 3], [4, 5]) == [{"op": "replace", "path": "", "value": [4, 5]}]


def test_the_order_of_keys():
    base, target = {"x": {"a": 1, "b": 2}}, {"x": {"b": 2, "a": 1}}
    assert diff(base, target) == []
    assert diff(base, target, ordered=True) == [{"op": "replace", "path": "/x", "value": {"b": 2, "a": 1}}]
    # A key that is appended keeps the order of the others.
    assert diff(base, {"x": {"a": 1, "b": 2, "c": 3}}, ordered=True) == [{"op": "add", "path": "/x/c", "value": 3}]


def test_values_that_nest_too_deep_for_a_walk():
    base: Any = 1
    target: Any = 2
    for _ in range(5000):
        base, target = [base], [target]
    patch = diff(base, target)
    assert patch[0]["path"] == ""
    assert patch[0]["value"] is target
