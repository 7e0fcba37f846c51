"""Protobuf: bare messages of one type, or Confluent's wire format, whose schema tells the type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from bridge.core.decoding import Decode, DecodeError
from bridge.core.record import Record
from bridge.formats import wire
from bridge.formats.by_schema_id import by_schema_id
from bridge.formats.proto_schema import message_at, registered
from bridge.formats.proto_values import MessageValues
from bridge.formats.registry import SchemaRegistry
from bridge.formats.schema import RegisteredSchema

_BARE_LIKES_TEXT = b"{["

Read = Callable[[bytes], Any]
"""Reads the bytes of one message. Raises DecodeError."""


def reader(pool: DescriptorPool, type_: Descriptor, *, json_names: bool) -> Read:
    """What reads messages of one type."""
    parse: Callable[[bytes], Message] = message_factory.GetMessageClass(type_).FromString
    convert = MessageValues(pool, json_names=json_names).converter(type_)
    name = type_.full_name

    def read(data: bytes) -> Any:
        try:
            return convert(parse(data))
        except Exception as error:
            # DecodeError of damaged bytes, and whatever converting them may find (UnicodeDecodeError of old texts, RecursionError).
            looks = f"; {wire.guess(data)}" if data[:1] in _BARE_LIKES_TEXT and data else ""
            msg = f"the value is no {name} message: {type(error).__name__}: {str(error)[:200]}{looks}"
            raise DecodeError(msg) from error

    return read


def by_type(read: Read, *, is_framed: bool) -> Decode:
    """Messages of one type: bare or, where `is_framed`, in Confluent's wire format, whatever schema it names."""
    if not is_framed:
        return lambda data, _record: read(data)

    def decode(data: bytes, _record: Record) -> Any:
        wire.schema_id(data)
        _, start = wire.message_indexes(data, wire.HEADER_BYTES)
        return read(data[start:])

    return decode


def by_id(registry: SchemaRegistry, message: str | None, *, json_names: bool) -> Decode:
    """Messages in Confluent's wire format. With `message`, only those of that type."""
    return by_schema_id(registry, "PROTOBUF", lambda schema: _Messages(schema, message, json_names=json_names).read, serialized=True)


class _Messages:
    """The messages of one schema of the registry, each found by its place in the schema's file, which the wire format tells.

    `message` is the only type that is wanted, if there is one. Raises ConfigurationError where the schema is none.
    """

    def __init__(self, schema: RegisteredSchema, message: str | None, *, json_names: bool) -> None:
        self._pool, self._file = registered(schema)
        self._message = message
        self._json_names = json_names
        self._readers: dict[tuple[int, ...], Read] = {}
        """By place: no more than the file has messages."""

    def read(self, data: bytes, start: int) -> Any:
        """The message whose place in the file is told at `start`. Raises DecodeError."""
        indexes, start = wire.message_indexes(data, start)
        read = self._readers.get(indexes)
        if read is None:
            read = self._readers[indexes] = self._reader(indexes)
        return read(data[start:])

    def _reader(self, indexes: tuple[int, ...]) -> Read:
        name = message_at(self._file, indexes)
        if name is None:
            msg = f"the value is not in Confluent's wire format: its schema has no message at {list(indexes)}"
            raise DecodeError(msg)
        if self._message not in {None, name}:
            msg = f"the value is a {name} message, and the rules read {self._message}"
            raise DecodeError(msg)
        return reader(self._pool, self._pool.FindMessageTypeByName(name), json_names=self._json_names)
