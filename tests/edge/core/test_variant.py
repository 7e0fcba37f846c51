"""Frames are what docs/protocol.md shows, and each is made once."""

from __future__ import annotations

import base64

import msgspec
import pytest

from edge.core.item import Item, Step, item_of
from edge.core.stream import Gap, Missed
from edge.core.variant import Dialect, full_frame, gap_message, step_frame, variant_of
from shared.delta import json_patch, vcdiff
from shared.publication import ContentType, DeltaFormat
from tests.edge.builders import EPOCH_TEXT, LABEL, bracketed, full, plain, value, variant

TIME = 1_700_000_000_000
NAMED = [Dialect.JSON_NAMED, Dialect.MSGPACK_NAMED]


def item(
    payload: bytes = b'{"id":"1430"}', *, offset: int = 12, content_type: ContentType = ContentType.JSON, key: bytes | None = None
) -> Item:
    return item_of(EPOCH_TEXT, full(offset, payload, content_type=content_type, time_ms=TIME, key=key), payload)


def following(size: int = 200, form: DeltaFormat = DeltaFormat.NONE, body: bytes = b"") -> Step:
    """Publication 13, on a base of this size."""
    return Step(item(value(2, size), offset=13), item(value(1, size), offset=12), form, body)


class TestJson:
    def test_full(self):
        assert full_frame(item(), LABEL, variant()) == (
            b'{"type":"publication","number":17,"epoch":"AAECAwQFBgcICQoL","offset":12,"time":1700000000000,"data":{"id":"1430"}}'
        )

    def test_full_for_a_bare_client(self):
        assert full_frame(item(), LABEL, variant(Dialect.JSON_NAMED)) == (
            b'{"type":"publication","channel":"bus:1430","epoch":"AAECAwQFBgcICQoL","offset":12,"time":1700000000000,"data":{"id":"1430"}}'
        )

    def test_json_patch(self):
        base = item(b'{"lat":41.2,"pad":"%b"}' % (b"x" * 200), offset=12)
        made = Step(item(b'{"lat":41.3,"pad":"%b"}' % (b"x" * 200), offset=13), base)
        assert step_frame(made, LABEL, variant(form=DeltaFormat.JSON_PATCH)) == (
            b'{"type":"publication","number":17,"offset":13,"time":1700000000000,"base":12,"delta":"json-patch",'
            b'"data":[{"op":"replace","path":"/lat","value":41.3}]}'
        )

    def test_vcdiff(self):
        made = following()
        fields = msgspec.json.decode(step_frame(made, LABEL, variant(form=DeltaFormat.VCDIFF)))
        body = base64.b64decode(fields.pop("data"))
        assert fields == {
            "type": "publication",
            "number": 17,
            "offset": 13,
            "base": 12,
            "delta": "vcdiff",
            "time": TIME,
            "encoding": "base64",
        }
        assert vcdiff.decode(value(1, 200), body, max_size=1_000) == value(2, 200)

    def test_a_delta_for_a_bare_client_names_channel_and_epoch(self):
        fields = msgspec.json.decode(step_frame(following(), LABEL, variant(Dialect.JSON_NAMED, DeltaFormat.VCDIFF)))
        assert (fields["channel"], fields["epoch"], fields["base"]) == ("bus:1430", EPOCH_TEXT, 12)
        assert "number" not in fields

    @pytest.mark.parametrize(
        ("payload", "content_type", "form", "encoding", "data", "name"),
        [
            (b'{"a": 1}', ContentType.JSON, DeltaFormat.JSON_PATCH, None, {"a": 1}, None),
            (b'{"a": 1}', ContentType.JSON, DeltaFormat.VCDIFF, "utf-8", '{"a": 1}', None),
            ('"ü"'.encode(), ContentType.JSON, DeltaFormat.VCDIFF, "utf-8", '"ü"', None),
            ('say "hi" ü\n'.encode(), ContentType.TEXT, DeltaFormat.NONE, "utf-8", 'say "hi" ü\n', "text/plain"),
            (b"\xff", ContentType.TEXT, DeltaFormat.NONE, "base64", "/w==", "text/plain"),
            (b"abc", ContentType.BINARY, DeltaFormat.NONE, "base64", "YWJj", "application/octet-stream"),
            (b"", ContentType.BINARY, DeltaFormat.NONE, "base64", "", "application/octet-stream"),
        ],
    )
    def test_encodings(
        self, payload: bytes, content_type: ContentType, form: DeltaFormat, encoding: str | None, data: object, name: str | None
    ):
        fields = msgspec.json.decode(full_frame(item(payload, content_type=content_type), LABEL, variant(form=form)))
        assert (fields["data"], fields.get("encoding"), fields.get("content_type")) == (data, encoding, name)

    def test_without_time_and_with_key(self):
        made = item_of(EPOCH_TEXT, full(1, b"1", key='k"ü'.encode()), b"1")
        fields = msgspec.json.decode(full_frame(made, LABEL, variant()))
        assert "time" not in fields
        assert fields["key"] == 'k"ü'


class TestMessagePack:
    def test_full(self):
        frame = full_frame(item(), LABEL, variant(Dialect.MSGPACK))
        assert msgspec.msgpack.decode(frame) == [0, 17, 12, EPOCH_TEXT, TIME, None, 0, b'{"id":"1430"}']

    def test_full_for_a_bare_client(self):
        frame = full_frame(item(b"\xff", content_type=ContentType.BINARY), LABEL, variant(Dialect.MSGPACK_NAMED))
        assert msgspec.msgpack.decode(frame) == [0, "bus:1430", 12, EPOCH_TEXT, TIME, None, 2, b"\xff"]

    @pytest.mark.parametrize("form", [DeltaFormat.VCDIFF, DeltaFormat.JSON_PATCH])
    def test_delta(self, form: DeltaFormat):
        *head, body = msgspec.msgpack.decode(step_frame(following(), LABEL, variant(Dialect.MSGPACK, form)))
        assert head == [int(form), 17, 13, 12, TIME, None, 0]
        decode = vcdiff.decode if form is DeltaFormat.VCDIFF else json_patch.decode
        assert decode(value(1, 200), body, max_size=1_000) == value(2, 200)

    def test_a_delta_for_a_bare_client_names_channel_and_epoch(self):
        frame = step_frame(following(), LABEL, variant(Dialect.MSGPACK_NAMED, DeltaFormat.VCDIFF))
        assert msgspec.msgpack.decode(frame)[:4] == [1, "bus:1430", 13, [EPOCH_TEXT, 12]]


class TestChoice:
    @pytest.mark.parametrize("dialect", Dialect)
    @pytest.mark.parametrize("form", [DeltaFormat.VCDIFF, DeltaFormat.JSON_PATCH])
    @pytest.mark.parametrize("size", [0, 1, 20, 40, 60, 80, 200])
    def test_the_smaller_one_is_sent(self, dialect: Dialect, form: DeltaFormat, size: int):
        made = following(size)
        wanted = variant(dialect, form)
        frame, whole = step_frame(made, LABEL, wanted), full_frame(made.item, LABEL, wanted)
        assert len(frame) <= len(whole)
        assert frame == whole or size > 0 or not dialect.is_text
        assert len(frame) < len(whole) or size < 200

    def test_without_a_base_it_is_whole(self):
        made = Step(item(value(2, 200)))
        wanted = variant(form=DeltaFormat.VCDIFF)
        assert step_frame(made, LABEL, wanted) == full_frame(made.item, LABEL, wanted)

    def test_without_json_on_both_sides_there_is_no_patch(self):
        made = Step(item(value(2, 200)), item(value(1, 200), content_type=ContentType.TEXT))
        wanted = variant(form=DeltaFormat.JSON_PATCH)
        assert step_frame(made, LABEL, wanted) == full_frame(made.item, LABEL, wanted)

    def test_the_delta_of_the_bus_is_used_as_it_is(self):
        body = vcdiff.encode(value(1, 200), value(2, 200)) + b"mark"
        frame = step_frame(following(200, DeltaFormat.VCDIFF, body), LABEL, variant(Dialect.MSGPACK, DeltaFormat.VCDIFF))
        assert msgspec.msgpack.decode(frame)[-1] == body

    def test_another_format_is_made_here_and_once(self, monkeypatch: pytest.MonkeyPatch):
        calls: list[bytes] = []
        real = json_patch.encode_value

        def counted(base: bytes, target: bytes) -> bytes | None:
            calls.append(target)
            return real(base, target)

        monkeypatch.setattr(json_patch, "encode_value", counted)
        made = following(200, DeltaFormat.VCDIFF, vcdiff.encode(value(1, 200), value(2, 200)))
        for dialect in Dialect:
            step_frame(made, LABEL, variant(dialect, DeltaFormat.JSON_PATCH))
        assert calls == [value(2, 200)]


def test_frames_are_made_once_and_framed_once():
    made, wrapped = item(), []

    def wrap(message: bytes) -> bytes:
        wrapped.append(message)
        return bracketed(message)

    first = full_frame(made, LABEL, variant_of(Dialect.JSON, DeltaFormat.NONE, wrap))
    assert full_frame(made, LABEL, variant_of(Dialect.JSON, DeltaFormat.NONE, wrap)) is first
    assert first == b"<" + wrapped[0] + b">"
    assert len(wrapped) == 1
    assert full_frame(made, LABEL, variant_of(Dialect.JSON, DeltaFormat.NONE, plain)) == wrapped[0]


@pytest.mark.parametrize("dialect", Dialect)
def test_gap(dialect: Dialect):
    message = gap_message(Gap("history_trimmed", Missed(4, 7)), LABEL, EPOCH_TEXT, dialect)
    fields = msgspec.json.decode(message) if dialect.is_text else msgspec.msgpack.decode(message)
    who = {"channel": "bus:1430"} if dialect in NAMED else {"number": 17}
    assert fields == {"type": "gap", "reason": "history_trimmed", "missed": {"from": 4, "to": 7}, "epoch": EPOCH_TEXT, **who}
