from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from zlib import adler32

import pytest
import vcdiff_decoder
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shared.delta import vcdiff, vcdiff_encode
from shared.delta.vcdiff_format import write_integer
from shared.errors import DeltaError
from tests.shared.delta.conftest import PYTHON, Engine
from tests.shared.delta.strategies import anything, close_pairs

HEADER = b"\xd6\xc3\xc4\x00\x00"
LIMIT = 100_000

# A fixture that is made once a module is the same for each example.
_SEEN_TO = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
thorough = settings(derandomize=True, deadline=None, max_examples=80, suppress_health_check=_SEEN_TO)


def window(  # what a window is made of, in the order of RFC 3284
    size: int,
    data: bytes,
    instructions: bytes,
    addresses: bytes = b"",
    *,
    source: tuple[int, int] | None = None,
    checksum: int | None = None,
) -> bytes:
    sections = b"".join(write_integer(len(section)) for section in (data, instructions, addresses))
    check = b"" if checksum is None else checksum.to_bytes(4)
    body = write_integer(size) + b"\x00" + sections + check + data + instructions + addresses
    indicator = (source is not None) | (checksum is not None) << 2
    segment = b"" if source is None else write_integer(source[1]) + write_integer(source[0])
    return bytes((indicator,)) + segment + write_integer(len(body)) + body


def both_decode(reader: Engine, base: bytes, windows: bytes, expected: bytes) -> None:
    """The expectation is right by the independent decoder, too."""
    assert vcdiff_decoder.decode(base, HEADER + windows) == expected
    assert reader.decode(base, HEADER + windows, len(expected)) == expected


# --- One example for each kind of instruction


def test_the_example_of_rfc_3284_section_3(reader: Engine):
    base = b"abcdefghijklmnop"
    # COPY 4 at 0; ADD wxyz; COPY 4 at 4; COPY 12 at 24, which reads what it writes; RUN 4 z
    windows = window(28, b"wxyzz", bytes((0x14, 0x05, 0x14, 0x1C, 0x00, 0x04)), bytes((0, 4, 24)), source=(0, 16))
    both_decode(reader, base, windows, b"abcdwxyzefghefghefghefghzzzz")


def test_add_with_its_size_in_the_code_and_behind_it(reader: Engine):
    both_decode(reader, b"", window(3, b"abc", b"\x04"), b"abc")
    both_decode(reader, b"", window(20, b"a" * 20, b"\x01\x14"), b"a" * 20)


def test_run(reader: Engine):
    both_decode(reader, b"", window(300, b"x", b"\x00\x82\x2c"), b"x" * 300)


def test_copy_with_its_size_behind_the_code(reader: Engine):
    base = bytes(range(100))
    both_decode(reader, base, window(50, b"", b"\x13\x32", b"\x0a", source=(0, 100)), base[10:60])


def test_copy_from_a_source_segment_inside_the_base(reader: Engine):
    both_decode(reader, b"....hello world", window(5, b"", b"\x15", b"\x06", source=(4, 11)), b"world")


def test_every_address_mode(reader: Engine):
    base = bytes(range(256)) * 2
    copy_4 = [0x14 + 16 * mode for mode in range(9)]
    codes = bytes((copy_4[0], copy_4[1], copy_4[2], copy_4[3], copy_4[0], copy_4[4], copy_4[5], copy_4[6]))
    addresses = b"".join(
        (
            write_integer(100),  # itself: 100
            write_integer(516 - 200),  # back from here: 200
            write_integer(5),  # near[0] = 100, so 105
            write_integer(7),  # near[1] = 200, so 207
            write_integer(300),  # itself: 300
            write_integer(1),  # near[2] = 105, so 106
            write_integer(2),  # near[3] = 207, so 209
            bytes((200,)),  # same[200] = 200
        )
    )
    expected = b"".join(base[at : at + 4] for at in (100, 200, 105, 207, 300, 106, 209, 200))
    both_decode(reader, base, window(32, b"", codes, addresses, source=(0, 512)), expected)


def test_the_higher_blocks_of_the_same_cache(reader: Engine):
    base = bytes(index * 7 % 256 for index in range(2000))
    codes = bytes((0x14, 0x14, 0x14 + 16 * 7, 0x14 + 16 * 8))
    addresses = write_integer(300) + write_integer(768 + 600) + bytes((300 - 256, 600 - 512))
    expected = b"".join(base[at : at + 4] for at in (300, 1368, 300, 1368))
    both_decode(reader, base, window(16, b"", codes, addresses, source=(0, 2000)), expected)


def test_combined_instructions(reader: Engine):
    base = b"0123456789"
    # ADD 2 + COPY 5 itself (code 167); COPY 4 itself + ADD 1 (code 247); ADD 1 + COPY 4 same (code 235)
    windows = window(17, b"abcd", bytes((167, 247, 235)), bytes((3, 0, 3)), source=(0, 10))
    both_decode(reader, base, windows, b"ab34567" + b"0123c" + b"d3456")


def test_several_windows(reader: Engine):
    windows = (
        window(3, b"abc", b"\x04") + window(4, b"", b"\x14", b"\x01", source=(1, 5)) + window(0, b"", b"") + window(2, b"z", b"\x00\x02")
    )
    both_decode(reader, b"012345", windows, b"abc2345zz")


def test_a_checksum_is_checked(reader: Engine):
    good, bad = (window(3, b"abc", b"\x04", checksum=adler32(text)) for text in (b"abc", b"abd"))
    assert reader.decode(b"", HEADER + good, 3) == b"abc"
    with pytest.raises(DeltaError, match="checksum"):
        reader.decode(b"", HEADER + bad, 3)


def test_an_application_header_is_skipped(reader: Engine):
    assert reader.decode(b"", b"\xd6\xc3\xc4\x00\x04\x02hi" + window(3, b"abc", b"\x04"), 3) == b"abc"


@pytest.mark.parametrize(
    "windows",
    [
        window(4, b"abc", b"\x04"),  # makes less than it says
        window(2, b"abc", b"\x04"),  # makes more
        window(3, b"abcd", b"\x04"),  # data left over
        window(3, b"abc", b"\x04", b"\x00"),  # addresses left over
        window(3, b"ab", b"\x04"),  # not enough data
        window(3, b"", b"\x00\x03"),  # nothing to repeat
        window(3, b"abc", b"\x01"),  # no size
        window(4, b"", b"\x14"),  # no address
        window(4, b"", b"\x74"),  # no byte for the same cache
        window(4, b"", b"\x14", b"\x00"),  # copies from where nothing is yet
        window(8, b"abcd", b"\x05\x24", b"\x05"),  # copies from before the beginning
        window(8, b"abcd", b"\x05\x14", b"\x04"),  # copies from itself
        window(4, b"", b"\x24", b"\x12", source=(0, 10)),  # copies from 8 bytes before the source
        window(8, b"abcdef", b"\x18\x07", b"\x02", source=(0, 4)),  # copies from beyond the source what an ADD makes up for
        window(7, b"xyz", b"\x14\x01", b"\x03", source=(0, 10)),  # takes an address for a size
        window(4, b"", b"\x00\x04", b"z"),  # takes an instruction for data
        window(9, b"x", b"\x02\x13\x08", b"\x02", source=(0, 4)),  # copies from the source on into the target
        window(3, b"abc", b"\x04\x01\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),  # a size beyond all bounds
    ],
)
def test_damaged_instructions_are_refused(reader: Engine, windows: bytes):
    with pytest.raises(DeltaError):
        reader.decode(b"0123456789", HEADER + windows, LIMIT)


# --- Both engines write what all read


@thorough
@given(pair=close_pairs())
def test_what_one_engine_writes_all_read(writer: Engine, reader: Engine, pair: tuple[bytes, bytes]):
    base, target = pair
    delta = writer.encode(base, target)
    assert reader.decode(base, delta, len(target)) == target
    assert vcdiff_decoder.decode(base, delta) == target


@thorough
@given(base=anything, target=anything)
def test_unlike_values_cost_a_few_bytes_more_at_most(writer: Engine, reader: Engine, base: bytes, target: bytes):
    delta = writer.encode(base, target)
    assert reader.decode(base, delta, len(target)) == target
    assert len(delta) <= len(target) + 128


@thorough
@given(pair=close_pairs(), window_size=st.integers(1, 60))
def test_a_target_in_several_windows(reader: Engine, pair: tuple[bytes, bytes], window_size: int):
    base, target = pair
    delta = vcdiff_encode.encode(base, target, window_size=window_size)
    assert reader.decode(base, delta, len(target)) == target
    assert vcdiff_decoder.decode(base, delta) == target


@thorough
@example(instructions=[("add", 2, 0), ("copy", 19, 1), ("copy", 5, 3), ("add", 2, 0), ("copy", 5, 3), ("copy", 4, 20), ("add", 1, 0)])
@given(
    instructions=st.lists(
        st.tuples(st.sampled_from(["add", "run", "copy", "copy"]), st.sampled_from([1, 2, 4, 5, 6, 17, 18, 19]), st.integers(0, 10_000)),
        max_size=20,
    )
)
def test_any_sequence_of_instructions_is_written_right(reader: Engine, instructions: list[tuple[str, int, int]]):
    # Matching never makes some of them, such as a COPY of 4 that shares its code with an ADD.
    base = bytes(range(40))
    writer = vcdiff_encode._WindowWriter(len(base))
    known = bytearray(base)
    for kind, size, number in instructions:
        if kind == "add":
            data = bytes((number + index * 3) % 256 for index in range(size))
            writer.add(data)
            known += data
        elif kind == "run":
            writer.run(number % 256, size * 10)
            known += bytes((number % 256,)) * (size * 10)
        else:
            address = number % len(known)
            copied = min(size, len(base) - address) if address < len(base) else size
            writer.copy(address, copied)
            for place in range(address, address + copied):
                known.append(known[place])
    both_decode(reader, base, writer.finish(len(known) - len(base)), bytes(known[len(base) :]))


@pytest.mark.parametrize("base", [b"", b"a", b"abcdefg", b"abcdefgh" * 3, b"x" * 20_000])
@pytest.mark.parametrize("target", [b"", b"a", b"b", b"abcdefgh", b"a" * 1000, bytes(range(256)) * 30])
def test_the_smallest_values(writer: Engine, reader: Engine, base: bytes, target: bytes):
    delta = writer.encode(base, target)
    assert reader.decode(base, delta, len(target)) == target
    assert vcdiff_decoder.decode(base, delta) == target


def test_nothing_optional_is_written(writer: Engine):
    base = b'{"id":"1430","lat":41.763,"long":-72.674,"speed":0}' * 3
    delta = writer.encode(base, base.replace(b"41.763", b"41.764"))
    assert delta.startswith(HEADER + b"\x01")


def test_a_small_change_makes_a_small_delta(writer: Engine):
    base = b'{"id":"1430","vehicle":{"trip":{"tripId":"1374921","routeId":"41"},"position":{"latitude":41.7637,"longitude":-72.6741}}}'
    target = base.replace(b"41.7637", b"41.7702").replace(b"-72.6741", b"-72.68")
    assert len(writer.encode(base, target)) < 45


def test_repetition_within_the_target_is_found(writer: Engine):
    item = b'{"id":"1430","vehicle":{"tripId":"1374921"}},'
    assert len(writer.encode(b"", item * 50)) < 100
    assert len(writer.encode(b"", b"z" * 5000)) < 30


def test_large_values(writer: Engine, reader: Engine):
    base = bytes(index * index % 251 for index in range(300_000))
    target = base[:100_000] + b"new" * 100 + base[120_000:]
    delta = writer.encode(base, target)
    assert len(delta) < 3000
    assert reader.decode(base, delta, len(target)) == target


def test_threads_do_not_disturb_each_other(writer: Engine, reader: Engine):
    def work(number: int) -> bool:
        base = b'{"id":"%d","lat":41.7,"long":-72.6}' % number * 50
        targets = [base.replace(b"41.7", b"%d" % step) for step in range(40)]
        return all(reader.decode(base, writer.encode(base, target), len(target)) == target for target in targets)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(12)))


def test_where_the_compiled_engine_gives_up_the_delta_is_plain(compiled: Engine, monkeypatch: pytest.MonkeyPatch):
    from shared.delta import xdelta

    monkeypatch.setattr(xdelta, "_SLACK", -10)
    assert xdelta.encode(b"base", b"0123456789" + bytes(range(256))) is None
    delta = compiled.encode(b"base", bytes(range(256)))
    assert vcdiff_decoder.decode(b"base", delta) == bytes(range(256))


# --- Hostile bytes


def test_a_delta_may_not_make_more_than_max_size(reader: Engine):
    bomb = HEADER + window(1 << 40, b"x", b"\x00" + write_integer(1 << 40))
    with pytest.raises(DeltaError, match="more than 1000 bytes"):
        reader.decode(b"", bomb, 1000)
    assert reader.decode(b"", HEADER + window(1000, b"x", b"\x00" + write_integer(1000)), 1000) == b"x" * 1000


def test_a_window_beyond_what_xdelta3_takes(reader: Engine):
    size = (1 << 26) + 1
    delta = HEADER + window(size, b"x", b"\x00" + write_integer(size))
    assert reader.decode(b"", delta, size) == b"x" * size


def test_no_delta_reads_outside_its_base(reader: Engine):
    base = b"0123456789"
    delta = HEADER + window(10, b"", b"\x1a", b"\x00", source=(0, 10))
    assert reader.decode(base, delta, 10) == base
    with pytest.raises(DeltaError, match="a base of 9 bytes"):
        reader.decode(base[:9], delta, 10)


def _decodes_or_refuses(reader: Engine, base: bytes, delta: bytes, max_size: int) -> None:
    try:
        result = reader.decode(base, delta, max_size)
    except DeltaError:
        return
    assert len(result) <= max_size


@thorough
@given(base=anything, delta=st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(HEADER.__add__)), max_size=st.integers(0, 2000))
def test_random_bytes(reader: Engine, base: bytes, delta: bytes, max_size: int):
    _decodes_or_refuses(reader, base, delta, max_size)


@thorough
@given(pair=close_pairs(), data=st.data())
def test_damaged_deltas(writer: Engine, reader: Engine, pair: tuple[bytes, bytes], data: st.DataObject):
    base, target = pair
    delta = bytearray(writer.encode(base, target))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(delta) - 1))
        delta[at] = data.draw(st.one_of(st.sampled_from([0, 1, 127, 128, 255, delta[at] ^ 1]), st.integers(0, 255)))
    _decodes_or_refuses(reader, base, bytes(delta), len(target) + 50)


@thorough
@given(size=st.integers(0, 40), data=st.binary(max_size=12), instructions=st.binary(max_size=12), addresses=st.binary(max_size=8))
def test_any_instructions_give_the_same_from_both_engines(compiled: Engine, size: int, data: bytes, instructions: bytes, addresses: bytes):
    # Frames that add up around random sections: what reaches the compiled engine behind the check of the headers.
    base = bytes(range(20))
    delta = HEADER + window(size, data, instructions, addresses, source=(2, 15))
    results = []
    for engine in (compiled, PYTHON):
        try:
            results.append(engine.decode(base, delta, 40))
        except DeltaError:
            results.append(b"refused")
    assert results[0] == results[1]


@pytest.mark.parametrize("base", [b"", b"0123456789" * 5])
def test_every_truncation_is_refused(writer: Engine, reader: Engine, base: bytes):
    target = b"0123456789" * 3 + b"something new"
    delta = writer.encode(base, target)
    for size in range(len(delta)):
        if size != len(HEADER):  # A header alone is a delta without windows: it makes nothing.
            with pytest.raises(DeltaError):
                reader.decode(base, delta[:size], len(target))


# --- Which engine


def test_without_the_extension_pure_python_takes_over():
    program = (
        "import sys; sys.modules['_xdelta3'] = None\n"
        "from shared.delta import vcdiff\n"
        "base, target = b'0123456789' * 9, b'0123456789' * 8 + b'x'\n"
        "assert vcdiff.decode(base, vcdiff.encode(base, target), max_size=100) == target\n"
        "print(vcdiff.engine())"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "python"


def test_the_compiled_engine_names_itself(compiled: Engine):
    assert vcdiff.engine() == compiled.name == "xdelta3"
