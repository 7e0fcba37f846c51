"""Every decoder on garbage and on valid bytes that were changed: a plain value or the clear problem, and nothing else.

DISTRIBUTARY_FUZZ_EXAMPLES=100000 makes a long run of it.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import fastavro
import msgspec
import pytest
from google.transit import gtfs_realtime_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.core.decoding import Decode, DecodeError
from bridge.formats import avro, avro_schema, json_schema, protobuf, wire
from bridge.formats.cloud_events import CLOUD_EVENTS
from bridge.formats.plain import JSON, RAW, RAW_KEY, STRING
from shared.errors import ConfigurationError
from tests.bridge.formats.helpers import framed, record

EXAMPLES = int(os.environ.get("DISTRIBUTARY_FUZZ_EXAMPLES", "150"))
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

ORDER: Any = {
    "type": "record", "name": "Order", "fields": [
        {"name": "id", "type": "long"},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["OPEN", "PAID"]}},
        {"name": "prices", "type": {"type": "map", "values": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}}},
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}, {"type": "int", "logicalType": "date"}]},
        {"name": "tags", "type": {"type": "array", "items": ["string", "bytes", "float", "double", "boolean"]}},
        {"name": "hash", "type": {"type": "fixed", "name": "Hash", "size": 3}},
    ],
}  # fmt: skip
NODE: Any = {"type": "record", "name": "Node", "fields": [{"name": "n", "type": "int"}, {"name": "next", "type": ["null", "Node"]}]}


def avro_bytes() -> bytes:
    stream = io.BytesIO()
    value = {"id": 7, "state": "PAID", "prices": {"a": b"\1\2"}, "at": 7, "tags": ["x", b"y", True, 1.5], "hash": b"abc"}
    plain = json.loads(json.dumps(ORDER).replace('"logicalType"', '"was"'))
    fastavro.schemaless_writer(stream, fastavro.parse_schema(plain), value)
    return stream.getvalue()


def feed_bytes() -> bytes:
    feed = gtfs_realtime_pb2.FeedMessage()
    feed.header.gtfs_realtime_version = "2.0"
    entity = feed.entity.add(id="1")
    entity.vehicle.position.latitude = 41.76
    entity.vehicle.timestamp = 1_760_000_000
    entity.trip_update.stop_time_update.add(stop_id="a").arrival.time = -7
    entity.alert.header_text.translation.add(text="Zürich")
    return feed.SerializePartialToString()


FEED: Any = gtfs_realtime_pb2.FeedMessage.DESCRIPTOR
READ_FEED = protobuf.reader(FEED.file.pool, FEED, json_names=False)
EVENT = json.dumps({"specversion": "1.0", "id": "7", "source": "/shop", "type": "paid", "data": {"total": 9}}).encode()
CHECK = json_schema.checker('{"type": "object", "required": ["price"]}')

DECODERS: dict[str, tuple[Decode, bytes]] = {
    "json": (JSON.decode, b'{"a": [1, 2.5, null, "\\u00fc"]}'),
    "string": (STRING.decode, "Zürich".encode()),
    "raw": (RAW.decode, b"\0"),
    "raw key": (RAW_KEY.decode, b"\0"),
    "avro": (avro.by_schema(avro_schema.AvroSchema(json.dumps(ORDER)), is_framed=False), avro_bytes()),
    "avro single-object": (
        avro.by_schema(avro_schema.AvroSchema(json.dumps(ORDER)), is_framed=True),
        b"\xc3\x01" + avro_schema.AvroSchema(json.dumps(ORDER)).fingerprint + avro_bytes(),
    ),
    "avro recursive": (avro.by_schema(avro_schema.AvroSchema(json.dumps(NODE)), is_framed=False), b"\2\2\4\2\6\0"),
    "protobuf": (protobuf.by_type(READ_FEED, is_framed=False), feed_bytes()),
    "protobuf confluent": (protobuf.by_type(READ_FEED, is_framed=True), framed(7, feed_bytes(), b"\4\0\2")),
    "json-schema": (json_schema.by_schema(CHECK, is_framed=True), framed(7, b'{"price": 7}')),
    "cloudevents": (CLOUD_EVENTS.decode, EVENT),
}


def test_the_unchanged_bytes_are_read():
    for decode, valid in DECODERS.values():
        decode(valid, record(valid))


@st.composite
def changed(draw: st.DrawFn, valid: bytes) -> bytes:
    """`valid` with some bytes replaced, put in, taken out or cut off."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from("rida"))
        if kind == "r" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif kind == "i":
            data[at:at] = draw(st.binary(min_size=1, max_size=10))
        elif kind == "d":
            del data[at : at + draw(st.integers(1, 8))]
        else:
            del data[at:]
    return bytes(data)


def plain_or_a_problem(decode: Decode, data: bytes, *headers: tuple[str, bytes | None]) -> None:
    try:
        value = decode(data, record(data, *headers))
    except DecodeError as error:
        assert str(error).startswith(("the value", "the record"))  # noqa: PT017 - what it says is what is asked for
        assert len(str(error)) < 700  # noqa: PT017
    else:
        check_plain(value)
        msgspec.json.encode(value)


def check_plain(value: Any) -> None:
    stack = [value]
    while stack:
        top = stack.pop()
        assert type(top) in {dict, list, str, int, float, bool, type(None)}, type(top)
        if isinstance(top, dict):
            assert all(type(name) is str for name in top)
            stack += top.values()
        elif isinstance(top, list):
            stack += top


@pytest.mark.parametrize("name", DECODERS)
@fuzz
@given(data=st.data())
def test_changed_bytes(name: str, data: st.DataObject):
    decode, valid = DECODERS[name]
    plain_or_a_problem(decode, data.draw(changed(valid)))


@pytest.mark.parametrize("name", DECODERS)
@fuzz
@given(data=st.binary(max_size=200))
def test_garbage(name: str, data: bytes):
    plain_or_a_problem(DECODERS[name][0], data)


names = st.sampled_from(["content-type", "Content-Type", "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_", "ce_x", ""])
values = st.none() | st.sampled_from([b"1.0", b"application/json", b"application/cloudevents+json", b"text/plain"]) | st.binary(max_size=9)


@fuzz
@given(headers=st.lists(st.tuples(names, values), max_size=8), data=st.binary(max_size=20) | st.just(EVENT) | st.just(b""))
def test_headers_of_cloud_events(headers: list[tuple[str, bytes | None]], data: bytes):
    plain_or_a_problem(CLOUD_EVENTS.decode, data, *headers)


@fuzz
@given(data=st.binary(max_size=40))
def test_frames(data: bytes):
    indexes = partial(wire.message_indexes, start=wire.HEADER_BYTES)
    calls: list[Callable[[bytes], object]] = [wire.schema_id, wire.fingerprint, indexes, wire.guess]
    for call in calls:
        try:
            call(data)
        except DecodeError:
            continue


# What might be a schema: Avro's words, at places where they belong and where they do not.
WORDS = [
    "null",
    "int",
    "long",
    "bytes",
    "float",
    "string",
    "record",
    "enum",
    "fixed",
    "array",
    "map",
    "A",
    "b.B",
    "",
    "decimal",
    "date",
    "uuid",
]
SETTINGS = ["type", "name", "namespace", "fields", "items", "values", "symbols", "size", "logicalType", "precision", "scale"]
word = st.sampled_from(WORDS)
schemas = st.recursive(
    word | st.integers(-3, 20) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(SETTINGS), inner, max_size=6),
    max_leaves=12,
)
logical = {
    "type": st.sampled_from(["int", "long", "bytes", "fixed", "string"]),
    "logicalType": word,
    "size": st.integers(0, 16),
    "name": word,
}


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.lists(st.fixed_dictionaries({"name": word, "type": inner}), max_size=3)
    return (
        st.fixed_dictionaries({"type": st.just("array"), "items": inner})
        | st.fixed_dictionaries({"type": st.just("map"), "values": inner})
        | st.fixed_dictionaries({"type": st.just("record"), "name": word, "fields": fields})
        | st.lists(inner, max_size=3)
    )


typed = st.recursive(word | st.fixed_dictionaries(logical), containers, max_leaves=10)


@fuzz
@given(schema=schemas | typed, data=st.binary(max_size=60))
def test_any_avro_schema(schema: Any, data: bytes):
    try:
        made = avro_schema.AvroSchema(json.dumps(schema))
    except ConfigurationError:
        return
    plain_or_a_problem(avro.by_schema(made, is_framed=False), data)


JSON_SETTINGS = ["type", "properties", "items", "$ref", "pattern", "minimum", "enum", "required", "anyOf", "not", "$schema", "$id"]
json_schemas = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.sampled_from(["object", "string", "#", "http://x/y"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(JSON_SETTINGS), inner, max_size=4),
    max_leaves=8,
)


@fuzz
@given(schema=json_schemas)
def test_any_json_schema(schema: Any):
    try:
        check = json_schema.checker(json.dumps(schema))
    except ConfigurationError:
        return
    decode = json_schema.by_schema(check, is_framed=False)
    for data in (b"7", b'{"type": "x"}', b"[[]]"):
        plain_or_a_problem(decode, data)
