from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

import fastavro
import msgspec
import pytest

from bridge.core.decoding import DecodeError
from bridge.formats import avro, avro_schema
from bridge.formats.registry import RegistrySettings, SchemaRegistry
from shared.errors import ConfigurationError
from tests.bridge.formats.helpers import framed, record
from tests.rig.schema_registry import FakeRegistry

ORDER = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["OPEN", "PAID"]}},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}


def written(schema: Any, value: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema, {}), value)
    return stream.getvalue()


def read(schema: Any, value: Any) -> Any:
    found = avro_schema.AvroSchema(json.dumps(schema)).read(written(schema, value), 0)
    msgspec.json.encode(found)
    return found


@pytest.mark.parametrize(
    ("type_", "value", "seen"),
    [
        ("null", None, None),
        ("boolean", True, True),
        ("long", 2**63 - 1, 2**63 - 1),
        ("double", 41.76, 41.76),
        ("float", 41.76, 41.76),
        ("string", "Zürich", "Zürich"),
        ("bytes", b"\x00\xff", "AP8="),
        ({"type": "fixed", "name": "F", "size": 2}, b"\x00\xff", "AP8="),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "B", "B"),
        ({"type": "array", "items": "bytes"}, [b"a"], ["YQ=="]),
        ({"type": "map", "values": "bytes"}, {"x": b"a"}, {"x": "YQ=="}),
        (["null", "bytes"], b"a", "YQ=="),
        (["null", "bytes"], None, None),
        ({"type": "bytes", "logicalType": "decimal", "precision": 40, "scale": 2}, Decimal("-123456789012345678901234567890.50"), "same"),
        ({"type": "fixed", "name": "D", "size": 8, "logicalType": "decimal", "precision": 9, "scale": 3}, Decimal("1.500"), "same"),
        ({"type": "int", "logicalType": "date"}, date(2025, 10, 9), "2025-10-09"),
        ({"type": "int", "logicalType": "time-millis"}, time(9, 30, 1, 5_000), "09:30:01.005"),
        ({"type": "long", "logicalType": "time-micros"}, time(9, 30, 1, 5), "09:30:01.000005"),
        ({"type": "long", "logicalType": "timestamp-millis"}, datetime(2025, 10, 9, 9, 0, 0, 123_000, UTC), "2025-10-09T09:00:00.123Z"),
        ({"type": "long", "logicalType": "timestamp-micros"}, datetime(1969, 12, 31, 23, 59, 59, 1, UTC), "1969-12-31T23:59:59.000001Z"),
        ({"type": "long", "logicalType": "local-timestamp-millis"}, 1_500, "1970-01-01T00:00:01.500"),
        ({"type": "long", "logicalType": "timestamp-nanos"}, 1_000_000_001, "1970-01-01T00:00:01.000000001Z"),
        ({"type": "long", "logicalType": "timestamp-millis"}, 2**62, 2**62),  # No calendar has it: the number stays.
        ({"type": "string", "logicalType": "uuid"}, UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        ({"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}, UUID(int=7).bytes, "00000000-0000-0000-0000-000000000007"),
        (
            {"type": "fixed", "name": "P", "size": 12, "logicalType": "duration"},
            b"\1\0\0\0\2\0\0\0\3\0\0\0",
            {"months": 1, "days": 2, "milliseconds": 3},
        ),
        ({"type": "string", "logicalType": "made-up"}, "x", "x"),
        ([{"type": "int", "logicalType": "date"}, {"type": "long", "logicalType": "timestamp-millis"}], date(1970, 1, 2), "1970-01-02"),
    ],
)  # fmt: skip
def test_each_type_as_a_plain_value(type_: Any, value: Any, seen: Any):
    assert read(type_, value) == (str(value) if seen == "same" else seen)


def test_a_record_with_all_in_it():
    assert read(ORDER, {"id": 7, "state": "PAID", "note": "x"}) == {"id": 7, "state": "PAID", "note": "x"}


def test_types_named_once_and_used_again():
    money = {"type": "fixed", "name": "Money", "namespace": "m", "size": 4, "logicalType": "decimal", "precision": 9, "scale": 2}
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": money}, {"name": "b", "type": ["null", "m.Money"]}]}
    assert read(schema, {"a": Decimal("1.00"), "b": Decimal("-2.50")}) == {"a": "1.00", "b": "-2.50"}


class TestTypesThatContainThemselves:
    NODE: ClassVar[Any] = {
        "type": "record",
        "name": "Node",
        "fields": [{"name": "n", "type": "int"}, {"name": "next", "type": ["null", "Node"]}],
    }

    def test_are_read(self):
        value = {"n": 1, "next": {"n": 2, "next": None}}
        assert read(self.NODE, value) == value

    def test_nested_too_deeply_they_are_a_problem_and_not_the_end_of_the_process(self):
        with pytest.raises(DecodeError, match="nested too deeply"):
            avro_schema.AvroSchema(json.dumps(self.NODE)).read(b"\2\2" * 5_000_000 + b"\2\0", 0)

    def test_their_numbers_end(self):
        schema = avro_schema.AvroSchema(json.dumps({**self.NODE, "fields": [{"name": "n", "type": "long"}, self.NODE["fields"][1]]}))
        for number in (0, -1, 2**63 - 1, -(2**63)):
            assert schema.read(written("long", number) + b"\0", 0) == {"n": number, "next": None}
        with pytest.raises(DecodeError, match="more than ten bytes"):  # By fastavro itself it would take hours.
            schema.read(b"\xff" * 10_000_000 + b"\0\0", 0)

    def test_through_other_types_too(self):
        schema = {
            "type": "record", "name": "A", "fields": [
                {"name": "b", "type": {"type": "array", "items": {"type": "record", "name": "B", "fields": [
                    {"name": "a", "type": {"type": "map", "values": "A"}}]}}}],
        }  # fmt: skip
        with pytest.raises(DecodeError, match="nested too deeply"):
            avro_schema.AvroSchema(json.dumps(schema)).read(b"\2\2\2x" * 1_000_000, 0)


def test_an_array_that_could_be_a_billion_nothings_is_refused():
    for items in ("null", {"type": "record", "name": "E", "fields": [{"name": "x", "type": "null"}]}, {"type": "null"}):
        with pytest.raises(ConfigurationError, match="no bytes"):
            avro_schema.AvroSchema(json.dumps({"type": "array", "items": items}))
    avro_schema.AvroSchema(json.dumps({"type": "array", "items": ["null"]}))
    for size in (0, 1):
        named = [{"type": "fixed", "name": "F", "namespace": "n", "size": size}, {"type": "array", "items": "n.F"}]
        if size:
            avro_schema.AvroSchema(json.dumps(named))
        else:
            with pytest.raises(ConfigurationError, match="no bytes"):
                avro_schema.AvroSchema(json.dumps(named))


def test_records_that_share_records_are_looked_at_once():
    inner: Any = {"type": "record", "name": "R40", "fields": []}
    for number in reversed(range(40)):  # 2**40 ways lead to the innermost one.
        fields = [{"name": "a", "type": inner}, {"name": "b", "type": f"R{number + 1}"}]
        inner = {"type": "record", "name": f"R{number}", "fields": fields}
    with pytest.raises(ConfigurationError, match="no bytes"):
        avro_schema.AvroSchema(json.dumps({"type": "array", "items": inner}))


def test_a_chain_of_thousands_of_records_is_read_or_refused():
    chain: list[Any] = [{"type": "record", "name": "R0", "fields": [{"name": "x", "type": "int"}]}]
    chain += [{"type": "record", "name": f"R{n}", "fields": [{"name": "x", "type": f"R{n - 1}"}]} for n in range(1, 3_000)]
    assert avro_schema.AvroSchema(json.dumps(chain)).read(b"\0\x0e", 0) == {"x": 7}
    with pytest.raises(ConfigurationError, match="too deeply"):
        avro_schema.AvroSchema(json.dumps([*chain, {"type": "array", "items": "R2999"}]))


def test_a_decimal_of_a_megabyte_is_a_problem():
    schema = avro_schema.AvroSchema('{"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}')
    with pytest.raises(DecodeError, match="decimal"):
        schema.read(written("bytes", b"\7" * 1_000_000), 0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "ends too early"),
        (b"\x0e\2", "ends too early"),
        (b"\x0e\x08\0", "IndexError"),
        (b"\x0e\2\2\4\xff\xff", "Unicode"),
        (b"\x0e\2\0rest", "4 bytes are left over"),
    ],
)
def test_bytes_that_do_not_fit(data: bytes, why: str):
    with pytest.raises(DecodeError, match=why):
        avro_schema.AvroSchema(json.dumps(ORDER)).read(data, 0)


NO_SCHEMAS = [
    *("", "{", "7", "null", '"no.such"', "{}", "[" * 100_000),
    *('{"type": "record"}', '{"type": "record", "name": "R", "fields": 7}'),
    *('{"type": "enum", "name": "E"}', '{"type": "fixed", "name": "F", "size": "x"}', '{"type": "fixed", "name": "F", "size": -1}'),
]


@pytest.mark.parametrize("text", NO_SCHEMAS, ids=lambda text: text[:40])
def test_what_is_no_schema_is_refused(text: str):
    with pytest.raises(ConfigurationError):
        avro_schema.AvroSchema(text)


class TestSingleObject:
    def test_is_read_where_it_was_written_with_the_rules_schema(self):
        schema = avro_schema.AvroSchema(json.dumps(ORDER))
        data = written(ORDER, {"id": 7, "state": "OPEN", "note": None})
        decode = avro.by_schema(schema, is_framed=True)
        assert decode(b"\xc3\x01" + schema.fingerprint + data, record())["state"] == "OPEN"
        with pytest.raises(DecodeError, match="another schema"):
            decode(b"\xc3\x01" + bytes(8) + data, record())
        with pytest.raises(DecodeError, match="framing: confluent"):
            decode(framed(7, data), record())

    def test_the_fingerprint_is_that_of_the_specification(self):
        assert avro_schema.AvroSchema('"null"').fingerprint == 0x63DD24E7CC258F8A.to_bytes(8, "little")

    def test_of_any_version_of_a_subject(self, fake: FakeRegistry):
        old = {**ORDER, "fields": [{"name": "id", "type": "long"}]}
        fake.register("orders-value", json.dumps(old))
        fake.register("orders-value", json.dumps(ORDER))
        decode = avro.by_fingerprint(registry(fake), "{topic}-value")
        for schema, value in ((old, {"id": 1}), (ORDER, {"id": 2, "state": "PAID", "note": None})):
            frame = b"\xc3\x01" + avro_schema.AvroSchema(json.dumps(schema)).fingerprint
            assert decode(frame + written(schema, value), record()) == value
        with pytest.raises(DecodeError, match="no version of the subject"):
            decode(b"\xc3\x01" + bytes(8), record())


def registry(fake: FakeRegistry) -> SchemaRegistry:
    return SchemaRegistry(RegistrySettings(fake.url), wait_s=20)


class TestByTheRegistry:
    def test_each_record_by_its_own_schema_which_is_asked_for_once(self, fake: FakeRegistry):
        old = {**ORDER, "fields": [{"name": "id", "type": "long"}]}
        first, second = fake.register("orders-value", json.dumps(old)), fake.register("orders-value", json.dumps(ORDER))
        decode = avro.by_id(registry(fake))
        for _ in range(3):
            assert decode(framed(first, written(old, {"id": 1})), record()) == {"id": 1}
            assert decode(framed(second, written(ORDER, {"id": 1, "state": "OPEN", "note": None})), record())["state"] == "OPEN"
        assert len(fake.requests) == 2

    def test_schemas_that_refer_to_others(self, fake: FakeRegistry):
        state = {"type": "enum", "name": "State", "namespace": "shop", "symbols": ["OPEN", "PAID"]}
        line = {"type": "record", "name": "Line", "namespace": "shop", "fields": [{"name": "state", "type": "State"}]}
        order = {
            "type": "record",
            "name": "Order",
            "namespace": "shop",
            "fields": [{"name": "lines", "type": {"type": "array", "items": "Line"}}],
        }
        fake.register("state", json.dumps(state))
        fake.register("line", json.dumps(line), references=[("shop.State", "state", 1)])
        number = fake.register("order", json.dumps(order), references=[("shop.Line", "line", 1)])
        decode = avro.by_id(registry(fake))
        assert decode(framed(number, b"\2\2\0"), record()) == {"lines": [{"state": "PAID"}]}

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (framed(999, b""), "schema 999 is not in the schema registry"),
            (framed(0, b""), "0 is no schema id"),
            (framed(2**31, b""), "is no schema id"),
            (b"", "it is empty"),
            (b"\0\0", "has 2 bytes"),
            (b"Obj\x01" + bytes(20), "object container file, which is many records"),
            (b"\xc3\x01" + bytes(20), "framing: single-object"),
            (b'{"id": 7}', "format: json"),
            (b"\x08\x96\x01", "begins with the bytes 08 96 01"),
        ],
    )
    def test_other_frames_are_told_apart(self, fake: FakeRegistry, data: bytes, why: str):
        with pytest.raises(DecodeError, match=why):
            avro.by_id(registry(fake))(data, record())

    def test_a_schema_of_another_kind_and_one_that_is_wrong(self, fake: FakeRegistry):
        other = fake.register("a", "{}", "JSON")
        wrong = fake.register("b", '{"type": "record"}')
        decode = avro.by_id(registry(fake))
        with pytest.raises(DecodeError, match="is JSON, not AVRO"):
            decode(framed(other, b"{}"), record())
        with pytest.raises(DecodeError, match="is no Avro schema"):
            decode(framed(wrong, b""), record())
