"""The keywords that are checked here say what the library says, on generated schemas and values.

Of 2019-09 no comparison is made: there the library takes names inside `additionalProperties` for evaluated ones.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema.exceptions import SchemaError
from jsonschema.validators import Draft4Validator, Draft6Validator, Draft7Validator, Draft202012Validator

from bridge.core.decoding import DecodeError
from bridge.formats import json_schema
from shared.errors import ConfigurationError
from tests.bridge.formats.test_fuzz import EXAMPLES

PLAIN: dict[str, Any] = {
    "http://json-schema.org/draft-04/schema#": Draft4Validator,
    "http://json-schema.org/draft-06/schema#": Draft6Validator,
    "http://json-schema.org/draft-07/schema#": Draft7Validator,
    "https://json-schema.org/draft/2020-12/schema": Draft202012Validator,
}

names = st.sampled_from(["a", "b", "ab", "x1"])
patterns = st.sampled_from(["^a", "b$", "^x[0-9]+", "a|b", "(a+)+$", "^.$", "[^a]", "a{2}", "^(a|b)*$", "\\d"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from([1.0, 2.5, "", "a", "aa", "ab", "b1", "x", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
leaf = {
    "type": st.sampled_from(["object", "array", "string", "integer", "null"]),
    "pattern": patterns,
    "minimum": st.integers(0, 2),
    "const": values,
    "required": st.lists(names, min_size=1, max_size=2, unique=True),
    "uniqueItems": st.booleans(),
}
leaves = st.booleans() | st.fixed_dictionaries({}, optional=leaf)


def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    one = ["additionalProperties", "unevaluatedProperties", "unevaluatedItems", "items", "additionalItems", "contains", "propertyNames"]
    some = st.lists(inner, min_size=1, max_size=3)
    keywords = {
        **dict.fromkeys([*one, "not", "if", "then", "else"], inner),
        **dict.fromkeys(["prefixItems", "allOf", "anyOf", "oneOf"], some),
        "properties": st.dictionaries(names, inner, max_size=3),
        "patternProperties": st.dictionaries(patterns, inner, max_size=2),
        "dependentSchemas": st.dictionaries(names, inner, max_size=2),
        "$ref": st.just("#/$defs/d"),
        **leaf,
    }
    return st.fixed_dictionaries({}, optional=keywords)


schemas = st.recursive(leaves, around, max_leaves=8).filter(lambda schema: isinstance(schema, dict))


@pytest.mark.parametrize("draft", PLAIN)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=schemas, referred=leaves, some=st.lists(values, min_size=1, max_size=6))
def test_the_same_values_fit(draft: str, schema: Any, referred: Any, some: list[Any]):
    schema = {"$schema": draft, **schema, "$defs": {"d": referred}}
    try:
        PLAIN[draft].check_schema(schema, format_checker=None)
    except SchemaError:
        with pytest.raises(ConfigurationError):
            json_schema.checker(json.dumps(schema))
        return
    check = json_schema.checker(json.dumps(schema))
    for value in some:
        try:
            fits = PLAIN[draft](schema).is_valid(value)
        except TypeError as error:  # The library's fault with `additionalItems` beside `items: true`: nothing to compare with.
            assert "'bool' has no len()" in str(error)  # noqa: PT017
            continue
        if fits:
            check(value)
        else:
            with pytest.raises(DecodeError, match="does not fit"):
                check(value)


@pytest.mark.parametrize("draft", [draft for draft in PLAIN if "draft-06" in draft or "draft-07" in draft])
@pytest.mark.parametrize(
    ("schema", "fitting", "other"),
    [
        ({"items": [{}], "additionalItems": False}, [1], [1, 2]),
        ({"items": [{}], "additionalItems": {"type": "null"}}, [1, None], [1, None, 2]),
        ({"items": [{}], "additionalItems": True}, [1, 2], None),
        ({"items": {"type": "integer"}, "additionalItems": False}, [1, 2], [""]),
        ({"items": True, "additionalItems": False}, [1, 2], None),
        ({"items": False, "additionalItems": True}, [], [1]),
        ({"additionalItems": False}, [1, 2], None),
    ],
)
def test_items_beyond_those_with_a_schema_of_their_own(draft: str, schema: dict[str, Any], fitting: Any, other: Any):
    check = json_schema.checker(json.dumps({"$schema": draft, **schema}))
    check(fitting)
    check("no array")
    if other is not None:
        with pytest.raises(DecodeError, match="does not fit"):
            check(other)


@pytest.mark.parametrize(
    ("schema", "fitting", "other"),
    [
        ({"items": [{}], "unevaluatedItems": False}, [1], [1, 2]),
        ({"items": [{}], "additionalItems": {}, "unevaluatedItems": False}, [1, 2], None),
        ({"anyOf": [{"items": [{}]}, {"items": [{}, {"const": 7}]}], "unevaluatedItems": {"type": "null"}}, [1, 7, None], [1, 8]),
        ({"additionalProperties": {"type": "integer"}, "unevaluatedProperties": False}, {"a": 1}, {"a": ""}),
        ({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": {"type": "null"}}, {"a": 1, "b": None}, {"b": 1}),
        (
            {"$recursiveAnchor": True, "properties": {"a": {"$recursiveRef": "#"}}, "unevaluatedProperties": False},
            {"a": {}},
            {"a": {"b": 1}},
        ),
    ],
)
def test_what_is_left_over_by_2019_09(schema: dict[str, Any], fitting: Any, other: Any):
    check = json_schema.checker(json.dumps({"$schema": "https://json-schema.org/draft/2019-09/schema", **schema}))
    check(fitting)
    if other is not None:
        with pytest.raises(DecodeError, match="does not fit"):
            check(other)
