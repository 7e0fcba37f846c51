from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridge.core.decoding import DecodeError
from bridge.formats import json_patterns, json_schema
from bridge.formats.choose import FormatError, FormatSettings, choose
from bridge.formats.registry import RegistrySettings, SchemaRegistry
from bridge.formats.schema import RegisteredSchema
from shared.errors import ConfigurationError
from tests.bridge.formats.helpers import framed, record
from tests.rig.schema_registry import FakeRegistry

PRICE = json.dumps({"type": "object", "properties": {"price": {"type": "number", "minimum": 0}}, "required": ["price"]})


def test_a_value_that_fits_is_as_it_is_and_one_that_does_not_is_told_with_its_place():
    decode = json_schema.by_schema(json_schema.checker(PRICE), is_framed=False)
    assert decode(b'{"price": 7, "more": 1}', record()) == {"price": 7, "more": 1}
    with pytest.raises(DecodeError, match=r"does not fit its JSON Schema: \$.price: -5 is less than the minimum of 0"):
        decode(b'{"price": -5}', record())
    with pytest.raises(DecodeError, match="is not JSON"):
        decode(b"{", record())


def test_the_frame_is_taken_off_without_a_look_at_the_schema():
    decode = json_schema.by_schema(None, is_framed=True)
    assert decode(framed(7, b'{"price": -5}'), record()) == {"price": -5}
    with pytest.raises(DecodeError, match="format: json"):
        decode(b'{"price": -5}', record())


@pytest.mark.parametrize("text", ["", "7", "[]", '{"type": 7}', '{"properties": []}', "[" * 100_000])
def test_what_is_no_schema_is_refused(text: str):
    with pytest.raises(ConfigurationError):
        json_schema.checker(text)


def test_a_reference_never_leads_to_the_network(fake: FakeRegistry):
    check = json_schema.checker(json.dumps({"$ref": f"{fake.url}/schema"}))
    with pytest.raises(DecodeError, match="cannot be checked"):
        check(7)
    assert fake.requests == []


def test_a_schema_that_goes_round_in_circles_is_a_problem():
    with pytest.raises(DecodeError, match="cannot be checked"):
        json_schema.checker('{"$ref": "#"}')(7)


def test_unique_items_of_a_long_list_are_checked_in_linear_time():
    check = json_schema.checker('{"properties": {"list": {"uniqueItems": true}}}')
    check({"list": [{"a": number} for number in range(50_000)]})  # Comparing each with each would take hours.
    check({"list": [1, True, "1", [1], {"a": 1}, {"a": True}, 0, False, None]})
    for same in ([1, 2, 1.0], [{"a": 1, "b": [2.0]}, {"b": [2], "a": 1.0}]):
        with pytest.raises(DecodeError, match=r"\$\.list: the items 0 and \d are the same"):
            check({"list": same})
    check({"list": "no list"})
    json_schema.checker('{"uniqueItems": false}')([1, 1])


class TestByTheRegistry:
    def test_values_are_checked_against_the_schema_that_they_name(self, fake: FakeRegistry):
        number = fake.register("t-value", PRICE, "JSON")
        decode = json_schema.by_id(SchemaRegistry(RegistrySettings(fake.url), wait_s=20))
        assert decode(framed(number, b'{"price": 7}'), record()) == {"price": 7}
        with pytest.raises(DecodeError, match="price"):
            decode(framed(number, b"{}"), record())
        assert len(fake.requests) == 1

    def test_schemas_that_refer_to_others(self, fake: FakeRegistry):
        fake.register("price", PRICE, "JSON")
        number = fake.register("t", json.dumps({"items": {"$ref": "price.json"}}), "JSON", [("price.json", "price", 1)])
        decode = json_schema.by_id(SchemaRegistry(RegistrySettings(fake.url), wait_s=20))
        assert decode(framed(number, b'[{"price": 7}]'), record()) == [{"price": 7}]
        with pytest.raises(DecodeError, match=r"\$\[0\].price"):
            decode(framed(number, b'[{"price": -7}]'), record())

    def test_a_schema_of_another_kind_and_one_that_is_wrong(self, fake: FakeRegistry):
        other, wrong = fake.register("a", '"int"'), fake.register("b", '{"type": 7}', "JSON")
        decode = json_schema.by_id(SchemaRegistry(RegistrySettings(fake.url), wait_s=20))
        with pytest.raises(DecodeError, match="is AVRO, not JSON"):
            decode(framed(other, b"{}"), record())
        with pytest.raises(DecodeError, match="is no JSON Schema"):
            decode(framed(wrong, b"{}"), record())


BACKTRACKS = "^(a+)+$"
HOSTILE = "a" * 60 + "!"
"""Python's engine would take longer than the test run is let."""


@pytest.mark.parametrize("draft", ["draft-04/schema#", "draft-06/schema#", "draft-07/schema#", "2019-09/schema", "2020-12/schema"])
@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": BACKTRACKS}, HOSTILE),
        ({"properties": {"a": {"pattern": BACKTRACKS}}}, {"a": HOSTILE}),
        ({"patternProperties": {BACKTRACKS: {"type": "null"}}, "additionalProperties": False}, {HOSTILE: 1}),
        ({"patternProperties": {BACKTRACKS: {"type": "null"}}, "additionalProperties": {"type": "null"}}, {HOSTILE: 1}),
    ],
)
def test_no_text_makes_a_pattern_take_long(draft: str, schema: dict[str, object], value: object):
    place = "draft/" if draft.startswith("20") else ""
    check = json_schema.checker(json.dumps({"$schema": f"http{'s' if place else ''}://json-schema.org/{place}{draft}", **schema}))
    with pytest.raises(DecodeError, match="does not fit"):
        check(value)


@pytest.mark.parametrize("draft", ["2019-09", "2020-12"])
@pytest.mark.parametrize("around", ["a", "default"])
def test_nor_what_is_left_over_behind_patterns(draft: str, around: str):
    schema = {"patternProperties": {BACKTRACKS: {}}, "unevaluatedProperties": False}
    check = json_schema.checker(
        json.dumps({"$schema": f"https://json-schema.org/draft/{draft}/schema", "properties": {around: {"allOf": [schema]}}})
    )
    check({around: {"aaa": 1}})
    with pytest.raises(DecodeError, match="does not allow"):
        check({around: {HOSTILE: 1}})


@pytest.mark.parametrize("draft", ["2019-09", "2020-12"])
def test_what_is_left_over_of_a_large_value_is_found_in_linear_time(draft: str):
    properties = {"additionalProperties": {"type": "integer"}, "unevaluatedProperties": False}
    items = {"items": {"type": "integer"}, "unevaluatedItems": False}
    choices = [{"anyOf": [properties]}, {"anyOf": [items]}]
    check = json_schema.checker(
        json.dumps({"$schema": f"https://json-schema.org/draft/{draft}/schema", "unevaluatedProperties": False, "anyOf": choices})
    )
    check({f"name-{number}": number for number in range(50_000)})  # Looking each up in a list would take minutes.
    check([1] * 50_000)


def test_many_patterns_and_many_names_are_not_compiled_for_each_other():
    patterns: dict[str, object] = {f"^x{number}": {} for number in range(json_patterns.MAX_PATTERNS + 50)}
    check = json_schema.checker(json.dumps({"patternProperties": patterns, "additionalProperties": False}))
    json_patterns._compiled.cache_clear()
    check({f"x{number}": 1 for number in range(300)})
    assert json_patterns._compiled.cache_info().misses <= 2 * len(patterns)  # Once for each of the two keywords.


def test_nor_where_a_part_of_the_schema_names_a_draft_of_its_own():
    part = RegisteredSchema("JSON", json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", "pattern": BACKTRACKS}))
    check = json_schema.checker('{"$ref": "part"}', (("part", part),))
    check("aaa")
    with pytest.raises(DecodeError, match="does not fit"):
        check(HOSTILE)


@pytest.mark.parametrize(
    ("pattern", "fitting", "other"),
    [
        ("b", "abc", "ac"),  # Found anywhere.
        ("^a$", "a", "a\n"),
        (r"^\u00e9[\u4e00-\u9fa5]$", "é中", "e中"),
        (r"^\p{L}+$", "Müller", "a1"),
        (r"^\d\/\-\\u0041$", r"1/-\u0041", r"1/-\A"),
        (r"^(?<year>[0-9]{4})$", "2024", "24"),
        (r"^\ud83d\uDE00\u{1F601}$", "😀😁", "😀"),
    ],
)
def test_patterns_as_schemas_have_them(pattern: str, fitting: str, other: str):
    check = json_schema.checker(json.dumps({"pattern": pattern}))
    check(fitting)
    check(7)
    with pytest.raises(DecodeError, match="does not match"):
        check(other)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"properties": {"a": {"pattern": "^(?!x)"}}}, r"'\^\(\?!x\)', which cannot be checked in bounded time"),
        ({"prefixItems": [{"patternProperties": {r"(a)\1": {}}}]}, "which cannot be checked in bounded time"),
        ({"pattern": "^.{1,2000}$"}, "counts above 1000, or set check_schema: false"),
        ({"pattern": "("}, "missing"),
        ({"pattern": "\ud800"}, "no text"),
        ({"properties": {"default": {"pattern": "(?!x)"}}}, "look-around"),  # A property of that name, and no data.
    ],
)
def test_what_cannot_be_checked_in_linear_time_is_refused_with_the_schema(schema: object, why: str):
    with pytest.raises(ConfigurationError, match=why):
        json_schema.checker(json.dumps(schema))


def test_data_that_looks_like_a_pattern_is_none():
    json_schema.checker(json.dumps({"default": {"pattern": "(?!x)"}, "enum": [{"pattern": "("}]}))
    json_schema.checker(json.dumps({"properties": {"patternProperties": {"(": 1}, "pattern": {}}}))


def test_properties_that_are_not_named():
    schema = {"properties": {"a": {}}, "patternProperties": {"^x-": {"type": "number"}}}
    check = json_schema.checker(json.dumps({**schema, "additionalProperties": {"type": "string"}}))
    check({"a": 1, "x-b": 1, "c": "text"})
    for value, place in (({"x-b": "text"}, r"\$\['x-b'\]"), ({"c": 1}, r"\$\.c")):
        with pytest.raises(DecodeError, match=f"{place}: .* is not of type"):
            check(value)
    check = json_schema.checker(json.dumps({**schema, "additionalProperties": False}))
    check({"a": 1, "x-b": 1})
    with pytest.raises(DecodeError, match="does not allow: 'c', 'd'"):
        check({"a": 1, "c": 1, "d": 1})


def test_a_schema_that_is_not_checked_may_have_any_pattern(tmp_path: Path):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps({"pattern": "^(?!x)"}), encoding="utf-8")
    decoder = choose(FormatSettings("json-schema", schema_file=file, check_schema=False))
    assert decoder is not None
    assert decoder.decode(b'"x"', record()) == "x"
    with pytest.raises(FormatError, match="look-around"):
        choose(FormatSettings("json-schema", schema_file=file))
