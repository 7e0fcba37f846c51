"""VCDIFF beside xdelta3's own command line tool: each reads what the other writes."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from shared.delta import vcdiff, vcdiff_decode, vcdiff_encode
from tests.rig.parts import Part, need


@pytest.fixture
def tool(request: pytest.FixtureRequest) -> str:
    """The program's name."""
    need(Part.XDELTA3, request.node.nodeid)
    return "xdelta3"


def pairs() -> list[tuple[bytes, bytes]]:
    """Texts and what became of them: equal, empty, a little changed, long, and with nothing in common."""
    chance = random.Random(1)
    text = b'{"id":"1430","trip":{"route":"12"},"position":{"latitude":41.763711,"longitude":-72.685093},"timestamp":"1700000000"}'
    long = b",".join(text.replace(b"1430", str(number).encode()) for number in range(300))
    some = [(text, text), (b"", text), (text, b""), (text, text.replace(b"41.7", b"41.8")), (long, long.replace(b"72.68", b"72.69", 50))]
    return [*some, (text, long), (long, text), (chance.randbytes(3000), chance.randbytes(3000)), (b"a" * 20_000, b"a" * 19_999 + b"b")]


@pytest.mark.parametrize(("base", "target"), pairs())
def test_the_tool_reads_what_both_engines_write(tool: str, tmp_path: Path, base: bytes, target: bytes) -> None:
    for encode in (vcdiff.encode, vcdiff_encode.encode):
        assert run(tool, tmp_path, "-d", base, encode(base, target)) == target


@pytest.mark.parametrize("level", ["-1", "-6", "-9"])
@pytest.mark.parametrize(("base", "target"), pairs())
def test_both_engines_read_what_the_tool_writes(tool: str, tmp_path: Path, base: bytes, target: bytes, level: str) -> None:
    delta = run(tool, tmp_path, "-e", base, target, level, "-S", "none", "-n", "-A")
    for decode in (vcdiff.decode, vcdiff_decode.decode):
        assert decode(base, delta, max_size=len(target)) == target


def run(tool: str, folder: Path, what: str, base: bytes, data: bytes, *options: str) -> bytes:
    """Encode or decode with the tool."""
    (folder / "base").write_bytes(base)
    (folder / "in").write_bytes(data)
    command = [tool, "-f", what, *options, "-s", str(folder / "base"), str(folder / "in"), str(folder / "out")]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return (folder / "out").read_bytes()
