"""What is fuzzed: everything that parses bytes from outside. A target takes any bytes and fails only where the project is wrong.

Where there is an independent reader of the same format it reads along: vcdiff-decoder, jsonpatch, jmespath, websockets.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jmespath
import jsonpatch
import msgspec
import vcdiff_decoder

from bridge.core.decoding import Decode
from bridge.core.expression import EvaluationError, compile_expression
from bridge.core.record import Record
from bridge.core.routing import Router
from bridge.core.scope import Scope
from bridge.core.template import compile_template
from bridge.formats.json_patterns import has_match
from bridge.rules.load import parse_rules
from distributary._frames import make_format
from distributary.errors import ProtocolError
from edge.core.protocol import CommandError, read_command
from shared import envelope
from shared.bus.layout import decode_layout
from shared.channel import check_channel
from shared.delta import json_apply, json_diff, json_patch, vcdiff, vcdiff_decode, vcdiff_encode
from shared.errors import BusLayoutError, ChannelError, ConfigurationError, DeltaError, EnvelopeError
from shared.publication import ContentType, DeltaFormat, Kind
from tests.bridge.formats.test_fuzz import DECODERS, plain_or_a_problem
from tests.edge.transports.test_entry import CONNECT, UPGRADE, Door
from tests.edge.transports.test_frames import Served, frame
from tests.fuzz.values import Source

MAX_SIZE = 4096


class Target(NamedTuple):
    """One thing to fuzz."""

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]


# -- what travels on the bus -------------------------------------------------------------------------------------------------------


def read_envelope(data: bytes) -> None:
    """What is read as an envelope is written as the same bytes."""
    try:
        found = envelope.decode(data)
    except EnvelopeError:
        return
    assert envelope.encode(found) == data


def read_layout(data: bytes) -> None:
    """A layout, or a clear error."""
    try:
        decode_layout(data, "Redis")
    except BusLayoutError:
        return


# -- deltas ------------------------------------------------------------------------------------------------------------------------


def read_vcdiff(data: bytes) -> None:
    """Both engines and an independent decoder make the same of a delta, or none of it."""
    size = data[0] if data else 0
    base, delta = data[1 : size + 1], data[size + 1 :]
    results: list[bytes | None] = []
    for decode in (vcdiff.decode, vcdiff_decode.decode):
        try:
            results.append(decode(base, delta, max_size=MAX_SIZE))
        except DeltaError:
            results.append(None)
    assert results[0] == results[1]
    # It takes an application header, xdelta3's own extension, for a window; and it refuses numbers written longer than they need to be.
    if results[0] is not None and not delta[4]:
        with contextlib.suppress(vcdiff_decoder.VCDIFFError):
            assert vcdiff_decoder.decode(base, delta) == results[0]


def write_vcdiff(data: bytes) -> None:
    """What either engine writes, all decoders read."""
    source = Source(data)
    size = source.byte() * 8
    rest = source.rest()
    base, target = rest[:size], rest[size:]
    for encode in (vcdiff.encode, vcdiff_encode.encode):
        delta = encode(base, target)
        assert vcdiff.decode(base, delta, max_size=len(target)) == target
        assert vcdiff_decode.decode(base, delta, max_size=len(target)) == target
        assert vcdiff_decoder.decode(base, delta) == target


def write_json_patch(data: bytes) -> None:
    """A patch makes of the base what it was made for, by our own and by an independent reader."""
    source = Source(data)
    base = source.value()
    target = source.changed(base)
    for ordered in (False, True):
        operations = msgspec.to_builtins(json_diff.diff(base, target, ordered=ordered))
        made = json_apply.apply(copy.deepcopy(base), operations)
        assert msgspec.json.encode(made, order="sorted") == msgspec.json.encode(target, order="sorted")
        assert jsonpatch.apply_patch(base, operations) == target
    before, after = msgspec.json.encode(base), msgspec.json.encode(target)
    exact = json_patch.encode(before, after)
    if exact is not None:
        assert json_patch.decode(before, exact, max_size=len(after)) == after


def read_json_patch(data: bytes) -> None:
    """Any patch is applied as an independent reader does it, or refused."""
    source = Source(data)
    base = source.value()
    operations = [_operation(source) for _ in range(source.byte() % 6)]
    try:
        made = json_apply.apply(copy.deepcopy(base), copy.deepcopy(operations))
    except DeltaError:
        return
    assert jsonpatch.apply_patch(base, operations) == made


def _operation(source: Source) -> dict[str, Any]:
    names = ("add", "remove", "replace", "move", "copy", "test")
    found: dict[str, Any] = {"op": names[source.byte() % 6], "path": _pointer(source)}
    if found["op"] in {"move", "copy"}:
        found["from"] = _pointer(source)
    elif found["op"] != "remove":
        found["value"] = source.value(2)
    return found


def _pointer(source: Source) -> str:
    steps = []
    for _ in range(source.byte() % 4):
        kind = source.byte()
        steps.append(str(kind % 7) if kind < 120 else "-" if kind < 140 else json_diff.escape(source.name()))
    return "".join(f"/{step}" for step in steps)


def read_json_patch_bytes(data: bytes) -> None:
    """Hostile bytes as base and patch: a result of bounded size, or a clear error."""
    base, _, delta = data.partition(b"\0")
    try:
        made = json_patch.decode(base, delta, max_size=MAX_SIZE)
    except DeltaError:
        return
    assert len(made) <= MAX_SIZE


# -- rules and expressions ---------------------------------------------------------------------------------------------------------

SAMPLE: dict[str, Any] = {
    "id": "1430",
    "n": 5,
    "f": 2.5,
    "t": True,
    "none": None,
    "list": [1, 2, 3, 2.5, -1],
    "texts": ["b", "a", ""],
    "objects": [{"a": 1, "b": "x"}, {"a": None}, {"b": [1]}, 3],
    "vehicle": {"position": {"lat": 41.5, "long": -72.1}, "id": "v", "empty": {}},
}
_RECORD = Record("topic", 1, 2, 1_700_000_000_000, b"key", b"{}", (("h", b"v"),))


def evaluate_expression(data: bytes) -> None:
    """An expression that compiles gives what jmespath gives."""
    text = data.decode("utf-8", "replace")
    try:
        expression = compile_expression(text)
    except ConfigurationError:
        return
    scope = Scope(_RECORD)
    scope.put_value(copy.deepcopy(SAMPLE))
    try:
        ours = expression.evaluate(scope)
    except EvaluationError:
        return
    assert _written(ours) == _written(jmespath.search(text, scope.names()))


def _written(value: Any) -> Any:
    """As JSON, or as it is where it is none (half of a surrogate pair)."""
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return type(value)


def render_template(data: bytes) -> None:
    """A template gives a channel's name, or says why it does not."""
    try:
        template = compile_template(data.decode("utf-8", "replace"))
    except ConfigurationError:
        return
    scope = Scope(_RECORD)
    scope.put_value(SAMPLE)
    try:
        rendered = template.render(scope)
        for name in [rendered] if isinstance(rendered, str) else rendered:
            check_channel(name)
    except EvaluationError:
        return


def match_pattern(data: bytes) -> None:
    """A pattern matches, or does not, or is refused; and where its words are few, as Python's engine has it."""
    pattern, _, text = data.decode("utf-8", "replace").partition("\0")
    try:
        found = has_match(pattern, text)
    except ConfigurationError:
        return
    if len(text) < 8 and re.fullmatch(r"[ab.^|()*]{0,12}", pattern):  # So that it does not backtrack for long.
        with contextlib.suppress(re.error):  # It has none of `^*`.
            assert found == (re.search(pattern, text) is not None)


def read_rules(data: bytes) -> None:
    """Rules, or problems that each name the file."""
    try:
        parse_rules(data, "rules.yaml")
    except ConfigurationError as error:
        problems = error.problems
    else:
        return
    assert problems
    assert all(problem.startswith("rules.yaml") for problem in problems)


def route_record(data: bytes) -> None:
    """Whatever a record holds, routing ends, and each draft has a channel that is one."""
    for draft in _ROUTER.route(Record(f"t{len(data) % 3}", 0, 0, None, data[:3], data)).drafts:
        check_channel(draft.channel)


_RULES = b"""version: 1
sources:
  - {name: json, topics: [t0], format: json}
  - {name: text, topics: [t1], format: string}
  - {name: raw, topics: [t2], format: raw}
expressions: {x: item.vehicle.x, far: "x > `10` && contains(keys(item), 'id')"}
defaults: {history: {size: 10}, only_changed: true, tags: {t: topic}, max_channels: 1000}
routes:
  - {name: whole, source: json, channel: all, where: "item.a > `1` || value.b"}
  - {name: split, source: json, split: value, channel: "bus:{item.id}", project: {id: item.id, at: index, x: item.vehicle.x}}
  - {name: deep, source: json, split: value.items, channel: ["a:{item}", "b:{index}"], project: "item"}
  - {name: text, source: text, channel: "text:{value}"}
  - {name: raw, source: raw, channel: "raw:{key}"}
  - {name: keyed, source: json, kind: keyed, channel: "k:{item.l}", key: key, version: item.v, id: item.id, timestamp: {iso: item.at}}
  - {name: more, source: json, split: value, where: far, channel: "m:{x}", const: {a: [1]}, set: {b: x}, tags: [h], timestamp: {s: item.t}}
  - {name: numbers, source: json, channel: n, version: to_number(item.v), tags: {v: to_number(item.v)}, timestamp: {ms: to_number(item.v)}}
"""
_ROUTER = Router(parse_rules(_RULES, "rules.yaml"))


# -- what clients and edges say to each other --------------------------------------------------------------------------------------


def read_client_command(data: bytes) -> None:
    """A command, or an error that says why not."""
    for is_text in (True, False):
        with contextlib.suppress(CommandError):
            read_command(data, is_text=is_text)


def read_edge_frame(data: bytes) -> None:
    """What the Python client makes of any frame."""
    for name in ("json", "msgpack"):
        with contextlib.suppress(ProtocolError):
            make_format(name).decode(data)


def read_websocket(data: bytes) -> None:
    """The short way for simple frames says the same as websockets' layer, wherever the bytes are cut."""
    cut = data[0] if data else 0
    served, reference = Served(), Served(by_websockets=True)
    for piece in (data[1:cut], data[max(1, cut) :]):
        served.feed(piece)
    # Byte by byte, so that it tells of the first fault and not of one that the same read brought.
    for byte in data[1:]:
        reference.feed(bytes((byte,)))
    (messages, pongs, close, is_closed), (their_messages, their_pongs, their_close, they_closed) = served.outcome(), reference.outcome()
    assert (messages, is_closed) == (their_messages, they_closed)
    # Of two faults in one read either may be told, and what came between them may have been answered already.
    if close is None or close[0] not in _FAULTS:
        assert (pongs, close) == (their_pongs, their_close)
    else:
        assert their_close is not None
        assert their_close[0] in _FAULTS


_FAULTS = {1002, 1003, 1007, 1009}


def read_head(data: bytes) -> None:
    """Any bytes in place of a request: an answer, a close or patience, never an exception."""
    door = Door()
    entry, transport = door.come()
    half = len(data) // 2
    for piece in (data[:half], data[half:]):
        if piece and not transport.is_closed:
            getattr(transport.protocol, "data_received", entry.data_received)(piece)


def read_channel(data: bytes) -> None:
    """A channel's name is short ASCII of its grammar."""
    try:
        name = check_channel(data.decode("utf-8", "surrogateescape"))
    except ChannelError:
        return
    assert 0 < len(name.encode()) <= 255
    assert name.isprintable()
    assert not re.search(r"[\s*?\[\]{}]", name)


_full = envelope.encode(
    envelope.Envelope(b"epoch-of-12b", 2, 0, DeltaFormat.NONE, Kind.LATEST, ContentType.JSON, 5, b"hashhash", b"", None, b"{}")
)
_keyed = envelope.encode(
    envelope.Envelope(
        b"epoch-of-12b",
        9,
        2,
        DeltaFormat.VCDIFF,
        Kind.KEYED,
        ContentType.JSON,
        5,
        b"hashhash",
        b"basehash",
        b"k",
        b"d",
    )
)
_delta = vcdiff.encode(b"hello, world of deltas", b"hello, small world of deltas")


def _format_target(decode: Decode, valid: bytes) -> Target:
    """A plain value, or the clear problem."""
    return Target(lambda data: plain_or_a_problem(decode, data), (valid,))


TARGETS: dict[str, Target] = {
    "envelope": Target(read_envelope, (_full, _keyed)),
    "layout": Target(read_layout, (b'{"version":1,"shards":16,"servers":1,"server":0}',)),
    "vcdiff_read": Target(read_vcdiff, (bytes([22]) + b"hello, world of deltas" + _delta, b"\0" + vcdiff.encode(b"", b"abcabcabc" * 9))),
    "vcdiff_write": Target(write_vcdiff, (b"\x02hello, world 16bhello, small world", b"\x05" + b"ab" * 40)),
    "json_patch_write": Target(write_json_patch, (bytes(range(190, 255)) * 3, bytes(range(255)))),
    "json_patch_read": Target(
        read_json_patch, (bytes(range(190, 255)) * 3, bytes(range(255)), b"\xc8\x01\x02\x03\x04\x05\xc8\x02\x00\x01\x7b\x01")
    ),
    "json_patch_bytes": Target(
        read_json_patch_bytes, (b'{"a":[1]}\0[{"op":"add","path":"/a/-","value":2}]', b'[1]\0[{"op":"copy","from":"/0","path":"/-"}]')
    ),
    "expression": Target(
        evaluate_expression,
        (
            b"item.vehicle.position.lat",
            b"item.list[?@ > `1`] | [0]",
            b"item.objects[*].{x: a, y: b}",
            b"length(item.texts) == `3` && !item.none || item.t",
            b"join(',', item.texts)",
            b"sort_by(item.objects[:2], &to_string(a))[-1]",
            b"item.list[::-1][]",
            b"not_null(item.none, value.n, key)",
            b"to_number('5') < item.f",
            b"contains(headers.h, 'v')",
        ),
    ),
    "template": Target(render_template, (b"bus:{item.id}", b"a:{item.vehicle.id}:{topic}", b"x:{item.n}.{key}")),
    "pattern": Target(match_pattern, (b"^(a|b)*.$\0abba", b"^\\ud83d\\ude00[\\u{e9}]\\d{1,9}\\p{L}$\0a", b"(a|.b)*b^\0ab")),
    "rules": Target(read_rules, (_RULES,)),
    "route": Target(
        route_record, (b'[{"id":"1","vehicle":{"x":1}},{"id":2}]', b'{"a":2,"items":{"k":"v"}}', b'{"v":"' + b"9" * 400 + b'"}', b"text")
    ),
    "command": Target(
        read_client_command,
        (
            b'{"type":"subscribe","id":1,"channel":"bus:1","position":{"epoch":"AAECAwQFBgcICQoL","offset":3},"delta":["vcdiff"]}',
            b'{"type":"ack","number":1,"offset":5}',
            msgspec.msgpack.encode({"type": "connect", "id": 1, "client": "x"}),
        ),
    ),
    "edge_frame": Target(
        read_edge_frame,
        (
            b'{"type":"publication","number":17,"offset":13,"base":12,"delta":"vcdiff","encoding":"base64","data":"AAAA"}',
            b'{"type":"subscribed","id":1,"channel":"a:b","number":1,"kind":"latest","mode":"queue","delta":null,"position":null,"recovered":null}',
            msgspec.msgpack.encode((0, 1, 2, "AAECAwQFBgcICQoL", None, None, 0, b"{}")),
        ),
    ),
    "websocket": Target(read_websocket, (b"\x05" + frame(0x81, b"hello") + frame(0x89, b"ping"), b"\x00" + frame(0x88, b"\x03\xe8bye"))),
    "head": Target(read_head, (UPGRADE, UPGRADE + CONNECT, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
    "channel": Target(read_channel, (b"bus:1430", b"a.b-c:_d")),
    **{f"format_{re.sub('[^a-z]', '_', name)}": _format_target(*each) for name, each in DECODERS.items()},
}
