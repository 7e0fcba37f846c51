from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.transit import gtfs_realtime_pb2

from bridge.core.decoding import DecodeError
from bridge.formats import proto_schema, protobuf
from bridge.formats.numbers import shortest
from bridge.formats.registry import RegistrySettings, SchemaRegistry
from shared.errors import ConfigurationError
from tests.bridge.formats.helpers import framed, record
from tests.rig.schema_registry import FakeRegistry

SHOP = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/any.proto";
import "google/protobuf/field_mask.proto";

enum State { OPEN = 0; PAID = 1; }
message Money { int64 units = 1; float rate = 2; }
message Order {
  message Line { string sku = 1; uint32 count = 2; }
  uint64 order_id = 1;
  State state = 2;
  repeated Line lines = 3;
  map<string, Money> prices = 4;
  map<int32, State> states = 5;
  bytes blob = 6;
  optional string note = 7;
  oneof how { string card = 8; Money cash = 9; }
  google.protobuf.Timestamp at = 10;
  google.protobuf.Duration took = 11;
  google.protobuf.Struct extra = 12;
  google.protobuf.Int64Value maybe = 13;
  google.protobuf.Any any = 14;
  google.protobuf.FieldMask mask = 15;
  repeated State all = 16;
  Order inner = 17;
  double exact = 18;
  google.protobuf.BytesValue maybe_bytes = 19;
  repeated bytes blobs = 20;
}
"""


@pytest.fixture(scope="module")
def files() -> FileDescriptorSet:
    return proto_schema.compile_texts({"shop.proto": SHOP})


class Shop:
    """Messages of the file above, and readers of them."""

    def __init__(self, files: FileDescriptorSet, *, json_names: bool = False) -> None:
        self.pool = proto_schema.pool_of(files)
        self.type = proto_schema.message_of(self.pool, files, "shop.Order")
        self.read = protobuf.reader(self.pool, self.type, json_names=json_names)

    def make(self, text: dict[str, Any]) -> Any:
        return json_format.ParseDict(text, message_factory.GetMessageClass(self.type)(), descriptor_pool=self.pool)

    def seen(self, text: dict[str, Any]) -> dict[str, Any]:
        found = self.read(self.make(text).SerializeToString())
        assert isinstance(found, dict)
        msgspec.json.encode(found)
        return found


@pytest.fixture(scope="module")
def shop(files: FileDescriptorSet) -> Shop:
    return Shop(files)


ZEROS = {"order_id": 0, "state": "OPEN", "blob": "", "exact": 0.0}
"""Scalars without presence are always there."""


def test_an_empty_message_has_its_scalars(shop: Shop):
    assert shop.read(b"") == ZEROS


@pytest.mark.parametrize(
    ("made", "seen"),
    [
        ({"orderId": str(2**64 - 1)}, {"order_id": 2**64 - 1}),
        ({"state": "PAID"}, {"state": "PAID"}),
        ({"state": 7}, {"state": 7}),
        ({"all": ["PAID", "OPEN", 9]}, {"all": ["PAID", "OPEN", 9]}),
        ({"lines": [{"sku": "a"}, {"count": 2}]}, {"lines": [{"sku": "a", "count": 0}, {"sku": "", "count": 2}]}),
        ({"prices": {"b": {"rate": 41.76}, "a": {}}}, {"prices": {"a": {"units": 0, "rate": 0.0}, "b": {"units": 0, "rate": 41.76}}}),
        ({"states": {"7": "PAID", "-1": "OPEN"}}, {"states": {"-1": "OPEN", "7": "PAID"}}),
        ({"blob": "AP8="}, {"blob": "AP8="}),
        ({"blobs": ["AP8=", ""]}, {"blobs": ["AP8=", ""]}),
        ({"note": ""}, {"note": ""}),
        ({"card": ""}, {"card": ""}),
        ({"cash": {}}, {"cash": {"units": 0, "rate": 0.0}}),
        ({"at": "2025-10-09T09:00:00.120Z"}, {"at": "2025-10-09T09:00:00.120Z"}),
        ({"at": "1969-12-31T23:59:59.000000001Z"}, {"at": "1969-12-31T23:59:59.000000001Z"}),
        ({"at": "2025-10-09T09:00:00Z"}, {"at": "2025-10-09T09:00:00Z"}),
        ({"took": "-1.500s"}, {"took": "-1.500s"}),
        ({"took": "-0.000001s"}, {"took": "-0.000001s"}),
        ({"took": "90s"}, {"took": "90s"}),
        ({"extra": {"b": [1, 1.5, None, "x", True], "a": {"c": {}}}}, {"extra": {"a": {"c": {}}, "b": [1, 1.5, None, "x", True]}}),
        ({"maybe": "0"}, {"maybe": 0}),
        ({"maybeBytes": "AP8="}, {"maybe_bytes": "AP8="}),
        ({"mask": "a.b,c"}, {"mask": "a.b,c"}),
        (
            {"any": {"@type": "type.googleapis.com/shop.Money", "units": "3"}},
            {"any": {"@type": "type.googleapis.com/shop.Money", "units": 3, "rate": 0.0}},
        ),
        (
            {"any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s"}},
            {"any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s"}},
        ),
        ({"inner": {"inner": {"orderId": 7}}}, {"inner": {**ZEROS, "inner": {**ZEROS, "order_id": 7}}}),
    ],
)
def test_each_kind_of_field_as_a_plain_value(shop: Shop, made: dict[str, Any], seen: dict[str, Any]):
    assert shop.seen(made) == {**ZEROS, **seen}


def test_names_of_json_where_they_are_asked_for(files: FileDescriptorSet):
    assert Shop(files, json_names=True).seen({"orderId": 7})["orderId"] == 7


def test_an_any_of_an_unknown_type_is_bytes(shop: Shop):
    order = shop.make({})
    order.any.type_url, order.any.value = "x/no.Such", b"\0\xff"
    assert shop.read(order.SerializeToString())["any"] == {"@type": "x/no.Such", "value": "AP8="}
    order.any.type_url, order.any.value = "x/shop.Money", b"\xff"
    assert shop.read(order.SerializeToString())["any"] == {"@type": "x/shop.Money", "value": "/w=="}


def test_times_that_no_calendar_has_stay_numbers(shop: Shop):
    order = shop.make({})
    order.at.seconds, order.took.nanos = 2**62, 2_000_000_000
    found = shop.read(order.SerializeToString())
    assert (found["at"], found["took"]) == ({"seconds": 2**62, "nanos": 0}, {"seconds": 0, "nanos": 2_000_000_000})


def test_extensions_have_their_full_name():
    message = "message M { optional int32 x = 1; extensions 100 to 200; }"
    text = f'syntax = "proto2"; package a; {message} extend M {{ optional string more = 100; }}'
    files = proto_schema.compile_texts({"a.proto": text})
    pool = proto_schema.pool_of(files)
    read = protobuf.reader(pool, proto_schema.message_of(pool, files, "a.M"), json_names=False)
    assert read(b"\x08\x07\xa2\x06\x01z") == {"x": 7, "[a.more]": "z"}
    assert read(b"") == {}  # proto2: all have presence.


def test_a_feed_message_reads_as_the_standard_library_does():
    feed = gtfs_realtime_pb2.FeedMessage()
    feed.header.gtfs_realtime_version = "2.0"
    for number in range(20):
        entity = feed.entity.add(id=str(number))
        entity.vehicle.position.latitude = 41.76 + number / 7
        entity.vehicle.position.longitude = -72.67
        entity.vehicle.timestamp = 1_760_000_000
        entity.vehicle.current_status = gtfs_realtime_pb2.VehiclePosition.IN_TRANSIT_TO
        entity.trip_update.trip.trip_id = "x"
        entity.trip_update.stop_time_update.add(stop_id="a").arrival.time = 7
    type_ = feed.DESCRIPTOR
    found = protobuf.reader(type_.file.pool, type_, json_names=False)(feed.SerializeToString())  # type: ignore[arg-type]
    expected = json_format.MessageToDict(feed, preserving_proto_field_name=True)
    for entity in expected["entity"]:  # Its 64-bit integers are texts, ours are numbers.
        entity["vehicle"]["timestamp"] = int(entity["vehicle"]["timestamp"])
        entity["trip_update"]["stop_time_update"][0]["arrival"]["time"] = 7
    assert found == expected


@pytest.mark.parametrize(
    ("value", "digits"),
    [(41.7599983215332, 41.76), (0.10000000149011612, 0.1), (3.4028234663852886e38, 3.4028235e38), (1.401298464324817e-45, 1.4013e-45)],
)
def test_32_bit_numbers_have_no_more_digits_than_they_need(value: float, digits: float):
    assert shortest(value) == digits


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b'{"id": 7}', b"\x1a\x02\x0a\xff"])
def test_damaged_bytes_are_a_problem(shop: Shop, data: bytes):
    with pytest.raises(DecodeError, match=r"is no shop.Order message"):
        shop.read(data)


@pytest.mark.parametrize("indexes", [b"\0", b"\2\0", b"\4\2\0"])
def test_the_frame_is_taken_off_where_the_rules_name_the_type(shop: Shop, indexes: bytes):
    decode = protobuf.by_type(shop.read, is_framed=True)
    message: bytes = shop.make({"order_id": 5, "note": "x"}).SerializeToString()
    assert decode(framed(7, message, indexes), record()) == {**ZEROS, "order_id": 5, "note": "x"}
    with pytest.raises(DecodeError, match="not in Confluent's wire format"):
        decode(message, record())


def test_messages_too_deep_in_each_other_are_a_problem(shop: Shop):
    data = b""
    for _ in range(300):
        size = len(data)
        data = b"\x8a\x01" + bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + data
    with pytest.raises(DecodeError):
        shop.read(data)


class TestSchemas:
    def test_a_descriptor_set_and_its_source_are_the_same(self, files: FileDescriptorSet, tmp_path: Path):
        (tmp_path / "shop.proto").write_text(SHOP)
        assert proto_schema.compile_file(tmp_path / "shop.proto") == files
        assert proto_schema.read_set(files.SerializeToString()) == files

    def test_mistakes_in_a_proto_file_are_told_with_their_place(self, tmp_path: Path):
        (tmp_path / "a.proto").write_text('syntax = "proto3";\nmessage A { Nothing x = 1; }\n')
        with pytest.raises(ConfigurationError, match=r'does not compile: a.proto:2:13: "Nothing" is not defined'):
            proto_schema.compile_file(tmp_path / "a.proto")

    @pytest.mark.parametrize("data", [b"", b"\xff", b"syntax = 'proto3';", b"\x0a\x00"])
    def test_what_is_no_descriptor_set_is_refused(self, data: bytes):
        with pytest.raises(ConfigurationError, match="descriptor set"):
            proto_schema.read_set(data)

    def test_a_set_without_its_imports_is_refused(self):
        texts = {
            "a.proto": 'syntax = "proto3"; import "b.proto"; message A { B b = 1; }',
            "b.proto": 'syntax = "proto3"; message B {}',
        }
        files = proto_schema.compile_texts(texts)
        alone = FileDescriptorSet(file=[file for file in files.file if file.name == "a.proto"])
        with pytest.raises(ConfigurationError, match=r'"a.proto" imports "b.proto", which is not there'):
            proto_schema.pool_of(alone)

    def test_files_that_import_each_other_are_refused(self):
        files = FileDescriptorSet()
        for name, other in (("a", "b"), ("b", "a")):
            files.file.add(name=name, dependency=[other])
        with pytest.raises(ConfigurationError, match="imports itself"):
            proto_schema.pool_of(files)

    def test_a_message_that_is_not_there_is_suggested(self, files: FileDescriptorSet):
        with pytest.raises(ConfigurationError, match=r'there is no message "shop.Ordr" in it; did you mean "shop.Order"'):
            proto_schema.message_of(proto_schema.pool_of(files), files, "shop.Ordr")

    def test_a_name_may_not_lead_out_of_the_folder(self):
        for name in ("../x.proto", "/x.proto", "a/../../x.proto", "a\0.proto"):
            with pytest.raises(ConfigurationError, match="has a file of the name"):
                proto_schema.compile_texts({name: 'syntax = "proto3";'})


@pytest.fixture(params=["serialized", "text"])
def registered(request: pytest.FixtureRequest, fake: FakeRegistry) -> FakeRegistry:
    """A registry that gives descriptors, and one that gives only the text of .proto files."""
    fake.serializes = request.param == "serialized"
    return fake


def registry(fake: FakeRegistry) -> SchemaRegistry:
    return SchemaRegistry(RegistrySettings(fake.url), wait_s=20)


TWO = """
syntax = "proto3";
package p;
import "money.proto";
message A { message B { m.Money m = 1; } message C { int32 x = 1; } }
message D { int32 y = 1; }
"""
MONEY = 'syntax = "proto3"; package m; message Money { int64 units = 1; }'


class TestByTheRegistry:
    def test_the_message_is_found_by_its_place_in_the_file(self, registered: FakeRegistry):
        registered.register("money", MONEY, "PROTOBUF")
        number = registered.register("t-value", TWO, "PROTOBUF", [("money.proto", "money", 1)])
        decode = protobuf.by_id(registry(registered), None, json_names=False)
        assert decode(framed(number, b"", b"\0"), record()) == {}
        assert decode(framed(number, b"\x0a\x02\x08\x07", b"\4\0\0"), record()) == {"m": {"units": 7}}
        assert decode(framed(number, b"\x08\x07", b"\4\0\2"), record()) == {"x": 7}
        assert decode(framed(number, b"\x08\x07", b"\2\2"), record()) == {"y": 7}
        with pytest.raises(DecodeError, match=r"has no message at \[7\]"):
            decode(framed(number, b"", b"\2\x0e"), record())
        with pytest.raises(DecodeError, match=r"has no message at \[-1\]"):
            decode(framed(number, b"", b"\2\1"), record())
        assert len([path for path in registered.requests if path.startswith("/schemas")]) <= 5

    def test_only_the_message_that_the_rules_name(self, fake: FakeRegistry):
        number = fake.register("t", MONEY.replace("message", "message Other {} message"), "PROTOBUF")
        decode = protobuf.by_id(registry(fake), "m.Money", json_names=False)
        assert decode(framed(number, b"\x08\x07", b"\2\2"), record()) == {"units": 7}
        with pytest.raises(DecodeError, match=r"is a m.Other message, and the rules read m.Money"):
            decode(framed(number, b"", b"\0"), record())

    @pytest.mark.parametrize("indexes", [b"", b"\2", b"\xff\xff\xff\xff\xff\xff", b"\x80", b"\1", b"\xfe\x01"])
    def test_damaged_indexes_are_a_problem(self, fake: FakeRegistry, indexes: bytes):
        number = fake.register("t", MONEY, "PROTOBUF")
        with pytest.raises(DecodeError, match="in Confluent's wire format"):
            protobuf.by_id(registry(fake), None, json_names=False)(framed(number, b"", indexes), record())

    def test_a_schema_of_another_kind_and_one_that_is_wrong(self, fake: FakeRegistry):
        fake.serializes = False
        other, wrong = fake.register("a", '"int"'), fake.register("b", "message {", "PROTOBUF")
        decode = protobuf.by_id(registry(fake), None, json_names=False)
        with pytest.raises(DecodeError, match="is AVRO, not PROTOBUF"):
            decode(framed(other, b"", b"\0"), record())
        with pytest.raises(DecodeError, match="does not compile"):
            decode(framed(wrong, b"", b"\0"), record())
