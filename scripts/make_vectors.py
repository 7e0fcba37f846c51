"""Write tests/vectors/*.json from docs/protocol.md and the RFCs alone: `python scripts/make_vectors.py`.

It imports nothing of the project. MessagePack, VCDIFF and envelopes are put together by hand here, byte by byte, so that the vectors
check the code rather than repeat it. tests/vectors/README.md says what the files hold.
"""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from hashlib import blake2b
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).resolve().parent.parent / "tests" / "vectors"

EPOCH = "AAECAwQFBgcICQoL"
OTHER_EPOCH = "DA0ODxAREhMUFRYX"
JSON, TEXT, BINARY = "application/json", "text/plain", "application/octet-stream"
CONTENT_TYPES = [JSON, TEXT, BINARY]
FORMATS = [None, "vcdiff", "json-patch"]

Object = dict[str, Any]


def main() -> None:
    """Write every file."""
    write("channels", channels())
    write("envelopes", envelopes())
    write("vcdiff", vcdiffs())
    write("json_patch", json_patches())
    write("sessions_json", sessions("json"))
    write("sessions_msgpack", sessions("msgpack"))


def write(name: str, content: Object) -> None:
    """Write one file, one case after the other, so that a change shows as a change of its case."""
    path = VECTORS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")


# --- channels -------------------------------------------------------------------------------------------------------------------------


def crc16_xmodem(data: bytes) -> int:
    """CRC-16/XMODEM, bit by bit: polynomial 0x1021, start 0."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def channels() -> Object:
    """Names that are channels, with namespace and shard, and names that are none."""
    names = [
        "bus:1430",
        "position:1430",
        "feed",
        "a",
        "0",
        "_x",
        "a:b:c",
        "a:",
        "user:x@y.example",
        "a/b.c~d=e%f!g$h-i",
        "A" * 255,
        "123456789",
    ]
    bad = [
        "",
        ":a",
        "-a",
        ".a",
        "a b",
        "a,b",
        "a*",
        "a?",
        "a#",
        "a+",
        "a{b}",
        'a"',
        "a\n",
        "\ta",
        "caf\u00e9",
        "a\u0000",
        "A" * 256,
        "bus:\u0661",
    ]
    return {
        "valid": [
            {
                "name": name,
                "namespace": name.split(":", 1)[0] if ":" in name else "",
                "crc16": crc16_xmodem(name.encode()),
                "shards": {str(count): crc16_xmodem(name.encode()) % count for count in (1, 3, 16)},
            }
            for name in names
        ],
        "invalid": bad,
    }


# --- envelopes ------------------------------------------------------------------------------------------------------------------------


def digest(payload: bytes) -> bytes:
    """BLAKE2b-64."""
    return blake2b(payload, digest_size=8).digest()


def envelope_bytes(fields: Object) -> bytes:
    """The byte table of section 8."""
    flags = fields["delta"] | fields["kind"] << 2 | fields["content_type"] << 4
    flags |= (0x40 if fields["key"] is not None else 0) | (0x80 if fields["tags"] else 0)
    time_ms = -1 if fields["time_ms"] is None else fields["time_ms"]
    parts = [
        b"\x01",
        bytes.fromhex(fields["epoch"]),
        struct.pack(">Q", fields["offset"]),
        struct.pack(">Q", fields["base"]),
        bytes([flags]),
        struct.pack(">q", time_ms),
        bytes.fromhex(fields["payload_hash"]),
        bytes.fromhex(fields["base_hash"]),
    ]
    if fields["key"] is not None:
        key = bytes.fromhex(fields["key"])
        parts += [struct.pack(">H", len(key)), key]
    if fields["tags"]:
        tags = fields["tags"].encode()
        parts += [struct.pack(">H", len(tags)), tags]
    return b"".join([*parts, bytes.fromhex(fields["body"])])


def envelope(name: str, body: bytes, **changes: Any) -> Object:
    """A case: fields, and their bytes."""
    fields = {
        "epoch": bytes(range(12)).hex(),
        "epoch_text": EPOCH,
        "offset": 1,
        "base": 0,
        "delta": 0,
        "kind": 0,
        "content_type": 0,
        "time_ms": 1_700_000_000_000,
        "payload_hash": digest(body).hex(),
        "base_hash": "",
        "key": None,
        "tags": "",
        "body": body.hex(),
        **changes,
    }
    return {"name": name, "fields": fields, "bytes": envelope_bytes(fields).hex()}


def envelopes() -> Object:
    """Envelopes and their fields, and bytes that are no envelope."""
    full = b'{"id":"1430"}'
    delta = {"offset": 13, "base": 12, "delta": 1, "payload_hash": digest(b"new").hex(), "base_hash": digest(b"old").hex()}
    valid = [
        envelope("full, JSON, stream", full),
        envelope("full, latest, far in the stream", full, kind=1, offset=2**53 - 1),
        envelope("full, keyed, with a key", full, kind=2, key=b"1430".hex()),
        envelope("a key of no bytes is a key", full, kind=2, key=""),
        envelope("text without a time", "héllo".encode(), content_type=1, time_ms=None),
        envelope("binary, empty", b"", content_type=2),
        envelope("a time before 1970", full, time_ms=-2),
        envelope("VCDIFF delta", b"\xd6\xc3\xc4\x00\x00", **delta),
        envelope("JSON Patch delta with a key", b"[]", **{**delta, "delta": 2, "kind": 2, "key": b"k".hex()}),
        envelope(
            "VCDIFF delta, keyed, to a base far back", b"\xd6\xc3\xc4\x00\x00", **{**delta, "base": 3, "kind": 2, "key": b"1430".hex()}
        ),
        envelope("a deletion", b"", kind=2, content_type=3, key=b"1430".hex(), offset=14),
        envelope("a deletion with tags", b"", kind=2, content_type=3, key=b"k".hex(), offset=15, tags='{"source":"gps"}'),
        envelope("tags", full, kind=1, tags='{"source":"gps"}'),
        envelope("tags, other than ASCII", full, tags='{"t\u00fcr":"\u2192","empty":""}'),
        envelope("tags of no names", full, tags="{}"),
        envelope("tags of 4096 bytes", full, tags='{"t":"' + "x" * 4088 + '"}'),
        envelope("key and tags", full, kind=2, key=b"1430".hex(), tags='{"a":"b"}'),
        envelope("VCDIFF delta, key and tags", b"\xd6\xc3\xc4\x00\x00", **{**delta, "kind": 2, "key": b"k".hex(), "tags": '{"a":"b"}'}),
    ]
    good = bytearray(envelope_bytes(valid[0]["fields"]))
    keyed = bytes.fromhex(valid[2]["bytes"])
    vcdiff = bytes.fromhex(valid[7]["bytes"])
    tagged = envelope("", full, tags='{"source":"gps"}')["bytes"]

    def broken(name: str, body: bytes, **changes: Any) -> Object:
        return {"name": name, "bytes": envelope(name, body, **changes)["bytes"]}

    def changed(at: int, value: int) -> str:
        copy = bytearray(good)
        copy[at] = value
        return copy.hex()

    invalid = [
        {"name": "nothing", "bytes": ""},
        {"name": "version 0", "bytes": changed(0, 0)},
        {"name": "version 2", "bytes": changed(0, 2)},
        {"name": "cut within the header", "bytes": good[:45].hex()},
        {"name": "unknown delta format", "bytes": changed(29, 0x03)},
        {"name": "unknown kind", "bytes": changed(29, 0x0C)},
        {"name": "a deletion that is not keyed", "bytes": changed(29, 0x30)[: 46 * 2]},
        {"name": "keyed without a key", "bytes": changed(29, 0x08)},
        {"name": "cut within the base hash", "bytes": vcdiff[:50].hex()},
        {"name": "cut before the key's length", "bytes": keyed[:47].hex()},
        {"name": "cut within the key", "bytes": keyed[:50].hex()},
        broken("a key, not keyed", full, kind=1, key=b"1430".hex()),
        broken("a deletion with a payload", full, kind=2, content_type=3, key=b"1430".hex()),
        broken("a deletion that is a delta", b"", **{**delta, "kind": 2, "content_type": 3, "key": b"1430".hex()}),
        broken("tags that are an array", full, tags='["a"]'),
        broken("tags with a number", full, tags='{"a":1}'),
        broken("tags within tags", full, tags='{"a":{}}'),
        broken("tags that are no JSON", full, tags='{"a":"b"'),
        broken("tags of two lines", full, tags='{"a":\n"b"}'),
        broken("tags of 4097 bytes", full, tags='{"t":"' + "x" * 4089 + '"}'),
        {"name": "tags of no bytes", "bytes": (bytes.fromhex(changed(29, 0x80)[: 46 * 2]) + b"\x00\x00").hex()},
        {"name": "tags that are not UTF-8", "bytes": (bytes.fromhex(changed(29, 0x80)[: 46 * 2]) + b'\x00\x09{"a":"\xff"}').hex()},
        {"name": "cut before the tags' length", "bytes": bytes.fromhex(tagged)[:47].hex()},
        {"name": "cut within the tags", "bytes": bytes.fromhex(tagged)[:60].hex()},
    ]
    return {"valid": valid, "invalid": invalid}


# --- VCDIFF ---------------------------------------------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    """RFC 3284, section 2: base 128, most significant first."""
    out = [number & 0x7F]
    while number := number >> 7:
        out.append(number & 0x7F | 0x80)
    return bytes(reversed(out))


def window(
    source: tuple[int, int] | None, target_length: int, data: bytes, instructions: bytes, addresses: bytes, *, indicator: int = 1
) -> bytes:
    """One window; `source` is (length, position) of the segment."""
    sections = varint(len(data)) + varint(len(instructions)) + varint(len(addresses)) + data + instructions + addresses
    body = varint(target_length) + b"\x00" + sections
    head = b"\x00" if source is None else bytes([indicator]) + varint(source[0]) + varint(source[1])
    return head + varint(len(body)) + body


MAGIC = b"\xd6\xc3\xc4\x00\x00"
RUN, ADD, COPY = 0x00, 0x01, 0x13
"""The codes of the default table whose size follows: RUN, ADD, and COPY with an absolute address."""
COPY_HERE = 0x23
COPY_NEAR_0 = 0x33
COPY_SAME_0 = 0x73


def op(code: int, size: int) -> bytes:
    """An instruction whose size follows."""
    return bytes([code]) + varint(size)


def replace_delta(base: bytes, target: bytes) -> bytes:
    """A delta as an encoder would make it: common head and tail copied, the middle added."""
    head = 0
    while head < min(len(base), len(target)) and base[head] == target[head]:
        head += 1
    tail = 0
    while tail < min(len(base), len(target)) - head and base[-1 - tail] == target[-1 - tail]:
        tail += 1
    middle = target[head : len(target) - tail]
    instructions = b""
    addresses = b""
    if head:
        instructions += op(COPY, head)
        addresses += varint(0)
    if middle:
        instructions += op(ADD, len(middle))
    if tail:
        instructions += op(COPY, tail)
        addresses += varint(len(base) - tail)
    return MAGIC + window((len(base), 0), len(target), middle, instructions, addresses)


def vcdiffs() -> Object:
    """Deltas that must be read, and such that must be refused."""
    base = b'{"id":"1430","lat":41.31,"long":-72.92}'
    long = bytes(range(256)) * 2

    def case(name: str, base: bytes, delta: bytes, target: bytes) -> Object:
        return {"name": name, "base": base.hex(), "delta": delta.hex(), "target": target.hex()}

    moved = base.replace(b"41.31", b"41.32")
    valid = [
        case("one field changed", base, replace_delta(base, moved), moved),
        case("nothing changed", base, replace_delta(base, base), base),
        case("no source: all added", b"", MAGIC + window(None, 3, b"abc", op(ADD, 3), b""), b"abc"),
        case("a base that is not used", base, MAGIC + window(None, 3, b"abc", op(ADD, 3), b""), b"abc"),
        case("ADD with its size in the code", b"", MAGIC + window(None, 3, b"abc", b"\x04", b""), b"abc"),
        case("COPY with its size in the code", b"abcdef", MAGIC + window((6, 0), 4, b"", b"\x14", varint(2)), b"cdef"),
        case("RUN", b"", MAGIC + window(None, 200, b"z", op(RUN, 200), b""), b"z" * 200),
        case("a segment in the middle of the base", b"0123456789", MAGIC + window((4, 3), 4, b"", op(COPY, 4), varint(0)), b"3456"),
        case("COPY that overlaps itself", b"", MAGIC + window(None, 8, b"ab", op(ADD, 2) + op(COPY, 6), varint(0)), b"abababab"),
        case(
            "COPY with an address counted back from here",
            b"xy",
            MAGIC + window((2, 0), 4, b"ab", op(ADD, 2) + op(COPY_HERE, 2), varint(4)),
            b"abxy",
        ),
        case(
            "COPY with a near and with a same address",
            b"0123456789",
            MAGIC + window((10, 0), 8, b"", op(COPY, 2) + op(COPY_NEAR_0, 3) + op(COPY_SAME_0, 3), varint(4) + varint(2) + b"\x04"),
            b"45678456",
        ),
        case("ADD and COPY in one code", b"abcd", MAGIC + window((4, 0), 5, b"x", b"\xa3", varint(0)), b"xabcd"),
        case(
            "two windows", b"abc", MAGIC + window((3, 0), 3, b"", op(COPY, 3), varint(0)) + window(None, 1, b"d", op(ADD, 1), b""), b"abcd"
        ),
        case("lengths of two bytes", long, replace_delta(long, long[:300] + b"!" + long[300:]), long[:300] + b"!" + long[300:]),
        case("an empty target", b"abc", MAGIC + window(None, 0, b"", b"", b""), b""),
    ]
    good = replace_delta(base, moved)
    invalid = [
        ("nothing", b"abc", b""),
        ("not VCDIFF", b"abc", b"hello, world"),
        ("another magic number", b"abc", b"\xd6\xc3\xc5" + good[3:]),
        ("cut short", base, good[:-1]),
        ("cut within the window's head", base, good[:8]),
        ("a source segment longer than the base", base[:-1], good),
        ("COPY from behind what is known", b"abc", MAGIC + window((3, 0), 4, b"", op(COPY, 4), varint(7))),
        ("instructions make more than the target's length", b"abc", MAGIC + window((3, 0), 2, b"", op(COPY, 3), varint(0))),
        ("instructions make less than the target's length", b"abc", MAGIC + window((3, 0), 9, b"", op(COPY, 3), varint(0))),
        ("ADD of more than the data", b"", MAGIC + window(None, 5, b"ab", op(ADD, 5), b"")),
        ("an address is missing", b"abc", MAGIC + window((3, 0), 3, b"", op(COPY, 3), b"")),
        ("a number without an end", b"abc", MAGIC + b"\x01" + b"\xff" * 12),
        ("secondary compression (not used here)", b"", MAGIC[:4] + b"\x01\x01" + window(None, 1, b"a", op(ADD, 1), b"")),
        ("a code table of its own (not used here)", b"", MAGIC[:4] + b"\x02" + window(None, 1, b"a", op(ADD, 1), b"")),
        (
            "a VCD_TARGET window (not used here)",
            b"abc",
            MAGIC + window(None, 3, b"xyz", op(ADD, 3), b"") + window((3, 0), 3, b"", op(COPY, 3), varint(0), indicator=2),
        ),
    ]
    return {
        "valid": valid,
        "invalid": [{"name": name, "base": base.hex(), "delta": delta.hex()} for name, base, delta in invalid],
        "too_large": {"base": "", "delta": (MAGIC + window(None, 1000, b"z", op(RUN, 1000), b"")).hex(), "max_size": 999},
    }


# --- JSON Patch -----------------------------------------------------------------------------------------------------------------------


def json_patches() -> Object:
    """Patches that apply, and such that must be refused."""
    bus = {"id": "1430", "position": {"lat": 41.31, "long": -72.92}, "stops": ["a", "b"]}
    valid: list[tuple[str, Any, Any, Any]] = [
        ("nothing", bus, [], bus),
        ("replace", {"a": 1, "b": 2}, [{"op": "replace", "path": "/a", "value": 3}], {"a": 3, "b": 2}),
        ("replace, nested", {"p": {"x": [1, 2]}}, [{"op": "replace", "path": "/p/x/1", "value": None}], {"p": {"x": [1, None]}}),
        ("replace the whole", bus, [{"op": "replace", "path": "", "value": [1]}], [1]),
        ("add a member", {"a": 1}, [{"op": "add", "path": "/b", "value": {"c": []}}], {"a": 1, "b": {"c": []}}),
        ("add to a member that exists replaces it", {"a": 1}, [{"op": "add", "path": "/a", "value": 2}], {"a": 2}),
        ("insert an item", [1, 3], [{"op": "add", "path": "/1", "value": 2}], [1, 2, 3]),
        ("append an item", [1], [{"op": "add", "path": "/-", "value": 2}], [1, 2]),
        ("append at the length", [1], [{"op": "add", "path": "/1", "value": 2}], [1, 2]),
        ("remove", {"a": 1, "b": [1, 2]}, [{"op": "remove", "path": "/a"}, {"op": "remove", "path": "/b/0"}], {"b": [2]}),
        ("move", {"a": {"b": 1}}, [{"op": "move", "from": "/a/b", "path": "/c"}], {"a": {}, "c": 1}),
        (
            "copy is a copy",
            {"a": [1]},
            [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "add", "path": "/b/-", "value": 2}],
            {"a": [1], "b": [1, 2]},
        ),
        ("test that holds", {"a": 1.0}, [{"op": "test", "path": "/a", "value": 1}, {"op": "remove", "path": "/a"}], {}),
        (
            "escapes: ~1 is a slash, ~0 a tilde",
            {"a/b": 1, "m~n": 2},
            [{"op": "remove", "path": "/a~1b"}, {"op": "remove", "path": "/m~0n"}],
            {},
        ),
        ("~01 is ~1", {"~1": 1}, [{"op": "replace", "path": "/~01", "value": 2}], {"~1": 2}),
        ("an empty key", {"": 1}, [{"op": "replace", "path": "/", "value": 2}], {"": 2}),
        ("a key that looks like an index", {"0": 1}, [{"op": "replace", "path": "/0", "value": 2}], {"0": 2}),
        (
            "null, true and 0 are values",
            {"a": 1, "b": 1, "c": 1},
            [{"op": "replace", "path": f"/{k}", "value": v} for k, v in [("a", None), ("b", True), ("c", 0)]],
            {"a": None, "b": True, "c": 0},
        ),
        ("unknown members are ignored", {"a": 1}, [{"op": "remove", "path": "/a", "why": "x"}], {}),
        (
            "text beyond ASCII",
            {"\u00e9": "\u00fc"},
            [{"op": "replace", "path": "/\u00e9", "value": "\U0001f68c"}],
            {"\u00e9": "\U0001f68c"},
        ),
    ]
    invalid: list[tuple[str, Any, Any]] = [
        ("not an array", {}, {"op": "remove", "path": "/a"}),
        ("an operation that is no object", {}, [1]),
        ("unknown operation", {"a": 1}, [{"op": "increment", "path": "/a"}]),
        ("no path", {"a": 1}, [{"op": "remove"}]),
        ("no value", {"a": 1}, [{"op": "replace", "path": "/a"}]),
        ("no from", {"a": 1}, [{"op": "move", "path": "/a"}]),
        ("a path without its slash", {"a": 1}, [{"op": "remove", "path": "a"}]),
        ("replace what is not there", {"a": 1}, [{"op": "replace", "path": "/b", "value": 1}]),
        ("remove what is not there", [1], [{"op": "remove", "path": "/1"}]),
        ("insert behind the end", [1], [{"op": "add", "path": "/2", "value": 1}]),
        ("an index with a leading zero", [1, 2], [{"op": "remove", "path": "/01"}]),
        ("a negative index", [1, 2], [{"op": "remove", "path": "/-1"}]),
        ("an index that is no number", [1], [{"op": "replace", "path": "/x", "value": 1}]),
        ("a path through a number", {"a": 1}, [{"op": "add", "path": "/a/b", "value": 1}]),
        ("remove from a number", 3, [{"op": "remove", "path": "/a"}]),
        ("remove from a text", {"a": "b"}, [{"op": "remove", "path": "/a/0"}]),
        ("replace in null", None, [{"op": "replace", "path": "/a", "value": 1}]),
        ("move from a boolean", {"a": True}, [{"op": "move", "from": "/a/b", "path": "/c"}]),
        ("test in a text", {"a": "b"}, [{"op": "test", "path": "/a/0", "value": "b"}]),
        ("remove the whole", {}, [{"op": "remove", "path": ""}]),
        ("test that fails", {"a": 1}, [{"op": "test", "path": "/a", "value": 2}]),
        ("test: true is not 1", {"a": True}, [{"op": "test", "path": "/a", "value": 1}]),
        ("move into itself", {"a": {"b": 1}}, [{"op": "move", "from": "/a", "path": "/a/b"}]),
        ("an escape that is none", {"a~2": 1}, [{"op": "remove", "path": "/a~2"}]),
    ]
    return {
        "valid": [{"name": name, "base": base, "patch": patch, "target": target} for name, base, patch, target in valid],
        "invalid": [{"name": name, "base": base, "patch": patch} for name, base, patch in invalid],
    }


# --- sessions -------------------------------------------------------------------------------------------------------------------------


def pack(value: Any) -> bytes:
    """MessagePack, the part of it that the protocol uses."""
    match value:
        case None | bool():
            packed = {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
        case int():
            packed = _pack_integer(value)
        case float():
            packed = b"\xcb" + struct.pack(">d", value)
        case str():
            data = value.encode()
            packed = (bytes([0xA0 | len(data)]) if len(data) < 32 else b"\xda" + struct.pack(">H", len(data))) + data
        case bytes():
            packed = b"\xc5" + struct.pack(">H", len(value)) + value
        case dict():
            packed = b"\xde" + struct.pack(">H", len(value)) + b"".join(pack(key) + pack(item) for key, item in value.items())
        case _:
            packed = bytes([0x90 | len(value)]) + b"".join(pack(item) for item in value)
    return packed


def _pack_integer(value: int) -> bytes:
    if 0 <= value < 128:
        return bytes([value])
    if value < 0:
        return b"\xd3" + struct.pack(">q", value)
    return b"\xcf" + struct.pack(">Q", value)


class Script:
    """One session, step by step, in one format."""

    def __init__(self, format_name: str, name: str, why: str, *, delta: tuple[str, ...] = (), bare: list[str] | None = None) -> None:
        self.format = format_name
        self.delta = list(delta)
        self.steps: list[Object] = []
        self.case: Object = {"name": name, "why": why, "steps": self.steps}
        self.is_bare = bare is not None
        if bare is not None:
            self.case["bare"] = {"channels": bare, "delta": self.delta}

    def connect(self, *subscribes: Object) -> Script:
        """A connection is made, and everything wanted is subscribed to."""
        self.steps.append({"do": "connect", "sends": [{"type": "connect", "id": 1}]})
        connected = {
            "type": "connected",
            "id": 1,
            "session": "s",
            "version": 1,
            "ping_interval_s": 25,
            "max_frame_bytes": 65536,
            "max_subscriptions": 100,
        }
        return self.control(connected, sends=[self.asks(place + 2, **wish) for place, wish in enumerate(subscribes)])

    def asks(self, command_id: int, channel: str, **fields: Any) -> Object:
        """The `subscribe` frame that a client sends."""
        return {"type": "subscribe", "id": command_id, "channel": channel, **({"delta": self.delta} if self.delta else {}), **fields}

    def subscribe(self, channel: str, command_id: int = 2, **fields: Any) -> Script:
        """The application subscribes."""
        self.steps.append(
            {"do": "subscribe", "channel": channel, "delta": self.delta, **fields, "sends": [self.asks(command_id, channel, **fields)]}
        )
        return self

    def unsubscribe(self, channel: str, command_id: int) -> Script:
        """The application unsubscribes."""
        self.steps.append(
            {"do": "unsubscribe", "channel": channel, "sends": [{"type": "unsubscribe", "id": command_id, "channel": channel}]}
        )
        return self

    def subscribed(self, channel: str, number: int, command_id: int = 2, *, sees: list[Object] | None = None, **fields: Any) -> Script:
        """The edge's answer."""
        frame = {
            "type": "subscribed",
            "id": command_id,
            "channel": channel,
            "number": number,
            "kind": "latest",
            "mode": "queue",
            "delta": self.delta[0] if self.delta else None,
            "position": None,
            "recovered": None,
            **fields,
        }
        return self.control(frame, sees=sees)

    def ack(self, channel: str, offset: int, number: int | None, epoch: str = EPOCH) -> Script:
        """The application has handled all up to here; without a number there is no subscription that could be told."""
        frame = {"type": "ack", "number": number, "offset": offset, "epoch": epoch}
        self.steps.append({"do": "ack", "channel": channel, **at(offset, epoch), "sends": [] if number is None else [frame]})
        return self

    def lose(self) -> Script:
        """The connection breaks."""
        self.steps.append({"do": "lose"})
        return self

    def control(self, frame: Object, *, sends: list[Object] | None = None, sees: list[Object] | None = None) -> Script:
        """A control frame comes."""
        return self.raw(json.dumps(frame, separators=(",", ":")) if self.format == "json" else pack(frame), frame, sends=sends, sees=sees)

    def raw(self, data: str | bytes, reads: Any = None, *, sends: list[Object] | None = None, sees: list[Object] | None = None) -> Script:
        """Any frame comes."""
        step: Object = {"do": "receive"}
        if isinstance(data, str):
            step["text"] = data
        else:
            step["hex"] = data.hex()
            if reads is not None:
                step["reads"] = reads
        self.steps.append({**step, "sends": sends or [], "sees": sees or []})
        return self

    def resubscribes(self, channel: str, first_id: int, **fields: Any) -> list[Object]:
        """What a client sends that gives up a subscription and begins it again."""
        return [{"type": "unsubscribe", "id": first_id, "channel": channel}, self.asks(first_id + 1, channel, **fields)]

    def publication(  # noqa: C901, PLR0912, PLR0913 - a publication has many parts, and most have a usual value
        self,
        name: int | str,
        offset: int,
        payload: bytes,
        *,
        channel: str = "bus:1430",
        base: tuple[int, bytes] | None = None,
        delta: str | None = None,
        body: bytes | None = None,
        epoch: str = EPOCH,
        content_type: str = JSON,
        key: str | None = None,
        tags: dict[str, str] | None = None,
        is_deleted: bool = False,
        starts_state: bool = False,
        time: int | None = 1_700_000_000_000,
        gap: Object | None = None,
        recovered: bool = False,
        is_seen: bool = True,
        sends: list[Object] | None = None,
        extra_sees: list[Object] | None = None,
    ) -> Script:
        """A publication comes: `payload` whole, or as `body`, a delta to `base`."""
        if delta is None:
            body = payload
        elif body is None and base is not None:
            body = replace_delta(base[1], payload) if delta == "vcdiff" else patch_text(base[1], payload)
        assert body is not None  # noqa: S101 - a caller's mistake in this file
        is_exact = self.format == "msgpack" or "vcdiff" in self.delta or content_type != JSON
        if delta == "json-patch":
            is_exact = False
        sees = extra_sees or []
        if is_seen:
            seen: Object = {
                "channel": channel,
                "epoch": epoch,
                "offset": offset,
                "time_ms": time,
                "key": key,
                "content_type": content_type,
                "payload": payload.hex() if is_exact else None,
                "is_delta": delta is not None,
                "recovered": recovered,
                "gap": gap,
            }
            if tags:
                seen["tags"] = tags
            if key is not None:
                seen["starts_state"] = starts_state
            if is_deleted:
                seen |= {"content_type": "none", "payload": None, "deleted": True}
            elif content_type == JSON:
                seen["data"] = json.loads(payload)
            elif content_type == TEXT:
                seen["data"] = payload.decode()
            sees = [*sees, {"publication": seen}]
        base_offset = base[0] if base else None
        if self.format == "json":
            frame = self._object(name, offset, body, base_offset, delta, epoch, content_type, key, time)
            if tags:
                frame["tags"] = tags
            if is_deleted:
                frame |= {"deleted": True}
                for gone in ("data", "encoding"):
                    frame.pop(gone, None)
            return self.raw(json.dumps(frame, separators=(",", ":")), sends=sends, sees=sees)
        where: Any = epoch
        if delta is not None:
            where = [epoch, base_offset] if self.is_bare else base_offset
        number = 3 if is_deleted else CONTENT_TYPES.index(content_type)
        array = [FORMATS.index(delta), name, offset, where, time, key, number, body]
        more = [tags] if tags else []
        return self.raw(pack([*array, *more]), [*array[:7], {"hex": body.hex()}, *more], sends=sends, sees=sees)

    def deletion(self, name: int | str, offset: int, key: str, **changes: Any) -> Script:
        """A key is deleted."""
        return self.publication(name, offset, b"", key=key, is_deleted=True, content_type=BINARY, **changes)

    def caught_up(self, name: int | str, offset: int, *, starts_state: bool = False) -> Script:
        """The state is complete."""
        frame: Object = {"type": "caught_up", "channel" if self.is_bare else "number": name, "epoch": EPOCH, "offset": offset}
        return self.control(frame, sees=[{"whole": {"channel": B, **at(offset), "starts_state": starts_state}}])

    def raw_hole(self, name: int, offset: int, payload: bytes, *, first_id: int, **fields: Any) -> Script:
        """A publication comes that leaves one out: the client begins again."""
        return self.publication(name, offset, payload, is_seen=False, sends=self.resubscribes(B, first_id, **fields))

    def _object(  # noqa: PLR0913, PLR0917 - the same parts
        self,
        name: int | str,
        offset: int,
        body: bytes,
        base: int | None,
        delta: str | None,
        epoch: str,
        content_type: str,
        key: str | None,
        time: int | None,
    ) -> Object:
        frame: Object = {"type": "publication", "channel" if self.is_bare else "number": name}
        if delta is None or self.is_bare:
            frame["epoch"] = epoch
        frame["offset"] = offset
        if delta is not None:
            frame |= {"base": base, "delta": delta}
        if time is not None:
            frame["time"] = time
        if key is not None:
            frame["key"] = key
        if content_type != JSON:
            frame["content_type"] = content_type
        if delta == "vcdiff" or content_type == BINARY:
            frame |= {"encoding": "base64", "data": b64encode(body).decode()}
        elif content_type == TEXT or (delta is None and "vcdiff" in self.delta):
            frame |= {"encoding": "utf-8", "data": body.decode()}
        else:
            frame["data"] = json.loads(body)
        return frame


def patch_text(base: bytes, target: bytes) -> bytes:
    """A patch of `replace` operations between two flat objects with the same keys."""
    old, new = json.loads(base), json.loads(target)
    return json.dumps(
        [{"op": "replace", "path": f"/{key}", "value": new[key]} for key in new if old[key] != new[key]], separators=(",", ":")
    ).encode()


def bus(lat: float) -> bytes:
    """A payload."""
    return json.dumps({"id": "1430", "lat": lat}, separators=(",", ":")).encode()


def at(offset: int, epoch: str = EPOCH) -> Object:
    """A position."""
    return {"epoch": epoch, "offset": offset}


FROM_THE_BEGINNING: Object = {"epoch": None, "offset": 0}
"""The position of a channel that had no publication."""


def epoch_changed() -> Object:
    """What `subscribed` says to a position of another epoch."""
    return {"recovered": False, "reason": "epoch_changed", "missed": None}


def told(reason: str, first: int | None = None, last: int | None = None, channel: str = "bus:1430") -> Object:
    """What an application sees of a gap at once."""
    return {"gap": {"channel": channel, **lost(reason, first, last)}}


def lost(reason: str, first: int | None = None, last: int | None = None) -> Object:
    """A gap."""
    return {"reason": reason, "missed": None if first is None else {"from": first, "to": last}}


def wire_gap(number: int | None, reason: str, missed: Object | None, epoch: str = EPOCH) -> Object:
    """A `gap` frame."""
    name: Object = {"channel": "bus:1430"} if number is None else {"number": number}
    return {"type": "gap", **name, "reason": reason, "missed": missed, "epoch": epoch}


def sessions(fmt: str) -> Object:
    """Every session of a format."""
    made = [
        *plain(fmt),
        *deltas(fmt),
        *breaks(fmt),
        *gaps(fmt),
        *resumes(fmt),
        *ends(fmt),
        *bares(fmt),
        *modes(fmt),
        *keyed(fmt),
        *malformed(fmt),
    ]
    return {"format": fmt, "sessions": [script.case for script in made]}


B = "bus:1430"


def plain(fmt: str) -> list[Script]:
    """Full publications."""
    return [
        Script(fmt, "latest", "the newest value comes first, then what follows")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, position=at(12))
        .publication(17, 12, bus(1))
        .publication(17, 13, bus(2)),
        Script(fmt, "stream", "begins with the next publication")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, kind="stream", position=at(12))
        .publication(17, 13, bus(1))
        .publication(17, 14, bus(2)),
        Script(fmt, "a channel without publications", "there is no position, and offset 1 is no gap")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, kind=None, position=None)
        .publication(17, 1, bus(1))
        .publication(17, 2, bus(2)),
        Script(fmt, "a stream that is rewound, lost before its first publication", "comes back with the position told in `subscribed`")
        .connect()
        .subscribe(B, rewind={"count": 2})
        .subscribed(B, 17, kind="stream", position=at(12))
        .lose()
        .connect({"channel": B, "position": at(12)})
        .subscribed(B, 17, kind="stream", position=at(13), recovered=True)
        .publication(17, 13, bus(1), recovered=True),
        Script(fmt, "rewind", "what comes first is older than the newest position, and none of it is a duplicate")
        .connect()
        .subscribe(B, rewind={"count": 2})
        .subscribed(B, 17, kind="stream", position=at(12))
        .publication(17, 11, bus(1))
        .publication(17, 12, bus(2))
        .publication(17, 13, bus(3))
        .lose()
        .connect({"channel": B, "position": at(13)}),
        Script(fmt, "content types", "text is a string, binary is bytes, and a publication may have no time and may have a key")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, position=at(1))
        .publication(17, 1, "h\u00e9llo \U0001f68c".encode(), content_type=TEXT)
        .publication(17, 2, bytes([0, 255, 128]), content_type=BINARY)
        .publication(17, 3, b"", content_type=TEXT, time=None)
        .publication(17, 4, b'[1,2.5,"x",null,true]', key="k", starts_state=True),
        Script(fmt, "two channels", "each has its own stream")
        .connect()
        .subscribe(B)
        .subscribe("feed", 3)
        .subscribed(B, 17, position=at(5))
        .subscribed("feed", 0, 3, position=at(900, OTHER_EPOCH))
        .publication(17, 5, bus(1))
        .publication(0, 900, b"[]", channel="feed", epoch=OTHER_EPOCH)
        .publication(17, 6, bus(2))
        .publication(0, 901, b"[1]", channel="feed", epoch=OTHER_EPOCH),
        Script(fmt, "a duplicate", "an offset that was seen is ignored")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, position=at(12))
        .publication(17, 12, bus(1))
        .publication(17, 12, bus(1), is_seen=False)
        .publication(17, 11, bus(0), is_seen=False)
        .publication(17, 13, bus(2)),
        Script(fmt, "what a client does not know", "unknown types, unknown fields and unknown numbers are ignored")
        .connect()
        .subscribe(B)
        .control({"type": "weather", "sky": "blue"})
        .subscribed(B, 17, position=at(12), colour="red")
        .publication(99, 1, bus(0), is_seen=False)
        .control({"type": "pong", "id": 77})
        .control({"type": "drain", "reconnect_after_ms": 1000})
        .publication(17, 12, bus(1)),
    ]


def deltas(fmt: str) -> list[Script]:
    """Deltas, and full publications between them."""
    one, two, three = bus(41.3), bus(41.31), bus(41.32)
    made = []
    for name in ("vcdiff", "json-patch"):
        made.append(
            Script(fmt, f"{name} chain", "each delta applies to the last publication; a full one may come at any time", delta=(name,))
            .connect()
            .subscribe(B)
            .subscribed(B, 17, position=at(12))
            .publication(17, 12, one)
            .publication(17, 13, two, base=(12, one), delta=name)
            .publication(17, 14, three, base=(13, two), delta=name)
            .publication(17, 15, one)
            .publication(17, 16, two, base=(15, one), delta=name)
        )
        made.append(
            Script(fmt, f"{name}: a duplicate", "a delta that came before is ignored, and the next one applies", delta=(name,))
            .connect()
            .subscribe(B)
            .subscribed(B, 17, position=at(12))
            .publication(17, 12, one)
            .publication(17, 13, two, base=(12, one), delta=name)
            .publication(17, 13, two, base=(12, one), delta=name, is_seen=False)
            .publication(17, 14, three, base=(13, two), delta=name)
        )
        made.append(
            Script(fmt, f"{name}: conflated", "outside mode queue offsets may jump, and that is no gap; the base counts", delta=(name,))
            .connect()
            .subscribe(B)
            .subscribed(B, 17, position=at(12), mode="conflate")
            .publication(17, 12, one)
            .publication(17, 20, two, base=(12, one), delta=name)
            .publication(17, 30, three)
        )
    made.append(
        Script(fmt, "vcdiff of text and binary", "deltas know no content type", delta=("vcdiff",))
        .connect()
        .subscribe(B)
        .subscribed(B, 17, position=at(1))
        .publication(17, 1, b"hello", content_type=TEXT)
        .publication(17, 2, b"hello!", base=(1, b"hello"), delta="vcdiff", content_type=TEXT)
        .publication(17, 3, b"hello\xff", base=(2, b"hello!"), delta="vcdiff", content_type=BINARY)
    )
    return made


def breaks(fmt: str) -> list[Script]:
    """Deltas and offsets that do not fit."""
    one, two, three = bus(41.3), bus(41.31), bus(41.32)
    made = []
    for name in ("vcdiff", "json-patch"):

        def start(title: str, why: str, name: str = name) -> Script:
            script = Script(fmt, f"{name}: {title}", why, delta=(name,))
            return script.connect().subscribe(B).subscribed(B, 17, position=at(12)).publication(17, 12, one)

        def refuses(script: Script, *, base: tuple[int, bytes], body: bytes | None = None, name: str = name) -> Script:
            again = script.resubscribes(B, 3, position=at(12))
            return script.publication(17, 13, two, base=base, delta=name, body=body, is_seen=False, sends=again)

        made.append(
            refuses(
                start("wrong base", "it is not applied; subscribe again from the position held. What is still on its way is not used"),
                base=(11, one),
            )
            .publication(17, 14, three, base=(13, two), delta=name, is_seen=False)
            .publication(17, 15, three, is_seen=False)
            .control({"type": "unsubscribed", "id": 3, "channel": B})
            .subscribed(B, 17, 4, position=at(15), recovered=True)
            .publication(17, 13, two, recovered=True)
            .publication(17, 14, three, base=(13, two), delta=name, recovered=True)
            .publication(17, 15, one, recovered=True)
            .publication(17, 16, two, base=(15, one), delta=name)
        )
        made.append(
            refuses(
                start("a damaged delta", "subscribe again from the position held: what it should have brought comes whole"),
                base=(12, one),
                body=b'[{"op":"remove","path":"/nothing"}]',
            )
            .control({"type": "unsubscribed", "id": 3, "channel": B})
            .subscribed(B, 18, 4, position=at(13), recovered=True)
            .publication(18, 13, two, recovered=True)
            .publication(18, 14, three, base=(13, two), delta=name)
        )
        script = start("no base yet", "a delta right after subscribing has no base, and there is no position to come back with")
        script.steps.pop()
        made.append(
            script.publication(17, 13, two, base=(12, one), delta=name, is_seen=False, sends=script.resubscribes(B, 3))
            .subscribed(B, 17, 4, position=at(13))
            .publication(17, 13, two)
        )
        made.append(
            refuses(start("the value that is held comes again", "it is a duplicate"), base=(11, one))
            .subscribed(B, 17, 4, position=at(12), recovered=True)
            .publication(17, 12, one, is_seen=False)
            .publication(17, 13, two)
        )
        made.append(
            refuses(start("too much missed after a wrong base", "the edge says what is lost, as to any position"), base=(11, one))
            .subscribed(
                B,
                17,
                4,
                position=at(40),
                recovered=False,
                reason="history_trimmed",
                missed={"from": 13, "to": 39},
                sees=[told("history_trimmed", 13, 39)],
            )
            .publication(17, 40, three, gap=lost("history_trimmed", 13, 39))
        )
        made.append(
            refuses(start("another epoch after a wrong base", "the number of what was missed is unknown then"), base=(11, one))
            .subscribed(B, 17, 4, position=at(40, OTHER_EPOCH), **epoch_changed(), sees=[told("epoch_changed")])
            .publication(17, 40, three, epoch=OTHER_EPOCH, gap=lost("epoch_changed"))
        )
        script = Script(fmt, f"{name}: a stream with a delta that does not fit", "loses nothing", delta=(name,))
        script.connect().subscribe(B).subscribed(B, 17, kind="stream", position=at(12))
        made.append(
            refuses(script, base=(12, one))
            .subscribed(B, 17, 4, kind="stream", position=at(15), recovered=True)
            .publication(17, 13, two, recovered=True)
            .lose()
            .connect({"channel": B, "position": at(13)})
            .subscribed(B, 3, kind="stream", position=at(15), recovered=True)
            .publication(3, 14, three, recovered=True)
            .publication(3, 15, one, recovered=True)
            .publication(3, 16, two)
        )
    script = (
        Script(fmt, "VCDIFF after a JSON Patch", "a patch gives a value, and VCDIFF needs bytes", delta=("vcdiff", "json-patch"))
        .connect()
        .subscribe(B)
        .subscribed(B, 17, position=at(12))
        .publication(17, 12, one)
        .publication(17, 13, two, base=(12, one), delta="json-patch")
    )
    made.append(
        script.publication(17, 14, three, base=(13, two), delta="vcdiff", is_seen=False, sends=script.resubscribes(B, 3, position=at(13)))
        .subscribed(B, 17, 4, position=at(14), recovered=True)
        .publication(17, 14, three, recovered=True)
    )
    script = (
        Script(fmt, "a hole", "in mode queue no offset is left out: subscribe again from the position held")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, position=at(12))
        .publication(17, 12, one)
    )
    made.append(
        script.publication(17, 14, three, is_seen=False, sends=script.resubscribes(B, 3, position=at(12)))
        .publication(17, 15, two, is_seen=False)
        .control({"type": "unsubscribed", "id": 3, "channel": B})
        .subscribed(B, 17, 4, position=at(15), recovered=True)
        .publication(17, 13, two, recovered=True)
        .publication(17, 14, three, recovered=True)
        .publication(17, 15, two, recovered=True)
        .publication(17, 16, one)
    )
    script = (
        Script(fmt, "a hole at the start of a stream", "a stream goes on right behind the position told in `subscribed`")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, kind="stream", position=at(12))
    )
    made.append(
        script.publication(17, 14, two, is_seen=False, sends=script.resubscribes(B, 3, position=at(12)))
        .subscribed(B, 17, 4, kind="stream", position=at(14), recovered=True)
        .publication(17, 13, one, recovered=True)
        .publication(17, 14, two, recovered=True)
    )
    return made


def gaps(fmt: str) -> list[Script]:
    """What the edge could not deliver."""
    one, two, three = bus(41.3), bus(41.31), bus(41.32)
    missed = {"from": 13, "to": 19}

    def start(title: str, why: str, *delta: str) -> Script:
        return Script(fmt, title, why, delta=delta).connect().subscribe(B).subscribed(B, 17, position=at(12)).publication(17, 12, one)

    made = [
        start("gap", "the frame comes first, then the newest value, full; the application sees both")
        .control(wire_gap(17, "history_trimmed", missed), sees=[told("history_trimmed", 13, 19)])
        .publication(17, 20, two, gap=lost("history_trimmed", 13, 19))
        .publication(17, 21, three),
        start("a new epoch", "offsets start over, which is no duplicate")
        .control(wire_gap(17, "epoch_changed", None, OTHER_EPOCH), sees=[told("epoch_changed")])
        .publication(17, 1, two, epoch=OTHER_EPOCH, gap=lost("epoch_changed"))
        .publication(17, 2, three, epoch=OTHER_EPOCH),
        start("a new epoch without a word", "a full publication names its epoch: another one is a gap, said or not")
        .publication(17, 13, two, epoch=OTHER_EPOCH, gap=lost("epoch_changed"))
        .publication(17, 14, three, epoch=OTHER_EPOCH),
        start("two gaps before a value", "are one to the application")
        .control(wire_gap(17, "history_trimmed", missed), sees=[told("history_trimmed", 13, 19)])
        .control(wire_gap(17, "too_large", {"from": 20, "to": 24}), sees=[told("too_large", 20, 24)])
        .publication(17, 25, two, gap=lost("too_large", 13, 24)),
    ]
    script = start("a delta after a gap", "has no base: the value from before the gap is none", "json-patch")
    made.append(
        script.control(wire_gap(17, "history_trimmed", missed), sees=[told("history_trimmed", 13, 19)])
        .publication(17, 20, two, base=(12, one), delta="json-patch", is_seen=False, sends=script.resubscribes(B, 3, position=at(12)))
        .subscribed(
            B, 17, 4, position=at(20), recovered=False, reason="history_trimmed", missed=missed, sees=[told("history_trimmed", 13, 19)]
        )
        .publication(17, 20, two, gap=lost("history_trimmed", 13, 19))
    )
    return made


def resumes(fmt: str) -> list[Script]:
    """Coming back."""
    one, two, three = bus(41.3), bus(41.31), bus(41.32)

    def start(title: str, why: str, *delta: str) -> Script:
        script = Script(fmt, title, why, delta=delta).connect().subscribe(B).subscribed(B, 17, position=at(12)).publication(17, 12, one)
        return script.lose().connect({"channel": B, "position": at(12)})

    hole = (
        Script(fmt, "a hole after a gap and a resume", "recovered means from the position on, without a hole")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, position=at(12))
        .publication(17, 12, one)
        .control(wire_gap(17, "history_trimmed", {"from": 13, "to": 13}), sees=[told("history_trimmed", 13, 13)])
        .lose()
        .connect({"channel": B, "position": at(12)})
        .subscribed(B, 3, position=at(14), recovered=True)
    )
    based = start("a delta right after a resume", "has no base: the first publication after `subscribed` is full", "json-patch")
    other = start("a delta of another epoch", "after `recovered: false` there is no base, even where the offsets fit", "json-patch")
    return [
        start("resume", "the position held, another number, and exactly what came since", "vcdiff")
        .subscribed(B, 3, position=at(14), recovered=True)
        .publication(3, 13, two, recovered=True)
        .publication(3, 14, three, base=(13, two), delta="vcdiff", recovered=True)
        .publication(3, 15, one),
        start("resume with nothing missed", "the stream just goes on")
        .subscribed(B, 3, position=at(12), recovered=True)
        .publication(3, 12, one, is_seen=False)
        .publication(3, 13, two),
        based.subscribed(B, 3, position=at(13), recovered=True)
        .publication(3, 13, two, base=(12, one), delta="json-patch", is_seen=False, sends=based.resubscribes(B, 3, position=at(12)))
        .subscribed(B, 3, 4, position=at(13), recovered=True)
        .publication(3, 13, two, recovered=True),
        start("resume too late", "the application is told what it missed, and gets the newest value")
        .subscribed(
            B,
            3,
            position=at(40),
            recovered=False,
            reason="history_trimmed",
            missed={"from": 13, "to": 39},
            sees=[told("history_trimmed", 13, 39)],
        )
        .publication(3, 40, two, gap=lost("history_trimmed", 13, 39))
        .publication(3, 41, three),
        start("resume in another epoch", "nothing of the old stream counts any more")
        .subscribed(B, 3, position=at(2, OTHER_EPOCH), **epoch_changed(), sees=[told("epoch_changed")])
        .publication(3, 2, two, epoch=OTHER_EPOCH, gap=lost("epoch_changed"))
        .publication(3, 3, three, epoch=OTHER_EPOCH),
        other.subscribed(B, 3, position=at(13, OTHER_EPOCH), **epoch_changed(), sees=[told("epoch_changed")])
        .publication(3, 13, two, base=(12, one), delta="json-patch", is_seen=False, sends=other.resubscribes(B, 3, position=at(12)))
        .subscribed(B, 3, 4, position=at(13, OTHER_EPOCH), **epoch_changed(), sees=[told("epoch_changed")])
        .publication(3, 13, two, epoch=OTHER_EPOCH, gap=lost("epoch_changed")),
        Script(
            fmt,
            "a gap that another edge fills",
            "a gap was told, but the connection broke before a value came; the resume brings everything",
        )
        .connect()
        .subscribe(B)
        .subscribed(B, 17, position=at(12))
        .publication(17, 12, one)
        .control(wire_gap(17, "history_trimmed", {"from": 13, "to": 13}), sees=[told("history_trimmed", 13, 13)])
        .lose()
        .connect({"channel": B, "position": at(12)})
        .subscribed(B, 3, position=at(14), recovered=True)
        .publication(3, 12, one, is_seen=False)
        .publication(3, 13, two, recovered=True)
        .publication(3, 14, three, recovered=True),
        hole.publication(3, 14, three, is_seen=False, sends=hole.resubscribes(B, 3, position=at(12)))
        .subscribed(B, 3, 4, position=at(14), recovered=True)
        .publication(3, 13, two, recovered=True),
        start("resume of a channel that is gone", "there is no newest value; the gap is told at once and again with the next publication")
        .subscribed(B, 3, kind=None, **epoch_changed(), sees=[told("epoch_changed")])
        .publication(3, 1, two, epoch=OTHER_EPOCH, gap=lost("epoch_changed")),
        start("a channel that is gone, and comes back while nobody is connected", "from its beginning; what the old epoch had stays missed")
        .subscribed(B, 3, kind=None, **epoch_changed(), sees=[told("epoch_changed")])
        .lose()
        .connect({"channel": B, "position": FROM_THE_BEGINNING})
        .subscribed(B, 5, position=at(2, OTHER_EPOCH), recovered=True)
        .publication(5, 1, two, epoch=OTHER_EPOCH, recovered=True, gap=lost("epoch_changed"))
        .publication(5, 2, three, epoch=OTHER_EPOCH, recovered=True),
        Script(fmt, "a position from the application", "goes on right behind it")
        .connect()
        .subscribe(B, position=at(30))
        .subscribed(B, 17, kind="stream", position=at(31), recovered=True)
        .publication(17, 31, one, recovered=True)
        .publication(17, 32, two),
        Script(fmt, "a position from the future", "the newest value comes, although its offset is smaller")
        .connect()
        .subscribe(B, position=at(30))
        .subscribed(B, 17, position=at(5), recovered=False, reason="position_ahead", missed=None, sees=[told("position_ahead")])
        .publication(17, 5, one, gap=lost("position_ahead"))
        .publication(17, 6, two),
        Script(fmt, "a stream lost before its first publication", "comes back with the position told in `subscribed`, so nothing is missed")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, kind="stream", position=at(12))
        .lose()
        .connect({"channel": B, "position": at(12)})
        .subscribed(B, 17, kind="stream", position=at(13), recovered=True)
        .publication(17, 13, one, recovered=True),
        *beginnings(fmt),
    ]


def beginnings(fmt: str) -> list[Script]:
    """Channels that had no publication when they were subscribed to."""
    one, two, three = bus(41.3), bus(41.31), bus(41.32)

    def start(title: str, why: str) -> Script:
        return Script(fmt, f"a channel that had nothing: {title}", why).connect().subscribe(B).subscribed(B, 17, kind=None)

    def back(title: str, why: str) -> Script:
        return start(title, why).lose().connect({"channel": B, "position": FROM_THE_BEGINNING})

    hole = start("its first publication is not offset 1", "in mode queue that is a hole: subscribe again from the beginning")
    return [
        back("lost before its first publication", "the client comes back from the beginning, and nothing is missed")
        .subscribed(B, 3, kind="stream", position=at(3), recovered=True)
        .publication(3, 1, one, recovered=True)
        .publication(3, 2, two, recovered=True)
        .publication(3, 3, three, recovered=True)
        .publication(3, 4, one)
        .lose()
        .connect({"channel": B, "position": at(4)}),
        back("lost, and still nothing", "the beginning stays the position")
        .subscribed(B, 3, kind=None, recovered=True)
        .lose()
        .connect({"channel": B, "position": FROM_THE_BEGINNING})
        .subscribed(B, 4, kind=None, recovered=True)
        .publication(4, 1, one, epoch=OTHER_EPOCH)
        .publication(4, 2, two, epoch=OTHER_EPOCH),
        back("lost for too long", "the application is told how much of the beginning it missed")
        .subscribed(
            B,
            3,
            position=at(40),
            recovered=False,
            reason="history_trimmed",
            missed={"from": 1, "to": 39},
            sees=[told("history_trimmed", 1, 39)],
        )
        .publication(3, 40, two, gap=lost("history_trimmed", 1, 39))
        .publication(3, 41, three),
        hole.publication(17, 2, two, is_seen=False, sends=hole.resubscribes(B, 3, position=FROM_THE_BEGINNING))
        .subscribed(B, 17, 4, kind="stream", position=at(2), recovered=True)
        .publication(17, 1, one, recovered=True)
        .publication(17, 2, two, recovered=True),
        start("ended by the edge before its first publication", "the beginning stays the position")
        .control(
            {"type": "unsubscribed", "channel": B, "code": "unavailable", "message": "later", "retry": True},
            sees=[{"ended": {"channel": B, "code": "unavailable", "retry": True}}],
        )
        .lose()
        .connect({"channel": B, "position": FROM_THE_BEGINNING}),
    ]


def ends(fmt: str) -> list[Script]:
    """Subscriptions that end."""
    one, two = bus(41.3), bus(41.31)
    error = {"type": "error", "id": 2, "code": "unavailable", "message": "the bus did not answer in time", "retry": True, "channel": B}
    return [
        Script(fmt, "unsubscribe", "what is still on its way is ignored, and the number may name another channel later")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, position=at(12))
        .publication(17, 12, one)
        .unsubscribe(B, 3)
        .publication(17, 13, two, is_seen=False)
        .control({"type": "unsubscribed", "id": 3, "channel": B})
        .subscribe("feed", 4)
        .subscribed("feed", 17, 4, position=at(1))
        .publication(17, 1, b"[]", channel="feed"),
        Script(fmt, "unsubscribe and subscribe at once", "the late answer to the first does not end the second")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, position=at(12))
        .publication(17, 12, one)
        .unsubscribe(B, 3)
        .subscribe(B, 4)
        .publication(17, 13, two, is_seen=False)
        .control({"type": "unsubscribed", "id": 3, "channel": B})
        .subscribed(B, 17, 4, position=at(13))
        .publication(17, 13, two),
        Script(fmt, "the edge ends a subscription", "without an id; the application is told")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, position=at(12))
        .control(
            {"type": "unsubscribed", "channel": B, "code": "bad_channel", "message": "no longer", "retry": False},
            sees=[{"ended": {"channel": B, "code": "bad_channel", "retry": False}}],
        )
        .publication(17, 12, one, is_seen=False),
        Script(fmt, "a refused subscription", "the application is told, and whether to try again")
        .connect()
        .subscribe(B)
        .control(error, sees=[{"ended": {"channel": B, "code": "unavailable", "retry": True}}]),
    ]


def bares(fmt: str) -> list[Script]:
    """The bare client of section 2: names instead of numbers, and no handshake."""
    one, two, three = bus(41.3), bus(41.31), bus(41.32)
    made = [
        Script(fmt, "bare", "publications and gaps name their channel and epoch", bare=[B])
        .publication(B, 12, one)
        .publication(B, 12, one, is_seen=False)
        .publication(B, 13, two)
        .control(wire_gap(None, "history_trimmed", {"from": 14, "to": 19}), sees=[told("history_trimmed", 14, 19)])
        .publication(B, 20, three, gap=lost("history_trimmed", 14, 19)),
        Script(fmt, "bare: a channel that is none", "an error names it, and the others are served", bare=[B, "feed"])
        .control(
            {"type": "error", "id": None, "code": "unavailable", "message": "later", "retry": True, "channel": "feed"},
            sees=[{"ended": {"channel": "feed", "code": "unavailable", "retry": True}}],
        )
        .publication(B, 12, one),
    ]
    for name in ("vcdiff", "json-patch"):
        script = Script(fmt, f"bare: {name}", "a delta names the epoch too; one of another epoch is not applied", delta=(name,), bare=[B])
        made.append(
            script.publication(B, 12, one)
            .publication(B, 13, two, base=(12, one), delta=name)
            .publication(
                B, 14, three, base=(13, two), delta=name, epoch=OTHER_EPOCH, is_seen=False, sends=script.resubscribes(B, 1, position=at(13))
            )
        )
    return made


def modes(fmt: str) -> list[Script]:
    """Subscriptions in mode conflate and ack."""
    one, two, nine = bus(1), bus(2), bus(9)
    jump: Any = {"base": (13, two), "delta": "json-patch"}
    ack: Object = {"mode": "ack", "window": 4}
    return [
        Script(fmt, "conflate", "offsets skip without a hole, also from base to delta", delta=("json-patch",))
        .connect()
        .subscribe(B)
        .subscribed(B, 17, mode="conflate", position=at(12))
        .publication(17, 12, one)
        .publication(17, 13, two)
        .publication(17, 20, nine, **jump)
        .publication(17, 31, one),
        Script(fmt, "conflate, asked for", "mode, rate and window are said again after a reconnect")
        .connect()
        .subscribe(B, mode="conflate", max_rate=2.5, window=2)
        .subscribed(B, 17, mode="conflate", max_rate=2.5, window=2, position=at(12))
        .publication(17, 12, one)
        .ack(B, 12, 17)
        .lose()
        .connect({"channel": B, "mode": "conflate", "max_rate": 2.5, "window": 2, "position": at(12)})
        .subscribed(B, 18, mode="conflate", max_rate=2.5, window=2, position=at(30), recovered=True)
        .publication(18, 30, two, recovered=True),
        Script(fmt, "ack", "it comes back behind what was acknowledged, and what was not is delivered again")
        .connect()
        .subscribe(B, **ack)
        .subscribed(B, 17, **ack, kind="stream", position=at(12))
        .publication(17, 13, one)
        .publication(17, 14, two)
        .publication(17, 15, nine)
        .ack(B, 13, 17)
        .lose()
        .ack(B, 14, None)
        .connect({"channel": B, **ack, "position": at(14)})
        .subscribed(B, 18, **ack, kind="stream", position=at(16), recovered=True)
        .publication(18, 15, nine, recovered=True)
        .publication(18, 16, one, recovered=True)
        .ack(B, 16, 18),
        Script(fmt, "ack, a hole", "is one in this mode: again from what was acknowledged")
        .connect()
        .subscribe(B, **ack)
        .subscribed(B, 17, **ack, kind="stream", position=at(12))
        .publication(17, 13, one)
        .ack(B, 13, 17)
        .publication(17, 14, two)
        .raw_hole(17, 16, nine, first_id=3, **ack, position=at(13)),
        Script(fmt, "ack, nothing acknowledged yet", "of a latest channel the first publication is to come again")
        .connect()
        .subscribe(B, **ack)
        .subscribed(B, 17, **ack, position=at(12))
        .publication(17, 12, one)
        .lose()
        .connect({"channel": B, **ack, "position": at(11)}),
    ]


def keyed(fmt: str) -> list[Script]:
    """Keyed channels: the state, then what changes; a base for each key."""
    one, two, nine = bus(1), bus(2), bus(9)
    state: Any = {"kind": "keyed", "position": at(12)}
    return [
        Script(
            fmt,
            "keyed, the state",
            "the newest of each key in ascending order, then the mark, then all that is published",
            delta=("vcdiff",),
        )
        .connect()
        .subscribe(B)
        .subscribed(B, 17, **state)
        .publication(17, 3, one, key="a", starts_state=True)
        .publication(17, 9, two, key="b", tags={"source": "gps"})
        .caught_up(17, 12)
        .publication(17, 13, nine, key="b", base=(9, two), delta="vcdiff")
        .publication(17, 14, two, key="a", base=(3, one), delta="vcdiff")
        .deletion(17, 15, "b")
        .publication(17, 16, one, key="b"),
        Script(fmt, "keyed, a patch for each key", "and a key that the client never saw is deleted", delta=("json-patch",))
        .connect()
        .subscribe(B)
        .subscribed(B, 17, **state)
        .publication(17, 3, one, key="a", starts_state=True)
        .publication(17, 9, two, key="b")
        .caught_up(17, 12)
        .publication(17, 13, two, key="a", base=(3, one), delta="json-patch", tags={"source": "gps"})
        .deletion(17, 14, "never seen", tags={"why": "left"}),
        Script(fmt, "keyed, a delta for another key's base", "is not guessed at: the client begins again", delta=("json-patch",))
        .connect()
        .subscribe(B)
        .subscribed(B, 17, **state)
        .publication(17, 3, one, key="a", starts_state=True)
        .publication(17, 12, two, key="b")
        .caught_up(17, 12)
        .publication(
            17,
            13,
            nine,
            key="a",
            base=(12, two),
            delta="json-patch",
            is_seen=False,
            sends=Script(fmt, "", "", delta=("json-patch",)).resubscribes(B, 3, position=at(12)),
        ),
        Script(fmt, "keyed, an empty state", "the mark alone")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, **state)
        .caught_up(17, 12, starts_state=True)
        .publication(17, 13, one, key="a"),
        Script(fmt, "keyed, a hole after the mark", "is one, and before it is none")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, **state)
        .publication(17, 3, one, key="a", starts_state=True)
        .publication(17, 12, two, key="b")
        .caught_up(17, 12)
        .publication(17, 14, nine, key="a", is_seen=False, sends=Script(fmt, "", "").resubscribes(B, 3, position=at(12))),
        Script(fmt, "keyed, a gap", "all that was held counts no more")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, **state)
        .publication(17, 12, one, key="a", starts_state=True)
        .caught_up(17, 12)
        .control(wire_gap(17, "history_trimmed", {"from": 13, "to": 20}), sees=[told("history_trimmed", 13, 20)])
        .publication(17, 12, one, key="a", starts_state=True, gap=lost("history_trimmed", 13, 20))
        .publication(17, 20, two, key="c")
        .caught_up(17, 20)
        .publication(17, 21, nine, key="c"),
        Script(fmt, "keyed, back where it was", "what changed since then, and the map stays; each key is whole at first")
        .connect()
        .subscribe(B)
        .subscribed(B, 17, **state)
        .publication(17, 3, one, key="a", starts_state=True)
        .publication(17, 12, two, key="b")
        .lose()
        .connect({"channel": B, "position": at(12)})
        .subscribed(B, 18, kind="keyed", position=at(20), recovered=True)
        .publication(18, 15, one, key="b", recovered=True)
        .deletion(18, 20, "a", recovered=True)
        .caught_up(18, 20)
        .publication(18, 21, two, key="c"),
        Script(fmt, "keyed, conflated", "offsets skip, a delta jumps from what was held of the key", delta=("json-patch",))
        .connect()
        .subscribe(B, mode="conflate")
        .subscribed(B, 17, mode="conflate", **state)
        .publication(17, 3, one, key="a", starts_state=True)
        .publication(17, 12, two, key="b")
        .caught_up(17, 12)
        .publication(17, 19, nine, key="b", base=(12, two), delta="json-patch")
        .publication(17, 25, two, key="a", base=(3, one), delta="json-patch"),
    ]


def malformed(fmt: str) -> list[Script]:
    """Frames that are none: a clear error, and the connection is given up."""
    full: Object = {"type": "publication", "number": 17, "epoch": EPOCH, "offset": 13, "data": {}}
    array: list[Any] = [0, 17, 13, EPOCH, None, None, 0, b"{}"]
    subscribed = {
        "type": "subscribed",
        "id": 9,
        "channel": B,
        "number": 17,
        "kind": "latest",
        "mode": "queue",
        "position": {"epoch": EPOCH},
    }
    controls: list[tuple[str, Any]] = [
        ("not an object", 1),
        ("no type", {"id": 1}),
        ("a type that is no string", {"type": 1}),
        ("an id that is no integer", {"type": "pong", "id": "1"}),
        ("a position without an offset", subscribed),
        ("an error without a code", {"type": "error", "id": 1}),
        ("a negative wait", {"type": "drain", "reconnect_after_ms": -1}),
    ]
    frames: list[tuple[str, str | bytes]]
    if fmt == "json":
        frames = [
            ("nothing", ""),
            ("not JSON", "{"),
            ("two objects", "{}{}"),
            *((name, json.dumps(frame)) for name, frame in controls),
            *(
                (name, json.dumps({key: value for key, value in {**full, **changes}.items() if value is not ...}))
                for name, changes in json_mistakes()
            ),
        ]
    else:
        frames = [
            ("nothing", b""),
            ("a byte that is no MessagePack", b"\xc1"),
            ("cut short", pack(array)[:-1]),
            ("more than one value", pack({"type": "pong", "id": 1}) + b"\xc0"),
            *((name, pack(frame)) for name, frame in controls),
            ("too short an array", pack(array[:7])),
            *((name, pack([*array[:place], value, *array[place + 1 :]])) for name, place, value in array_mistakes()),
        ]
    made = []
    for name, data in frames:
        script = Script(fmt, f"malformed: {name}", "a clear error; the connection is given up, and no value is changed")
        script.connect().subscribe(B).subscribed(B, 17, position=at(12)).publication(17, 12, bus(1))
        made.append(script.raw(data, sees=[{"error": "protocol"}]))
    return made


def json_mistakes() -> list[tuple[str, Object]]:
    """Changes to a JSON publication; `...` takes a field away."""
    return [
        ("no epoch", {"epoch": ...}),
        ("no offset", {"offset": ...}),
        ("offset 0", {"offset": 0}),
        ("an offset that is too large", {"offset": 2**53}),
        ("an offset that is a string", {"offset": "13"}),
        ("no channel", {"number": ...}),
        ("no data", {"data": ...}),
        ("unknown delta", {"delta": "xdiff", "base": 12}),
        ("a delta without a base", {"delta": "json-patch", "data": []}),
        ("VCDIFF without an encoding", {"delta": "vcdiff", "base": 12, "data": "x"}),
        ("unknown encoding", {"encoding": "utf-16", "data": "x"}),
        ("an encoding of no string", {"encoding": "utf-8", "data": {}}),
        ("not base64", {"encoding": "base64", "data": "&&&"}),
        ("a time that is a string", {"time": "now"}),
        ("a key that is a number", {"key": 7}),
        ("unknown content type", {"content_type": "image/png", "encoding": "base64", "data": ""}),
        ("text without an encoding", {"content_type": "text/plain", "data": "x"}),
    ]


def array_mistakes() -> list[tuple[str, int, Any]]:
    """Changes to a MessagePack publication: name, place, value."""
    return [
        ("unknown format", 0, 3),
        ("a delta without a base", 0, 1),
        ("a number that is negative", 1, -1),
        ("offset 0", 2, 0),
        ("an offset that is too large", 2, 2**53),
        ("a full publication without an epoch", 3, 12),
        ("a time that is a string", 4, "now"),
        ("a key that is bytes", 5, b"k"),
        ("unknown content type", 6, 4),
        ("data that is a string", 7, "{}"),
    ]


if __name__ == "__main__":
    main()
