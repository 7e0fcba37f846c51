from __future__ import annotations

import copy
from typing import Any

import jsonpatch
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.delta import json_patch
from shared.errors import DeltaError
from tests.shared.delta.strategies import json_values

thorough = settings(derandomize=True, deadline=None, max_examples=100)

BASE = b'{"id":"1430","lat":41.76,"stops":[1,2,3]}'
TARGET = b'{"id":"1430","lat":41.77,"stops":[1,3]}'


def test_a_patch_and_back():
    patch = json_patch.encode(BASE, TARGET)
    assert patch is not None
    assert msgspec.json.decode(patch) == [
        {"op": "replace", "path": "/lat", "value": 41.77},
        {"op": "remove", "path": "/stops/1"},
    ]
    assert json_patch.decode(BASE, patch, max_size=len(TARGET)) == TARGET


@thorough
@given(base=json_values, target=json_values)
def test_compact_json_has_an_exact_patch(base: Any, target: Any):
    old, new = msgspec.json.encode(base), msgspec.json.encode(target)
    patch = json_patch.encode(old, new)
    if patch is None:
        # 0.0 and -0.0 are equal numbers in other bytes.
        assert old.replace(b"-0.0", b"0.0") != old or new.replace(b"-0.0", b"0.0") != new
        return
    assert json_patch.decode(old, patch, max_size=len(new)) == new
    assert msgspec.json.encode(jsonpatch.apply_patch(copy.deepcopy(base), msgspec.json.decode(patch))) == new


@pytest.mark.parametrize(
    "target",
    [
        b'{"id": "1430"}',  # white space
        b'{"id":"1430"}\n',
        b'{"id":"\\u0031430"}',  # an escape that need not be
        b'{"lat":41.760}',
        b'{"lat":4.1e1}',
        b'{"id":"x","id":"1430"}',  # a key twice
        b'{"lat":-0}',
        b"not JSON",
        b"",
        b"\xff",
        b'"\\ud800"',
        b"1e999",
        b"[" * 100_000,
    ],
)
def test_no_patch_gives_these_bytes(target: bytes):
    assert json_patch.encode(BASE, target) is None


def test_the_base_may_be_any_json():
    loose = b' { "id" : "1430", "lat" : 4.10 } '
    patch = json_patch.encode(loose, b'{"id":"1430","lat":4.1,"x":[]}')
    assert patch == b'[{"op":"add","path":"/x","value":[]}]'
    assert json_patch.decode(loose, patch, max_size=100) == b'{"id":"1430","lat":4.1,"x":[]}'
    assert json_patch.encode(b"not JSON", TARGET) is None


def test_a_key_in_the_middle_keeps_its_place():
    patch = json_patch.encode(b'{"trip":{"a":1,"c":3},"id":1}', b'{"trip":{"a":1,"b":2,"c":3},"id":1}')
    assert patch == b'[{"op":"replace","path":"/trip","value":{"a":1,"b":2,"c":3}}]'


def test_where_the_value_is_enough():
    assert json_patch.encode_value(b'{"a": 1, "b": 2}', b'{ "b": 3, "a": 1 }') == b'[{"op":"replace","path":"/b","value":3}]'
    assert json_patch.encode_value(b"{}", b"{ }") == b"[]"
    assert json_patch.encode_value(b"{}", b"no") is None
    assert json_patch.encode_value(b"no", b"{}") is None
    assert json_patch.encode_value(b"1", b"[" * 100_000) is None


@thorough
@given(base=json_values, target=json_values)
def test_a_patch_of_values_gives_an_equal_value(base: Any, target: Any):
    patch = json_patch.encode_value(msgspec.json.encode(base), msgspec.json.encode(target))
    assert patch is not None
    made = json_patch.apply(copy.deepcopy(base), msgspec.json.decode(patch))
    assert made == target
    assert json_patch.diff(made, target) == []


@pytest.mark.parametrize(
    ("base", "patch"),
    [
        (BASE, b""),
        (BASE, b"{}"),
        (BASE, b"[1]"),
        (BASE, b'[{"op":"add"}]'),
        (BASE, b'[{"op":"remove","path":"/lon"}]'),
        (BASE, b'[{"op":"add","path":"/x","value":"\xff"}]'),
        (BASE, b"[" * 100_000),
        (b"not JSON", b"[]"),
        (b"\xff", b"[]"),
    ],
)
def test_damaged_patches_are_refused(base: bytes, patch: bytes):
    with pytest.raises(DeltaError):
        json_patch.decode(base, patch, max_size=1000)


def test_the_result_is_bounded():
    patch = json_patch.encode(BASE, TARGET)
    assert patch is not None
    with pytest.raises(DeltaError, match=f"{len(TARGET) - 1} are the limit"):
        json_patch.decode(BASE, patch, max_size=len(TARGET) - 1)
    doubling = b"[" + b",".join([b'{"op":"copy","from":"","path":"/a"},{"op":"copy","from":"","path":"/b"}'] * 50) + b"]"
    with pytest.raises(DeltaError, match="too much"):
        json_patch.decode(BASE, doubling, max_size=100_000)


def test_nesting_by_copies_is_refused():
    nest = [{"op": "copy", "from": "", "path": "/a"}, {"op": "move", "from": "/a", "path": ""}]
    deep = [{"op": "add", "path": "", "value": []}, *({"op": "add", "path": "/0" * depth + "/0", "value": []} for depth in range(1200))]
    assert json_patch.decode(b"{}", msgspec.json.encode(nest), max_size=100) == b"{}"
    with pytest.raises(DeltaError):
        json_patch.decode(b"{}", msgspec.json.encode(deep), max_size=1 << 20)


@thorough
@given(base=json_values, delta=st.one_of(st.binary(max_size=40), st.lists(json_values, max_size=4).map(msgspec.json.encode)))
def test_random_patches(base: Any, delta: bytes):
    try:
        result = json_patch.decode(msgspec.json.encode(base), delta, max_size=500)
    except DeltaError:
        return
    assert len(result) <= 500
