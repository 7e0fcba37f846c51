"""Readers by schema id: made once, bounded, and honest about schemas that cannot be used."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.core.decoding import DecodeError, SchemaUnavailableError
from bridge.formats import by_schema_id as module
from bridge.formats.by_schema_id import Read, by_schema_id
from bridge.formats.registry import SchemaRegistry
from bridge.formats.schema import RegisteredSchema
from shared.errors import ConfigurationError
from tests.bridge.formats.helpers import framed, record


class Registry(SchemaRegistry):
    """What it has is what `schemas` says: a schema, or an error to raise."""

    def __init__(self) -> None:
        self.schemas: dict[int, RegisteredSchema | Exception] = {}

    def schema(self, number: int, *, serialized: bool = False) -> RegisteredSchema:
        found = self.schemas[number]
        if isinstance(found, Exception):
            raise found
        return found


class Maker:
    """A reader gives the schema's text, and what is behind the frame's header."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, schema: RegisteredSchema) -> Read:
        self.made.append(schema.text)
        if schema.text == "wrong":
            raise ConfigurationError(["is wrong", "is worse"])
        return lambda data, start: (schema.text, data[start:])


def schema(text: str) -> RegisteredSchema:
    return RegisteredSchema("AVRO", text)


def test_a_reader_is_made_once_for_each_schema():
    registry, make = Registry(), Maker()
    registry.schemas = {1: schema("one"), 2: schema("two")}
    decode = by_schema_id(registry, "AVRO", make)
    for _ in range(3):
        assert decode(framed(1, b"x"), record()) == ("one", b"x")
        assert decode(framed(2, b"y"), record()) == ("two", b"y")
    assert make.made == ["one", "two"]


def test_no_more_are_kept_than_the_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_READERS", 2)
    registry, make = Registry(), Maker()
    registry.schemas = {number: schema(str(number)) for number in (1, 2, 3)}
    decode = by_schema_id(registry, "AVRO", make)
    for number in (1, 2, 3, 3, 2):
        assert decode(framed(number, b""), record()) == (str(number), b"")
    assert make.made == ["1", "2", "3", "2"]


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (schema("wrong"), "schema 1 of the registry is wrong; is worse"),
        (RegisteredSchema("JSON", "{}"), "schema 1 of the registry, which is JSON, not AVRO"),
    ],
)
def test_a_schema_that_cannot_be_used_is_tried_once(found: RegisteredSchema, why: str):
    registry, make = Registry(), Maker()
    registry.schemas = {1: found}
    decode = by_schema_id(registry, "AVRO", make)
    for _ in range(3):
        with pytest.raises(DecodeError, match=why):
            decode(framed(1, b""), record())
    assert len(make.made) <= 1


@pytest.mark.parametrize("error", [DecodeError("not there yet"), SchemaUnavailableError("away")])
def test_a_schema_that_is_not_there_is_asked_for_again(error: Any):
    registry, make = Registry(), Maker()
    registry.schemas = {1: error}
    decode = by_schema_id(registry, "AVRO", make)
    with pytest.raises(type(error)):
        decode(framed(1, b""), record())
    registry.schemas = {1: schema("late")}
    assert decode(framed(1, b""), record()) == ("late", b"")
