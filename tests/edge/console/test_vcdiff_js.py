"""The page's own decoders (VCDIFF, JSON Patch, MessagePack), run by node on what the project's encoders write."""

from __future__ import annotations

import base64
import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.delta import json_patch, vcdiff, vcdiff_encode

CONSOLE = Path(__file__).parents[3] / "edge" / "console"
VECTORS = Path(__file__).parents[2] / "vectors"
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's modules, where node takes `.js` for ES modules whatever its version."""
    directory = tmp_path_factory.mktemp("console")
    for file in CONSOLE.glob("*.js"):
        shutil.copy(file, directory)
    (directory / "package.json").write_text('{"type": "module"}')
    return directory


def run_js(modules: Path, script: str, data: Any) -> Any:
    """What `script` makes of `data`: both JSON, by standard input and output."""
    (modules / "case.js").write_text(f"import {{ readFileSync }} from 'node:fs';\nconst data = JSON.parse(readFileSync(0));\n{script}")
    assert NODE is not None
    done = subprocess.run([NODE, str(modules / "case.js")], input=json.dumps(data).encode(), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def vectors(name: str, kind: str) -> list[dict[str, Any]]:
    """Cases of a file of tests/vectors."""
    cases: list[dict[str, Any]] = json.loads((VECTORS / name).read_text())[kind]
    assert cases
    return cases


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


DECODE = """
import { decode, VcdiffError } from './vcdiff.js';
const bytes = (text) => new Uint8Array(Buffer.from(text, 'base64'));
console.log(JSON.stringify(data.map(({ base, delta }) => {
  try { return Buffer.from(decode(bytes(base), bytes(delta))).toString('base64'); }
  catch (error) { if (error instanceof VcdiffError) return null; throw error; }
})));
"""


def _pairs() -> list[tuple[bytes, bytes]]:
    """Bases and targets: edited, repeated, empty, unrelated, long."""
    rng = random.Random(5)
    pairs = [
        (b"", b""),
        (b"", b"abc"),
        (b"abc", b""),
        (b"abc" * 50, b"abc" * 50),
        (b"x", b"a" * 5000),
        (b"ab" * 9, b"ab" * 4000),
        (b"same", bytes(range(256))),
    ]
    for size in (1, 3, 17, 200, 4000, 40_000):
        base = bytes(rng.choices(b'{}":,0123456789abcdef', k=size))
        target = bytearray(base)
        for _ in range(rng.randint(1, 40)):
            at = rng.randrange(len(target) + 1)
            target[at : at + rng.randint(0, 12)] = rng.randbytes(rng.randint(0, 9))
        pairs.append((base, bytes(target)))
        pairs.append((base, base[size // 2 :] + base[: size // 2] + base))
    return pairs


def test_vcdiff_of_both_engines_is_read(modules: Path) -> None:
    cases = [(base, target, encode(base, target)) for base, target in _pairs() for encode in (vcdiff.encode, vcdiff_encode.encode)]
    got = run_js(modules, DECODE, [{"base": _b64(base), "delta": _b64(delta)} for base, _, delta in cases])
    assert got == [_b64(target) for _, target, _ in cases]


def test_every_single_entry_and_cache_mode_of_the_code_table(modules: Path) -> None:
    """Deltas written by hand: RUN, ADD with a size after it, COPY in modes 0 (self), 1 (here), 2 (near), 6 (same), and pairs."""
    base = bytes(range(65, 91)) * 2

    def window(target_size: int, data: bytes, instructions: bytes, addresses: bytes) -> bytes:
        body = bytes([target_size, 0, len(data), len(instructions), len(addresses)]) + data + instructions + addresses
        return b"\xd6\xc3\xc4\x00\x00\x01" + bytes([len(base), 0, len(body)]) + body

    cases = [
        (window(5, b"z", bytes([0, 5]), b""), b"zzzzz"),
        (window(3, b"abc", bytes([1, 3]), b""), b"abc"),
        (window(2, b"hi", bytes([3]), b""), b"hi"),
        (window(4, b"", bytes([20]), bytes([10])), base[10:14]),
        (window(4, b"", bytes([36]), bytes([len(base) - 7])), base[7:11]),
        # COPY 4 at 10, then mode 2 (near 0): 10 + 3; then mode 6 (same 0): the address 13 again.
        (window(12, b"", bytes([20, 52, 116]), bytes([10, 3, 13])), base[10:14] + base[13:17] + base[13:17]),
        # ADD 1 with COPY 4 mode 0 in one code; COPY 4 mode 0 with ADD 1.
        (window(5, b"!", bytes([163]), bytes([2])), b"!" + base[2:6]),
        (window(5, b"!", bytes([247]), bytes([2])), base[2:6] + b"!"),
        # A copy from the source on into the target, and one that overlaps itself.
        (
            window(9, b"q", bytes([2, 24]), bytes([len(base) - 1])),
            b"q" + (base[-1:] + b"q" + base[-1:] + b"q" + base[-1:] + b"q" + base[-1:] + b"q"),
        ),
    ]
    got = run_js(modules, DECODE, [{"base": _b64(base), "delta": _b64(delta)} for delta, _ in cases])
    assert [None if item is None else base64.b64decode(item) for item in got] == [target for _, target in cases]


def test_vcdiff_vectors(modules: Path) -> None:
    valid, invalid = vectors("vcdiff.json", "valid"), vectors("vcdiff.json", "invalid")
    got = run_js(modules, DECODE, [{name: _b64(bytes.fromhex(case[name])) for name in ("base", "delta")} for case in valid + invalid])
    for case, made in zip(valid, got, strict=False):
        assert made == _b64(bytes.fromhex(case["target"])), case["name"]
    for case, made in zip(invalid, got[len(valid) :], strict=True):
        assert made is None, case["name"]


def test_damaged_deltas_are_refused_or_make_something_but_never_crash(modules: Path) -> None:
    base = b'{"id":"1430","lat":41.76,"long":-72.68}' * 8
    delta = vcdiff.encode(base, base.replace(b"41.76", b"41.77") + b"tail")
    cut = [delta[:size] for size in range(len(delta))]
    flags = [delta[:4] + bytes([flag]) + delta[5:] for flag in (1, 2, 4)] + [delta[:5] + bytes([flag]) + delta[6:] for flag in (2, 3, 5)]
    rng = random.Random(9)
    flipped = []
    for _ in range(300):
        damaged = bytearray(delta)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        flipped.append(bytes(damaged))
    got = run_js(modules, DECODE, [{"base": _b64(base), "delta": _b64(case)} for case in cut + flags + flipped])
    # The first five bytes alone are a delta without a window: it makes nothing.
    assert [item for item in got[: len(cut)] if item is not None] == [""]
    assert got[len(cut) : len(cut) + len(flags)] == [None] * len(flags)


APPLY = """
import { apply, PatchError } from './json_patch.js';
console.log(JSON.stringify(data.map(({ value, patch }) => {
  const before = JSON.stringify(value);
  try {
    const made = apply(value, patch);
    if (JSON.stringify(value) !== before) throw new Error('the base was changed');
    return { made };
  } catch (error) { if (error instanceof PatchError) return null; throw error; }
})));
"""

# (value, patch, result or None for an error): the rules of RFC 6902 and 6901.
PATCHES: list[tuple[Any, list[dict[str, Any]], Any]] = [
    ({"a": 1}, [{"op": "add", "path": "/b", "value": 2}], {"a": 1, "b": 2}),
    ([1, 3], [{"op": "add", "path": "/1", "value": 2}, {"op": "add", "path": "/-", "value": 4}], [1, 2, 3, 4]),
    ({"a": {"b": 1}}, [{"op": "remove", "path": "/a/b"}], {"a": {}}),
    ([1, 2, 3], [{"op": "remove", "path": "/0"}], [2, 3]),
    ({"a": 1}, [{"op": "replace", "path": "/a", "value": None}], {"a": None}),
    ({"a": 1}, [{"op": "replace", "path": "", "value": [7]}], [7]),
    ({"a": [1], "b": 2}, [{"op": "move", "from": "/b", "path": "/a/0"}], {"a": [2, 1]}),
    (
        {"a": {"x": 1}},
        [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "replace", "path": "/b/x", "value": 2}],
        {"a": {"x": 1}, "b": {"x": 2}},
    ),
    (
        {"a/b": 1, "m~n": 2},
        [{"op": "replace", "path": "/a~1b", "value": 3}, {"op": "replace", "path": "/m~0n", "value": 4}],
        {"a/b": 3, "m~n": 4},
    ),
    ({"a": [1, {"b": 2}]}, [{"op": "test", "path": "/a", "value": [1, {"b": 2}]}, {"op": "remove", "path": "/a"}], {}),
    ({"a": 1}, [{"op": "test", "path": "/a", "value": 2}], None),
    ({"a": 1}, [{"op": "replace", "path": "/b", "value": 2}], None),
    ({"a": 1}, [{"op": "remove", "path": "/b"}], None),
    ([1], [{"op": "add", "path": "/2", "value": 2}], None),
    ([1], [{"op": "replace", "path": "/01", "value": 2}], None),
    ([1], [{"op": "remove", "path": "/-"}], None),
    ({"a": {"b": 1}}, [{"op": "move", "from": "/a", "path": "/a/b/c"}], None),
    ({}, [{"op": "frobnicate", "path": "/a"}], None),
    ({}, [{"op": "add", "path": "a", "value": 1}], None),
    ({}, [{"op": "add", "path": "/a"}], None),
    ({}, [{"op": "add", "path": "/toString/x", "value": 1}], None),
]


def test_json_patch_follows_the_rfc(modules: Path) -> None:
    got = run_js(modules, APPLY, [{"value": value, "patch": patch} for value, patch, _ in PATCHES])
    assert got == [None if result is None else {"made": result} for _, _, result in PATCHES]


def test_json_patch_vectors(modules: Path) -> None:
    valid, invalid = vectors("json_patch.json", "valid"), vectors("json_patch.json", "invalid")
    got = run_js(modules, APPLY, [{"value": case["base"], "patch": case["patch"]} for case in valid + invalid])
    for case, made in zip(valid, got, strict=False):
        assert made == {"made": case["target"]}, case["name"]
    for case, made in zip(invalid, got[len(valid) :], strict=True):
        assert made is None, case["name"]


def test_json_patches_of_the_project_are_read(modules: Path) -> None:
    values: list[Any] = [
        {"id": "1430", "lat": 41.76, "tags": ["a", "b"]},
        {"id": "1430", "lat": 41.77, "tags": ["b"], "new": {"x": [1, 2]}},
        [{"id": 1}, {"id": 2}, {"id": 3}],
        [{"id": 2}, {"id": 3, "more": True}, {"id": 4}],
        "text",
        {"a/b": {"~": 1}},
        {"a/b": {"~": 2}},
    ]
    cases = []
    for base in values:
        for target in values:
            patch = json_patch.encode_value(json.dumps(base).encode(), json.dumps(target).encode())
            if patch is not None:
                cases.append((base, json.loads(patch), target))
    assert len(cases) > len(values)
    got = run_js(modules, APPLY, [{"value": base, "patch": patch} for base, patch, _ in cases])
    assert got == [{"made": target} for _, _, target in cases]


MESSAGE_PACK = """
import { decode, encode, MessagePackError } from './msgpack.js';
const show = (value) => value instanceof Uint8Array ? { binary: Buffer.from(value).toString('base64') }
  : Array.isArray(value) ? value.map(show)
  : value && typeof value === 'object' ? Object.fromEntries(Object.entries(value).map(([name, member]) => [name, show(member)])) : value;
console.log(JSON.stringify(data.map((text) => {
  try {
    const value = decode(new Uint8Array(Buffer.from(text, 'base64')));
    return [show(value), Buffer.from(encode(value)).toString('base64')];
  } catch (error) {
    if (error instanceof MessagePackError || error instanceof TypeError) return null;
    throw error;
  }
})));
"""

_NUMBERS = [
    0,
    1,
    127,
    128,
    255,
    256,
    65_535,
    65_536,
    2**32 - 1,
    2**32,
    2**53 - 1,
    -1,
    -32,
    -33,
    -128,
    -129,
    -32_769,
    -(2**31) - 1,
    1.5,
    -0.25,
    1e300,
]
_VALUES: list[Any] = [
    None, True, False, *_NUMBERS, 1.5, -0.25, 1e300, "", "a" * 31, "é" * 16, "😀" * 100, "x" * 70_000,
    [], list(range(15)), list(range(16)), [0] * 70_000,
    {}, {"a": {"b": [1, None, {"c": "d"}]}}, {str(n): n for n in range(16)}, {str(n): n for n in range(300)},
]  # fmt: skip


def test_message_pack_is_read_and_written(modules: Path) -> None:
    got = run_js(modules, MESSAGE_PACK, [_b64(msgspec.msgpack.encode(value)) for value in _VALUES])
    for value, (shown, written) in zip(_VALUES, got, strict=True):
        assert shown == value
        assert msgspec.msgpack.decode(base64.b64decode(written)) == value


def test_message_pack_binaries(modules: Path) -> None:
    blobs = [bytes(range(256))[:size] * times for size, times in ((0, 1), (255, 1), (256, 1), (256, 300))]
    for blob, (shown, written) in zip(
        blobs, run_js(modules, MESSAGE_PACK, [_b64(msgspec.msgpack.encode(blob)) for blob in blobs]), strict=True
    ):
        assert base64.b64decode(shown["binary"]) == blob
        assert base64.b64decode(written) == msgspec.msgpack.encode(blob)


def test_damaged_message_pack_is_refused(modules: Path) -> None:
    whole = msgspec.msgpack.encode([0, 7, 12, "AAECAwQFBgcICQoL", 1_700_000_000_000, None, 0, b"payload"])
    cases = [whole[:size] for size in range(len(whole))] + [
        whole + b"\0",
        b"\xc1",
        b"\xd4\x01\x00",
        b"\xa2\xff\xfe",
        b"\xdd\xff\xff\xff\xff",
    ]
    assert run_js(modules, MESSAGE_PACK, [_b64(case) for case in cases]) == [None] * len(cases)
