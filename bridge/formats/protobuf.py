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
from bridge.formats.proto_schema import message_at, registered
from bridge.formats.proto_values import MessageValues
from bridge.formats.registry import SchemaRegistry
from shared.errors import ConfigurationError

MAX_CACHED = 1_000
_BARE_LIKES_TEXT = b"{["

Read = Callable[[bytes], Any]


def reader(pool: DescriptorPool, type_: Descriptor, *, json_names: bool) -> Read:
    """What reads messages of one type; it raises DecodeError."""
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
        _, start = wire.message_indexes(data)
        return read(data[start:])

    return decode


def by_id(registry: SchemaRegistry, message: str | None, *, json_names: bool) -> Decode:
    """Messages in Confluent's wire format. With `message`, only those of that type."""
    readers: dict[tuple[int, tuple[int, ...]], Read | DecodeError] = {}

    def decode(data: bytes, _record: Record) -> Any:
        number = wire.schema_id(data)
        indexes, start = wire.message_indexes(data)
        read = readers.get((number, indexes))
        if read is None:
            read = _registered_reader(registry, number, indexes, message, json_names=json_names)
            if len(readers) >= MAX_CACHED:
                readers.clear()
            readers[number, indexes] = read
        if isinstance(read, DecodeError):
            raise DecodeError(str(read))
        return read(data[start:])

    return decode


def _registered_reader(
    registry: SchemaRegistry, number: int, indexes: tuple[int, ...], message: str | None, *, json_names: bool
) -> Read | DecodeError:
    schema = registry.schema(number, serialized=True)
    if schema.type != "PROTOBUF":
        return DecodeError(f"the value was written with schema {number} of the registry, which is {schema.type}, not PROTOBUF")
    try:
        pool, file = registered(schema)
    except ConfigurationError as error:
        return DecodeError(f"schema {number} of the registry {'; '.join(error.problems)}")
    name = message_at(file, indexes)
    if name is None:
        return DecodeError(f"the value is not in Confluent's wire format: schema {number} has no message at {list(indexes)}")
    if message not in {None, name}:
        return DecodeError(f"the value is a {name} message, and the rules read {message}")
    return reader(pool, pool.FindMessageTypeByName(name), json_names=json_names)
