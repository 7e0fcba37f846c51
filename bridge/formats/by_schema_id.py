"""Values in Confluent's wire format: each names its schema in the registry by id.

What reads the values of a schema is made when a record first needs it, and kept for those behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from bridge.core.decoding import Decode, DecodeError
from bridge.core.record import Record
from bridge.formats import wire
from bridge.formats.registry import SchemaRegistry
from bridge.formats.schema import RegisteredSchema
from shared.errors import ConfigurationError

MAX_READERS = 1_000
"""Of one source, kept at once; the registry has the schemas' texts still, when all are made anew."""

Read = Callable[[bytes, int], Any]
"""Reads the value that begins at a place in bytes and ends with them. Raises DecodeError."""
MakeRead = Callable[[RegisteredSchema], Read]
"""Raises ConfigurationError where a schema is none, or none that can be used."""


def by_schema_id(registry: SchemaRegistry, type_: str, make: MakeRead, *, serialized: bool = False) -> Decode:
    """Values of whatever schema they name, which has to be of `type_`: AVRO, PROTOBUF or JSON. `serialized` is as of the registry."""
    readers = _Readers(registry, type_, make, serialized=serialized)

    def decode(data: bytes, _record: Record) -> Any:
        return readers[wire.schema_id(data)](data, wire.HEADER_BYTES)

    return decode


class _Readers(dict[int, Read]):
    """By schema id. A dict that makes what it does not have, because a record whose schema is known should cost one look-up.

    A schema that cannot be used is remembered as a reader that says so: the same id means the same schema for ever. One that the
    registry does not have, or cannot be asked for, is not: it may be there for the next record.
    """

    def __init__(self, registry: SchemaRegistry, type_: str, make: MakeRead, *, serialized: bool) -> None:
        super().__init__()
        self._registry = registry
        self._type = type_
        self._make = make
        self._serialized = serialized

    def __missing__(self, number: int) -> Read:
        schema = self._registry.schema(number, serialized=self._serialized)
        if len(self) >= MAX_READERS:
            self.clear()
        read = self[number] = self._reader(number, schema)
        return read

    def _reader(self, number: int, schema: RegisteredSchema) -> Read:
        if schema.type != self._type:
            return _refusing(
                f"the value was written with schema {number} of the registry, which is {schema.type}, not {self._type}; correct `format`"
            )
        try:
            return self._make(schema)
        except ConfigurationError as error:
            return _refusing(f"schema {number} of the registry {'; '.join(error.problems)}")


def _refusing(problem: str) -> Read:
    def read(_data: bytes, _start: int) -> NoReturn:
        raise DecodeError(problem)

    return read
