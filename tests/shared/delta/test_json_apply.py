from __future__ import annotations

import copy
from typing import Any

import jsonpatch
import jsonpointer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.delta.json_apply import apply
from shared.errors import DeltaError
from tests.shared.delta.strategies import json_values, keys, scalars


@pytest.mark.parametrize(
    ("value", "operation", "expected"),
    [
        # RFC 6902, appendix A
        ({"foo": "bar"}, {"op": "add", "path": "/baz", "value": "qux"}, {"foo": "bar", "baz": "qux"}),
        ({"foo": ["bar", "baz"]}, {"op": "add", "path": "/foo/1", "value": "qux"}, {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, {"op": "remove", "path": "/baz"}, {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, {"op": "remove", "path": "/foo/1"}, {"foo": ["bar", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, {"op": "replace", "path": "/baz", "value": "boo"}, {"baz": "boo", "foo": "bar"}),
        ({"a": {"x": 1}, "b": {}}, {"op": "move", "from": "/a/x", "path": "/b/y"}, {"a": {}, "b": {"y": 1}}),
        ({"foo": [1, 2, 3, 4]}, {"op": "move", "from": "/foo/1", "path": "/foo/3"}, {"foo": [1, 3, 4, 2]}),
        ({"foo": ["bar"]}, {"op": "add", "path": "/foo/-", "value": ["abc"]}, {"foo": ["bar", ["abc"]]}),
        ({"a": [1]}, {"op": "copy", "from": "/a", "path": "/b"}, {"a": [1], "b": [1]}),
        ({"a": 1}, {"op": "test", "path": "/a", "value": 1.0}, {"a": 1}),
        # Keys that need escapes, and keys that look like something else
        ({"~": 1, "/": 2}, {"op": "replace", "path": "/~0", "value": 3}, {"~": 3, "/": 2}),
        ({"~": 1, "/": 2}, {"op": "replace", "path": "/~1", "value": 3}, {"~": 1, "/": 3}),
        ({"~1": 1}, {"op": "remove", "path": "/~01"}, {}),
        ({"": {"": 1}}, {"op": "replace", "path": "//", "value": 2}, {"": {"": 2}}),
        ({"0": 1, "-": 2}, {"op": "remove", "path": "/-"}, {"0": 1}),
        # The whole document
        ({"a": 1}, {"op": "replace", "path": "", "value": [1]}, [1]),
        (1, {"op": "add", "path": "", "value": None}, None),
        ({"a": [1]}, {"op": "copy", "from": "/a", "path": ""}, [1]),
        ({"a": [1]}, {"op": "move", "from": "/a", "path": ""}, [1]),
        ({"a": 1}, {"op": "move", "from": "/a", "path": "/a"}, {"a": 1}),
        # Members that RFC 6902 does not define are ignored.
        ({"a": 1}, {"op": "remove", "path": "/a", "note": "x"}, {}),
    ],
)
def test_each_operation(value: Any, operation: dict[str, Any], expected: Any):
    assert apply(value, [operation]) == expected


@pytest.mark.parametrize(
    ("value", "patch"),
    [
        ({}, {"op": "remove", "path": "/a"}),
        ({}, [{"path": "/a"}]),
        ({}, [{"op": "increment", "path": "/a"}]),
        ({}, [{"op": "add", "path": 1, "value": 1}]),
        ({}, [{"op": "add", "path": "/a"}]),
        ({}, [{"op": "add", "path": "a", "value": 1}]),
        ({}, [{"op": "add", "path": "/~2", "value": 1}]),
        ({}, [{"op": "add", "path": "/a/b", "value": 1}]),
        ({"a": 1}, [{"op": "add", "path": "/a/b", "value": 1}]),
        ({"a": "xyz"}, [{"op": "replace", "path": "/a/0", "value": 1}]),
        ({}, [{"op": "remove", "path": "/a"}]),
        ({}, [{"op": "remove", "path": ""}]),
        ({}, [{"op": "replace", "path": "/a", "value": 1}]),
        ([1], [{"op": "replace", "path": "/1", "value": 1}]),
        ([1], [{"op": "replace", "path": "/-", "value": 1}]),
        ([1], [{"op": "replace", "path": "/-1", "value": 1}]),
        ([1], [{"op": "add", "path": "/2", "value": 1}]),
        ([1, 2], [{"op": "remove", "path": "/01"}]),
        ([1, 2], [{"op": "remove", "path": "/\u0661"}]),  # a digit, and not ASCII
        ([1, 2], [{"op": "remove", "path": "/" + "9" * 5000}]),
        ({"a": 1}, [{"op": "move", "path": "/b"}]),
        ({"a": {}}, [{"op": "move", "from": "/a", "path": "/a/b"}]),
        ([[1], [2]], [{"op": "move", "from": "/0", "path": "/0/0"}]),
        ({"a": 1}, [{"op": "test", "path": "/a", "value": True}]),
        ({"a": [0]}, [{"op": "test", "path": "/a", "value": [False]}]),
        ({"a": 1}, [{"op": "test", "path": "/a", "value": 2}]),
        ([], [{"op": "add", "path": "/0", "value": 1}] * 10_001),
    ],
)
def test_what_does_not_fit_is_refused(value: Any, patch: Any):
    with pytest.raises(DeltaError):
        apply(value, patch)


def test_copies_are_values_of_their_own():
    assert apply({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "add", "path": "/b/-", "value": 2}]) == {
        "a": [1],
        "b": [1, 2],
    }


def test_copies_cannot_double_without_end():
    doubling = [{"op": "copy", "from": "", "path": "/a"}, {"op": "copy", "from": "", "path": "/b"}] * 40
    with pytest.raises(DeltaError, match="too much"):
        apply({"x": "0123456789"}, doubling)


_POINTERS = st.lists(st.one_of(keys, st.sampled_from(["0", "1", "2", "-"])), max_size=3).map(
    lambda steps: "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)
)
_OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy"]), "path": _POINTERS, "from": _POINTERS, "value": json_values}
)


@st.composite
def _values_with_known_keys(draw: st.DrawFn) -> Any:
    inner = st.dictionaries(keys, scalars, max_size=4) | st.lists(scalars, max_size=3)
    return draw(st.dictionaries(keys, inner, min_size=2, max_size=6) | st.lists(inner, max_size=3))


def _outcome(function: Any, value: Any, patch: Any) -> Any:
    try:
        return function(copy.deepcopy(value), copy.deepcopy(patch))
    except (DeltaError, jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError):
        return "refused"


@settings(derandomize=True, deadline=None, max_examples=200)
@given(value=_values_with_known_keys(), operation=_OPERATIONS)
def test_it_does_what_jsonpatch_does(value: Any, operation: dict[str, Any]):
    ours = _outcome(apply, value, [operation])
    theirs = _outcome(jsonpatch.apply_patch, value, [operation])
    assert repr(ours) == repr(theirs)
