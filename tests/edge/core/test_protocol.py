"""Every frame of a client is a command or an error that says what is wrong; never anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.core.delivery import Mode, Wish
from edge.core.protocol import Ack, CommandError, Connect, ErrorCode, Ping, Subscribe, Unsubscribe, read_command
from edge.core.recovery import Rewind
from edge.core.variant import Dialect, control
from shared.publication import DeltaFormat, Position

COMMANDS = (Connect, Subscribe, Unsubscribe, Ping, Ack)


def read(fields: object, *, is_text: bool = True) -> Any:
    return read_command(msgspec.json.encode(fields) if is_text else msgspec.msgpack.encode(fields), is_text=is_text)


def each(change: Callable[[Any], dict[str, Any]], code: ErrorCode, *wrong: object) -> list[tuple[dict[str, Any], ErrorCode]]:
    """A case for each wrong value."""
    return [(change(value), code) for value in wrong]


class TestCommands:
    @pytest.mark.parametrize("is_text", [True, False])
    @pytest.mark.parametrize(
        ("fields", "command"),
        [
            ({"type": "connect", "id": 1}, Connect(1, "")),
            ({"type": "connect", "id": 1, "client": "x" * 200, "token": "t"}, Connect(1, "x" * 100)),
            ({"type": "subscribe", "id": 2**53 - 1, "channel": "bus:1"}, Subscribe(2**53 - 1, "bus:1")),
            (
                {"type": "subscribe", "id": 3, "channel": "a", "position": {"epoch": "e", "offset": 7}, "delta": ["json-patch", "vcdiff"]},
                Subscribe(3, "a", Position("e", 7), DeltaFormat.JSON_PATCH),
            ),
            (
                {"type": "subscribe", "id": 3, "channel": "a", "position": {"epoch": None, "offset": 0}},
                Subscribe(3, "a", Position("", 0)),
            ),
            ({"type": "subscribe", "id": 3, "channel": "a", "delta": ["future", "vcdiff"]}, Subscribe(3, "a", None, DeltaFormat.VCDIFF)),
            ({"type": "subscribe", "id": 3, "channel": "a", "delta": ["future"], "position": None, "rewind": None}, Subscribe(3, "a")),
            ({"type": "subscribe", "id": 3, "channel": "a", "rewind": {"count": 5}}, Subscribe(3, "a", rewind=Rewind(count=5))),
            ({"type": "subscribe", "id": 3, "channel": "a", "rewind": {"age_s": 0.5}}, Subscribe(3, "a", rewind=Rewind(age_ms=500))),
            ({"type": "unsubscribe", "id": 4, "channel": "a"}, Unsubscribe(4, "a")),
            ({"type": "ping", "id": 5, "unknown": [{}]}, Ping(5)),
        ],
    )
    def test_right_ones(self, fields: dict[str, Any], command: object, is_text: bool):
        assert read(fields, is_text=is_text) == command

    @pytest.mark.parametrize("is_text", [True, False])
    @pytest.mark.parametrize(
        ("change", "code"),
        [
            *each(lambda wrong: {"id": wrong}, ErrorCode.BAD_FRAME, None, 0, -1, 2**53, 1.0, "1", True, [1]),
            *each(lambda wrong: {"type": wrong}, ErrorCode.UNKNOWN_TYPE, None, "", "publish", 1, [], {"a": [1]}, "x" * 1_000),
            *each(lambda wrong: {"channel": wrong}, ErrorCode.BAD_FRAME, None, 1, [], {}),
            *each(lambda wrong: {"channel": wrong}, ErrorCode.BAD_CHANNEL, "", ":a", "a b", "a,b", "a*", "ü", "x" * 256, "{0}", "a\n"),
            *each(lambda wrong: {"position": wrong}, ErrorCode.BAD_FRAME, 1, "x", [], {}, {"epoch": "e"}, {"offset": 1}),
            *each(lambda wrong: {"position": {"epoch": "e", "offset": wrong}}, ErrorCode.BAD_FRAME, -1, 2**53, 1.5, "1", True, None),
            *each(lambda wrong: {"position": {"epoch": wrong, "offset": 1}}, ErrorCode.BAD_FRAME, None, 1, []),
            *each(lambda wrong: {"delta": wrong}, ErrorCode.BAD_FRAME, "vcdiff", 1, {}, [1], ["vcdiff"] * 9, [["vcdiff"]]),
            *each(lambda wrong: {"rewind": wrong}, ErrorCode.BAD_FRAME, 1, [], {}, {"count": 1, "age_s": 1}, {"both": 1}),
            *each(lambda wrong: {"rewind": {"count": wrong}}, ErrorCode.BAD_FRAME, 0, -1, 100_001, 1.5, "1", True),
            *each(lambda wrong: {"rewind": {"age_s": wrong}}, ErrorCode.BAD_FRAME, 0, -1, 1e9, "1", True),
        ],
    )
    def test_wrong_fields(self, change: dict[str, Any], code: ErrorCode, is_text: bool):
        with pytest.raises(CommandError) as caught:
            read({"type": "subscribe", "id": 7, "channel": "a", **change}, is_text=is_text)
        error = caught.value
        assert error.code is code
        assert error.command_id == (None if "id" in change else 7)
        assert error.fields()["retry"] is False
        assert len(str(error)) < 500

    @pytest.mark.parametrize("fields", [{"type": "connect", "id": 1, "client": 5}, {"type": "unsubscribe", "id": 1}])
    def test_wrong_fields_of_other_commands(self, fields: dict[str, Any]):
        with pytest.raises(CommandError) as caught:
            read(fields)
        assert caught.value.code is ErrorCode.BAD_FRAME

    @pytest.mark.parametrize("message", [b"", b"{", b"nonsense", b"\xff", b"[]", b"1", b"null", b'"x"', b'{"id":1,"type":"\xff"}'])
    def test_what_is_no_object(self, message: bytes):
        for is_text in (True, False):
            with pytest.raises(CommandError) as caught:
                read_command(message, is_text=is_text)
            assert caught.value.code is ErrorCode.BAD_FRAME

    @pytest.mark.parametrize("nest", [(b"[", b"]"), (b'{"a":', b"}")])
    def test_any_depth(self, nest: tuple[bytes, bytes]):
        """As deep as can just be read, everything that is done with it still works."""
        for depth in (*range(1, 20), *range(900, 1_010), 20_000):
            with pytest.raises(CommandError):
                read_command(b'{"id":1,"type":' + nest[0] * depth + b"1" + nest[1] * depth + b"}", is_text=True)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
msgpack_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.timezones()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(0, 5) | st.binary(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def fields_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with the right names and whatever values."""
    epoch_and_offset = st.fixed_dictionaries({}, optional={"epoch": values | st.text(max_size=16), "offset": values | st.integers(0, 9)})
    return st.fixed_dictionaries(
        {"id": st.integers(1, 9) | values, "type": st.sampled_from(["connect", "subscribe", "unsubscribe", "ping"]) | values},
        optional={
            "channel": st.sampled_from(["a", "bus:1"]) | values,
            "position": epoch_and_offset | values,
            "delta": st.lists(st.sampled_from(["vcdiff", "json-patch", "none", "x"])) | values,
            "rewind": st.fixed_dictionaries({}, optional={"count": values | st.integers(-9, 2**40), "age_s": values | st.floats()})
            | values,
            "client": values,
        },
    )


def check(message: bytes, *, is_text: bool) -> None:
    answers: list[bytes] = []
    command: object = None
    try:
        command = read_command(message, is_text=is_text)
    except CommandError as error:
        answers = [control(error.fields(), dialect) for dialect in Dialect]
    if answers:
        assert max(map(len, answers)) < 3_000
    else:
        assert isinstance(command, COMMANDS)
        if isinstance(command, Subscribe):
            assert command.rewind is None or command.rewind.count or command.rewind.age_ms


class TestFuzz:
    @given(message=st.binary(max_size=200), is_text=st.booleans())
    @example(message=b"\x82\xa2id\x01\xa4type\xd7\xff" + b"\xff" * 8, is_text=False)  # a timestamp out of range
    @example(message=b"\x81\x81\xa1a\x01\x01", is_text=False)  # a map as a key
    @example(message=b'{"id":1,"type":"\\ud800"}', is_text=True)  # half a character
    @example(message=b'{"id":1,"type":"subscribe","channel":"a","position":{"epoch":"e","offset":' + b"9" * 5_000 + b"}}", is_text=True)
    def test_any_bytes(self, message: bytes, is_text: bool):
        check(message, is_text=is_text)

    @given(fields=fields_of(json_values) | json_values)
    def test_any_json(self, fields: Any):
        check(msgspec.json.encode(fields), is_text=True)

    @given(fields=fields_of(msgpack_values) | msgpack_values)
    def test_any_messagepack(self, fields: Any):
        check(msgspec.msgpack.encode(fields), is_text=False)

    @given(fields=fields_of(json_values), at=st.integers(0, 300), byte=st.integers(0, 255))
    def test_json_with_a_wrong_byte(self, fields: Any, at: int, byte: int):
        message = bytearray(msgspec.json.encode(fields))
        message[at % len(message)] = byte
        check(bytes(message), is_text=True)


class TestDelivery:
    def test_mode_rate_and_window_are_a_wish(self):
        command = read({"type": "subscribe", "id": 1, "channel": "a", "mode": "conflate", "max_rate": 2.5, "window": 2})
        assert isinstance(command, Subscribe)
        assert command.wish == Wish(Mode.CONFLATE, 2.5, 2)
        plain = read({"type": "subscribe", "id": 1, "channel": "a"})
        assert isinstance(plain, Subscribe)
        assert plain.wish == Wish()

    @pytest.mark.parametrize(
        ("field", "values"),
        [
            ("mode", ["latest", "", 1, ["ack"], {}, True]),
            ("max_rate", [0, -1, 1_001, "1", True, [1]]),
            ("window", [0, -1, 10_001, 1.5, "1", True, {}]),
        ],
    )
    def test_what_makes_no_sense_is_told_with_its_field(self, field: str, values: list[Any]):
        for value in values:
            with pytest.raises(CommandError, match=f"`{field}`") as error:
                read({"type": "subscribe", "id": 7, "channel": "a", field: value})
            assert (error.value.code, error.value.command_id) == (ErrorCode.BAD_FRAME, 7)

    @pytest.mark.parametrize(
        ("fields", "ack"),
        [
            ({"number": 3, "offset": 5}, Ack(None, 3, 5)),
            ({"number": 0, "offset": 0}, Ack(None, 0, 0)),
            ({"channel": "a", "offset": 5, "epoch": "AAECAwQFBgcICQoL"}, Ack("a", 0, 5, "AAECAwQFBgcICQoL")),
            ({"channel": "a", "offset": 5, "epoch": None, "id": "ignored"}, Ack("a", 0, 5)),
        ],
    )
    def test_an_acknowledgement_has_no_id(self, fields: dict[str, Any], ack: Ack):
        assert read({"type": "ack", **fields}) == ack

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"offset": 1},
            {"number": 1},
            {"number": 1, "channel": "a", "offset": 1},
            {"number": "1", "offset": 1},
            {"number": None, "offset": 1},
            {"number": 1, "offset": -1},
            {"number": 1, "offset": 1.0},
            {"number": 1, "offset": True},
            {"number": 1, "offset": 2**53},
            {"channel": 1, "offset": 1},
            {"number": 1, "offset": 1, "epoch": 5},
        ],
    )
    def test_an_acknowledgement_of_nothing_is_an_error(self, fields: dict[str, Any]):
        with pytest.raises(CommandError, match="`ack` has") as error:
            read({"type": "ack", **fields})
        assert error.value.code is ErrorCode.BAD_FRAME
