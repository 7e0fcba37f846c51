"""Avro: in Confluent's wire format, in single-object encoding, or bare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from bridge.core.decoding import Decode, DecodeError
from bridge.core.record import Record
from bridge.formats import wire
from bridge.formats.avro_schema import AvroSchema
from bridge.formats.by_schema_id import by_schema_id
from bridge.formats.registry import SchemaRegistry
from bridge.formats.schema import RegisteredSchema
from shared.errors import ConfigurationError


def by_schema(schema: AvroSchema, *, is_framed: bool) -> Decode:
    """Values of one schema: bare or, where `is_framed`, in single-object encoding."""
    if not is_framed:
        return lambda data, _record: schema.read(data, 0)

    def decode(data: bytes, _record: Record) -> Any:
        found = wire.fingerprint(data)
        if found != schema.fingerprint:
            msg = f"the value was written with another schema: its fingerprint is {found.hex()}, and the rules' {schema.fingerprint.hex()}"
            raise DecodeError(msg)
        return schema.read(data, wire.SINGLE_OBJECT_HEADER_BYTES)

    return decode


def by_id(registry: SchemaRegistry) -> Decode:
    """Values in Confluent's wire format."""
    return by_schema_id(registry, "AVRO", lambda schema: _compiled(schema).read)


def by_fingerprint(registry: SchemaRegistry, subject: str) -> Decode:
    """Values in single-object encoding, of any version of a subject. `{topic}` in its name stands for the topic."""
    schemas: dict[bytes, AvroSchema] = {}

    def decode(data: bytes, record: Record) -> Any:
        found = wire.fingerprint(data)
        if found not in schemas:
            name = subject.replace("{topic}", record.topic)
            schemas.update((schema.fingerprint, schema) for schema in _usable(registry.versions(name)))
            if found not in schemas:
                msg = f'the value was written with a schema (fingerprint {found.hex()}) that is no version of the subject "{name}"'
                raise DecodeError(msg)
        return schemas[found].read(data, wire.SINGLE_OBJECT_HEADER_BYTES)

    return decode


def _usable(versions: Iterable[RegisteredSchema]) -> Iterator[AvroSchema]:
    """Those that are right: a wrong one is no reason to refuse the values of the others."""
    for schema in versions:
        if schema.type == "AVRO":
            with suppress(ConfigurationError):
                yield _compiled(schema)


def _compiled(schema: RegisteredSchema) -> AvroSchema:
    return AvroSchema(schema.text, schema.references)
